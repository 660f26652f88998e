"""The Firestore engine's server: Google's emulator, which keeps everything in memory and so must not end.

Firestore itself does not end either. What a bot sees when one of its machines does is what this breaks: the
network to it, connections that are refused for a while, and answers that do not come.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import ClassVar

from suite.engines.firestore.server import Emulator, free_port
from suite.torture.backend import Server, Trouble
from suite.torture.clock import ServerClock
from suite.torture.link import Address, Link


class FirestoreServer:
    """An emulator. While it is away, nobody listens at its address."""

    name = "Firestore"

    def __init__(self, folder: Path) -> None:
        self._emulator = Emulator()
        self._nobody = free_port()
        self.clock = ServerClock(folder / "firestore.clock")  # stays right
        self.is_away = False

    def address(self) -> Address:
        return "127.0.0.1", self._nobody if self.is_away else self._emulator.port

    def pids(self) -> list[int]:
        return [self._emulator.pid]

    def start(self) -> None:
        self._emulator.start()

    def stop(self) -> None:
        self._emulator.end()

    def kill(self) -> None:
        self._emulator.end()


class FirestoreBackend:
    """One emulator, which cannot be reached now and then."""

    label: ClassVar[str] = ""
    survives_exit: ClassVar[bool] = True
    spared: ClassVar[Mapping[str, str]] = {
        "restarted": "the emulator would lose what Firestore keeps",
        "kill -9": "the emulator would lose what Firestore keeps; it is away instead, and frozen",
        "clock jumps": "versions are Firestore's time, and Google's clock does not jump",
        "clock off by seconds": "versions are Firestore's time, and Google's clock is right",
    }

    def __init__(self, folder: Path) -> None:
        self._server = FirestoreServer(folder)
        self.servers: Sequence[Server] = [self._server]
        self._links: Sequence[Link] = ()

    async def open(self) -> None:
        await asyncio.to_thread(self._server.start)

    def settings(self, links: Sequence[Link]) -> dict[str, str]:
        self._links = links
        return {"FIRESTORE_EMULATOR_HOST": f"127.0.0.1:{links[0].port}"}

    def troubles(self) -> Mapping[str, Trouble]:
        return {"Firestore: away": self._away}

    async def _away(self, chance: Random) -> None:
        """Every connection breaks, and new ones are refused."""
        self._server.is_away = True
        for link in self._links:
            link.cut()
        await asyncio.sleep(chance.uniform(0.2, 5))
        self._server.is_away = False

    async def close(self) -> None:
        await asyncio.to_thread(self._server.kill)


BACKEND = FirestoreBackend
