"""What could come between Redis and PostgreSQL, each in the order that would do harm."""

import asyncio
from typing import Any

import pytest

from bot.runtime.engines.hybrid.redis import Cold, Warm
from bot.runtime.engines.hybrid.snapshot import Commit
from bot.runtime.engines.hybrid.store import HybridStore
from bot.runtime.errors import StateConflict, StateUnavailable
from bot.runtime.state.record import Message
from bot.runtime.state.store import Changes
from suite.engines.hybrid.doings import evict, is_dirty, messages_in_postgres, put, rested
from suite.engines.hybrid.harness import HybridHarness

pytestmark = pytest.mark.clause("engine.write-behind")

ALL = ("state", "history", "meta", "applied")


@pytest.fixture
async def store(hybrid: HybridHarness) -> HybridStore:
    """A store that flushes when it is told to, and not before."""
    store = await hybrid.make(flush_interval=3600)
    await store.flusher.stop()
    return store


async def missing(store: HybridStore, user_id: str = "1") -> str:
    """The lease of somebody who misses a record."""
    found = await store.redis.look(user_id)
    assert isinstance(found, Cold)
    return found.lease


async def test_a_slow_reader_does_not_put_an_old_record_back(store: HybridStore) -> None:
    await put(store, n=1)
    await store.flush()
    await evict(store)
    lease = await missing(store)
    _, old = await store.postgres.read("1")

    await put(store, n=2)
    await store.flush()
    await evict(store)

    assert not await store.redis.fill(old, lease)
    assert (await store.load("1")).state == {"n": 2}


async def test_nor_when_another_one_misses_it_at_that_moment(store: HybridStore) -> None:
    await put(store, n=1)
    await store.flush()
    await evict(store)
    lease = await missing(store)
    _, old = await store.postgres.read("1")
    await put(store, n=2)
    await store.flush()
    await evict(store)
    other = await missing(store)
    assert not await store.redis.fill(old, lease)
    _, new = await store.postgres.read("1")
    assert await store.redis.fill(new, other)
    assert (await store.load("1")).state == {"n": 2}


async def test_readers_that_miss_it_together_share_the_lease(store: HybridStore) -> None:
    await put(store, n=1)
    await store.flush()
    await evict(store)
    assert await missing(store) == await missing(store)
    records = await asyncio.gather(*(store.load("1") for _ in range(10)))
    assert [record.state for record in records] == [{"n": 1}] * 10


async def test_a_slow_reader_does_not_bring_a_forgotten_user_back(store: HybridStore) -> None:
    await put(store, n=1)
    await store.flush()
    await evict(store)
    lease = await missing(store)
    _, old = await store.postgres.read("1")
    await store.forget("1")
    await evict(store)
    assert not await store.redis.fill(old, lease)
    assert (await store.load("1")).is_empty


async def test_a_commit_during_a_flush_is_flushed_too(store: HybridStore) -> None:
    await put(store, n=1)
    snapshot = await store.redis.snapshot("1")
    assert snapshot
    await put(store, n=2)
    assert await store.postgres.write(snapshot)
    assert not await store.redis.mark_clean(snapshot, 0)
    assert await is_dirty(store)
    await store.flush()
    assert (await rested(store)).state == {"n": 2}
    assert not await is_dirty(store)


async def test_a_late_flush_does_not_turn_postgres_back(store: HybridStore) -> None:
    await put(store, n=1)
    late = await store.redis.snapshot("1")
    assert late
    await put(store, n=2)
    await store.flush()
    assert not await store.postgres.write(late)
    assert (await rested(store)).state == {"n": 2}


async def test_a_late_flush_does_not_bring_a_forgotten_user_back(store: HybridStore) -> None:
    await put(store, say="hello", n=1)
    late = await store.redis.snapshot("1")
    assert late
    assert await store.forget("1")
    assert not await store.postgres.write(late)
    await evict(store)
    assert (await store.load("1")).is_empty
    assert await messages_in_postgres(store) == 0


async def test_forgetting_waits_for_a_flush_that_is_under_way(store: HybridStore) -> None:
    """Its messages are not there yet when the forgetting begins, and would not be seen by it."""
    await put(store, say="hello", n=1)
    snapshot = await store.redis.snapshot("1")
    assert snapshot
    database = store.postgres.database
    connection = await database.connect()
    transaction = connection.transaction()
    await transaction.start()
    assert await store.postgres._replace(connection, snapshot)
    forgetting = asyncio.create_task(store.forget("1"))
    await asyncio.sleep(0.3)
    assert not forgetting.done()
    await transaction.commit()
    await connection.close()
    assert await forgetting
    assert await messages_in_postgres(store) == 0
    await evict(store)
    assert (await store.load("1")).is_empty


@pytest.mark.clause("forget.no-trace")
async def test_forgetting_a_dirty_user(store: HybridStore) -> None:
    await put(store, say="hello", n=1)
    await store.flush()
    await put(store, say="there", n=2)
    assert await store.forget("1")
    assert not await is_dirty(store)
    assert await messages_in_postgres(store) == 0
    assert (await rested(store)).forgotten
    await store.flush(everything=True)
    assert (await store.load("1")).is_empty


