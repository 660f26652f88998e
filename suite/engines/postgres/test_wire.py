"""What goes over the wire: one round trip for a load, one for a commit; and what a lost answer means."""

from collections.abc import AsyncIterator

import pytest

from bot.runtime.engines.postgres.connection import Database
from bot.runtime.engines.postgres.store import PostgresStore
from bot.runtime.errors import StateConflict, StateUnavailable
from bot.runtime.state.record import Message, OutboxEntry, encode_entry
from bot.runtime.state.store import Changes
from suite.engines.postgres.harness import PostgresHarness, schema, server_url
from suite.engines.postgres.server import Proxy

pytestmark = pytest.mark.clause("wire.round-trips")


@pytest.fixture
async def proxy(postgres: PostgresHarness) -> AsyncIterator[Proxy]:
    await postgres.open()
    async with Proxy(server_url()) as proxy:
        yield proxy


@pytest.fixture
async def far_store(proxy: Proxy) -> AsyncIterator[PostgresStore]:
    """A store with one connection, which goes through the proxy."""
    store = PostgresStore(Database(proxy.url, pool_size=1, timeout=5), schema=schema())
    await store.connect()
    yield store
    await store.close()


def turn(n: int) -> Changes:
    reply = encode_entry(OutboxEntry([{"method": "sendMessage"}], 1.0))
    return Changes(
        state={"n": str(n).encode(), "gone": None},
        fsm={"flow": b"{}"},
        messages=(Message("user", "hi", 1.0), Message("assistant", "there", 2.0)),
        keep_history=4,
        applied=(n,),
        outbox={n: reply, n - 1: None},
    )


async def test_a_turn_is_two_round_trips(far_store: PostgresStore, proxy: Proxy) -> None:
    version = 0
    for n in range(3):  # prepares the statements
        version = await far_store.commit("1", turn(n), expect=version)
        await far_store.load("1")
    for n in range(3, 6):
        before = proxy.round_trips
        record = await far_store.load("1")
        assert proxy.round_trips - before == 1
        await far_store.commit("1", turn(n), expect=record.version)
        assert proxy.round_trips - before == 2
    assert [message.text for message in (await far_store.load("1")).history] == ["hi", "there"] * 2


async def test_so_is_a_first_commit(far_store: PostgresStore, proxy: Proxy) -> None:
    await far_store.commit("1", turn(1), expect=0)
    before = proxy.round_trips
    await far_store.commit("2", turn(1), expect=0)
    assert proxy.round_trips - before == 1


@pytest.mark.parametrize("is_merge", [False, True])
@pytest.mark.clause("wire.lost-answer")
async def test_a_commit_whose_answer_is_lost_is_applied_once(
    far_store: PostgresStore, proxy: Proxy, is_merge: bool
) -> None:
    base = await far_store.commit("1", Changes(state={"n": b"0"}), expect=0)
    changes = turn(1)
    proxy.lose_answer_to(changes.token.encode())
    version = await far_store.commit("1", changes, expect=None if is_merge else base)
    record = await far_store.load("1")
    assert record.version == version > base
    assert record.token == changes.token
    assert [message.text for message in record.history] == ["hi", "there"]
    assert record.applied == (1,)


@pytest.mark.parametrize("expect", [0, 1, None])
async def test_when_others_came_after_nobody_knows(
    far_store: PostgresStore, postgres: PostgresHarness, proxy: Proxy, expect: int | None
) -> None:
    """Not a conflict: that would say that nothing was written."""
    near_store = await postgres.open()
    if expect:
        expect = await near_store.commit("1", Changes(state={"n": b"0"}), expect=0)

    async def overtake() -> None:
        await near_store.commit("1", Changes(state={"other": b"1"}), expect=None)

    changes = turn(1)
    proxy.lose_answer_to(changes.token.encode(), overtake)
    with pytest.raises(StateUnavailable, match="nobody knows"):
        await far_store.commit("1", changes, expect=expect)
    record = await near_store.load("1")
    assert record.applied == (1,)
    assert len(record.history) == 2, "a merge is not applied twice either"


async def test_a_conflict_is_certain(far_store: PostgresStore, proxy: Proxy) -> None:
    base = await far_store.commit("1", Changes(state={"n": b"0"}), expect=0)
    await far_store.commit("1", turn(1), expect=base)
    with pytest.raises(StateConflict):
        await far_store.commit("1", turn(2), expect=base)


@pytest.mark.clause("wire.lost-answer")
async def test_a_lost_load_is_tried_again(far_store: PostgresStore, proxy: Proxy) -> None:
    await far_store.commit("lost and found", turn(1), expect=0)
    await far_store.load("lost and found")
    proxy.lose_answer_to(b"lost and found")
    assert (await far_store.load("lost and found")).state == {"n": 1}


async def test_who_is_due_and_each_claim_are_one_round_trip(far_store: PostgresStore, proxy: Proxy) -> None:
    seen = (await far_store.due(0, 1)).now
    await far_store.commit("1", Changes(due=seen), expect=0)
    await far_store.claim("2", seen, seen + 1)
    before = proxy.round_trips
    assert (await far_store.due(0, 100)).due == [("1", seen)]
    assert proxy.round_trips - before == 1
    assert await far_store.claim("1", seen, seen + 1) == 1
    assert proxy.round_trips - before == 2


@pytest.mark.clause("wire.lost-answer")
async def test_of_a_claim_whose_answer_is_lost_nobody_knows(far_store: PostgresStore, proxy: Proxy) -> None:
    """Nobody else has it, so it is not said that another process was first."""
    seen = (await far_store.due(0, 1)).now
    await far_store.commit("lost and found", Changes(due=seen), expect=0)
    await far_store.claim("2", seen, seen + 1)
    proxy.lose_answer_to(b"lost and found")
    with pytest.raises(StateUnavailable, match="nobody knows"):
        await far_store.claim("lost and found", seen, seen + 1)
    assert (await far_store.due(1, 1)).due == [("lost and found", seen + 1)]
    assert await far_store.claim("lost and found", seen, seen + 1) == 0
