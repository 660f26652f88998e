"""The hybrid engine's servers: Redis, where turns commit, and PostgreSQL, where they rest."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from suite.engines.postgres.faults import PostgresBackend
from suite.engines.redis.faults import RedisBackend
from suite.torture.backend import Server, Trouble
from suite.torture.link import Link


class HybridBackend:
    """Both, each with its own troubles."""

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


BACKEND = HybridBackend
