"""The server is restarted, frozen or killed while users write: nothing is lost, nothing happens twice."""

import asyncio

import asyncpg
import pytest

from bot.runtime.config import Settings
from bot.runtime.engines.postgres.connection import Database
from bot.runtime.engines.postgres.store import PostgresStore
from bot.runtime.errors import StateUnavailable
from bot.runtime.logs import configure_logs
from bot.runtime.state.store import Changes
from bot.runtime.state.turn import Turn, mutate
from suite.bot_api import FakeTelegram
from suite.engines.postgres.server import OwnServer
from suite.support.runtime import Runtime

pytestmark = pytest.mark.clause("engine.outage")


@pytest.mark.parametrize("fault", ["restart", "pause", "crash"])
async def test_the_bot_gets_over_it_by_itself(
    own_server: OwnServer, own_database: Database, fault: str
) -> None:
    users = range(1, 4)
    async with FakeTelegram() as telegram:
        store = PostgresStore(own_database)
        async with Runtime(telegram, store, "polling") as bot:

            async def write(count: int) -> None:
                for _ in range(count):
                    written.append(f"m{len(written) + 1}")
                    for user in users:
                        telegram.message(written[-1], user_id=user)
                    await asyncio.sleep(0.02)

            written: list[str] = []
            await write(10)
            breaking = asyncio.create_task(asyncio.to_thread(getattr(own_server, fault)))
            while not breaking.done():
                await write(1)
            await breaking
            await write(10)
            await telegram.settled(180)
            for user in users:
                record = await bot.record(user)
                assert record.state == {"message_count": len(written), "last_message": written[-1]}
                said = list(dict.fromkeys(telegram.texts(user)))  # a reply may come twice
                assert said == [f"Processed: {text} (#{n})" for n, text in enumerate(written, start=1)]


async def test_a_server_that_hangs_is_unavailable_and_in_time(
    own_server: OwnServer, own_database: Database
) -> None:
    store = PostgresStore(Database(own_server.url, timeout=1))
    await store.connect()
    await store.load("1")
    frozen = asyncio.create_task(asyncio.to_thread(own_server.pause))
    await asyncio.sleep(0.1)
    loop = asyncio.get_running_loop()
    before = loop.time()
    asked = await asyncio.gather(
        store.load("1"), store.due(0, 1), store.claim("1", 1, 2), return_exceptions=True
    )
    assert [type(answer) for answer in asked] == [StateUnavailable] * 3
    assert loop.time() - before < 1.3
    await frozen
    await store.load("1")
    await store.close()


