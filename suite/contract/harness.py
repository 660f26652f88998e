"""What the contract needs of an engine beyond `OperatorStore`: to age and to damage its records.

Each engine brings one, in `suite/engines/<engine>/harness.py`.
"""

import importlib
from typing import Protocol, cast

from bot.runtime.chosen import ENGINE
from bot.runtime.state.record import Limits
from bot.runtime.state.store import OperatorStore


class Harness(Protocol):
    """One engine under test."""

    async def open(self, limits: Limits | None = None, ttl: float | None = None) -> OperatorStore:
        """Give a connected store. Every store of one harness sees the same records."""

    def settings(self) -> dict[str, str]:
        """The environment variables with which another process sees the same records, if it can."""

    async def expire(self, user_id: str) -> None:
        """Let the user's record expire, as time would."""

    async def corrupt(self, user_id: str) -> None:
        """Put something that is no record in the place of the user's."""

    async def close(self) -> None:
        """Close every store and remove what they hold."""


def make_harness() -> Harness:
    """Make the harness of the rendered engine."""
    module = importlib.import_module(f"suite.engines.{ENGINE}.harness")
    return cast(Harness, module.make_harness())
