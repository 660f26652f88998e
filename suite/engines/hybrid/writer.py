"""Counts up for some users, and says each count once it is acknowledged: `writer.py ours|sketch`.

`sketch` is a hybrid that writes to Redis, and to PostgreSQL by a task that nobody waits for.
"""

import asyncio
import json
import os
import sys
from typing import Any

import asyncpg
import redis.asyncio

from bot.runtime.config import Settings
from bot.runtime.engines.hybrid.store import HybridStore
from bot.runtime.logs import configure_logs
from bot.runtime.state.turn import Turn, mutate

USERS = 20


async def ours() -> None:
    configure_logs(Settings())
    store = HybridStore.from_settings(Settings())
    await store.connect()

    async def count_up(user_id: str) -> None:
        async def add(turn: Turn) -> None:
            turn.state["count"] = turn.state.get("count", 0) + 1

        count = 0
        while True:
            await mutate(store, user_id, add)
            count += 1
            print(user_id, count, flush=True)

    await asyncio.gather(*(count_up(str(user)) for user in range(USERS)))


async def sketch() -> None:
    cache = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"])
    database: Any = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1, max_size=5)

    async def write_to_db(user_id: str, state: str) -> None:
        await database.execute(
            "INSERT INTO sketch VALUES ($1, $2) ON CONFLICT (user_id) DO UPDATE SET state = $2",
            user_id,
            state,
        )

    async def count_up(user_id: str) -> None:
        count = 0
        while True:
            count += 1
            state = json.dumps({"count": count})
            await cache.set(f"user:{user_id}:state", state, ex=3600)
            asyncio.create_task(write_to_db(user_id, state))  # noqa: RUF006 - that is its fault
            print(user_id, count, flush=True)

    await asyncio.gather(*(count_up(str(user)) for user in range(USERS)))


asyncio.run(ours() if sys.argv[1] == "ours" else sketch())
