"""What the flusher does, and what one sees of it."""

import asyncio
import json
from pathlib import Path

import pytest

from bot.runtime.config import Settings
from bot.runtime.engines import create_store
from bot.runtime.engines.hybrid.flusher import FIRST_SECONDS, FLUSHES
from bot.runtime.engines.hybrid.store import HybridStore
from bot.runtime.errors import OperatorError, StateUnavailable
from bot.runtime.logs import configure_logs
from bot.runtime.state.record import Message
from bot.runtime.state.store import Changes
from suite.bot_api import FakeTelegram
from suite.engines.hybrid.doings import evict, is_dirty, put, rested
from suite.engines.hybrid.harness import HybridHarness
from suite.engines.redis.proxy import Proxy
from suite.engines.redis.server import shared_url
from suite.support.command_line import run
from suite.support.runtime import Runtime

pytestmark = pytest.mark.clause("engine.write-behind")


async def lazy(hybrid: HybridHarness, ack: str = "redis", interval: float = 3600) -> HybridStore:
    """A store that flushes when it is told to, and not before."""
    store = await hybrid.make(flush_interval=interval, ack=ack)
    await store.flusher.stop()
    return store


def flushes(outcome: str = "flushed") -> float:
    value: float = FLUSHES.labels(outcome)._value.get()
    return value


@pytest.mark.clause("wire.round-trips")
async def test_a_warm_user_costs_one_round_trip_each_to_load_and_to_commit(hybrid: HybridHarness) -> None:
    await lazy(hybrid)  # which cleans up when the proxy is gone
    async with Proxy(shared_url()) as proxy:
        hybrid.redis_url = proxy.url
        store = await lazy(hybrid)
        version = await put(store, n=1)
        proxy.reset()
        assert (await store.load("1")).version == version
        assert proxy.round_trips == 1
        proxy.reset()
        await store.commit("1", Changes(state={"n": b"2"}), expect=version)
        assert proxy.round_trips == 1
        await store.close()


async def test_a_commit_is_in_postgres_within_a_second(hybrid: HybridHarness) -> None:
    store = await hybrid.make(flush_interval=0.5)
    await asyncio.sleep(FIRST_SECONDS)
    await put(store, n=1)
    async with asyncio.timeout(30):  # the machine may be busy
        while (await rested(store)).state != {"n": 1}:  # noqa: ASYNC110 - it happens in the server
            await asyncio.sleep(0.02)


