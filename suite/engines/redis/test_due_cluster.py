"""What is to be done, in a Redis Cluster, where the index is in another slot than the record.

Its races are played step by step: what stops at `HINT`, `COMMIT` or `SETTLE` was killed there.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from redis.crc import key_slot

from bot.runtime.engines.redis import store as engine
from bot.runtime.engines.redis.connection import Script
from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.errors import StateConflict, StateUnavailable
from bot.runtime.state.record import Limits
from bot.runtime.state.store import NEVER, Changes, OperatorStore
from suite.contract import test_due as contract
from suite.contract.test_due import HOUR, SECOND, listed, now, put_due
from suite.engines.redis.server import Server, make_store
from suite.engines.redis.test_cluster import join, started

pytestmark = [pytest.mark.clause("store.due"), pytest.mark.clause("engine.topology")]

CONTRACT: list[Callable[..., Awaitable[None]]] = [
    test for name, test in vars(contract).items() if name.startswith("test_")
]


class ClusterHarness:
    """Stores on one cluster."""

    def __init__(self, nodes: list[Server]) -> None:
        self._nodes = nodes
        self._stores: list[RedisStore] = []

    async def open(self, limits: Limits | None = None, ttl: float | None = None) -> OperatorStore:
        places = ",".join(f"127.0.0.1:{node.port}" for node in self._nodes)
        store = make_store(f"redis://{places}", redis_cluster=True, limits=limits, ttl=ttl)
        await store.connect()
        self._stores.append(store)
        return store

    async def expire(self, user_id: str) -> None:
        for key in self._stores[0]._keys(user_id):
            await self._stores[0].connection.ask("PEXPIREAT", key, 1)

    async def close(self) -> None:
        for node in self._nodes:
            direct = make_store(node.url)
            await direct.connection.ask("FLUSHALL")
            await direct.close()
        for store in self._stores:
            await store.close()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Three primaries that share the slots."""
    with started(tmp_path_factory.mktemp("cluster"), 3) as nodes:
        asyncio.run(join(nodes))
        yield nodes


@pytest.fixture
async def cluster(nodes: list[Server]) -> AsyncIterator[ClusterHarness]:
    harness = ClusterHarness(nodes)
    yield harness
    await harness.close()


@pytest.fixture
async def store(cluster: ClusterHarness) -> RedisStore:
    store = await cluster.open()
    assert isinstance(store, RedisStore)
    return store


@pytest.fixture
async def other(cluster: ClusterHarness) -> RedisStore:
    """Another process's."""
    store = await cluster.open()
    assert isinstance(store, RedisStore)
    return store


@pytest.mark.parametrize("test", CONTRACT, ids=lambda test: test.__name__)
async def test_it_keeps_the_contract(test: Callable[..., Awaitable[None]], cluster: ClusterHarness) -> None:
    wanted = test.__code__.co_varnames[: test.__code__.co_argcount]
    fixtures = {name: cluster if name == "harness" else await cluster.open() for name in wanted}
    await test(**fixtures)


@pytest.mark.clause("engine.layout")
async def test_its_keys_are_in_one_slot_and_settled_hints_leave_nothing(store: RedisStore) -> None:
    assert len({key_slot(key.encode()) for key in (*store._index, store._hints)}) == 1
    seen = await now(store) - SECOND
    await put_due(store, "1", seen)
    await put_due(store, "2", NEVER)
    ask = store.connection.ask
    assert await ask("ZRANGE", store._index[0], 0, -1, "WITHSCORES") == [b"1", str(seen).encode()]
    assert await ask("EXISTS", store._hints) == 0
    assert 0 < await ask("PTTL", store._key("1", "fence")) <= engine.FENCE_MS
    assert await ask("EXISTS", store._key("2", "fence")) == 0, "nothing was to be done, nor will be"
    await store.forget("1")
    assert await ask("EXISTS", store._index[0]) == await ask("EXISTS", store._hints) == 0


async def test_an_index_that_was_evicted_is_rebuilt(store: RedisStore) -> None:
    start = await now(store) - HOUR
    for number in range(30):
        await put_due(store, str(number), start + number)
    before = (await store.due(0, 100)).due
    await store.connection.ask("DEL", *store._index, store._hints)
    assert await listed(store) == []
    assert await store.reindex() == 30
    assert (await store.due(0, 100)).due == before


