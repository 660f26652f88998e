"""Servers and processes that are killed, paused, emptied, or come back with less than they had."""

import asyncio
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from bot.runtime.engines.hybrid.store import HybridStore
from bot.runtime.engines.postgres import schema as postgres_schema
from bot.runtime.engines.postgres.connection import Database
from bot.runtime.errors import StateError, StateUnavailable
from bot.runtime.state.store import Changes
from bot.runtime.telegram import processor
from suite.bot_api import FakeTelegram
from suite.engines.hybrid.doings import is_dirty, put, rested
from suite.engines.hybrid.harness import HybridHarness
from suite.engines.postgres.server import OwnServer
from suite.engines.redis.server import Server
from suite.support.command_line import environment
from suite.support.runtime import Runtime

pytestmark = pytest.mark.clause("engine.outage")


async def back_to(server: Server, copy: Path) -> None:
    """Start a server over an earlier copy of its data, as if the rest had not reached the disk."""
    await asyncio.to_thread(server.stop)
    shutil.rmtree(server.folder / "appendonlydir")
    shutil.copytree(copy, server.folder / "appendonlydir")
    await asyncio.to_thread(server.start)


async def copied(server: Server, to: Path) -> Path:
    await asyncio.sleep(1.2)  # until it is on the disk
    shutil.copytree(server.folder / "appendonlydir", to)
    return to


@pytest.fixture
async def lazy(own_redis: Server, hybrid: HybridHarness) -> HybridStore:
    """A store on a Redis of the test's own, which flushes when it is told to."""
    hybrid.redis_url = own_redis.url
    store = await hybrid.make(flush_interval=3600)
    await store.flusher.stop()
    return store


@pytest.mark.parametrize("was_clean", [True, False])
@pytest.mark.parametrize("touch", ["read", "commit", "flush"])
async def test_redis_came_back_older(
    lazy: HybridStore, own_redis: Server, tmp_path: Path, was_clean: bool, touch: str
) -> None:
    """What PostgreSQL got before is the newest that was acknowledged, and wins."""
    await put(lazy, n=1, old=True)
    if was_clean:
        await lazy.flush()
    copy = await copied(own_redis, tmp_path / "copy")
    await put(lazy, n=2)
    await put(lazy, "2", n=2)
    await lazy.forget("3")
    await lazy.flush()
    await back_to(own_redis, copy)

    if touch == "commit":
        await lazy.commit("1", Changes(state={"m": b"3"}), expect=None)
    elif touch == "flush":
        await lazy.flush(everything=True)
        assert (await rested(lazy)).state == {"n": 2, "old": True}
    expected = {"n": 2, "old": True} | ({"m": 3} if touch == "commit" else {})
    assert (await lazy.load("1")).state == expected
    assert (await lazy.load("2")).state == {"n": 2}
    await lazy.flush()
    assert (await rested(lazy)).state == expected
    assert not await is_dirty(lazy)


async def test_a_user_forgotten_stays_so_when_redis_came_back_older(
    lazy: HybridStore, own_redis: Server, tmp_path: Path
) -> None:
    await put(lazy, n=1)
    copy = await copied(own_redis, tmp_path / "copy")
    await lazy.forget("1")
    await back_to(own_redis, copy)
    await lazy.flush()
    assert (await lazy.load("1")).is_empty
    assert (await rested(lazy)).is_empty


async def test_a_fork_while_postgres_was_away_too(
    lazy: HybridStore, own_redis: Server, tmp_path: Path, hybrid: HybridHarness
) -> None:
    """Redis' word was enough, and Redis had lost something: what it has acknowledged since is kept."""
    await put(lazy, n=1)
    copy = await copied(own_redis, tmp_path / "copy")
    await put(lazy, n=2)
    await lazy.flush()
    await back_to(own_redis, copy)
    await lazy.postgres.close()
    await put(lazy, m=1)
    await lazy.postgres.connect()
    await hybrid.postgres.execute("UPDATE {schema}.user_state SET version = version + 10000000000")
    await lazy.flush()
    assert (await rested(lazy)).state == (await lazy.load("1")).state == {"n": 1, "m": 1}
    assert not await is_dirty(lazy)


