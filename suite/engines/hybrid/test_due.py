"""What is to be done, where Redis knows it, where only PostgreSQL does, and where they disagree."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from bot.runtime.engines.hybrid import store as engine
from bot.runtime.engines.hybrid.store import HybridStore
from bot.runtime.errors import StateConflict, StateUnavailable
from bot.runtime.state.store import NEVER, Changes
from suite.contract.test_due import HOUR, SECOND, listed, now, put_due
from suite.engines.hybrid.doings import evict, is_dirty, put
from suite.engines.hybrid.harness import HybridHarness
from suite.engines.hybrid.test_proof import Keys, emptied, failed_over, held
from suite.engines.hybrid.test_servers import own_store
from suite.engines.postgres.server import OwnServer
from suite.engines.redis.proxy import Proxy
from suite.engines.redis.server import Server, shared_url

pytestmark = [pytest.mark.clause("store.due"), pytest.mark.clause("engine.write-behind")]

NOTHING: Keys = {}


@pytest.fixture
async def store(hybrid: HybridHarness) -> HybridStore:
    """A store that flushes when it is told to, and not before."""
    store = await hybrid.make(flush_interval=3600)
    await store.flusher.stop()
    return store


async def due_in_postgres(store: HybridStore) -> list[tuple[str, int]]:
    return [(each.user_id, each.due) async for page in store.postgres.waiting(2**62) for each in page]


async def lose_index(store: HybridStore) -> None:
    await store.redis.connection.ask("DEL", *store.redis._index)


@pytest.mark.parametrize("ack", ["redis", "postgres"])
async def test_the_flush_carries_it(hybrid: HybridHarness, ack: str) -> None:
    store = await hybrid.make(flush_interval=3600, ack=ack)
    await store.flusher.stop()
    seen = await now(store) - SECOND
    await put_due(store, "1", seen)
    await put_due(store, "2", NEVER)
    if ack == "redis":
        assert await due_in_postgres(store) == []
        await store.flush()
    assert await due_in_postgres(store) == [("1", seen)]
    await put_due(store, "1", NEVER)
    await put_due(store, "2", seen)
    await store.flush()
    assert await due_in_postgres(store) == [("2", seen)]
    await store.forget("2")
    assert await due_in_postgres(store) == []


@pytest.mark.parametrize("ack", ["redis", "postgres"])
async def test_redis_is_emptied_while_jobs_wait(hybrid: HybridHarness, ack: str) -> None:
    store = await hybrid.make(flush_interval=3600, ack=ack)
    await store.flusher.stop()
    start = await now(store) - HOUR
    for number in range(10):
        await put_due(store, f"chat:-{number}", start + number)
    await store.flush()
    await hybrid.postgres.execute(
        "INSERT INTO {schema}.user_state (user_id, state, version, due)"
        " SELECT number, '{{}}', 1, $1::bigint + number / 2 FROM generate_series(1, 1200) AS number",
        start,
    )
    await emptied(store, store, NOTHING)
    found = await store.due(0, 2_000)
    assert len(found.due) == 1_210
    assert found.due[-1] == ("1200", start + 600)
    assert {f"chat:-{number}" for number in range(10)} <= {user_id for user_id, _ in found.due[:40]}
    assert await store.claim("chat:-7", start + 7, start + 2 * HOUR) == 1
    assert (await store.load("chat:-7")).state == {"a": 1}
    assert await store.claim("chat:-7", start + 7, start + 2 * HOUR) == 0
    version = (await store.load("chat:-7")).version
    await store.commit("chat:-7", Changes(due=NEVER), expect=version)
    assert "chat:-7" not in await listed(store, within=10_000, most=2_000)


async def test_a_record_that_left_the_cache_is_found_and_claimed(store: HybridStore) -> None:
    seen = await now(store) - SECOND
    for user_id in ("1", "2"):
        await put_due(store, user_id, seen)
    await store.flush()
    for user_id in ("1", "2"):
        await evict(store, user_id)
    assert await listed(store) == ["1", "2"]
    assert await store.claim("1", seen, seen + HOUR) == 1
    assert (await store.load("1")).state == {"a": 1}
    assert await listed(store) == ["2"]
    assert await store.claim("1", seen + HOUR, seen + HOUR + 1) == 2


async def test_a_claim_of_what_only_postgres_has(store: HybridStore) -> None:
    """Without asking it first what is due."""
    seen = await now(store) - SECOND
    await put_due(store, "1", seen)
    await store.flush()
    await emptied(store, store, NOTHING)
    assert await store.claim("1", seen - 1, seen + HOUR) == 0
    claims = await asyncio.gather(*(store.claim("1", seen, seen + HOUR + n) for n in range(8)))
    assert sorted(claims) == [0] * 7 + [1]
    assert await listed(store) == []


@pytest.mark.parametrize("is_cold", [True, False])
async def test_what_turned_out_to_be_nothing_does_not_come_back(store: HybridStore, is_cold: bool) -> None:
    seen = await now(store) - SECOND
    await put_due(store, "1", seen)
    await store.flush()
    if is_cold:
        await evict(store)
    assert await store.claim("1", seen, NEVER) == 1
    assert await due_in_postgres(store) == []
    await emptied(store, store, NOTHING)
    assert await listed(store) == []


async def test_nor_is_a_job_lost_that_postgres_has_when_redis_loses_a_later_commit(
    store: HybridStore,
) -> None:
    seen = await now(store) - SECOND
    await put_due(store, "1", seen)
    await store.flush()
    await put_due(store, "1", seen + 1)
    assert await store.claim("1", seen + 1, NEVER) == 1
    assert await due_in_postgres(store) == [("1", seen)], "that of an earlier version"
    await emptied(store, store, NOTHING)
    assert (await store.due(0, 9)).due == [("1", seen)]


async def test_what_postgres_lacks_is_not_overruled_by_it(store: HybridStore) -> None:
    """It is asked although Redis has what is newer."""
    start = await now(store)
    for user_id in ("done", "later", "claimed", "sooner"):
        await put_due(store, user_id, start - SECOND)
    await store.flush()
    await put_due(store, "done", NEVER)
    await put_due(store, "later", start + 2 * HOUR)
    await put_due(store, "sooner", start - 2 * SECOND)
    await store.claim("claimed", start - SECOND, start + HOUR)
    expected = [
        ("sooner", start - 2 * SECOND),
        ("claimed", start + HOUR),
        ("later", start + 2 * HOUR),
    ]
    assert await store.reindex() == 3
    assert (await store.due(10_000, 9)).due == expected
    await evict(store, "claimed")
    assert await store.reindex() == 3
    assert (await store.due(10_000, 9)).due == expected
    assert (await store.load("claimed")).version
    assert (await store.due(10_000, 9)).due == expected, "loading leaves it claimed"


async def test_an_index_that_was_deleted_is_found_out(
    store: HybridStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "ASK_SECONDS", 0.3)
    seen = await now(store) - SECOND
    await put_due(store, "1", seen)
    await put_due(store, "2", seen)
    await store.flush()
    await evict(store, "1")
    assert await listed(store) == ["1", "2"]
    await lose_index(store)
    assert await listed(store) == [], "this test would not notice"
    await asyncio.sleep(0.4)
    assert await listed(store) == ["1", "2"]


async def test_reindex_finds_what_only_one_of_them_has(store: HybridStore) -> None:
    seen = await now(store) - SECOND
    await put_due(store, "only in postgres", seen)
    await put_due(store, "in both", seen)
    await store.flush()
    await evict(store, "only in postgres")
    await put_due(store, "only in redis", seen)
    await put_due(store, "nothing", NEVER)
    await lose_index(store)
    assert await store.reindex() == 3
    assert await listed(store) == ["in both", "only in postgres", "only in redis"]


async def test_redis_comes_back_older(hybrid: HybridHarness, store: HybridStore) -> None:
    """With another time, with a record that had nothing to do, and with one that was put off."""
    start = await now(store)
    users = ["1", "2", "3", "4"]
    for user_id, due in zip(users, (start + HOUR, NEVER, start - SECOND, start - SECOND), strict=True):
        await put_due(store, user_id, due)
    for user_id in ("3", "4"):
        assert await store.claim(user_id, start - SECOND, start + HOUR)
    await store.flush()
    await evict(store, "3")
    earlier = await held(store)
    for number, user_id in enumerate(users):
        await put_due(store, user_id, start - number - 1)
    await store.flush()
    await failed_over(store, store, earlier)
    run_of_another_server = f"{'0' * 40} {start + HOUR} {start}"
    await store.redis.connection.ask("SET", store.redis._asked, run_of_another_server)
    await store.load("3")
    assert (await store.due(0, 9)).due == [
        (user_id, start - number - 1) for number, user_id in reversed(list(enumerate(users)))
    ]


async def test_a_commit_that_is_older_than_postgres_restores_what_that_has_to_do(store: HybridStore) -> None:
    start = await now(store)
    await put_due(store, "1", start + 20 * SECOND)
    await store.flush()
    assert await listed(store, within=30) == ["1"]
    earlier = await held(store)
    await put_due(store, "1", start - SECOND)
    await store.flush()
    await failed_over(store, store, earlier)
    assert (await store.due(30, 9)).due == [("1", start + 20 * SECOND)], "PostgreSQL was asked lately"
    await store.load("1")
    assert (await store.due(0, 9)).due == [("1", start - SECOND)]


async def test_who_expired_in_postgres_is_not_taken_over(hybrid: HybridHarness, store: HybridStore) -> None:
    seen = await now(store) - SECOND
    await put_due(store, "1", seen)
    await hybrid.expire("1")
    await emptied(store, store, NOTHING)
    assert await listed(store) == []


@pytest.mark.clause("wire.round-trips")
async def test_each_is_one_round_trip(hybrid: HybridHarness) -> None:
    lasting = await hybrid.make(flush_interval=3600)  # which cleans up when the proxy is gone
    await lasting.flusher.stop()
    async with Proxy(shared_url()) as proxy:
        hybrid.redis_url = proxy.url
        store = await hybrid.make(flush_interval=3600)
        await store.flusher.stop()
        seen = await now(store) - SECOND
        await put_due(store, "1", seen)
        await store.claim("1", seen, seen)
        actions: list[Callable[[], Awaitable[object]]] = [
            lambda: put_due(store, "1", seen),
            lambda: store.due(0, 100),
            lambda: store.claim("1", seen, seen + 1),
            lambda: put_due(store, "1", NEVER),
        ]
        proxy.reset()
        for number, action in enumerate(actions, 1):
            await action()
            assert proxy.round_trips == number
        await store.close()


@pytest.mark.clause("engine.layout")
async def test_it_stands_there_as_it_is_documented(store: HybridStore) -> None:
    seen = await now(store) - SECOND
    await put_due(store, "1", seen)
    await store.claim("1", seen, seen + 1)
    name = store.redis._namespace
    tag = f"{name}:{{agenda}}"
    assert {key.decode() for key in await held(store) if b":user:" not in key} == {
        f"{tag}:waiting", f"{tag}:claims", f"{tag}:asked", f"{name}:dirty", f"{name}:due"
    }  # fmt: skip


async def test_a_conflict_leaves_it(store: HybridStore) -> None:
    seen = await now(store) - SECOND
    await put_due(store, "1", seen)
    with pytest.raises(StateConflict):
        await store.commit("1", Changes(due=NEVER), expect=1)
    await put(store, n=1)
    assert await listed(store) == ["1"]


@pytest.mark.clause("engine.outage")
async def test_a_server_that_is_away(own_redis: Server, own_postgres: OwnServer) -> None:
    store = await own_store(own_redis, own_postgres)
    await store.connect()
    await store.flusher.stop()
    seen = await now(store) - SECOND
    await put_due(store, "1", seen)
    await store.flush()
    assert not await is_dirty(store)
    await put_due(store, "2", seen)
    await store.redis.connection.ask("DEL", store.redis._asked)

    await asyncio.to_thread(own_postgres.embedded.stop_now)
    assert await listed(store) == ["1", "2"], "Redis knows them"
    assert await store.claim("2", seen, seen + HOUR) == 1
    assert await store.claim("2", seen + HOUR, NEVER) == 1
    with pytest.raises(StateUnavailable):
        await store.reindex()
    await store.redis.connection.ask("FLUSHALL")
    assert await listed(store) == [], "nobody knows it now"
    with pytest.raises(StateUnavailable):
        await store.claim("1", seen, seen + HOUR)
    await asyncio.to_thread(own_postgres.embedded.start_now)
    store._ask_again = 0.0
    assert await listed(store) == ["1"]

    await asyncio.to_thread(own_redis.kill)
    for asking in (store.due(0, 1), store.claim("1", seen, seen + 1), store.reindex()):
        with pytest.raises(StateUnavailable):
            await asking
    await asyncio.to_thread(own_redis.start)
    assert await store.claim("1", seen, seen + HOUR) == 1
    await store.close()