@pytest.mark.clause("forget.no-trace")
async def test_forgetting_while_an_older_flush_ends(
    store: HybridStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was of a record that was evicted since, so the flusher doubts the one that is here now."""
    await put(store, n=1)
    late = await store.redis.snapshot("1")
    assert late
    await store.flush()
    await evict(store)
    await put(store, n=2)
    commit_warm = store.redis.commit_warm

    async def commit_and_end_the_flush(*arguments: Any) -> Commit:
        commit = await commit_warm(*arguments)
        assert not await store.redis.mark_clean(late, 0)
        return commit

    monkeypatch.setattr(store.redis, "commit_warm", commit_and_end_the_flush)
    assert await store.forget("1")
    assert not await is_dirty(store)
    assert (await rested(store)).forgotten


async def test_forgetting_without_postgres_changes_nothing(store: HybridStore) -> None:
    await put(store, n=1)
    await store.postgres.close()
    with pytest.raises(StateUnavailable):
        await store.forget("1")
    with pytest.raises(StateUnavailable):
        await store.commit("1", Changes(forget=True), expect=None)
    assert (await store.load("1")).state == {"n": 1}
    await store.postgres.connect()
    assert await store.forget("1")


async def test_forgetting_that_postgres_breaks_off_is_completed(
    store: HybridStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis has decided by then: nobody sees the user any more, and the flusher sees to PostgreSQL."""
    await put(store, say="hello", n=1)
    await store.flush()

    async def break_off(*_: object) -> bool:
        raise StateUnavailable("it went away")

    with monkeypatch.context() as patch:
        patch.setattr(store.postgres, "_replace", break_off)
        with pytest.raises(StateUnavailable):
            await store.forget("1")
    assert (await store.load("1")).is_empty
    assert (await rested(store)).state == {"n": 1}
    await store.flush()
    assert (await rested(store)).is_empty
    assert await messages_in_postgres(store) == 0


async def test_a_forgotten_user_keeps_the_ids_of_updates_also_when_cold(store: HybridStore) -> None:
    await store.load("1")
    await store.commit("1", Changes(state={"a": b"1"}, applied=(7, 8)), expect=0)
    await store.flush()
    await evict(store)
    await store.forget("1")
    assert (await store.load("1")).applied == (7, 8)
    await evict(store)
    record = await store.load("1")
    assert record.applied == (7, 8)
    assert record.forgotten == record.version


@pytest.mark.parametrize("part", ALL)
async def test_a_clean_record_that_is_evicted_in_part_is_whole(store: HybridStore, part: str) -> None:
    changes = Changes(state={"a": b"1"}, messages=(Message("user", "hi", 1.0),), applied=(7,))
    await store.load("1")
    version = await store.commit("1", changes, expect=0)
    before = await store.load("1")
    await store.flush()

    await evict(store, "1", part)
    assert await store.load("1") == before

    await evict(store, "1", part)
    await store.commit("1", Changes(state={"b": b"2"}), expect=version)
    after = await store.load("1")
    assert (after.state, after.history, after.applied) == ({"a": 1, "b": 2}, before.history, (7,))


async def test_a_dirty_record_neither_expires_nor_can_be_evicted(hybrid: HybridHarness) -> None:
    store = await hybrid.make(ttl=7200, flush_interval=3600)
    await store.flusher.stop()
    changes = Changes(state={"a": b"1"}, messages=(Message("user", "hi", 1.0),), applied=(7,))
    await store.load("1")

    async def lifetimes() -> list[int]:
        keys = [store.redis._key("1", part) for part in ALL]
        return [await store.redis.connection.ask("TTL", key) for key in keys]

    version = await store.commit("1", changes, expect=0)
    assert await lifetimes() == [-1] * 4
    await store.flush()
    assert all(3590 < seconds <= 3600 for seconds in await lifetimes())
    await store.commit("1", Changes(state={"a": b"2"}), expect=version)
    assert await lifetimes() == [-1] * 4


async def test_a_commit_to_a_cold_user_is_no_first_one(store: HybridStore) -> None:
    await put(store, n=1)
    await store.flush()
    await evict(store)
    with pytest.raises(StateConflict):
        await store.commit("1", Changes(state={"m": b"2"}), expect=0)
    await evict(store)
    await store.commit("1", Changes(state={"m": b"2"}), expect=None)
    assert (await store.load("1")).state == {"n": 1, "m": 2}


async def test_a_commit_evicted_before_its_answer_came_knows_itself(store: HybridStore) -> None:
    version = await put(store, n=1)
    changes = Changes(state={"n": b"2"}, messages=(Message("user", "once", 1.0),))
    committed = await store.commit("1", changes, expect=version)
    await store.flush()
    await evict(store)
    assert await store.commit("1", changes, expect=version) == committed
    assert len((await store.load("1")).history) == 1


async def test_what_expired_while_it_was_dirty_does_not_come_back_from_postgres(store: HybridStore) -> None:
    """Such as a forgotten user's marker, when PostgreSQL is away for 25 hours."""
    await put(store, say="hello", n=1)
    await store.flush()
    late = await store.load("1")
    await store.redis.commit_warm("1", Changes(forget=True), late.version)
    meta = store.redis._key("1", "meta")
    assert int(await store.redis.connection.ask("HGET", meta, "expires")) > 0
    await store.redis.connection.ask("HSET", meta, "expires", 1)

    record = await store.load("1")
    assert (record.version, record.is_empty) == (0, True)
    with pytest.raises(StateConflict):
        await store.commit("1", Changes(state={"n": b"3"}), expect=late.version)
    await store.flush()
    await evict(store)
    assert (await store.load("1")).is_empty
    assert await messages_in_postgres(store) == 0


async def test_a_new_record_in_the_place_of_one_that_expired_while_it_was_dirty(store: HybridStore) -> None:
    await put(store, say="hello", n=1)
    await store.redis.connection.ask("HSET", store.redis._key("1", "meta"), "expires", 1)
    await store.commit("1", Changes(state={"m": b"2"}), expect=0)
    record = await store.load("1")
    assert (record.state, record.history) == ({"m": 2}, [])
    await store.flush()
    assert (await rested(store)).state == {"m": 2}
    assert await messages_in_postgres(store) == 0


async def test_a_record_of_another_origin_in_postgres_is_replaced(
    store: HybridStore, hybrid: HybridHarness
) -> None:
    """It is not taken for a flush that was done before, though its version is higher."""
    await put(store, n=1)
    await store.flush()
    await hybrid.postgres.execute(
        "UPDATE {schema}.user_state SET version = version + 10000000000, token = 'x', state = '{{}}'"
    )
    version = await put(store, n=2)
    await store.flush()
    there = await rested(store)
    here = await store.load("1")
    assert there.state == here.state == {"n": 2}
    assert there.version == here.version > version
    assert not await is_dirty(store)


async def test_a_flush_whose_answer_was_lost_is_done(store: HybridStore) -> None:
    await put(store, n=1)
    snapshot = await store.redis.snapshot("1")
    assert snapshot
    assert await store.postgres.write(snapshot)
    assert await store.postgres.write(snapshot), "it recognises itself"
    before = (await store.load("1")).version
    await store.flush()
    assert (await store.load("1")).version == before
    assert not await is_dirty(store)


async def test_postgres_restored_from_a_dump_gets_what_redis_has(
    store: HybridStore, hybrid: HybridHarness
) -> None:
    await put(store, n=1)
    await store.flush()
    _, dump = await store.postgres.read("1")
    await put(store, n=2)
    await put(store, "2", n=2)
    await store.flush()
    await hybrid.postgres.execute("DELETE FROM {schema}.user_state")
    assert await store.postgres.write(dump)

    await store.flush()
    assert (await rested(store)).state == {"n": 1}, "this test would not notice"
    await store.flush(everything=True)
    assert (await rested(store)).state == {"n": 2}
    assert (await rested(store, "2")).state == {"n": 2}


async def test_redis_emptied_when_everything_is_flushed(store: HybridStore, hybrid: HybridHarness) -> None:
    for user in range(10):
        await put(store, str(user), say="hi", n=user)
    await store.flush()
    for user in range(10):
        await evict(store, str(user))
    await store.redis.connection.ask("SCRIPT", "FLUSH")
    for user in range(10):
        record = await store.load(str(user))
        assert record.state == {"n": user}
        assert [message.text for message in record.history] == ["hi"]


async def test_users_are_those_of_both(store: HybridStore) -> None:
    for user in ("flushed", "forgotten", "cold"):
        await put(store, user, n=1)
    await store.flush()
    await evict(store, "cold")
    await put(store, "new", n=1)
    await put(store, "flushed", n=2)
    record = await store.load("forgotten")
    await store.redis.commit_warm("forgotten", Changes(forget=True), record.version)
    assert sorted([user async for user in store.users()]) == ["cold", "flushed", "new"]


async def test_a_cold_user_without_postgres_is_no_new_one(store: HybridStore) -> None:
    await put(store, n=1)
    await put(store, "2", n=1)
    await store.flush()
    await evict(store)
    await store.postgres.close()
    with pytest.raises(StateUnavailable):
        await store.load("1")
    with pytest.raises(StateUnavailable):
        await store.commit("1", Changes(state={"n": b"2"}), expect=None)
    assert await put(store, "2", n=2), "one who is warm is served"


async def test_what_a_restarted_redis_brings_is_compared_once(store: HybridStore) -> None:
    await put(store, n=1)
    await store.flush()
    await store.redis.connection.ask("HSET", store.redis._key("1", "meta"), "lineage", "before")
    found = await store.redis.look("1")
    assert isinstance(found, Warm)
    assert not found.is_verified
    await store.load("1")
    found = await store.redis.look("1")
    assert isinstance(found, Warm)
    assert found.is_verified
