"""What stands in the server, who may have put it there, and how long it stays."""

import asyncio
import json
import tracemalloc
from typing import Any

import pytest
from redis import Redis

from bot.runtime.engines.redis.store import DEFAULT_TTL, RedisStore
from bot.runtime.errors import StateCorrupt
from bot.runtime.state.record import Conversation, Message, OutboxEntry, encode_entry
from bot.runtime.state.store import (
    APPLIED_LIMIT,
    FORGOTTEN_SECONDS,
    Changes,
    ConversationChange,
    OperatorStore,
)
from bot.runtime.state.transfer import export_lines
from bot.runtime.state.turn import Turn, mutate
from suite.engines.redis.server import Server, make_store

pytestmark = pytest.mark.clause("engine.layout")

MARK = "mark-of-a-user"
USER = "4815162342"

EVERYTHING = Changes(
    state={f"key {MARK}": f'"{MARK}"'.encode(), "list": b"[]", "big": b"9007199254740993"},
    fsm={f"flow {MARK}": f'{{"state":"{MARK}"}}'.encode()},
    messages=(Message("user", MARK, 1.0), Message("assistant", MARK, 2.0)),
    applied=(5, 6),
    outbox={6: encode_entry(OutboxEntry([{"text": MARK}], 1.0))},
    conversations={
        f"-1::{MARK}": ConversationChange(Conversation(0, 2, 99, 2.0), (Message("user", MARK, 1.0),) * 2)
    },
)


@pytest.fixture
def server(lasting_server: Server) -> Server:
    """A server without a record."""
    with Redis.from_url(lasting_server.url) as connection:
        connection.flushall()
    return lasting_server


async def dump(store: RedisStore) -> dict[str, str]:
    """Every key of the server, with all that it holds."""
    ask = store.connection.ask
    readers: dict[bytes, tuple[Any, ...]] = {
        b"string": ("GET",), b"hash": ("HGETALL",), b"list": ("LRANGE", 0, -1), b"set": ("SMEMBERS",),
        b"zset": ("ZRANGE", 0, -1, "WITHSCORES"), b"stream": ("XRANGE", "-", "+"),
    }  # fmt: skip
    found = {}
    for key in await ask("KEYS", "*"):
        command, *rest = readers[await ask("TYPE", key)]
        found[key.decode()] = repr(await ask(command, key, *rest))
    return found


async def lifetimes(store: RedisStore, user_id: str) -> list[int]:
    """Until when each of the user's keys is kept, in ms since 1970; -1 for ever, -2 for no such key."""
    return [await store.connection.ask("PEXPIRETIME", key) for key in store._keys(user_id)]


async def test_state_stands_there_as_it_is_documented(direct: RedisStore) -> None:
    await direct.commit(USER, EVERYTHING, expect=0)
    ask = direct.connection.ask
    state = await ask("HGETALL", f"test:user:{{{USER}}}:state")
    assert {key.decode(): json.loads(value) for key, value in state.items()} == {
        f"key {MARK}": MARK,
        "list": [],
        "big": 2**53 + 1,
    }
    history = await ask("LRANGE", f"test:user:{{{USER}}}:history", 0, -1)
    assert [json.loads(message)["text"] for message in history] == [MARK, MARK]
    talk = await ask("HGET", f"test:user:{{{USER}}}:talks", f"-1::{MARK}")
    assert [json.loads(message)["text"] for message in talk.splitlines()] == [MARK, MARK]
    assert sorted(await dump(direct)) == sorted(direct._keys(USER))


@pytest.mark.clause("forget.no-trace")
async def test_forgetting_leaves_nothing_but_a_version_and_applied_ids(direct: RedisStore) -> None:
    await direct.bind(42)
    await direct.commit("7", Changes(state={"neighbour": b"1"}), expect=0)
    before = await dump(direct)
    await direct.commit(USER, EVERYTHING, expect=0)
    held = await dump(direct)
    assert all(MARK in held[key] for key in direct._keys(USER)[:3]), "this test would not notice"

    assert await direct.forget(USER) is True
    left = await dump(direct)
    record = await direct.load(USER)
    _, _, meta, applied, _ = direct._keys(USER)
    assert before.items() <= left.items()
    assert left.keys() - before.keys() == {meta, applied}
    assert await direct.connection.ask("HGETALL", meta) == {
        b"version": str(record.version).encode(),
        b"forgotten": str(record.version).encode(),
        b"token": record.token.encode(),
        b"parts": b"applied",
    }
    assert await direct.connection.ask("GET", applied) == b"5,6,"
    assert MARK not in repr(left)
    assert USER not in "".join(left.values())
    dumped = [await direct.connection.ask("DUMP", key) for key in left]
    assert not any(MARK.encode() in value or USER.encode() in value for value in dumped)


