"""What goes over the wire: how often, how much, and what happens when an answer is lost."""

import asyncio

import pytest

from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.errors import StateConflict, StateUnavailable
from bot.runtime.state.record import Message
from bot.runtime.state.store import Changes
from suite.engines.redis.proxy import Proxy

pytestmark = pytest.mark.clause("wire.round-trips")

FULL = Changes(
    state={f"key {n}": b'"value"' for n in range(30)},
    fsm={"flow": b'{"state":"s"}'},
    messages=tuple(Message("user", f"message {n}", 1.0) for n in range(20)),
    keep_history=50,
    applied=(1,),
    outbox={1: b'{"replies":[],"at":1.0}'},
)


async def test_load_and_commit_take_one_round_trip(proxied: RedisStore, proxy: Proxy) -> None:
    await proxied.commit("1", FULL, expect=0)
    proxy.reset()
    record = await proxied.load("1")
    assert proxy.round_trips == 1
    proxy.reset()
    await proxied.commit("1", Changes(state={"key 1": b"1", "key 2": None}), expect=record.version)
    assert proxy.round_trips == 1
    proxy.reset()
    with pytest.raises(StateConflict):
        await proxied.commit("1", Changes(), expect=record.version)
    assert proxy.round_trips == 1
    proxy.reset()
    await proxied.forget("1")
    assert proxy.round_trips == 1


async def test_a_commit_sends_only_what_changed(proxied: RedisStore, proxy: Proxy) -> None:
    sent = []
    for user_id, count in (("1", 10), ("2", 1_000)):
        keys = {f"{n}": b'"some value"' for n in range(count)}
        version = await proxied.commit(user_id, Changes(state=keys), expect=0)
        proxy.reset()
        await proxied.commit(user_id, Changes(state={"5": b'"another value"'}), expect=version)
        sent.append(proxy.sent)
        assert proxy.received < 100
    assert sent[0] == sent[1] < 500


async def test_a_script_flushed_from_the_server_is_loaded_again(proxied: RedisStore, proxy: Proxy) -> None:
    version = await proxied.commit("1", Changes(state={"a": b"1"}), expect=0)
    await proxied.connection.ask("SCRIPT", "FLUSH")
    proxy.reset()
    version = await proxied.commit("1", Changes(state={"a": b"2"}), expect=version)
    assert proxy.round_trips == 2, "this test would not notice"
    await proxied.connection.ask("SCRIPT", "FLUSH")
    assert (await proxied.load("1")).state == {"a": 2}
    proxy.reset()
    await proxied.load("1")
    assert proxy.round_trips == 1


@pytest.mark.clause("wire.lost-answer")
async def test_a_commit_whose_answer_is_lost_is_applied_once(proxied: RedisStore, proxy: Proxy) -> None:
    version = await proxied.commit("1", Changes(), expect=0)
    changes = Changes(messages=(Message("user", "once", 1.0),), applied=(7,))
    proxy.answers_to_lose = 1
    version = await proxied.commit("1", changes, expect=version)
    assert proxy.answers_to_lose == 0
    record = await proxied.load("1")
    assert (record.version, record.applied, len(record.history)) == (version, (7,), 1)


@pytest.mark.clause("wire.lost-answer")
async def test_a_first_commit_whose_answer_is_lost(proxied: RedisStore, proxy: Proxy) -> None:
    proxy.answers_to_lose = 1
    await proxied.commit("1", Changes(state={"a": b"1"}), expect=0)
    assert (await proxied.load("1")).state == {"a": 1}


async def test_a_commit_that_was_applied_and_overtaken_is_no_conflict(
    proxied: RedisStore, direct: RedisStore, proxy: Proxy
) -> None:
    """A conflict means that nothing was written; here, something was."""
    version = await proxied.commit("1", Changes(), expect=0)
    proxy.answers_to_lose = 1
    commit = asyncio.create_task(proxied.commit("1", Changes(applied=(7,)), expect=version))
    while 7 not in (await direct.load("1")).applied:  # noqa: ASYNC110 - in the server, not here
        await asyncio.sleep(0)
    await direct.commit("1", Changes(applied=(8,)), expect=None)
    with pytest.raises(StateUnavailable, match=r"^user 1: "):
        await commit
    assert (await direct.load("1")).applied == (7, 8)


async def test_a_load_is_tried_again_when_the_connection_breaks(proxied: RedisStore, proxy: Proxy) -> None:
    await proxied.commit("1", Changes(state={"a": b"1"}), expect=0)
    proxy.answers_to_lose = 2
    assert (await proxied.load("1")).state == {"a": 1}
    proxy.answers_to_lose = 3
    with pytest.raises(StateUnavailable, match=r"^user 1: "):
        await proxied.load("1")
    assert (await proxied.load("1")).state == {"a": 1}


@pytest.mark.clause("wire.lost-answer")
async def test_forgetting_with_a_lost_answer_says_that_there_was_something(
    proxied: RedisStore, proxy: Proxy
) -> None:
    await proxied.commit("1", Changes(state={"a": b"1"}), expect=0)
    proxy.answers_to_lose = 1
    assert await proxied.forget("1") is True
    assert (await proxied.load("1")).is_empty