async def test_memory_that_has_run_out_is_freed_by_flushing(lazy: HybridStore, own_redis: Server) -> None:
    ask = lazy.redis.connection.ask
    await ask("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    used = int((await ask("INFO", "memory"))["used_memory"])
    await ask("CONFIG", "SET", "maxmemory", used + 2_000_000)
    users = 0
    with pytest.raises(StateUnavailable, match=r"memory|loaded into Redis"):  # noqa: PT012 - which of them is the first is open
        for users in range(1_000):
            await put(lazy, str(users), blob="x" * 20_000)
    assert users > 10
    assert (await lazy.flush()).users == 0
    for user in range(users, users + 50):
        await put(lazy, str(user), blob="y")
    assert (await ask("INFO", "stats"))["evicted_keys"]
    for user in range(users):
        assert (await lazy.load(str(user))).state == {"blob": "x" * 20_000}


async def test_a_cluster_is_refused(tmp_path: Path, own_postgres: OwnServer) -> None:
    cluster = Server(tmp_path / "cluster", **{"cluster-enabled": "yes"}).start()
    store = await own_store(cluster, own_postgres)
    with pytest.raises(StateError, match="does not run on a Redis Cluster"):
        await store.connect()
    cluster.end()


async def kill_redis(redis: Server, _: OwnServer, __: HybridStore) -> None:
    await asyncio.to_thread(redis.kill)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(redis.start)


async def kill_postgres(_: Server, postgres: OwnServer, __: HybridStore) -> None:
    await asyncio.to_thread(postgres.crash)


async def stop_postgres(_: Server, postgres: OwnServer, store: HybridStore) -> None:
    await asyncio.to_thread(postgres.embedded.stop_now)
    await asyncio.sleep(3)
    await asyncio.to_thread(postgres.embedded.start_now)


async def freeze_postgres(_: Server, postgres: OwnServer, __: HybridStore) -> None:
    await asyncio.to_thread(postgres.pause)


async def empty_redis(_: Server, __: OwnServer, store: HybridStore) -> None:
    for _try in range(100):
        script = "if redis.call('ZCARD', KEYS[1]) == 0 then return redis.call('FLUSHALL') end"
        if await store.redis.connection.ask("EVAL", script, 1, store.redis._dirty):
            return
        await asyncio.sleep(0.01)


Trouble = Callable[[Server, OwnServer, HybridStore], Awaitable[None]]


@pytest.mark.parametrize("trouble", [kill_redis, kill_postgres, stop_postgres, freeze_postgres, empty_redis])
async def test_in_mid_traffic(
    own_redis: Server, own_postgres: OwnServer, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every update is applied once, and is in PostgreSQL after recovery."""
    monkeypatch.setattr(processor, "RETRY_DELAYS", (0.05, 0.3))
    store = await own_store(own_redis, own_postgres)
    async with (
        FakeTelegram(max_retry_after=0.1, max_delay=0.3) as telegram,
        Runtime(telegram, store, "webhook"),
    ):
        for n in range(1, 31):
            for user in range(1, 6):
                telegram.message(f"m{n}", user_id=user)
            if n in (10, 20):
                await trouble(own_redis, own_postgres, store)
            await asyncio.sleep(0.02)
        await telegram.settled(180)
        for user in range(1, 6):
            said = telegram.texts(user)
            assert list(dict.fromkeys(said)) == [f"Processed: m{n} (#{n})" for n in range(1, 31)]
    database = Database(own_postgres.url)
    await database.open()
    rows = await database.run(
        lambda connection: connection.fetch("SELECT state->>'message_count' AS count FROM user_state")
    )
    await database.close()
    assert [row["count"] for row in rows] == ["30"] * 5, "stopping has flushed"


async def own_store(redis: Server, postgres: OwnServer) -> HybridStore:
    from bot.runtime.config import Settings

    await postgres_schema.migrate(Database(postgres.url), "public")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDIS_URL", redis.url)
        patch.setenv("DATABASE_URL", postgres.url)
        patch.setenv("HYBRID_FLUSH_INTERVAL", "0.1")
        patch.setenv("DATABASE_TIMEOUT", "5")
        return HybridStore.from_settings(Settings())


@pytest.mark.rarely
@pytest.mark.parametrize("how", ["ours", "sketch"])
async def test_a_process_killed_while_it_writes(
    own_redis: Server, own_postgres: OwnServer, tmp_path: Path, how: str
) -> None:
    """Of ours, PostgreSQL has in the end whatever was acknowledged; the sketch loses some."""
    store = await own_store(own_redis, own_postgres)
    connection = await asyncpg.connect(own_postgres.url)
    await connection.execute("CREATE TABLE sketch (user_id text PRIMARY KEY, state jsonb)")
    lost = 0
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "suite.engines.hybrid.writer", how,
            cwd=Path(__file__).parents[3],
            env=environment(tmp_path, REDIS_URL=own_redis.url, DATABASE_URL=own_postgres.url),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout
        acknowledged: dict[str, int] = {}
        for _line in range(1_500):
            user_id, count = (await process.stdout.readline()).split()[-2:]
            acknowledged[user_id.decode()] = int(count)
        process.kill()
        for line in (await process.stdout.read()).splitlines():
            if len(words := line.split()) == 2:
                acknowledged[words[0].decode()] = int(words[1])
        await process.wait()
        if how == "ours":
            await store.connect()
            assert (await store.flush()).users == 0
            await store.close()
            before = dict(await connection.fetch("SELECT user_id, (state->>'count')::int FROM user_state"))
            await connection.execute("DELETE FROM user_state")
            await store.redis.connection.ask("FLUSHALL")
        else:
            await asyncio.sleep(0.5)
            before = dict(await connection.fetch("SELECT user_id, (state->>'count')::int FROM sketch"))
            await connection.execute("DELETE FROM sketch")
        lost += sum(max(count - before.get(user, 0), 0) for user, count in acknowledged.items())
    await connection.close()
    await store.close()
    print(f"{how}: {lost} acknowledged updates are missing from PostgreSQL")
    assert lost == 0 if how == "ours" else lost > 0


async def test_both_are_waited_for_when_they_refuse_for_now(
    own_redis: Server, own_postgres: OwnServer
) -> None:
    """Whose store it is stands in both."""
    store = await own_store(own_redis, own_postgres)
    await store.connect()
    await store.redis.connection.ask("CONFIG", "SET", "maxmemory", 1)
    connection = await asyncpg.connect(own_postgres.url)
    await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    await connection.execute("SELECT pg_reload_conf()")
    binding = asyncio.create_task(store.bind(42))
    await asyncio.sleep(1.5)
    assert not binding.done()
    await store.redis.connection.ask("CONFIG", "SET", "maxmemory", 0)
    await asyncio.sleep(5)
    assert not binding.done()
    await connection.execute("SET default_transaction_read_only = off")
    await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()
    await binding
    await store.close()