@pytest.mark.clause("record.expires")
async def test_a_record_expires_in_one_piece_and_every_commit_puts_it_off(server: Server) -> None:
    store = make_store(server.url, ttl=0.5)
    await store.commit("1", EVERYTHING, expect=0)
    first = await lifetimes(store, "1")
    assert len(set(first)) == 1
    await asyncio.sleep(0.3)
    await store.commit("1", Changes(state={"a": b"1"}), expect=None)
    second = await lifetimes(store, "1")
    assert len(set(second)) == 1
    assert second[0] - first[0] >= 300, "all of them are put off, also those that were not written"
    await asyncio.sleep(0.3)
    assert len((await store.load("1")).history) == 2
    await asyncio.sleep(0.3)
    record = await store.load("1")
    assert (record.is_empty, record.version, record.applied) == (True, 0, ())
    assert [user async for user in store.users()] == []
    await store.close()


async def test_how_long_records_and_markers_are_kept(direct: RedisStore, server: Server) -> None:
    seconds, _ = await direct.connection.ask("TIME")
    await direct.commit("1", EVERYTHING, expect=0)
    assert (await lifetimes(direct, "1"))[0] // 1000 - seconds in (DEFAULT_TTL, DEFAULT_TTL + 1)
    for_ever = make_store(server.url, ttl=None)
    await for_ever.commit("2", EVERYTHING, expect=0)
    assert await lifetimes(for_ever, "2") == [-1] * 5
    brief = make_store(server.url, ttl=1)
    for store, user in ((direct, "1"), (for_ever, "2"), (brief, "3")):
        await store.forget(user)
        _, _, meta, *_ = await lifetimes(store, user)
        assert meta // 1000 - seconds in (FORGOTTEN_SECONDS, FORGOTTEN_SECONDS + 1)
    await for_ever.commit("2", EVERYTHING, expect=None)
    assert await lifetimes(for_ever, "2") == [-1] * 5, "who comes back is no marker any more"
    await for_ever.close()
    await brief.close()


OF_OTHERS: list[tuple[Any, ...]] = [
    ("SET", "state", "a string"), ("SET", "history", "a string"), ("SET", "meta", "{}"),
    ("SET", "applied", "a string"), ("SADD", "history", "a set"),
    ("HSET", "state", "key", "{no json"), ("HSET", "state", "key", b"\xff"), ("HSET", "state", b"\xff", "1"),
    ("HSET", "meta", "version", "first"), ("HSET", "meta", "version", ""), ("HDEL", "meta", "version"),
    ("HSET", "meta", "forgotten", "?"), ("HDEL", "meta", "parts"), ("HSET", "meta", "fsm:flow", "{no json"),
    ("HSET", "meta", "outbox:x", "{}"), ("HSET", "meta", "outbox:5", "{}"),
    ("RPUSH", "history", "no json"), ("RPUSH", "history", "{}"), ("RPUSH", "history", "[1]"),
    ("APPEND", "applied", "no id,"), ("APPEND", "applied", "1.5,"), ("APPEND", "applied", '"7",'),
    ("DEL", "meta"), ("DEL", "state"), ("DEL", "history"), ("DEL", "applied"),
]  # fmt: skip


@pytest.mark.parametrize("damage", OF_OTHERS, ids=ascii)
async def test_what_others_did_to_a_record_is_never_a_new_user(
    direct: RedisStore, damage: tuple[Any, ...]
) -> None:
    await direct.commit(USER, EVERYTHING, expect=0)
    command, part, *rest = damage
    key = direct._key(USER, part)
    if command in ("SET", "SADD"):
        await direct.connection.ask("DEL", key)
    await direct.connection.ask(command, key, *rest)
    before = await dump(direct)
    with pytest.raises(StateCorrupt, match=rf"^user {USER}: ") as caught:
        await direct.load(USER)
    assert MARK not in str(caught.value)
    assert await dump(direct) == before, "left as it is"
    raw = await direct.raw(USER)
    assert all(key in raw for key in direct._keys(USER))
    assert await direct.forget(USER) is True
    record = await direct.load(USER)
    assert record.is_empty
    assert record.applied in ((5, 6), ())
    assert record.forgotten == record.version
    await direct.commit(USER, Changes(state={"a": b"1"}), expect=record.version)


@pytest.mark.parametrize("expect", [0, None])
@pytest.mark.parametrize("part", ["state", "history", "meta", "applied"])
async def test_a_commit_does_not_write_over_what_others_put_there(
    direct: RedisStore, part: str, expect: int | None
) -> None:
    await direct.connection.ask("SET", direct._key(USER, part), "theirs")
    before = await dump(direct)
    with pytest.raises(StateCorrupt, match=rf"^user {USER}: "):
        await direct.commit(USER, EVERYTHING, expect=expect)
    assert await dump(direct) == before


async def test_a_foreign_key_among_the_users_is_not_passed_over(direct: RedisStore) -> None:
    await direct.commit("1", EVERYTHING, expect=0)
    await direct.connection.ask("SET", direct._key("2", "meta"), "theirs")
    assert sorted([user async for user in direct.users()]) == ["1", "2"]
    with pytest.raises(StateCorrupt, match=r"^user 2: "):
        async for _ in export_lines(direct):
            pass


