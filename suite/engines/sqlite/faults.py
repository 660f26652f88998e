"""The SQLite engine has no server; its disk fails, and other processes keep its file locked."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import ClassVar

import apsw

from suite.torture.backend import Server, Trouble
from suite.torture.link import Link


class SqliteBackend:
    """A file, which all processes of the bot share."""

    label: ClassVar[str] = ""
    survives_exit: ClassVar[bool] = True
    spared: ClassVar[Mapping[str, str]] = {}
    servers: Sequence[Server] = ()

    def __init__(self, folder: Path) -> None:
        self._path = folder / "bot.sqlite3"
        self._disk = folder / "disk"

    async def open(self) -> None:
        self._disk.write_text("well")

    def settings(self, links: Sequence[Link]) -> dict[str, str]:
        return {"SQLITE_PATH": str(self._path), "SQLITE_TIMEOUT": "2", "TORTURE_DISK": str(self._disk)}

    def troubles(self) -> Mapping[str, Trouble]:
        conditions = {
            "disk full": "full",
            "made read-only": "read-only",
            "disk fails": "broken",
            "slow disk": "slow 0.1",
            "disk hangs": "slow 4",
        }
        return {
            **{f"SQLite: {name}": partial(self._be, told) for name, told in conditions.items()},
            "SQLite: locked": partial(self._hold, "BEGIN IMMEDIATE"),
            "SQLite: read without an end": partial(self._hold, "BEGIN; SELECT count(*) FROM record"),
        }

    async def _be(self, told: str, chance: Random) -> None:
        """The disk is like that for a while. Others may change it meanwhile."""
        self._disk.write_text(told)
        await asyncio.sleep(chance.uniform(0.5, 3))
        self._disk.write_text("well")

    async def _hold(self, what: str, chance: Random) -> None:
        """Another process keeps a lock, sometimes for longer than the bot waits."""
        with suppress(apsw.BusyError):
            connection = apsw.Connection(str(self._path))
            connection.execute(what).fetchall()
            await asyncio.sleep(chance.uniform(0.5, 4))
            connection.close()

    async def close(self) -> None:
        pass


BACKEND = SqliteBackend
