"""What a run needs of the rendered engine: its servers, the way to them, and what only they can suffer.

Each engine brings one, `backend_<engine>.py`.
"""

import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import ClassVar, Protocol, cast

from suite.bot_api.server import Planned
from suite.torture.clock import ServerClock
from suite.torture.link import Address, Link


class Server(Protocol):
    """A server of the run's own. Its methods block."""

    name: str
    clock: ServerClock

    def address(self) -> Address:
        """Where it listens."""

    def pids(self) -> list[int]:
        """Every process of it."""

    def start(self) -> None:
        """Start it over the same data, and wait until it answers."""

    def stop(self) -> None:
        """Stop it, as an operator does."""

    def kill(self) -> None:
        """Kill it with SIGKILL."""


Felt = Sequence[Planned] | int | None
"""How often something that went wrong was felt: known when all calls are over, or at once; `None` is once."""

Trouble = Callable[[Random], Awaitable[Felt]]
"""Breaks something and mends it again."""


def times(felt: Felt) -> int:
    """How often it was."""
    if isinstance(felt, Sequence):
        return sum(planned.felt for planned in felt)
    return 1 if felt is None else felt


class Backend(Protocol):
    """One engine."""

    label: ClassVar[str]
    """What is special about it; empty for an engine as it is by default."""
    survives_exit: ClassVar[bool]
    """Whether a process of the bot may end and lose nothing."""
    servers: Sequence[Server]
    spared: ClassVar[Mapping[str, str]]
    """Which of the faults that befall every server do not befall these, and why."""

    def __init__(self, folder: Path) -> None:
        """Make it; its servers will keep their data in the folder."""

    async def open(self) -> None:
        """Start the servers and prepare them."""

    def settings(self, links: Sequence[Link]) -> dict[str, str]:
        """The environment with which a bot reaches them, each server by way of its link."""

    def troubles(self) -> Mapping[str, Trouble]:
        """What only these servers can suffer, by name."""

    async def close(self) -> None:
        """Stop the servers."""


def rendered_backends() -> list[type[Backend]]:
    """The backend of the rendered engine as it is by default, and then others, with settings of their own."""
    from bot.runtime.chosen import ENGINE  # what is not rendered has none, and can be tortured all the same

    module = importlib.import_module(f"suite.engines.{ENGINE}.faults")
    return cast(list[type[Backend]], [module.BACKEND, *getattr(module, "OTHERS", ())])
