"""Rows: what is left of the forgotten, when the expired go, and how the server can keep up."""

import asyncio
import json

import pytest

from bot.runtime.engines.postgres.connection import Connection
from bot.runtime.engines.postgres.statements import Statements
from bot.runtime.engines.postgres.store import PostgresStore
from bot.runtime.errors import StateConflict
from bot.runtime.state.record import Message, OutboxEntry, encode_entry
from bot.runtime.state.store import Changes
from suite.engines.postgres.harness import PostgresHarness, schema

pytestmark = pytest.mark.clause("engine.layout")

MARK = "hunter2"


async def everything(connection: Connection) -> list[str]:
    """Every row of every table of the schema, as text."""
    tables = await connection.fetch(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = $1", schema()
    )
    rows: list[str] = []
    for table in tables:
        name = table["table_name"]
        found = await connection.fetch(f'SELECT t::text AS row FROM {schema()}."{name}" AS t')
        rows += [f"{name}: {row['row']}" for row in found]
    return rows


def personal() -> Changes:
    """A commit with the mark in everything that can hold it."""
    outgoing = encode_entry(OutboxEntry([{"method": "sendMessage", "params": {"text": MARK}}], 1.0))
    return Changes(
        state={MARK: json.dumps(MARK).encode()},
        fsm={"flow": json.dumps({"state": MARK, "data": {}}).encode()},
        messages=(Message("user", MARK, 1.0), Message("assistant", MARK, 2.0)),
        applied=(7,),
        outbox={7: outgoing},
    )


@pytest.mark.clause("forget.no-trace")
async def test_forgetting_leaves_a_marker_and_no_content(
    postgres: PostgresHarness, connection: Connection
) -> None:
    store = await postgres.open()
    user = "777000777"
    await store.commit(user, personal(), expect=0)
    assert len([row for row in await everything(connection) if MARK in row and user in row]) == 3
    await store.forget(user)
    rows = await everything(connection)
    assert not [row for row in rows if MARK in row]
    (marker,) = [row for row in rows if user in row]
    assert marker.startswith("user_state: ")


@pytest.mark.clause("forget.no-trace")
async def test_forgetting_leaves_nothing_of_those_who_write_at_the_same_time(
    postgres: PostgresHarness, connection: Connection
) -> None:
    store = await postgres.open()
    for n in range(20):
        user = f"7770{n}"
        version = await store.commit(user, personal(), expect=0)

        async def write(user: str = user, version: int = version) -> None:
            for _ in range(5):
                try:
                    version = await store.commit(user, personal(), expect=version)
                except StateConflict:
                    return

        await asyncio.gather(write(), store.forget(user), store.commit(user, personal(), expect=None))
        await store.forget(user)
        assert not [row for row in await everything(connection) if MARK in row]


async def test_deleting_a_users_row_by_hand_deletes_the_conversation(
    postgres: PostgresHarness, connection: Connection
) -> None:
    store = await postgres.open()
    await store.commit("1", personal(), expect=0)
    await postgres.execute("DELETE FROM {schema}.user_state WHERE user_id = '1'")
    assert not [row for row in await everything(connection) if MARK in row]
    await store.commit("1", personal(), expect=0)
    assert len((await store.load("1")).history) == 2


