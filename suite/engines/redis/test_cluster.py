"""A Redis Cluster of three nodes: each user's keys are together on one of them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from redis.crc import key_slot

from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.errors import StateConflict, StateForeign, StateUnavailable
from bot.runtime.state.record import Message
from bot.runtime.state.store import Changes
from bot.runtime.state.transfer import export_lines, import_record, read_line
from suite.engines.redis.server import Server, make_store

pytestmark = pytest.mark.clause("engine.topology")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Three primaries that share the slots."""
    with started(tmp_path_factory.mktemp("cluster"), 3) as nodes:
        asyncio.run(join(nodes))
        yield nodes


@contextmanager
def started(folder: Path, count: int) -> Iterator[list[Server]]:
    """Servers that can be nodes of a cluster."""
    config = {"cluster-enabled": "yes", "cluster-node-timeout": "2000", "cluster-config-file": "nodes.conf"}
    with ExitStack() as stack:
        nodes = [Server(folder / f"{n}", **config).start() for n in range(count)]
        for node in nodes:
            stack.callback(node.end)
        yield nodes


async def join(nodes: list[Server]) -> None:
    """Make a cluster of servers."""
    bounds = [0, 5_461, 10_923, 16_384]
    stores = [make_store(node.url) for node in nodes]
    for number, store in enumerate(stores):
        ask = store.connection.ask
        await ask("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        await ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        await ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
    for store in stores:
        for _ in range(200):
            info = await store.connection.ask("CLUSTER", "INFO")
            if b"cluster_state:ok" in info and b"cluster_known_nodes:3" in info:
                break
            await asyncio.sleep(0.1)
        await store.close()


@pytest.fixture
async def store(nodes: list[Server]) -> AsyncIterator[RedisStore]:
    places = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    store = make_store(f"redis://{places}", redis_cluster=True)
    await store.connect()
    yield store
    for node in nodes:
        direct = make_store(node.url)
        await direct.connection.ask("FLUSHALL")
        await direct.close()
    await store.close()


async def sizes(nodes: list[Server]) -> list[int]:
    """How many keys each node has."""
    counts = []
    for node in nodes:
        direct = make_store(node.url)
        counts.append(await direct.connection.ask("DBSIZE"))
        await direct.close()
    return counts


async def test_records_of_many_users(nodes: list[Server], store: RedisStore) -> None:
    message = Message("user", "hello", 1.0)
    changes = Changes(state={"a": b"1"}, messages=(message,), applied=(1,))
    await asyncio.gather(*(store.commit(str(n), changes, expect=0) for n in range(300)))
    assert min(await sizes(nodes)) > 100, "spread over all nodes"
    assert len({key_slot(key.encode()) for key in store._keys("7")}) == 1
    for n in range(300):
        record = await store.load(str(n))
        assert (record.state, record.history, record.applied) == ({"a": 1}, [message], (1,))
    with pytest.raises(StateConflict):
        await store.commit("7", Changes(), expect=0)
    assert await store.forget("7") is True
    expected = {str(n) for n in range(300)} - {"7"}
    listed = [user async for user in store.users()]
    assert (len(listed), set(listed)) == (299, expected)
    assert "test:user:{8}:state hash" in await store.raw("8")


async def test_bind_export_import_and_doctor(store: RedisStore) -> None:
    await store.bind(42)
    with pytest.raises(StateForeign):
        await store.bind(43)
    for n in range(50):
        await store.commit(str(n), Changes(state={"n": b"%d" % n}), expect=0)
    lines = [line async for line in export_lines(store)]
    assert len(lines) == 50
    for line in lines:
        await import_record(store, read_line(line))
    assert {finding.level for finding in await store.diagnose()} == {"ok"}
    await store.ping()


async def test_a_slot_that_moved_is_followed(nodes: list[Server], store: RedisStore) -> None:
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    await store.forget("1")
    for node in nodes:
        direct = make_store(node.url)
        await direct.connection.ask("FLUSHALL")
        await direct.close()
    slot = key_slot(b"test:user:{1}:state")
    stores = [make_store(node.url) for node in nodes]
    ids = [(await direct.connection.ask("CLUSTER", "MYID")).decode() for direct in stores]
    owner = next(n for n in range(3) if [0, 5_461, 10_923, 16_384][n + 1] > slot)
    heir = (owner + 1) % 3
    for direct in (stores[heir], *stores):
        await direct.connection.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[heir])
    before = await sizes(nodes)
    await store.commit("1", Changes(state={"a": b"2"}), expect=0)
    after = await sizes(nodes)
    assert after[heir] - before[heir] == 2
    assert (await store.load("1")).state == {"a": 2}
    for direct in (stores[owner], *stores):
        await direct.connection.ask("FLUSHALL")
        await direct.connection.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[owner])
    for direct in stores:
        await direct.close()


