"""PostgreSQL at Supabase: its poolers, its certificate, and tables closed to its Data API."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from bot.runtime.cloud import supabase, supabase_migrations
from bot.runtime.cloud.supabase import SupabaseStore
from bot.runtime.config import Settings
from bot.runtime.engines.postgres import schema as postgres_schema
from bot.runtime.engines.postgres.connection import Connection, Database
from bot.runtime.errors import OperatorError, StateError, StateUnavailable
from bot.runtime.state.store import Changes
from suite.engines.postgres.pooler import PGBOUNCER
from suite.engines.postgres.server import OwnServer
from suite.engines.postgres.tls import NOWHERE, Authority, Names, TlsServer, problems
from suite.support.command_line import run

pytestmark = pytest.mark.clause("provider.connects")

POOLER = "aws-0-eu-central-1.pooler.supabase.com"
BOT_USER = Path("infra/supabase.sql").read_text("utf-8")
HAND_OVER = Path("infra/supabase_tables.sql").read_text("utf-8")
DIRECT = "db.abcdefghijklmnopqrst.supabase.co"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Where the provider's names lead."""
    return Names(monkeypatch)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The one whose certificate lies where the bot looks for Supabase's."""
    authority = Authority()
    monkeypatch.setattr(supabase, "AUTHORITY", authority.write(tmp_path / "supabase.pem"))
    return authority


@pytest.fixture
async def project(own_server: OwnServer) -> AsyncIterator[Connection]:
    """A database as Supabase makes it: what `postgres` creates in `public` is granted to the API's roles."""
    connection = await asyncpg.connect(own_server.url)
    await connection.execute("""
        CREATE ROLE anon NOLOGIN;
        CREATE ROLE authenticated NOLOGIN;
        ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated;
        GRANT USAGE ON SCHEMA public TO anon, authenticated;
    """)
    for statement in re.findall(r"^[A-Z].*;$", BOT_USER, re.MULTILINE):
        await connection.execute(statement)
    yield connection
    await connection.close()


def as_bot(server: OwnServer) -> str:
    return server.url.replace("//postgres:", "//bot:")


class SessionPooler(TlsServer):
    """Supabase's own, which tells the server who comes, and not what they want of the session."""

    def passed_on(self, startup: bytes) -> bytes:
        words = startup[8:].rstrip(b"\0").split(b"\0")
        known = {b"user", b"database", b"application_name"}
        kept = [pair for pair in zip(words[::2], words[1::2], strict=True) if pair[0] in known]
        body = startup[4:8] + b"".join(name + b"\0" + value + b"\0" for name, value in kept) + b"\0"
        return (len(body) + 4).to_bytes(4) + body


@pytest.mark.parametrize("is_named", [False, True], ids=["the bot's file", "sslrootcert"])
async def test_by_the_session_pooler(
    own_server: OwnServer,
    project: Connection,
    authority: Authority,
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    is_named: bool,
) -> None:
    query = ""
    if is_named:
        monkeypatch.setattr(supabase, "AUTHORITY", tmp_path / "is-not-there.pem")
        query = f"?sslrootcert={authority.write(tmp_path / 'named.pem')}"
    async with SessionPooler(own_server.url, authority.server(POOLER)) as server:
        names.lead(POOLER, 5432, server.port)
        monkeypatch.setenv("DATABASE_URL", f"postgresql://bot:secret@{POOLER}:5432/postgres{query}")
        store = SupabaseStore.from_settings(Settings())
        assert (await store.migrate()).startswith("migrated")
        await store.connect()
        await store.commit("1", Changes(state={"city": b'"Oslo"'}), expect=0)
        assert (await store.load("1")).state == {"city": "Oslo"}
        assert problems(await store.diagnose()) == []
        await store.close()


