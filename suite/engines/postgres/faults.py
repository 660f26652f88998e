"""The PostgreSQL engine's server, which has few connections to give."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import ClassVar

import asyncpg
import psutil

from bot.runtime.engines.postgres import schema as postgres_schema
from bot.runtime.engines.postgres.connection import Connection, Database
from bot.runtime.engines.postgres.dev_server import PostgresDevServer
from suite.torture.backend import Server, Trouble
from suite.torture.clock import ServerClock
from suite.torture.link import Address, Link

MAX_CONNECTIONS = 40


class PostgresServer:
    """PostgreSQL, in a folder of its own."""

    name = "PostgreSQL"

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "postgres"
        self._embedded = PostgresDevServer(self._folder)
        self.clock = ServerClock(folder / "postgres.clock")
        self.url = ""

    def address(self) -> Address:
        return str(self._folder / ".s.PGSQL.5432")

    def pids(self) -> list[int]:
        main = int((self._folder / "postmaster.pid").read_text().partition("\n")[0])
        return [main, *(child.pid for child in psutil.Process(main).children())]

    def start(self) -> None:
        with self.clock.rules():
            self.url = self._embedded.start_now()

    def stop(self) -> None:
        self._embedded.stop_now()

    def kill(self) -> None:
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class PostgresBackend:
    """One server, which refuses connections and serializes transactions now and then."""

    label: ClassVar[str] = ""
    survives_exit: ClassVar[bool] = True
    spared: ClassVar[Mapping[str, str]] = {}

    def __init__(self, folder: Path) -> None:
        self._server = PostgresServer(folder)
        self.servers: Sequence[Server] = [self._server]

    async def open(self) -> None:
        await asyncio.to_thread(self._server.start)
        await self._execute(f"ALTER SYSTEM SET max_connections = {MAX_CONNECTIONS}")
        await asyncio.to_thread(self._server.stop)
        await asyncio.to_thread(self._server.start)
        await postgres_schema.migrate(Database(self._server.url), "public")

    def settings(self, links: Sequence[Link]) -> dict[str, str]:
        (link,) = links
        return {"DATABASE_URL": f"postgresql://postgres@127.0.0.1:{link.port}/postgres?sslmode=disable"}

    def troubles(self) -> Mapping[str, Trouble]:
        return {
            "PostgreSQL: too many connections": self._too_many_connections,
            "PostgreSQL: connections terminated": self._terminate,
            "PostgreSQL: serialization failures": self._serialize,
        }

    async def _too_many_connections(self, chance: Random) -> int:
        """Take every connection there is, also the bots', and hold them for a while."""
        held: list[Connection] = []
        give_up = asyncio.get_running_loop().time() + 2
        try:
            while asyncio.get_running_loop().time() < give_up:
                try:
                    held.append(await asyncpg.connect(self._server.url))
                except asyncpg.TooManyConnectionsError:
                    with suppress(asyncpg.PostgresError):
                        await held[0].execute(_TERMINATE_ONE)
            await asyncio.sleep(chance.uniform(0.5, 1.5))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            pass  # the server itself is in trouble
        finally:
            for connection in held:
                connection.terminate()
        return len(held)

    async def _terminate(self, chance: Random) -> None:
        await self._execute(_TERMINATE_ALL)

    async def _serialize(self, chance: Random) -> None:
        """Let transactions fail that meet on one row; by default the second would wait for the first."""
        await self._execute("ALTER SYSTEM SET default_transaction_isolation = 'serializable'")
        await self._execute("SELECT pg_reload_conf()")
        await asyncio.sleep(chance.uniform(2, 4))
        await self._execute("ALTER SYSTEM RESET default_transaction_isolation")
        await self._execute("SELECT pg_reload_conf()")

    async def _execute(self, query: str) -> None:
        """Run a statement, waiting for a server that is in trouble of another kind."""
        while True:
            try:
                connection: Connection = await asyncpg.connect(self._server.url, timeout=5)
                try:
                    await connection.execute(query, timeout=5)
                finally:
                    connection.terminate()
                return
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await asyncio.sleep(0.2)

    async def close(self) -> None:
        await asyncio.to_thread(self._server.stop)


_BOTS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bot'"
_TERMINATE_ALL = _BOTS
_TERMINATE_ONE = f"{_BOTS} LIMIT 1"


BACKEND = PostgresBackend