async def test_keys_of_others_are_left_alone(direct: RedisStore) -> None:
    """Above all those of the bot from which `bot state adopt` takes over."""
    theirs = {
        "user:1:state": '{"a": 1}',
        "other:user:{1}:meta": "x",
        "test:user:1:meta": "x",
        "test:other": "x",
    }
    for key, value in theirs.items():
        await direct.connection.ask("SET", key, value)
    before = await dump(direct)
    assert (await direct.load("1")).is_empty
    assert [user async for user in direct.users()] == []
    await direct.commit("1", EVERYTHING, expect=0)
    await direct.forget("1")
    assert before.items() <= (await dump(direct)).items()


async def test_a_state_of_very_many_keys(direct: RedisStore) -> None:
    """More than Lua can unpack at once."""
    many = {f"{n}": str(n).encode() for n in range(20_001)}
    version = await direct.commit("1", Changes(state=many), expect=0)
    record = await direct.load("1")
    assert record.state == {f"{n}": n for n in range(20_001)}
    dropped: dict[str, bytes | None] = dict.fromkeys(many)
    await direct.commit("1", Changes(state=dropped | {"last": b"1"}), expect=version)
    assert (await direct.load("1")).state == {"last": 1}


async def test_what_is_kept_of_old_updates_does_not_grow(direct: RedisStore) -> None:
    reply = encode_entry(OutboxEntry([], 1.0))
    for n in range(1_000_000_000, 1_000_002_000):
        await direct.commit("1", Changes(applied=(n,), outbox={n: reply}), expect=None)
    _, _, meta, applied, _ = direct._keys("1")
    assert await direct.connection.ask("STRLEN", applied) <= 2 * 11 * APPLIED_LIMIT
    assert await direct.connection.ask("HLEN", meta) <= 2 * APPLIED_LIMIT + 4
    record = await direct.load("1")
    assert record.applied == tuple(range(1_000_002_000 - APPLIED_LIMIT, 1_000_002_000))
    assert sorted(record.outbox) == list(record.applied)


TWENTY_THOUSAND = """
for n = 0, 19999 do
    redis.call("HSET", ARGV[1] .. n .. ARGV[2], "version", "1", "token", "",
        "forgotten", n % 10 == 0 and "1" or "0", "parts", "applied")
end
"""


async def test_users_come_a_page_at_a_time(direct: RedisStore) -> None:
    before, _, after = direct._key("#", "meta").partition("#")
    await direct.connection.ask("EVAL", TWENTY_THOUSAND, 0, before, after)
    tracemalloc.start()
    seen = 0
    async for _ in direct.users():
        seen += 1
        if seen == 5_000:
            tracemalloc.reset_peak()
            early = tracemalloc.get_traced_memory()[1]
    late = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen >= 18_000
    assert late < early + 500_000, "nothing is held but a page"


@pytest.mark.clause("store.apart")
async def test_bots_on_one_server_do_not_see_each_other(server: Server) -> None:
    stores: list[OperatorStore] = [make_store(server.url, name) for name in ("one-bot", "one", "one-bot-2")]
    for number, store in enumerate(stores):
        await store.bind(number)
        await store.commit("1", Changes(state={"n": str(number).encode()}), expect=0)
    await stores[1].forget("1")
    for number, store in enumerate(stores):
        await store.bind(number)
        assert (await store.load("1")).state == ({} if number == 1 else {"n": number})
        assert [user async for user in store.users()] == ([] if number == 1 else ["1"])
        await store.close()


@pytest.mark.clause("engine.layout")
async def test_the_first_layout_holds_the_private_conversation(direct: RedisStore) -> None:
    for command in (
        ("HSET", "state", "a", "1"),
        ("RPUSH", "history", '{"role":"user","text":"my PIN is 1234","at":1.5}'),
        (
            "HSET",
            "meta",
            "version",
            "1700000000000000",
            "token",
            "abc",
            "forgotten",
            "0",
            "parts",
            "state history",
        ),
    ):
        name, part, *rest = command
        await direct.connection.ask(name, f"test:user:{{1}}:{part}", *rest)
    record = await direct.load("1", None)
    assert [message.text for message in record.history] == ["my PIN is 1234"]
    assert (record.state, record.conversations, record.others) == ({"a": 1}, {}, {})
    assert (await direct.load("1", "-100::")).history == []

    async def change(turn: Turn) -> None:
        turn.remember("user", "hello")

    for conversation in ("", "-100::"):
        await mutate(direct, "1", change, conversation=conversation)
    record = await direct.load("1", None)
    assert [message.text for message in record.history] == ["my PIN is 1234", "hello"]
    assert [message.text for message in record.others["-100::"]] == ["hello"]
