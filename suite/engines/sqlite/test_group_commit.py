"""Turns that are ready together share a transaction, and nothing of each other's misfortune."""

import asyncio
from typing import Any

import apsw
import pytest

from bot.runtime.engines.sqlite import connection as module
from bot.runtime.engines.sqlite.store import SqliteStore
from bot.runtime.errors import StateConflict, StateTooLarge, StateUnavailable
from bot.runtime.state.record import Message
from bot.runtime.state.store import Changes
from suite.engines.sqlite.disk import forgetful_disk

pytestmark = pytest.mark.clause("engine.group-commit")


def count(number: int) -> Changes:
    return Changes(state={"n": str(number).encode()})


async def test_turns_that_are_ready_together_share_a_flush(open_store: Any) -> None:
    with forgetful_disk() as disk:
        store = await open_store()
        await store.commit("0", count(0), expect=0)
        before = disk.flushes
        await asyncio.gather(*(store.commit(str(n), count(n), expect=0) for n in range(1, 51)))
        together = disk.flushes - before
        for n in range(51, 61):
            await store.commit(str(n), count(n), expect=0)
        alone = disk.flushes - before - together
        await store.close()
    assert together <= 3
    assert alone >= 10


async def test_one_that_fails_fails_alone(direct: SqliteStore) -> None:
    version = await direct.commit("1", count(0), expect=0)
    hoard = Changes(state={"n": b"1"}, size=direct.limits.max_bytes + 1)
    outcomes = await asyncio.gather(
        *(direct.commit(str(n), count(n), expect=0) for n in range(2, 20)),
        direct.commit("1", count(1), expect=version - 1),
        direct.commit("1", hoard, expect=version),
        *(direct.commit(str(n), count(n), expect=0) for n in range(20, 40)),
        return_exceptions=True,
    )
    failed = [each for each in outcomes if isinstance(each, BaseException)]
    assert [type(each) for each in failed] == [StateConflict, StateTooLarge]
    for n in range(2, 40):
        assert (await direct.load(str(n))).state == {"n": n}


async def test_a_fault_in_the_midst_of_one_undoes_that_one(direct: SqliteStore) -> None:
    """Nothing of what it had written stays, and the others' is there."""
    is_begun = False

    def fail(connection: apsw.Connection) -> None:
        nonlocal is_begun
        is_begun = True
        connection.execute("UPDATE record SET token = 'half'")
        raise ZeroDivisionError

    await direct.commit("1", count(1), expect=0)
    outcomes = await asyncio.gather(
        *(direct.commit(str(n), count(n), expect=0) for n in range(2, 10)),
        direct.database.write(fail),
        *(direct.commit(str(n), count(n), expect=0) for n in range(10, 20)),
        return_exceptions=True,
    )
    assert is_begun
    assert [type(each) for each in outcomes if isinstance(each, BaseException)] == [ZeroDivisionError]
    for n in range(1, 20):
        record = await direct.load(str(n))
        assert record.state == {"n": n}
        assert record.token != "half"


async def test_one_that_does_not_fit_on_the_disk_fails_alone(direct: SqliteStore) -> None:
    def limit(connection: apsw.Connection) -> None:
        connection.pragma("max_page_count", connection.pragma("page_count") + 20)

    await direct.database.write(limit)
    hoard = Changes(state={"n": b'"' + b"x" * 200_000 + b'"'})
    outcomes = await asyncio.gather(
        direct.commit("1", count(1), expect=0),
        direct.commit("2", hoard, expect=0),
        direct.commit("3", count(3), expect=0),
        return_exceptions=True,
    )
    # The connection is a new one by now, which knows no limit: one attempt was the shared one.
    assert [(await direct.load(user)).state for user in ("1", "3")] == [{"n": 1}, {"n": 3}]
    assert isinstance(outcomes[0], int)
    assert isinstance(outcomes[2], int)


async def test_commits_to_one_record_in_one_transaction_follow_each_other(direct: SqliteStore) -> None:
    message = Message("user", "hi", 1.0)
    changes = [Changes(state={str(n): b"1"}, messages=(message,), applied=(n,)) for n in range(50)]
    versions = await asyncio.gather(*(direct.commit("1", each, expect=None) for each in changes))
    assert versions == sorted(set(versions))
    record = await direct.load("1")
    assert len(record.state) == len(record.history) == 50
    assert record.applied == tuple(range(50))


async def test_who_is_cancelled_before_their_turn_is_not_written(direct: SqliteStore) -> None:
    """A queue that stands still does not grow with the patience of those who wait."""
    async with asyncio.timeout(10):
        blocked = asyncio.create_task(direct.database.write(lambda _: __import__("time").sleep(0.5)))
        await asyncio.sleep(0.1)
        waiting = [asyncio.create_task(direct.commit(str(n), count(n), expect=0)) for n in range(5)]
        await asyncio.sleep(0.1)
        for each in waiting:
            each.cancel()
        await blocked
        await direct.commit("9", count(9), expect=0)
    assert [user async for user in direct.users()] == ["9"]


async def test_a_disk_that_hangs_is_unavailable_and_in_time(
    open_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(timeout=0.2)
    hanging = asyncio.create_task(store.database.write(lambda _: __import__("time").sleep(2)))
    await asyncio.sleep(0.1)
    began = asyncio.get_running_loop().time()
    with pytest.raises(StateUnavailable, match="does not answer"):
        await store.commit("1", count(1), expect=0)
    assert asyncio.get_running_loop().time() - began < 1.6
    with pytest.raises(StateUnavailable):
        await hanging


async def test_a_commit_costs_the_same_whatever_the_state(direct: SqliteStore) -> None:
    """One row per key and per message: what is written does not grow with what is kept."""
    written = {}
    for keys in (10, 1_000):
        user = f"u{keys}"
        state = {f"key {n}": b'"' + b"x" * 50 + b'"' for n in range(keys)}
        version = await direct.commit(user, Changes(state=state), expect=0)
        await direct.database.write(lambda c: None)
        log = direct.database.wal
        before = log.stat().st_size
        for _ in range(20):
            version = await direct.commit(user, Changes(state={"key 5": b"1"}), expect=version)
        written[keys] = log.stat().st_size - before
    assert written[1_000] <= written[10] + 20 * 2 * 4_120


def test_the_library_is_free_of_the_bug_that_damages_files() -> None:
    """Two connections that write or checkpoint at once, in SQLite up to 3.51.2."""
    assert tuple(map(int, apsw.sqlite_lib_version().split("."))) >= (3, 51, 3)
    assert module.AT_ONCE > 100