async def test_the_sweep_deletes_what_has_expired_and_waits_for_nobody(
    postgres: PostgresHarness, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.runtime.engines.postgres.store.PAGE", 3)
    store = await postgres.open(ttl=3600)
    assert isinstance(store, PostgresStore)
    for n in range(10):
        await store.commit(f"{n}", personal(), expect=0)
    for n in range(8):
        await postgres.expire(f"{n}")
    async with connection.transaction():
        await connection.execute(f"SELECT 1 FROM {schema()}.user_state WHERE user_id = '4' FOR UPDATE")
        assert await asyncio.wait_for(store.sweep(), timeout=60) == 7
    assert await store.sweep() == 1
    assert sorted([user async for user in store.users()]) == ["8", "9"]
    assert len([row for row in await everything(connection) if MARK in row]) == 2 * 3


async def test_markers_are_swept_too_and_others_are_kept_for_ever(
    postgres: PostgresHarness, connection: Connection
) -> None:
    store = await postgres.open()
    assert isinstance(store, PostgresStore)
    await store.commit("1", personal(), expect=0)
    await store.forget("2")
    expiries = await connection.fetch(
        "SELECT round(extract(epoch FROM expires_at - now()) / 3600) AS hours"
        f" FROM {schema()}.user_state ORDER BY user_id"
    )
    assert [row["hours"] for row in expiries] == [None, 25]
    assert await store.sweep() == 0
    await postgres.expire("2")
    assert await store.sweep() == 1


async def test_it_sweeps_by_itself(postgres: PostgresHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.runtime.engines.postgres.store.SWEEP_SECONDS", 0.1)
    store = await postgres.open(ttl=3600)
    await store.commit("1", personal(), expect=0)
    await postgres.expire("1")
    for _ in range(100):
        if await store.raw("1") == "null":
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it is still there")


async def test_state_is_json_that_can_be_queried(postgres: PostgresHarness, connection: Connection) -> None:
    store = await postgres.open()
    await store.commit(
        "1", Changes(state={"n": b"1e22", "text": b'"1e22 \\"2e30"', "list": b"[3e300]"}), expect=0
    )
    row = await connection.fetchrow(
        f"SELECT state -> 'n' = '10000000000000000000000' AS is_equal, state ->> 'text' AS text"
        f" FROM {schema()}.user_state WHERE state @> '{{\"list\": [3e300]}}'"
    )
    assert tuple(row) == (True, '1e22 "2e30')


async def test_updates_stay_in_their_page(postgres: PostgresHarness, connection: Connection) -> None:
    """HOT: an update that touches no index. Before version 16, BRIN indexes count."""
    if connection.get_server_version() < (16,):
        pytest.skip("PostgreSQL 16 or newer")
    store = await postgres.open(ttl=3600)
    versions = dict.fromkeys(map(str, range(100)), 0)
    for n in range(20):
        for user in versions:
            changes = Changes(
                state={"message_count": str(n).encode(), "last_message": b'"hello"'},
                messages=(Message("user", "hello", 1.0), Message("assistant", "there", 1.0)),
                applied=(n,),
            )
            versions[user] = await store.commit(user, changes, expect=versions[user])
    await store.close()
    await asyncio.sleep(1.5)  # statistics are sent when a session ends, at most once a second
    row = await connection.fetchrow(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
        " WHERE schemaname = $1 AND relname = 'user_state'",
        schema(),
    )
    assert row["n_tup_upd"] >= 1_900
    assert row["n_tup_hot_upd"] / row["n_tup_upd"] > 0.9


async def test_who_is_due_is_found_by_the_index(postgres: PostgresHarness, connection: Connection) -> None:
    """Whether nobody has anything to do or everybody, and whatever the statistics say of that."""
    store = await postgres.open()
    assert isinstance(store, PostgresStore)
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    await connection.execute(f"PREPARE who_is_due AS {Statements(schema()).due}")
    for due in (0, 1):
        await postgres.execute(
            "INSERT INTO {schema}.user_state (user_id, state, due)"
            " SELECT number, '{{}}', number * $1 FROM generate_series(1, 20000) AS number"
            " ON CONFLICT (user_id) DO UPDATE SET due = EXCLUDED.due",
            due,
        )
        for _ in range(2):
            plan = await connection.fetch("EXPLAIN (COSTS OFF) EXECUTE who_is_due (0, 100)")
            text = "\n".join(row[0] for row in plan)
            assert "idx_user_state_due" in text, text
            await postgres.execute("ANALYZE {schema}.user_state")
    assert "Index Scan using idx_user_state_due" in text, "a page of it: not all are read and sorted"
    assert [due for _, due in (await store.due(0, 3)).due] == [1, 2, 3]
    assert await store.reindex() == 20_000
