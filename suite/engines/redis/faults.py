"""The Redis engine's server: Valkey with an append-only file, written every second."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import ClassVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from suite.engines.redis.server import Server as Valkey
from suite.torture.backend import Server, Trouble
from suite.torture.clock import ServerClock
from suite.torture.link import Address, Link


class RedisServer:
    """Valkey, in a folder of its own."""

    name = "Redis"

    def __init__(self, folder: Path) -> None:
        self._server = Valkey(folder / "redis")
        self.clock = ServerClock(folder / "redis.clock")

    @property
    def url(self) -> str:
        return self._server.url

    def address(self) -> Address:
        return "127.0.0.1", self._server.port

    def pids(self) -> list[int]:
        return [self._server.pid]

    def start(self) -> None:
        with self.clock.rules():
            self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def kill(self) -> None:
        self._server.kill()


class RedisBackend:
    """One server, and no memory left in it now and then."""

    label: ClassVar[str] = ""
    survives_exit: ClassVar[bool] = True
    spared: ClassVar[Mapping[str, str]] = {}

    def __init__(self, folder: Path, server: RedisServer | None = None) -> None:
        self._server = server or RedisServer(folder)
        self.servers: Sequence[Server] = [self._server]

    async def open(self) -> None:
        await asyncio.to_thread(self._server.start)

    def settings(self, links: Sequence[Link]) -> dict[str, str]:
        (link,) = links
        # A bot that starts while the server is frozen shall wait for it, not end and be started again.
        return {"REDIS_URL": f"redis://127.0.0.1:{link.port}", "REDIS_CONNECT_TIMEOUT": "60"}

    def troubles(self) -> Mapping[str, Trouble]:
        return {"Redis: OOM": self._out_of_memory}

    async def _out_of_memory(self, chance: Random) -> int:
        """As with a full disk, reads go on and writes are refused."""
        refused = 0
        for most_bytes, seconds in ((1, chance.uniform(0.5, 2)), (0, 0)):
            with suppress(RedisError):  # it is down, and will have forgotten the limit
                async with Redis.from_url(self._server.url) as client:
                    await client.config_set("maxmemory", most_bytes)
                    refused += most_bytes
            await asyncio.sleep(seconds)
        return refused

    async def close(self) -> None:
        await asyncio.to_thread(self._server.kill)


BACKEND = RedisBackend