class Killed(BaseException):
    """The process is gone."""


def stop(monkeypatch: pytest.MonkeyPatch, store: RedisStore, script: Script) -> None:
    """Have a process killed just before it runs a script."""
    evaluate = store.connection.evaluate

    async def or_be_killed(which: Script, *arguments: Any, **more: Any) -> Any:
        if which is script:
            raise Killed
        return await evaluate(which, *arguments, **more)

    monkeypatch.setattr(store.connection, "evaluate", or_be_killed)


async def test_killed_before_the_commit(
    store: RedisStore, other: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = await now(store) - SECOND
    stop(monkeypatch, store, engine.COMMIT)
    with pytest.raises(Killed):
        await put_due(store, "1", due)
    assert (await other.due(0, 9)).due == [("1", due - 1)], "a hint"
    assert await other.claim("1", due - 1, due + HOUR) == 1
    assert await other.claim("1", due + HOUR, NEVER) == 1
    assert await listed(other, within=10**9) == []
    assert await other.connection.ask("EXISTS", other._hints) == 0


@pytest.mark.parametrize("before", [None, -2 * SECOND, HOUR])
async def test_killed_after_the_commit(
    store: RedisStore, other: RedisStore, monkeypatch: pytest.MonkeyPatch, before: int | None
) -> None:
    due = await now(store) - SECOND
    if before:
        await put_due(store, "1", due + before)
    stop(monkeypatch, store, engine.SETTLE)
    with pytest.raises(Killed):
        await put_due(store, "1", due)
    [(_, hint)] = (await other.due(0, 9)).due
    assert hint < due
    assert await other.claim("1", hint, NEVER) == 0, "the record knows better"
    assert (await other.due(0, 9)).due == [("1", due)]
    assert await other.claim("1", due, due + HOUR) == 1


@pytest.mark.parametrize("later", [None, HOUR])
@pytest.mark.parametrize("is_leased", [True, False])
@pytest.mark.parametrize("is_killed", [True, False])
async def test_a_claim_that_finds_nothing_before_the_commit(
    store: RedisStore,
    other: RedisStore,
    monkeypatch: pytest.MonkeyPatch,
    is_leased: bool,
    is_killed: bool,
    later: int | None,
) -> None:
    """The race: another process looks after the hint and before the commit, and notes what it saw."""
    due = await now(store) - SECOND
    if later:
        await put_due(store, "1", due + later)
    then = due + later if later else NEVER
    apply, looks = store._apply, 0

    async def slow(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 1:
            seen = due - 1
            if is_leased:
                assert await other.claim("1", seen, due + SECOND) == 1
                seen = due + SECOND
            assert await other.claim("1", seen, then, 0) == 1
            assert (await other.due(7_200, 9)).due == ([("1", then)] if later else [])
        return await apply(*arguments)

    monkeypatch.setattr(store, "_apply", slow)
    if is_killed:
        stop(monkeypatch, store, engine.SETTLE)
        with pytest.raises(Killed):
            await put_due(store, "1", due)
    else:
        await put_due(store, "1", due)
    assert looks == 2, "it was refused, and gave another hint"
    assert (await other.due(0, 9)).due == [("1", due - is_killed)]


async def test_a_claim_that_ends_after_the_commit(
    store: RedisStore, other: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked at the record before the commit, and notes that there is nothing after it."""
    due = await now(store) - SECOND
    apply, looks = store._apply, 0

    async def slow(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 1:
            assert await other.claim("1", due - 1, due + HOUR) == 1
        return await apply(*arguments)

    monkeypatch.setattr(store, "_apply", slow)
    await put_due(store, "1", due)
    assert await other.claim("1", due + HOUR, NEVER) == 0
    assert await other.claim("1", due + HOUR, due + 2 * HOUR) == 0
    assert (await other.due(0, 9)).due == [("1", due)]


@pytest.mark.parametrize("ahead", [-SECOND, 2 * HOUR, None])
async def test_a_commit_that_is_refused_takes_its_hint_back(store: RedisStore, ahead: int | None) -> None:
    start = await now(store)
    await put_due(store, "1", start - SECOND)
    assert await store.claim("1", start - SECOND, start + HOUR) == 1
    due = NEVER if ahead is None else start + ahead
    with pytest.raises(StateConflict):
        await store.commit("1", Changes(due=due), expect=1)
    assert (await store.due(7_200, 9)).due == [("1", start + HOUR)]
    assert await store.connection.ask("EXISTS", store._hints) == 0
    assert await store.claim("1", start + HOUR, start + 2 * HOUR) == 2


async def test_one_that_is_refused_leaves_the_hint_of_another(
    store: RedisStore, other: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = await now(store) - SECOND
    apply = store._apply

    async def slow(*arguments: Any) -> Any:
        with pytest.raises(StateConflict):
            await other.commit("1", Changes(due=due - HOUR), expect=1)
        return await apply(*arguments)

    monkeypatch.setattr(store, "_apply", slow)
    stop(monkeypatch, store, engine.SETTLE)
    with pytest.raises(Killed):
        await put_due(store, "1", due)
    assert (await other.due(0, 9)).due == [("1", due - 1)]
    assert await other.claim("1", due - 1, NEVER) == 0
    assert (await other.due(0, 9)).due == [("1", due)]


async def test_one_that_is_always_disturbed_gives_up(
    store: RedisStore, other: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = await now(store) - SECOND
    apply = store._apply

    async def disturbed(*arguments: Any) -> Any:
        assert await other.claim("1", due - 1, NEVER) == 1
        return await apply(*arguments)

    monkeypatch.setattr(store, "_apply", disturbed)
    with pytest.raises(StateUnavailable):
        await put_due(store, "1", due)
    assert (await other.load("1")).version == 0


async def test_commits_kills_and_claims_at_random(
    cluster: ClusterHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a record has to do stands in its state. Whoever claims it looks there, as the bot does."""
    chance = random.Random(4711)
    far = await now(await cluster.open()) + HOUR
    users = [str(number) for number in range(6)]
    stores = [await cluster.open() for _ in range(6)]
    killed = 0

    for store in stores:
        assert isinstance(store, RedisStore)

        async def slow(script: Script, *rest: Any, run: Any = store.connection.evaluate, **more: Any) -> Any:
            nonlocal killed
            await asyncio.sleep(chance.choice((0, 0, 0.001, 0.01)))
            if script in (engine.COMMIT, engine.SETTLE, engine.FENCE) and chance.random() < 0.1:
                killed += 1
                raise Killed
            return await run(script, *rest, **more)

        monkeypatch.setattr(store.connection, "evaluate", slow)

    def otherwise(user_id: str) -> int:
        """When it is due if there is nothing to do now: half of them have something in an hour."""
        return far if int(user_id) % 2 else NEVER

    async def change(store: OperatorStore, user_id: str, *, work: bool) -> None:
        record = await store.load(user_id)
        due = (await now(store) + chance.choice((0, SECOND // 5))) if work else otherwise(user_id)
        state = {"jobs": b"1" if work else b"0"}
        with suppress(StateConflict):
            await store.commit(user_id, Changes(state=state, due=due), expect=record.version)

    async def look(store: OperatorStore, within: float = 0) -> int:
        agenda = await store.due(within, 3)
        for user_id, seen in agenda.due:
            until = agenda.now + chance.choice((SECOND // 10, SECOND))
            if chance.random() < 0.7:
                if not await store.claim(user_id, seen, until):
                    continue
                seen = until
            record = await store.load(user_id)
            if record.state.get("jobs"):
                with suppress(StateConflict):
                    changes = Changes(state={"jobs": b"0"}, due=otherwise(user_id))
                    await store.commit(user_id, changes, expect=record.version)
            else:
                await store.claim(user_id, seen, otherwise(user_id), 0)
        return len(agenda.due)

    async def write(store: OperatorStore) -> None:
        for _ in range(60):
            with suppress(Killed, StateUnavailable):
                await change(store, chance.choice(users), work=chance.random() < 0.7)

    async def work(store: OperatorStore) -> None:
        for _ in range(100):
            with suppress(Killed, StateUnavailable):
                await look(store)

    await asyncio.gather(*map(write, stores[:3]), *map(work, stores[3:]))
    assert killed > 20, "this test would not notice"
    monkeypatch.undo()
    last = await cluster.open()
    rounds = 0
    while await look(last, within=60):
        rounds += 1
        assert rounds < 100, "a hint stays for ever"
    for user_id in users:
        assert not (await last.load(user_id)).state.get("jobs"), "nobody found it"
    assert {at for _, at in (await last.due(7_200, 100)).due} <= {far}