async def test_doctor_names_settings_that_the_pooler_drops(
    own_server: OwnServer,
    project: Connection,
    authority: Authority,
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await project.execute("ALTER ROLE bot RESET ALL; ALTER ROLE bot SET statement_timeout = '2min'")
    async with SessionPooler(own_server.url, authority.server(POOLER)) as server:
        names.lead(POOLER, 5432, server.port)
        monkeypatch.setenv("DATABASE_URL", f"postgresql://bot:secret@{POOLER}:5432/postgres")
        store = SupabaseStore.from_settings(Settings())
        await store.migrate()
        await store.connect()
        found = problems(await store.diagnose())
        assert len(found) == 3
        for text in found:  # each says what to do about it
            await project.execute(text.partition(": ")[2])
        await store.close()
        await store.connect()
        assert problems(await store.diagnose()) == []
        await store.close()


@pytest.mark.parametrize(("size", "is_close"), [(0.0, False), (0.9, True), (5.0, False)])
async def test_doctor_names_a_size_at_which_it_becomes_read_only(
    own_server: OwnServer, project: Connection, monkeypatch: pytest.MonkeyPatch, size: float, is_close: bool
) -> None:
    """In a free project; one that is larger is paid for."""
    store = SupabaseStore(Database(as_bot(own_server)))
    await store.migrate()
    await store.connect()
    actual = await project.fetchval("SELECT pg_database_size(current_database())")
    monkeypatch.setattr(supabase, "FREE_BYTES", int(actual / size) if size else 100 * actual)
    (finding,) = [each for each in await store.diagnose() if "read-only beyond" in each.text]
    assert (finding.level == "warning") is is_close
    await store.close()


@pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")
async def test_by_the_transaction_pooler(
    pooler: str,
    empty_schema: str,
    authority: Authority,
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with TlsServer(pooler, authority.server(POOLER)) as server:
        names.lead(POOLER, 6543, server.port)
        monkeypatch.setenv("DATABASE_URL", f"postgresql://postgres:secret@{POOLER}:6543/postgres")
        monkeypatch.setenv("DATABASE_POOLER", "transaction")
        monkeypatch.setenv("DATABASE_SCHEMA", empty_schema)
        store = SupabaseStore.from_settings(Settings())
        await store.migrate()
        await store.connect()
        commits = (store.commit(str(n), Changes(state={"n": b"1"}), expect=0) for n in range(50))
        await asyncio.gather(*commits)
        assert len([user async for user in store.users()]) == 50
        assert problems(await store.diagnose(), "administrator", "fsync is off") == []
        await store.close()


def test_the_transaction_pooler_without_the_setting(tmp_path: Path) -> None:
    url = f"postgresql://bot:hunter2@{POOLER}:6543/postgres"
    result = run(tmp_path, "doctor", DATABASE_URL=url, DATABASE_POOLER="")
    assert result.returncode == 1
    assert "set DATABASE_POOLER=transaction" in result.stdout
    assert "hunter2" not in result.stdout + result.stderr


@pytest.mark.parametrize("is_named", [False, True], ids=["the bot's file", "sslrootcert"])
@pytest.mark.parametrize("what", ["another authority", "another name", "expired"])
async def test_a_server_that_is_not_the_one(
    authority: Authority,
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    what: str,
    is_named: bool,
) -> None:
    query = ""
    if is_named:
        monkeypatch.setattr(supabase, "AUTHORITY", tmp_path / "is-not-there.pem")
        query = f"?sslrootcert={authority.write(tmp_path / 'named.pem')}"
    signer = Authority() if what == "another authority" else authority
    name = DIRECT if what == "another name" else POOLER
    context = signer.server(name, has_expired=what == "expired")
    async with TlsServer(NOWHERE, context) as server:
        names.lead(POOLER, 5432, server.port)
        monkeypatch.setenv("DATABASE_URL", f"postgresql://bot:hunter2@{POOLER}:5432/postgres{query}")
        store = SupabaseStore.from_settings(Settings())
        async with asyncio.timeout(5):  # it does not wait for the certificate to become right
            with pytest.raises(StateUnavailable, match="certificate") as caught:
                await store.connect()
        assert "hunter2" not in str(caught.value)


def test_without_the_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supabase, "AUTHORITY", tmp_path / "is-not-there.pem")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://bot:hunter2@{POOLER}:5432/postgres")
    with pytest.raises(OperatorError, match="SSL Configuration"):
        SupabaseStore.from_settings(Settings())


async def test_what_doctor_says_of_addresses(
    own_server: OwnServer,
    project: Connection,
    authority: Authority,
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for host, query, pooler_mode, said in (
        (POOLER, "?sslmode=require", "", "sslmode=require, which believes any server"),
        (POOLER, "", "transaction", "port 5432 does not need it"),
        (DIRECT, "", "", "IPv6"),
    ):
        async with TlsServer(own_server.url, authority.server(host)) as server:
            names.lead(host, 5432, server.port)
            monkeypatch.setenv("DATABASE_URL", f"postgresql://bot:secret@{host}:5432/postgres{query}")
            monkeypatch.setenv("DATABASE_POOLER", pooler_mode)
            store = SupabaseStore.from_settings(Settings())
            await store.migrate()
            await store.connect()
            (problem,) = problems(await store.diagnose())
            assert said in problem
            await store.close()


async def test_nobody_but_the_bot_sees_the_tables(own_server: OwnServer, project: Connection) -> None:
    """Whoever creates them: here `postgres`, whose tables Supabase grants to everybody."""
    store = SupabaseStore(Database(own_server.url))
    await store.migrate()
    tables = await project.fetch(
        "SELECT relname, relrowsecurity FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY relname"
    )
    # Each one there is: a migration that adds a table has to name it in TABLES.
    assert [(row["relname"], row["relrowsecurity"]) for row in tables] == [
        (name, True) for name in sorted(supabase.TABLES)
    ]
    for role in ("anon", "authenticated"):
        for name in supabase.TABLES:
            async with project.transaction():
                await project.execute(f"SET LOCAL ROLE {role}")
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with project.transaction():
                        await project.fetch(f"SELECT * FROM {name}")
    await store.connect()
    assert problems(await store.diagnose(), "administrator", "no database of Supabase") == []
    await store.close()


async def test_doctor_names_tables_that_are_open(own_server: OwnServer, project: Connection) -> None:
    store = SupabaseStore(Database(own_server.url))
    await store.migrate()
    await store.connect()
    await project.execute("ALTER TABLE user_state DISABLE ROW LEVEL SECURITY")
    await project.execute("GRANT SELECT ON user_message TO anon")
    await project.execute("GRANT INSERT ON user_state_owner TO PUBLIC")
    await project.execute("CREATE TABLE of_the_owner (id int)")
    found = {finding.text.partition(":")[0]: finding.level for finding in await store.diagnose()}
    assert found["table user_state has no row-level security"] == "error"
    assert found["user_message is granted to anon"] == "error"
    assert found["user_state_owner is granted to anon, authenticated"] == "error"
    assert found["table of_the_owner has no row-level security"] == "warning"
    assert found["of_the_owner is granted to anon, authenticated"] == "warning"
    await store.migrate()  # there is nothing to migrate, and yet
    of_no_matter = ("of_the_owner", "administrator", "no database of Supabase")
    assert problems(await store.diagnose(), *of_no_matter) == []
    await store.close()


async def test_a_bot_that_sees_no_rows_does_not_start(own_server: OwnServer, project: Connection) -> None:
    """The tables are somebody else's, so row-level security holds for it, too: it would find them empty."""
    await SupabaseStore(Database(own_server.url)).migrate()
    await project.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO bot")
    store = SupabaseStore(Database(as_bot(own_server)))
    for work in (store.connect, store.migrate):
        with pytest.raises(StateError, match="hides every row"):
            await work()


async def test_tables_that_are_handed_over_are_the_bots(own_server: OwnServer, project: Connection) -> None:
    """By one who is no superuser, as `postgres` is none at Supabase, and who made both."""
    await project.execute("DROP OWNED BY bot; DROP ROLE bot; CREATE ROLE maker LOGIN CREATEROLE")
    await project.execute("GRANT USAGE, CREATE ON SCHEMA public TO maker WITH GRANT OPTION")
    url = own_server.url.replace("//postgres:", "//maker:")
    maker = await asyncpg.connect(url)
    for statement in re.findall(r"^[A-Z].*;$", BOT_USER, re.MULTILINE):
        await maker.execute(statement)
    await SupabaseStore(Database(url)).migrate()
    for _ in range(2):
        await maker.execute(HAND_OVER)
    await maker.close()
    store = SupabaseStore(Database(as_bot(own_server)))
    await store.migrate()
    await store.connect()
    await store.commit("1", Changes(state={"city": b'"Oslo"'}), expect=0)
    assert problems(await store.diagnose(), "no database of Supabase") == []
    await store.close()


async def schema_of(connection: Connection) -> list[str]:
    """All that there is in `public`, in words."""
    rows = await connection.fetch("""
        SELECT concat_ws(' ', 'column', table_name, ordinal_position, column_name, data_type, udt_name,
            column_default, is_nullable) AS text
        FROM information_schema.columns WHERE table_schema = 'public'
        UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid), convalidated)
            FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT concat_ws(' ', relname, relkind, relrowsecurity, reloptions, relacl,
            obj_description(oid)) FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT concat_ws(' ', objoid::regclass, objsubid, description)
            FROM pg_description WHERE objoid IN ('user_state'::regclass, 'user_message'::regclass)
        UNION ALL SELECT version_num FROM alembic_version
        UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        ORDER BY text
    """)
    return [row["text"] for row in rows]


async def test_by_sql_or_by_migrate_it_is_the_same(own_server: OwnServer, project: Connection) -> None:
    store = SupabaseStore(Database(own_server.url))
    await store.migrate()
    by_migrate = await schema_of(project)
    assert len(by_migrate) > 30
    await project.execute(
        "DROP TABLE user_file, user_talk, user_state, user_message, user_state_owner, alembic_version"
    )

    for file in sorted(supabase_migrations.FOLDER.glob("*.sql")):
        await project.execute(file.read_text("utf-8"))
    assert await schema_of(project) == by_migrate
    said = await store.migrate()
    assert said == f"nothing to do: the database is at {postgres_schema.REVISION}"
    assert await schema_of(project) == by_migrate


def test_the_sql_is_what_the_migrations_say(tmp_path: Path) -> None:
    """After a change of the migrations: python -m bot.runtime.cloud.supabase_migrations."""
    files = {file.name: file.read_text("utf-8") for file in supabase_migrations.FOLDER.glob("*_state_*.sql")}
    for name in files:
        (tmp_path / name).touch()
    supabase_migrations.write(tmp_path)
    assert {file.name: file.read_text("utf-8") for file in tmp_path.iterdir()} == files


def test_a_server_elsewhere(tmp_path: Path, harness: object) -> None:
    result = run(tmp_path, "doctor")
    assert "DATABASE_URL names no database of Supabase" in result.stdout