async def test_turns_that_take_every_connection_do_not_keep_the_flusher_waiting(
    hybrid: HybridHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_MAX_CONNECTIONS", "1")
    store = await hybrid.make(flush_interval=0.1)
    is_over = asyncio.Event()

    async def write(user_id: str) -> None:
        while not is_over.is_set():
            await store.commit(user_id, Changes(state={"n": b"1"}), expect=None)

    async with asyncio.TaskGroup() as group:
        for user in range(30):
            group.create_task(write(str(user)))
        try:
            async with asyncio.timeout(60):
                while (await rested(store)).version == 0:  # noqa: ASYNC110 - it happens in the server
                    await asyncio.sleep(0.02)
        finally:
            is_over.set()


async def test_many_commits_are_one_row_write(hybrid: HybridHarness) -> None:
    store = await lazy(hybrid)
    for n in range(50):
        await put(store, n=n)
    before = flushes()
    await store.flush()
    assert flushes() - before == 1
    assert (await rested(store)).state == {"n": 49}


async def test_a_flush_writes_no_message_twice(hybrid: HybridHarness) -> None:
    store = await lazy(hybrid)
    query = "SELECT array_agg(text || xmin::text ORDER BY number) FROM {schema}.user_message"
    statement = store.postgres._fill(query)

    async def rows() -> list[str]:
        found: list[str] = await store.postgres.database.run(lambda c: c.fetchval(statement))
        return found

    for n in range(3):
        await put(store, say=f"{n}", n=n)
    await store.flush()
    before = await rows()
    await put(store, say="3", n=3)
    await store.flush()
    after = await rows()
    assert after[:3] == before
    assert len(after) == 4
    await evict(store)
    version = (await store.load("1")).version
    changes = Changes(messages=(Message("user", "4", 1.0),), keep_history=2)
    await store.commit("1", changes, expect=version)
    await store.flush()
    assert [row[0] for row in await rows()] == ["3", "4"]
    assert (await rows())[0] == after[3]


async def test_replicas_share_the_work(hybrid: HybridHarness) -> None:
    one, other = await lazy(hybrid), await lazy(hybrid)
    for user in range(20):
        await put(one, str(user), n=1)
    first, _ = await one.redis.lease(12, ahead=3600)
    second, _ = await other.redis.lease(12, ahead=3600)
    assert len(first) == 12
    assert len(second) == 8
    assert not set(first) & set(second)
    assert (await other.redis.lease(12, ahead=10))[0] == []


async def test_what_a_killed_replica_had_claimed_is_flushed_by_another(
    hybrid: HybridHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.runtime.engines.hybrid.redis.LEASE_SECONDS", 0.5)
    one, other = await lazy(hybrid, interval=0.1), await lazy(hybrid, interval=0.1)
    await put(one, n=1)
    assert (await one.redis.lease(1, ahead=0.1))[0] == ["1"]
    assert (await other.flush(seconds=0)).users == 1
    assert await is_dirty(other)
    await asyncio.sleep(0.6)
    await other.flush()
    assert (await rested(other)).state == {"n": 1}


async def test_a_record_that_postgres_refuses_holds_up_no_other(
    hybrid: HybridHarness, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logs(Settings())
    configure_logs(Settings())
    store = await lazy(hybrid, interval=1)
    await hybrid.postgres.execute(
        "ALTER TABLE {schema}.user_state ADD CONSTRAINT no_nines CHECK (user_id <> '9')"
    )
    try:
        for user in range(5, 15):
            await put(store, str(user), n=user)
        before = flushes("refused")
        assert (await store.flush(seconds=0)).users == 1
        assert flushes("refused") - before == 1
        assert (await store.load("9")).state == {"n": 9}
        for user in (8, 10, 14):
            assert (await rested(store, str(user))).state == {"n": user}
        said = capfd.readouterr().err
        assert "user 9: PostgreSQL refuses its record" in said
        assert "CheckViolation" in said
    finally:
        await hybrid.postgres.execute("ALTER TABLE {schema}.user_state DROP CONSTRAINT no_nines")
    await store.redis.postpone("9", 0)
    assert (await store.flush()).users == 0
    assert (await rested(store, "9")).state == {"n": 9}


async def test_closing_flushes(hybrid: HybridHarness) -> None:
    store, other = await lazy(hybrid), await lazy(hybrid)
    await put(store, n=1)
    await store.close()
    assert (await rested(other)).state == {"n": 1}


async def test_closing_flushes_what_was_taken_and_left(hybrid: HybridHarness) -> None:
    """As when Redis dies with the answer to who is taken, or a flush is cut off."""
    store, other = await lazy(hybrid), await lazy(hybrid)
    await put(store, n=1)
    assert (await store.redis.lease(1, ahead=3600))[0] == ["1"]
    await store.close()
    assert (await rested(other)).state == {"n": 1}
    assert not await is_dirty(other)


async def test_a_bot_that_was_here_before_starts_without_postgres(hybrid: HybridHarness) -> None:
    first = await lazy(hybrid)
    await first.bind(42)
    await put(first, n=1)
    hybrid.postgres_url = "postgresql://postgres@127.0.0.1:1/postgres"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bot.runtime.engines.postgres.connection.START_SECONDS", 0.2)
        store = await hybrid.make()
        await store.bind(42)
        assert await put(store, n=2)
        with pytest.raises(StateUnavailable):
            await store.load("2")
        await store.close()


async def test_acknowledged_by_postgres_means_that_it_is_there(hybrid: HybridHarness) -> None:
    store = await lazy(hybrid, ack="postgres")
    await put(store, n=1)
    assert (await rested(store)).state == {"n": 1}
    assert not await is_dirty(store)


async def test_an_update_seen_before_waits_for_its_flush(hybrid: HybridHarness) -> None:
    """With HYBRID_ACK=postgres: the first delivery was not acknowledged, and neither is the second."""
    store = await lazy(hybrid, ack="postgres")
    await put(store, n=1)
    version = (await store.load("1")).version
    await store.postgres.close()
    with pytest.raises(StateUnavailable, match="in Redis, but not in PostgreSQL"):
        await store.commit("1", Changes(state={"n": b"2"}, applied=(7,)), expect=version)
    with pytest.raises(StateUnavailable):
        await store.load("1")
    await store.postgres.connect()
    record = await store.load("1")
    assert record.applied == (7,)
    assert (await rested(store)).applied == (7,)


@pytest.mark.parametrize("ack", ["redis", "postgres"])
async def test_in_an_update_as_well(hybrid: HybridHarness, ack: str) -> None:
    store = await lazy(hybrid, ack=ack)
    async with FakeTelegram(max_retry_after=0.1) as telegram, Runtime(telegram, store, "webhook"):
        await store.flusher.stop()
        telegram.message("hi", user_id=1)
        await telegram.settled()
        await store.postgres.close()
        telegram.message("there", user_id=1)
        await asyncio.sleep(1)
        assert len(telegram.acknowledged) == (1 if ack == "postgres" else 2)
        await store.postgres.connect()
        await telegram.settled()
        assert telegram.texts(1) == ["Processed: hi (#1)", "Processed: there (#2)"]


async def test_what_the_operator_sees(
    hybrid: HybridHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await lazy(hybrid, interval=5)
    for name, value in {**hybrid.settings(), "HYBRID_FLUSH_INTERVAL": "5"}.items():
        monkeypatch.setenv(name, value)
    await put(store, n=1)
    await asyncio.sleep(0.2)
    numbers = await store.ping()
    assert numbers["flush_backlog"] == 1
    assert 0.1 < numbers["flush_backlog_seconds"] < 60
    findings = [finding.text for finding in await store.diagnose()]
    assert "1 users' commits wait for PostgreSQL" in findings

    done = await asyncio.to_thread(run, tmp_path, "state", "flush")
    assert (done.returncode, done.stdout) == (0, "PostgreSQL has everything\n")
    assert (await rested(store)).state == {"n": 1}
    await hybrid.postgres.execute("DELETE FROM {schema}.user_state")
    assert (await asyncio.to_thread(run, tmp_path, "state", "flush", "--all")).returncode == 0
    assert (await rested(store)).state == {"n": 1}
    shown = await asyncio.to_thread(run, tmp_path, "state", "show", "1")
    assert json.loads(shown.stdout)["state"] == {"n": 1}


def test_a_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://localhost:7000")
    monkeypatch.setenv("REDIS_CLUSTER", "true")
    with pytest.raises(OperatorError, match="does not run on a Redis Cluster"):
        create_store(Settings())