async def test_a_node_that_stops_and_comes_back(nodes: list[Server], store: RedisStore) -> None:
    users = [str(n) for n in range(30)]
    for user in users:
        await store.commit(user, Changes(state={"a": b"1"}), expect=0)
    await asyncio.to_thread(nodes[2].kill)
    outcomes = await asyncio.gather(*(store.load(user) for user in users), return_exceptions=True)
    away = [outcome for outcome in outcomes if isinstance(outcome, StateUnavailable)]
    there = [outcome.state for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert away, "this test would not notice"
    assert len(away) + len(there) == len(users)
    assert all(state == {"a": 1} for state in there)
    await asyncio.to_thread(nodes[2].start)
    for user in users:
        for _ in range(100):
            try:
                assert (await store.load(user)).state == {"a": 1}
                break
            except StateUnavailable:
                await asyncio.sleep(0.1)
        else:
            raise AssertionError(f"user {user} did not come back")


async def test_a_replica_that_takes_over(tmp_path: Path) -> None:
    with started(tmp_path, 4) as nodes:
        await join(nodes[:3])
        first, replica = make_store(nodes[0].url), make_store(nodes[3].url)
        await replica.connection.ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        first_id = (await first.connection.ask("CLUSTER", "MYID")).decode()
        for _ in range(100):
            with suppress(StateUnavailable):  # it has not heard of the first yet
                await replica.connection.ask("CLUSTER", "REPLICATE", first_id)
                break
            await asyncio.sleep(0.1)
        store = make_store(f"redis://127.0.0.1:{nodes[1].port}", redis_cluster=True)
        await store.connect()
        user = next(str(n) for n in range(99) if key_slot(f"test:user:{{{n}}}:meta".encode()) <= 5_460)
        version = await store.commit(user, Changes(state={"n": b"1"}), expect=0)
        for _ in range(100):
            if await replica.connection.ask("DBSIZE"):
                break
            await asyncio.sleep(0.1)

        await asyncio.to_thread(nodes[0].kill)
        for _ in range(150):
            with suppress(StateUnavailable):
                await store.commit(user, Changes(state={"n": b"2"}, applied=(2,)), expect=version)
                break
            await asyncio.sleep(0.1)
        record = await store.load(user)
        assert (record.state, record.applied) == ({"n": 2}, (2,))
        assert (await replica.connection.ask("INFO", "replication"))["role"] == "master"
        for each in (store, first, replica):
            await each.close()


async def test_a_cluster_taken_for_a_server_and_the_other_way_round(
    nodes: list[Server], server: Server
) -> None:
    alone = make_store(nodes[0].url)
    await alone.connect()
    elsewhere = next(str(n) for n in range(99) if key_slot(f"test:user:{{{n}}}:meta".encode()) > 5_460)
    with pytest.raises(StateUnavailable, match="REDIS_CLUSTER=true"):
        await alone.load(elsewhere)
    await alone.close()
    cluster = make_store(server.url, redis_cluster=True, redis_connect_timeout=0.3)
    with pytest.raises(StateUnavailable, match="cluster"):
        await cluster.connect()
    await cluster.close()
