"""Addresses in every form, and passwords in none."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from bot.runtime.config import Settings, load
from bot.runtime.engines.postgres.connection import Connection, Database, DatabaseSettings
from bot.runtime.engines.postgres.store import PostgresStore
from bot.runtime.errors import OperatorError, StateUnavailable
from bot.runtime.state.store import Changes
from suite.engines.postgres.harness import PostgresHarness, schema, server_url
from suite.engines.postgres.server import OwnServer, Proxy
from suite.support.command_line import run

pytestmark = pytest.mark.clause("engine.connects")

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("postgres", ""),
        ("postgresql", "sslmode=disable"),
        ("postgresql+asyncpg", "ssl=false"),
        ("postgresql+psycopg2", "application_name=bot&connect_timeout=10"),
        ("postgresql", "channel_binding=prefer&keepalives=1&keepalives_idle=30"),  # Neon
        ("postgresql", "pgbouncer=true&connection_limit=1&schema=public"),  # Prisma
        ("postgresql", "pgbouncer=false&options=-c%20statement_timeout%3D5000"),
    ],
)
async def test_addresses_of_every_usual_form(
    postgres: PostgresHarness, monkeypatch: pytest.MonkeyPatch, scheme: str, options: str
) -> None:
    url = server_url().partition("://")[2]
    separator = "&" if "?" in url else "?"
    monkeypatch.setenv("DATABASE_URL", f"{scheme}://{url}{separator}{options}")
    monkeypatch.setenv("DATABASE_SCHEMA", postgres.settings()["DATABASE_SCHEMA"])
    store = PostgresStore.from_settings(Settings())
    await store.connect()
    await store.ping()
    await store.close()


async def test_over_tcp(postgres: PostgresHarness) -> None:
    await postgres.open()
    async with Proxy(server_url()) as proxy:
        store = PostgresStore(Database(proxy.url), schema=schema())
        await store.connect()
        await store.close()


NO_ADDRESSES = {
    f"mysql://me:{SECRET}@db/bot": "must be an address like postgresql://",
    SECRET: "must be an address like postgresql://",
    f"postgresql://me:{SECRET}/@db/bot": "special characters",
    f"postgresql://me:{SECRET}[@db/bot": "special characters",
    f"postgresql://me:{SECRET}#@db/bot": "special characters",
    f"postgresql://me:{SECRET}?@db/bot": "special characters",
    f"postgresql://me:{SECRET}@db:54a32/bot": "a port that is none",
    f"postgresql://me:{SECRET}@one:5432,two:70000/bot": "a port that is none",
    f"postgresql://me:{SECRET}@db/bot?schema=bots": "the option schema",
    f"postgresql://me:{SECRET}@db/bot?sslaccept=strict": "the option 'sslaccept'",
    f"postgresql://me:{SECRET}@db/bot?search_path=bots": "the option 'search_path'",
}


@pytest.mark.parametrize(("url", "reason"), NO_ADDRESSES.items())
def test_an_address_that_is_none_says_why(monkeypatch: pytest.MonkeyPatch, url: str, reason: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(OperatorError, match=f"^bad settings: DATABASE_URL: .*{reason}") as caught:
        load(DatabaseSettings)
    assert SECRET not in str(caught.value)


def test_an_address_that_is_none_is_one_line(tmp_path: Path) -> None:
    result = run(tmp_path, "migrate", DATABASE_URL=SECRET)
    assert result.returncode == 1
    assert result.stderr.startswith("error: bad settings: DATABASE_URL: ")
    assert result.stderr.count("\n") == 1
    assert SECRET not in result.stderr


@pytest.mark.parametrize(
    ("options", "sslmode", "pooler"),
    [
        ("ssl=true", "require", None),
        ("sslmode=no-verify", "require", None),
        ("ssl=verify-full&pgbouncer=true", "verify-full", "transaction"),
        ("pgbouncer=true&connection_limit=1&sslmode=prefer", "prefer", "transaction"),
    ],
)
def test_options_of_other_drivers(
    monkeypatch: pytest.MonkeyPatch, options: str, sslmode: str, pooler: str | None
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgres://me:x%23y@db/bot?{options}")
    settings = load(DatabaseSettings)
    assert settings.database_url
    assert settings.database_url.get_secret_value() == f"postgresql://me:x%23y@db/bot?sslmode={sslmode}"
    assert settings.database_pooler == pooler


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_SCHEMA", 'x"; DROP'),
        ("DATABASE_POOL_SIZE", "0"),
        ("DATABASE_TIMEOUT", "0"),
        ("DATABASE_POOLER", "session"),
    ],
)
def test_bad_settings_name_themselves(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(OperatorError, match=f"^bad settings: {name}: "):
        load(DatabaseSettings)


def test_a_password_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"postgresql://me:{SECRET}@127.0.0.1:1/bot"
    monkeypatch.setenv("DATABASE_URL", url)
    settings = load(DatabaseSettings)
    assert SECRET not in repr(settings)
    database = settings.database()
    assert database
    assert database.address == "127.0.0.1:1/bot"
    monkeypatch.delenv("DATABASE_URL")
    (tmp_path / "sitecustomize.py").write_text(
        "import bot.runtime.engines.postgres.connection as d\nd.START_SECONDS = 0.2\n"
    )
    for arguments in (["doctor"], ["migrate"], ["state", "show", "1"]):
        result = run(tmp_path, *arguments, DATABASE_URL=url, PYTHONPATH=f"{tmp_path}:{Path.cwd()}")
        assert result.returncode == 1
        assert "cannot reach PostgreSQL" in result.stdout + result.stderr
        assert SECRET not in result.stdout + result.stderr
        assert "Traceback" not in result.stderr


async def test_a_refused_password_does_not_wait(own_server: OwnServer) -> None:
    hba = own_server.folder / "pg_hba.conf"
    hba.write_text("local all all scram-sha-256\n")
    await asyncio.to_thread(own_server.restart)
    store = PostgresStore(Database(own_server.url.replace("postgres:", f"postgres:{SECRET}")))
    async with asyncio.timeout(60):
        with pytest.raises(StateUnavailable, match="password authentication failed") as caught:
            await store.connect()
    assert SECRET not in str(caught.value)


async def test_a_password_is_asked_for_with_each_connection(own_server: OwnServer) -> None:
    """One that is another each time: of a migration's connection, and of those of the pool."""
    administrator = await asyncpg.connect(own_server.url)
    await administrator.execute("CREATE ROLE bot LOGIN; GRANT CREATE, USAGE ON SCHEMA public TO bot")
    hba = own_server.folder / "pg_hba.conf"
    hba.write_text("local all postgres trust\nlocal all bot scram-sha-256\n")
    await administrator.execute("SELECT pg_reload_conf()")
    asked = 0

    async def next_password() -> str:
        nonlocal asked
        asked += 1
        await administrator.execute(f"ALTER ROLE bot PASSWORD 'token {asked}'")
        return f"token {asked}"

    url = own_server.url.replace("//postgres:", "//bot:")
    store = PostgresStore(Database(url, pool_size=1, password=next_password))
    await store.migrate()
    await store.connect()
    for count in range(1, 4):
        before = asked
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'bot'"
        await administrator.execute(query)
        await store.commit("1", Changes(state={"n": b"%d" % count}), expect=None)
        assert asked == before + 1
    assert (await store.load("1")).state == {"n": 3}
    await store.close()
    await administrator.close()


async def test_a_commit_whose_connection_is_cut_while_it_waits_is_tried_again(
    postgres: PostgresHarness, connection: Connection
) -> None:
    store = PostgresStore(Database(server_url(), pool_size=1, timeout=5), schema=schema())
    await postgres.open()
    await store.connect()
    base = await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"SELECT 1 FROM {schema()}.user_state FOR UPDATE")
    waiting = asyncio.create_task(store.commit("1", Changes(state={"a": b"2"}), expect=base))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'bot' AND wait_event_type = 'Lock'"
    )
    await asyncio.sleep(0.2)
    await transaction.rollback()
    assert await waiting > base
    await store.close()
