"""Behind a pooler that gives each transaction another connection: PgBouncer, where it is installed."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from bot.runtime.engines.postgres import schema as postgres_schema
from bot.runtime.engines.postgres.connection import Database
from bot.runtime.engines.postgres.store import PostgresStore
from bot.runtime.errors import StateUnavailable
from bot.runtime.state.store import Changes, OperatorStore
from bot.runtime.state.turn import Turn, mutate
from suite.engines.postgres.harness import schema
from suite.engines.postgres.pooler import PGBOUNCER

pytestmark = [
    pytest.mark.clause("engine.pooler"),
    pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed"),
]


@pytest.fixture
async def pooled(pooler: str) -> AsyncIterator[OperatorStore]:
    schema_name = await asyncio.to_thread(schema)
    store = PostgresStore(Database(pooler, pool_size=200, pooler="transaction"), schema=schema_name)
    await store.connect()
    yield store
    for user in [user async for user in store.users()]:
        await store.forget(user)
    await store.close()


async def test_many_users_at_once(pooled: OperatorStore) -> None:
    async def add(turn: Turn) -> None:
        turn.state["count"] = turn.state.get("count", 0) + 1
        turn.remember("user", "hi")

    async def write(user: str) -> None:
        for _ in range(10):
            await mutate(pooled, user, add)

    users = [f"pooled {n}" for n in range(40)]
    await asyncio.gather(*map(write, users))
    for user in users:
        record = await pooled.load(user)
        assert record.state == {"count": 10}
        assert len(record.history) == 10


async def test_everything_else_too(pooled: OperatorStore) -> None:
    await pooled.ping()
    await asyncio.gather(*(pooled.commit("1", Changes(state={str(n): b"1"}), expect=None) for n in range(10)))
    assert len((await pooled.load("1")).state) == 10
    assert "1" in [user async for user in pooled.users()]
    now = (await pooled.due(0, 1)).now
    await pooled.commit("1", Changes(due=now), expect=None)
    claims = await asyncio.gather(*(pooled.claim("1", now, now + n) for n in range(1, 9)))
    assert sorted(claims) == [0] * 7 + [1]
    assert len((await pooled.due(1, 9)).due) == 1
    found = await pooled.diagnose()
    assert "PostgreSQL" in found[0].text
    assert not any("connections left" in finding.text for finding in found), "they are the pooler's"
    assert await pooled.forget("1") is True


async def test_migrations(pooler: str, empty_schema: str) -> None:
    database = Database(pooler, pooler="transaction")
    said = await asyncio.gather(*(postgres_schema.migrate(database, empty_schema) for _ in range(5)))
    assert sorted(line.split()[0] for line in said) == ["migrated"] + ["nothing"] * 4


async def test_without_the_setting_it_says_what_to_set(pooler: str) -> None:
    with pytest.raises(StateUnavailable, match="set DATABASE_POOLER=transaction"):
        await PostgresStore(Database(pooler)).connect()


async def test_a_pooler_that_has_no_place_for_now_is_waited_for(pooler: str, pooled: OperatorStore) -> None:
    """PgBouncer says so in the words of its protocol's violations, of which the others are final."""
    console = await asyncpg.connect(pooler.rpartition("/")[0] + "/pgbouncer", statement_cache_size=0)
    await console.execute("SET max_client_conn = 1")
    database = Database(pooler, pooler="transaction", timeout=0.5)
    opening = asyncio.create_task(database.open())
    await asyncio.sleep(1.5)
    is_waiting = not opening.done()
    await console.execute("SET max_client_conn = 200")
    await opening
    assert is_waiting
    await database.close()
    await console.close()
