"""The PostgreSQL engine under test, on a server of the tests' own or on `TEST_DATABASE_URL`.

With `TEST_DATABASE_POOLER=transaction` that may be a pooler, see `DATABASE_POOLER`.
"""

import asyncio
import atexit
import os
import secrets
import shutil
import tempfile
from functools import cache
from pathlib import Path

import asyncpg

from bot.runtime.engines.postgres import schema as postgres_schema
from bot.runtime.engines.postgres.connection import Database
from bot.runtime.engines.postgres.dev_server import PostgresDevServer
from bot.runtime.engines.postgres.store import PostgresStore
from bot.runtime.state.record import Limits
from bot.runtime.state.store import OperatorStore
from suite.contract.harness import Harness


@cache
def server_url() -> str:
    """The server that all tests use."""
    url = os.environ.get("TEST_DATABASE_URL")
    if url:
        return url
    folder = Path(tempfile.mkdtemp(prefix="bot-tests-"))
    server = PostgresDevServer(folder / "postgres")
    url = server.start_now()
    asyncio.run(_trade_safety_for_speed(url))

    def end() -> None:
        server.stop_now()
        shutil.rmtree(folder)

    atexit.register(end)
    return url


def database() -> Database:
    """The database there."""
    return Database(server_url(), pool_size=5, pooler=os.environ.get("TEST_DATABASE_POOLER"))


async def _trade_safety_for_speed(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("ALTER SYSTEM SET fsync = off")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()


@cache
def schema() -> str:
    """A schema of this test run's own, with the tables in it."""
    name = f"test_{secrets.token_hex(4)}"

    async def drop() -> None:
        connection = await database().connect()
        await connection.execute(f'DROP SCHEMA "{name}" CASCADE')
        await connection.close()

    asyncio.run(postgres_schema.migrate(database(), name))
    atexit.register(lambda: asyncio.run(drop()))
    return name


class PostgresHarness:
    """One schema that several stores share, emptied in the end."""

    def __init__(self) -> None:
        self._stores: list[PostgresStore] = []
        self._is_used = False

    async def open(self, limits: Limits | None = None, ttl: float | None = None) -> OperatorStore:
        # In a thread of its own: the first to come starts the server and an event loop.
        name = await asyncio.to_thread(schema)
        store = PostgresStore(database(), schema=name, limits=limits, ttl=ttl)
        self._stores.append(store)
        self._is_used = True
        await store.connect()
        return store

    def settings(self) -> dict[str, str]:
        self._is_used = True
        pooler = os.environ.get("TEST_DATABASE_POOLER", "")
        return {"DATABASE_URL": server_url(), "DATABASE_SCHEMA": schema(), "DATABASE_POOLER": pooler}

    async def execute(self, query: str, *arguments: object) -> str:
        """Do something to the tables that no store would do; `{schema}` is their schema."""
        connection = await database().connect()
        try:
            status: str = await connection.execute(query.format(schema=schema()), *arguments)
            return status
        finally:
            await connection.close()

    async def expire(self, user_id: str) -> None:
        await self.execute("UPDATE {schema}.user_state SET expires_at = now() WHERE user_id = $1", user_id)

    async def corrupt(self, user_id: str) -> None:
        await self.execute(
            "INSERT INTO {schema}.user_state (user_id, state, outbox) VALUES ($1, '{{}}', '[]')"
            " ON CONFLICT (user_id) DO UPDATE SET outbox = '[]'",
            user_id,
        )

    async def close(self) -> None:
        for store in self._stores:
            await store.close()
        if self._is_used:
            await self.execute("DELETE FROM {schema}.user_state")
            await self.execute("DELETE FROM {schema}.user_state_owner")


def make_harness() -> Harness:
    return PostgresHarness()
