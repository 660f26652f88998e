"""The state engines: each a package with a `store.py` that does what `bot.runtime.state.store` promises."""

from importlib import import_module
from typing import TYPE_CHECKING

from bot.runtime.chosen import STORE

if TYPE_CHECKING:
    from bot.runtime.config import Settings
    from bot.runtime.state.store import OperatorStore


def create_store(settings: "Settings") -> "OperatorStore":
    """Make the store of this project; it is not connected yet.

    Raises:
        OperatorError: a setting of the engine is missing or cannot be used.
    """
    module, _, name = STORE.partition(":")
    store: OperatorStore = getattr(import_module(module), name).from_settings(settings)
    return store
