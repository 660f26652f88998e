"""The index of what is to be done: where it stands, what it costs, and what becomes of it when it is lost."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.errors import StateConflict, StateCorrupt, StateUnavailable
from bot.runtime.state.store import NEVER, Changes
from suite.contract.test_due import HOUR, SECOND, listed, now, put_due
from suite.engines.redis.proxy import Proxy
from suite.engines.redis.server import RIGHTS, Server, make_store

pytestmark = pytest.mark.clause("store.due")

WAITING, CLAIMS = "test:{agenda}:waiting", "test:{agenda}:claims"


@pytest.fixture
async def quick(proxied: RedisStore, proxy: Proxy) -> RedisStore:
    """A store whose server knows the scripts of the index, too."""
    await proxied.due(0, 1)
    await proxied.claim("warm-up", 1, 2)
    proxy.reset()
    return proxied


@pytest.mark.clause("engine.layout")
async def test_it_stands_there_as_it_is_documented(direct: RedisStore) -> None:
    seen = await now(direct) - SECOND
    await put_due(direct, "1", seen)
    ask = direct.connection.ask
    assert await ask("ZRANGE", WAITING, 0, -1, "WITHSCORES") == [b"1", str(seen).encode()]
    assert await ask("HGET", "test:user:{1}:meta", "due") == str(seen).encode()
    assert await ask("EXISTS", CLAIMS) == 0
    await direct.claim("1", seen, seen + HOUR)
    assert await ask("ZSCORE", WAITING, "1") == seen + HOUR
    assert await ask("HGETALL", CLAIMS) == {b"1": b"1"}
    assert f"{WAITING} {seen + HOUR}" in await direct.raw("1")
    await put_due(direct, "1", NEVER)
    assert await ask("EXISTS", WAITING, CLAIMS) == 0
    assert await ask("HEXISTS", "test:user:{1}:meta", "due") == 0


@pytest.mark.clause("store.apart")
async def test_bots_on_one_server_have_an_index_each(direct: RedisStore, server: Server) -> None:
    other = make_store(server.url, "other")
    seen = await now(direct) - SECOND
    await put_due(direct, "1", seen)
    assert await listed(other) == []
    assert await other.claim("1", seen, NEVER) == 0
    await other.close()


@pytest.mark.clause("wire.round-trips")
async def test_each_is_one_round_trip(quick: RedisStore, proxy: Proxy) -> None:
    seen = 1_700_000_000_000_000
    actions: list[Callable[[], Awaitable[object]]] = [
        lambda: put_due(quick, "1", seen),
        lambda: quick.due(0, 100),
        lambda: quick.claim("1", seen, seen + 1),
        lambda: put_due(quick, "1", NEVER),
        lambda: quick.forget("1"),
    ]
    for number, action in enumerate(actions, 1):
        await action()
        assert proxy.round_trips == number


@pytest.mark.clause("wire.lost-answer")
async def test_a_commit_whose_answer_is_lost_is_due_once(quick: RedisStore, proxy: Proxy) -> None:
    seen = await now(quick) - SECOND
    proxy.answers_to_lose = 1
    await put_due(quick, "1", seen)
    assert (await quick.due(0, 9)).due == [("1", seen)]


@pytest.mark.clause("wire.lost-answer")
async def test_of_a_claim_whose_answer_is_lost_nobody_knows(quick: RedisStore, proxy: Proxy) -> None:
    """Nobody else has it, so it is not said that another process was first."""
    seen = await now(quick) - SECOND
    await put_due(quick, "1", seen)
    proxy.answers_to_lose = 1
    with pytest.raises(StateUnavailable, match="nobody knows"):
        await quick.claim("1", seen, seen + HOUR)
    assert (await quick.due(7_200, 9)).due == [("1", seen + HOUR)]


async def test_what_was_not_committed_is_not_due(direct: RedisStore) -> None:
    seen = await now(direct) - SECOND
    await put_due(direct, "1", NEVER)
    with pytest.raises(StateConflict):
        await direct.commit("1", Changes(due=seen), expect=1)
    await direct.connection.ask("HSET", "test:user:{2}:meta", "version", "first")
    with pytest.raises(StateCorrupt):
        await put_due(direct, "2", seen)
    assert await listed(direct) == []


@pytest.mark.parametrize("key", [WAITING, CLAIMS])
async def test_something_else_in_the_place_of_the_index(direct: RedisStore, key: str) -> None:
    """Then a commit does nothing at all, as nobody would find what it has to do."""
    await put_due(direct, "1", NEVER)
    await direct.connection.ask("SET", key, "theirs")
    with pytest.raises(StateCorrupt):
        await direct.commit("1", Changes(state={"b": b"2"}, due=1), expect=None)
    assert (await direct.load("1")).state == {"a": 1}
    await direct.commit("1", Changes(state={"b": b"2"}), expect=None)
    assert await direct.connection.ask("GET", key) == b"theirs"


async def test_an_index_that_was_evicted_is_rebuilt(direct: RedisStore) -> None:
    start = await now(direct) - HOUR
    for number in range(30):
        await put_due(direct, f"chat:-{number}", start + number)
    await put_due(direct, "none", NEVER)
    await put_due(direct, "forgotten", start)
    await direct.forget("forgotten")
    await direct.claim("chat:-29", start + 29, NEVER)
    before = (await direct.due(0, 100)).due
    await direct.connection.ask("DEL", WAITING, CLAIMS)
    assert await listed(direct) == [], "this test would not notice"
    await direct.connection.ask("SET", "test:user:{foreign}:meta", "theirs")
    assert await direct.reindex() == 29
    assert (await direct.due(0, 100)).due == before
    await direct.claim("chat:-0", start, start + 2 * HOUR)
    assert await direct.reindex() == 29
    assert (await direct.due(0, 100)).due == before[1:], "who is at work is left alone"


async def test_without_the_index_the_record_knows_when_it_is_due(direct: RedisStore) -> None:
    seen = await now(direct) - SECOND
    for user_id in ("1", "2"):
        await put_due(direct, user_id, seen)
    await direct.connection.ask("DEL", WAITING)
    assert await direct.claim("1", seen - 1, seen + HOUR) == 0
    assert await direct.claim("1", seen, seen + HOUR) == 1
    assert await direct.claim("1", seen, seen + HOUR) == 0
    await put_due(direct, "2", seen + 1)
    assert await listed(direct) == ["2"]


async def test_a_record_of_the_first_release_has_nothing_to_do(direct: RedisStore) -> None:
    fields = ("version", "1700000000000000", "token", "abc", "forgotten", "0", "parts", "state")
    await direct.connection.ask("HSET", "test:user:{1}:state", "a", "1")
    await direct.connection.ask("HSET", "test:user:{1}:meta", *fields)
    assert await direct.reindex() == 0
    assert await direct.claim("1", 1, 2) == 0
    await direct.commit("1", Changes(state={"b": b"2"}), expect=1_700_000_000_000_000)
    seen = await now(direct) - SECOND
    await direct.commit("1", Changes(due=seen), expect=None)
    assert await listed(direct) == ["1"]


@pytest.mark.clause("engine.outage")
async def test_a_server_that_is_away(direct: RedisStore, server: Server) -> None:
    seen = await now(direct) - SECOND
    await put_due(direct, "1", seen)
    await asyncio.to_thread(server.kill)
    for asking in (direct.due(0, 1), direct.claim("1", seen, seen + 1), direct.reindex()):
        with pytest.raises(StateUnavailable):
            await asking
    await asyncio.to_thread(server.start)
    assert (await direct.due(0, 9)).due == [("1", seen)]
    assert await direct.claim("1", seen, seen + 1) == 1


async def test_a_user_of_the_bots_own_may_do_all_of_it(direct: RedisStore, server: Server) -> None:
    rights = RIGHTS.split()
    await direct.connection.ask("ACL", "SETUSER", "bot", "on", ">secret", "~test:*", *rights)
    store = make_store(server.url.replace("redis://", "redis://bot:secret@"))
    seen = await now(store) - SECOND
    await put_due(store, "1", seen)
    assert await store.claim("1", seen, seen + 1) == 1
    assert await store.reindex() == 1
    assert await store.forget("1")
    await store.close()
