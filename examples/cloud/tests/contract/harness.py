"""What the contract needs of an engine beyond `StateStore`: to age and to damage its records.

Each engine brings one harness, `harness_<engine>.py`.
"""

import importlib
from typing import Protocol, cast

from bot.state.engine import ENGINE
from bot.state.store import Limits, StateStore


class Harness(Protocol):
    """One engine under test."""

    async def open(self, limits: Limits | None = None, ttl: float | None = None) -> StateStore:
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
    module = importlib.import_module(f"tests.contract.harness_{ENGINE}")
    return cast(Harness, module.make_harness())