async def test_connecting_waits_for_a_server_that_starts(
    own_server: OwnServer, own_database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logs(Settings())
    own_server.embedded.stop_now()
    store = PostgresStore(own_database)
    connecting = asyncio.create_task(store.connect())
    await asyncio.sleep(0.5)
    assert not connecting.done()
    await asyncio.to_thread(own_server.embedded.start_now)
    await asyncio.wait_for(connecting, timeout=60)
    await store.close()
    said = capfd.readouterr().err
    assert (said.count("waiting for PostgreSQL"), said.count("PostgreSQL answers")) == (1, 1)


async def test_a_server_that_never_comes_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.runtime.engines.postgres.connection.START_SECONDS", 0.3)
    store = PostgresStore(Database("postgresql://me:hunter2@127.0.0.1:1/bot"))
    with pytest.raises(StateUnavailable, match=r"^cannot reach PostgreSQL") as caught:
        await store.connect()
    assert "hunter2" not in str(caught.value)
    with pytest.raises(StateUnavailable, match="not connected"):
        await store.load("1")


async def test_starting_waits_longer_than_a_commit_may_take(
    own_server: OwnServer, own_database: Database
) -> None:
    """For a server that takes connections and says nothing."""
    store = PostgresStore(Database(own_server.url, timeout=0.5))
    frozen = asyncio.create_task(asyncio.to_thread(own_server.pause))
    await asyncio.sleep(0.1)
    await store.connect()
    await frozen
    await store.close()


REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '{code}'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON user_state_owner EXECUTE FUNCTION refuse();
"""


@pytest.mark.parametrize(
    "reason", ["disk_full", "out_of_memory", "too_many_connections", "cannot_connect_now", "read-only"]
)
async def test_a_server_that_refuses_for_now_is_waited_for(
    own_server: OwnServer, own_database: Database, reason: str
) -> None:
    """Whoever is connected has yet to note whose store this is."""
    store = PostgresStore(Database(own_server.url, timeout=0.5))
    await store.connect()
    connection = await asyncpg.connect(own_server.url)
    if reason == "read-only":
        await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await connection.execute("SELECT pg_reload_conf()")
        await asyncio.sleep(0.2)
    else:
        await connection.execute(REFUSE.format(code=reason))
    binding = asyncio.create_task(store.bind(42))
    await asyncio.sleep(1.5)
    assert not binding.done()
    await connection.execute("SET default_transaction_read_only = off")
    await connection.execute("DROP TRIGGER IF EXISTS refuse ON user_state_owner")
    await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
    await connection.execute("SELECT pg_reload_conf()")
    await binding
    assert await connection.fetchval("SELECT bot_id FROM user_state_owner") == 42
    await connection.close()
    await store.close()


async def test_a_server_that_refuses_for_good_is_not(own_server: OwnServer, own_database: Database) -> None:
    store = PostgresStore(own_database)
    await store.connect()
    connection = await asyncpg.connect(own_server.url)
    await connection.execute(REFUSE.format(code="insufficient_privilege"))
    await connection.close()
    with pytest.raises(StateUnavailable, match="InsufficientPrivilege"):
        await asyncio.wait_for(store.bind(42), 1)
    await store.close()


async def test_a_server_that_becomes_read_only_is_left(own_server: OwnServer, own_database: Database) -> None:
    """As before a failover, or at the size that was paid for: it can still be read, and must not be."""
    store = PostgresStore(Database(own_server.url, timeout=1))
    await store.connect()
    version = await store.commit("1", Changes(state={"a": b"1"}), expect=0)

    async def set_read_only(value: str) -> None:
        connection = await asyncpg.connect(own_server.url)
        await connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()
        await asyncio.sleep(0.2)

    await set_read_only("on")
    with pytest.raises(StateUnavailable, match="read-only, and no standby"):
        await store.commit("1", Changes(state={"a": b"2"}), expect=version)
    with pytest.raises(StateUnavailable, match="read-only, and no standby"):
        await store.load("1")
    await set_read_only("off")
    await store.commit("1", Changes(state={"a": b"2"}), expect=version)
    await store.close()


@pytest.mark.clause("doctor.server")
async def test_doctor_names_what_puts_records_at_risk(own_server: OwnServer, own_database: Database) -> None:
    store = PostgresStore(Database(own_server.url, pool_size=1_000))
    await store.connect()
    before = {finding.level for finding in await store.diagnose() if "connections left" not in finding.text}
    assert before == {"ok"}
    connection = await asyncpg.connect(own_server.url)
    await connection.execute("ALTER SYSTEM SET fsync = off")
    await connection.execute("ALTER SYSTEM SET synchronous_commit = off")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()
    await asyncio.sleep(0.2)
    findings = [finding.text for finding in await store.diagnose() if finding.level == "warning"]
    for part in ("fsync is off", "synchronous_commit is off", "DATABASE_POOL_SIZE is 1000"):
        assert any(part in text for text in findings), part
    await store.close()


@pytest.mark.clause("doctor.server")
async def test_doctor_sees_the_connections_of_others(own_server: OwnServer, own_database: Database) -> None:
    """Also without the rights to look at what they do."""
    connection = await asyncpg.connect(own_server.url)
    await connection.execute("CREATE ROLE bot LOGIN")
    most = await connection.fetchval("SELECT current_setting('max_connections')::int")
    others = [await asyncpg.connect(own_server.url) for _ in range(20)]
    database = Database(own_server.url.replace("//postgres:", "//bot:"), pool_size=most - 10)
    await database.open()
    texts = [finding.text for finding in await database.diagnose()]
    assert any("connections left" in text for text in texts)
    await database.close()
    for each in [connection, *others]:
        await each.close()


@pytest.mark.clause("doctor.server")
async def test_doctor_names_a_clock_that_is_off(
    own_server: OwnServer, own_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PostgresStore(Database(own_server.url))
    await store.connect()
    monkeypatch.setattr("bot.runtime.engines.postgres.connection.CLOCK_TOLERANCE", -1)
    assert any("clock differs" in finding.text for finding in await store.diagnose())
    await store.close()


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_the_isolation_level_of_the_database_does_not_matter(
    own_server: OwnServer, own_database: Database, level: str
) -> None:
    connection = await asyncpg.connect(own_server.url)
    await connection.execute(f"ALTER SYSTEM SET default_transaction_isolation = '{level}'")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()
    await asyncio.sleep(0.2)
    store = PostgresStore(Database(own_server.url))
    await store.connect()

    async def add(turn: Turn) -> None:
        turn.state["count"] = turn.state.get("count", 0) + 1

    await asyncio.gather(*(mutate(store, "1", add) for _ in range(8)))
    assert (await store.load("1")).state["count"] == 8
    await store.close()
