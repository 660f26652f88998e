"""`bot state adopt`: states of a bot written by hand come into the records, without loss."""

import json
from pathlib import Path
from typing import Any

import pytest

from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.errors import StateUnavailable
from bot.runtime.state.record import Limits
from bot.runtime.state.store import Changes
from suite.behaviour.test_cli import run
from suite.engines.redis.proxy import Proxy
from suite.engines.redis.server import Server, make_store
from tools.redis_adopt import adopt_all


async def leave(store: RedisStore, user_id: str, state: Any) -> None:
    """Put a state where a bot written by hand has it."""
    text = state if isinstance(state, bytes) else json.dumps(state)
    await store.connection.ask("SET", f"user:{user_id}:state", text, "EX", 86_400)


async def left(store: RedisStore) -> list[str]:
    return sorted(key.decode() for key in await store.connection.ask("KEYS", "user:*"))


async def test_every_state_is_adopted_and_its_key_is_gone(
    tmp_path: Path, server: Server, direct: RedisStore
) -> None:
    states = {str(n): {"n": n, "text": "ünïcode 👋", "deep": [{"a": None}]} for n in range(1_200)}
    states["-100:5"] = {"odd": "id"}
    for user_id, state in states.items():
        await leave(direct, user_id, state)
    settings = {"REDIS_URL": server.url, "NAMESPACE": "test"}
    result = run(tmp_path, "state", "adopt", **settings)
    assert (result.returncode, result.stdout, result.stderr) == (0, "adopted 1201 users\n", "")
    assert await left(direct) == []
    for user_id, state in states.items():
        assert (await direct.load(user_id)).state == state
    again = run(tmp_path, "state", "adopt", **settings)
    assert (again.returncode, again.stdout) == (0, "adopted 0 users\n")


async def test_what_the_bot_knows_already_is_newer(direct: RedisStore) -> None:
    await direct.commit("1", Changes(state={"a": b'"new"', "b": b"1"}, applied=(7,)), expect=0)
    await leave(direct, "1", {"a": "old", "c": 2})
    assert await adopt_all(direct) == (1, [])
    record = await direct.load("1")
    assert record.state == {"a": "new", "b": 1, "c": 2}
    assert record.applied == (7,)


async def test_who_was_forgotten_since_is_not_brought_back(direct: RedisStore) -> None:
    await leave(direct, "1", {"a": 1})
    await direct.forget("1")
    assert await adopt_all(direct) == (1, [])
    assert (await direct.load("1")).is_empty
    assert await left(direct) == [], "nor kept in the other place"


@pytest.mark.parametrize(
    "state",
    [
        b"no json",
        b"[1]",
        b'"text"',
        b"\xff",
        b'{"n": NaN}',
        b'{"n": 36893488147419103232}',
        b'{"n": "\\u0000"}',
    ],
    ids=ascii,
)
async def test_what_cannot_be_kept_is_named_and_left_alone(
    tmp_path: Path, server: Server, direct: RedisStore, state: bytes
) -> None:
    await leave(direct, "1", state)
    await leave(direct, "2", {"a": 1})
    result = run(tmp_path, "state", "adopt", REDIS_URL=server.url, NAMESPACE="test")
    assert result.returncode == 1
    assert result.stdout == "adopted 1 users\n"
    first, last = result.stderr.splitlines()
    assert first.startswith("user:1:state: ")
    assert last.startswith("error: 1 keys are left alone")
    assert await direct.connection.ask("GET", "user:1:state") == state
    assert (await direct.load("1")).version == 0


async def test_a_state_beyond_the_limit_is_left_alone(server: Server) -> None:
    store = make_store(server.url, limits=Limits(max_bytes=1_000))
    await leave(store, "1", {"a": "x" * 2_000})
    adopted, reasons = await adopt_all(store)
    assert (adopted, len(reasons)) == (0, 1)
    assert "STATE_MAX_BYTES" in reasons[0]
    assert await left(store) == ["user:1:state"]
    await store.close()


async def test_cut_off_it_can_be_run_again(proxied: RedisStore, proxy: Proxy, direct: RedisStore) -> None:
    states = {str(n): {"n": n} for n in range(50)}
    for user_id, state in states.items():
        await leave(direct, user_id, state)
    cuts = 0
    for cut in range(0, 200, 7):
        proxy.lose_after(cut, 3)
        try:
            await adopt_all(proxied)
        except StateUnavailable:
            cuts += 1
    proxy.answers_to_lose = 0
    assert cuts, "this test would not notice"
    await adopt_all(direct)
    assert await left(direct) == []
    for user_id, state in states.items():
        assert (await direct.load(user_id)).state == state


async def test_other_keys_are_left_alone(direct: RedisStore) -> None:
    others = {"user:1:states": "x", "my:user:1:state": "{}", "users:1:state": "{}", "user:1": "{}"}
    for key, value in others.items():
        await direct.connection.ask("SET", key, value)
    await direct.connection.ask("HSET", "user:2:state", "a", "1")
    assert await adopt_all(direct) == (0, [])
    for key, value in others.items():
        assert await direct.connection.ask("GET", key) == value.encode()
    assert await direct.connection.ask("EXISTS", "user:2:state") == 1
