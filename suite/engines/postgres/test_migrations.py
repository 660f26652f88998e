"""The tables: created, taken away, adopted, by many at once; and refused when they are not the code's."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

import bot
from bot.runtime.engines.postgres import schema as postgres_schema
from bot.runtime.engines.postgres.connection import Connection, Database
from bot.runtime.engines.postgres.schema import MIGRATIONS, REVISION
from bot.runtime.engines.postgres.store import PostgresStore
from bot.runtime.errors import StateCorrupt, StateError
from bot.runtime.state.record import Message
from bot.runtime.state.store import Changes
from bot.runtime.state.turn import Turn, mutate
from suite.engines.postgres.harness import server_url

pytestmark = pytest.mark.clause("engine.migrate")

OURS = "state@head"
"""The engine's own migrations. What yours do, beside them, is not for these tests to say."""


@pytest.fixture
def database() -> Database:
    return Database(server_url())


async def describe(connection: Connection, schema: str) -> list[Any]:
    """Columns, constraints and indexes of a schema."""
    columns = await connection.fetch(
        "SELECT table_name, column_name, data_type, is_nullable, column_default"
        " FROM information_schema.columns WHERE table_schema = $1 ORDER BY 1, 2",
        schema,
    )
    indexes = await connection.fetch(
        "SELECT tablename, replace(indexdef, $1, '') FROM pg_indexes WHERE schemaname = $1 ORDER BY 1, 2",
        schema,
    )
    return [tuple(row) for row in (*columns, *indexes)]


def test_the_code_knows_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_revisions(OURS)[0].revision == REVISION


async def test_up_down_and_up_again(database: Database, connection: Connection, empty_schema: str) -> None:
    said = await postgres_schema.migrate(database, empty_schema, OURS)
    assert said == f"migrated the database from nothing to {REVISION}"
    created = await describe(connection, empty_schema)
    said = await postgres_schema.migrate(database, empty_schema, OURS)
    assert said == f"nothing to do: the database is at {REVISION}"

    store = PostgresStore(database, schema=empty_schema)
    await store.connect()
    await store.commit("1", Changes(state={"a": b"1"}, messages=(Message("user", "hi", 1.0),)), expect=0)
    await store.forget("2")
    await store.close()
    await postgres_schema.migrate(database, empty_schema, "state@base")
    rows = await connection.fetch(f"SELECT user_id, state FROM {empty_schema}.user_state")
    assert [tuple(row) for row in rows] == [("1", '{"a": 1}')]
    assert await postgres_schema.applied(connection, empty_schema) is None

    await postgres_schema.migrate(database, empty_schema, OURS)
    assert await describe(connection, empty_schema) == created
    await store.connect()
    record = await store.load("1")
    assert record.state == {"a": 1}
    assert record.history == []
    await store.close()


async def test_messages_of_the_first_layout_are_the_private_conversation(
    database: Database, connection: Connection, empty_schema: str
) -> None:
    await postgres_schema.migrate(database, empty_schema, "state_0001")
    await connection.execute(f"""
        INSERT INTO {empty_schema}.user_state (user_id, state, version, token, first_message, next_message)
            VALUES ('1', '{{"a": 1}}', 1700000000000000, 'abc', 2, 4);
        INSERT INTO {empty_schema}.user_message (user_id, number, role, text, at)
            VALUES ('1', 2, 'user', 'my PIN is 1234', 1.5), ('1', 3, 'assistant', 'noted', 2.5);
    """)
    store = PostgresStore(database, schema=empty_schema)
    with pytest.raises(StateError, match=r"run `bot migrate`$"):
        await store.connect()
    await postgres_schema.migrate(database, empty_schema, OURS)
    await store.connect()
    record = await store.load("1", None)
    assert [message.text for message in record.history] == ["my PIN is 1234", "noted"]
    assert (record.conversations, record.others) == ({}, {})
    assert (await store.load("1", "-100::")).history == []

    async def change(turn: Turn) -> None:
        turn.remember("user", "hello all")

    await mutate(store, "1", change, conversation="-100::")
    await mutate(store, "1", change)
    record = await store.load("1", None)
    assert [message.text for message in record.history] == ["my PIN is 1234", "noted", "hello all"]
    assert [message.text for message in record.others["-100::"]] == ["hello all"]
    await store.close()


async def test_a_bot_that_does_not_know_the_new_columns_goes_on_while_they_are_added(
    database: Database, connection: Connection, empty_schema: str
) -> None:
    """Each of its statements names its columns. It has to wait for the migration, not to start anew."""
    await postgres_schema.migrate(database, empty_schema, "state_0002")
    known = await connection.fetchval(
        "SELECT string_agg(column_name, ', ') FROM information_schema.columns"
        " WHERE table_schema = $1 AND table_name = 'user_state' AND column_name <> 'state'",
        empty_schema,
    )
    write = await connection.prepare(f"""
        INSERT INTO {empty_schema}.user_state AS u (state, {known})
        SELECT '{{"n": 1}}', {known} FROM jsonb_populate_record(NULL::{empty_schema}.user_state, $1)
        ON CONFLICT (user_id) DO UPDATE SET ({known}) = (SELECT {known} FROM (SELECT u.*) AS before),
            state = jsonb_build_object('n', (u.state ->> 'n')::int + 1)
        RETURNING state ->> 'n'
    """)
    row = {"user_id": "1", "created_at": "2026-01-01", "updated_at": "2026-01-01", "version": 1, "token": ""}
    row |= {"fsm": {}, "applied": [], "outbox": {}, "marks": {}, "forgotten": 0, "first_message": 1}
    row |= {"next_message": 1, "conversations": {}}
    assert await write.fetchval(json.dumps(row)) == "1"
    await postgres_schema.migrate(database, empty_schema, OURS)
    assert await write.fetchval(json.dumps(row)) == "2"
    assert await write.fetchval(json.dumps(row | {"user_id": "2"})) == "1"

    store = PostgresStore(database, schema=empty_schema)
    await store.connect()
    assert (await store.due(10**9, 9)).due == []
    now = (await store.due(0, 1)).now
    await store.commit("1", Changes(due=now), expect=None)
    assert await write.fetchval(json.dumps(row)) == "3"
    assert (await store.due(0, 9)).due == [("1", now)]
    await store.close()


async def test_replicas_that_start_at_once_migrate_once(database: Database, empty_schema: str) -> None:
    said = await asyncio.gather(*(postgres_schema.migrate(database, empty_schema) for _ in range(6)))
    assert sorted(line.split()[0] for line in said) == ["migrated"] + ["nothing"] * 5


async def test_a_migration_that_fails_changes_nothing(
    database: Database, connection: Connection, empty_schema: str
) -> None:
    await connection.execute(f"CREATE TABLE {empty_schema}.user_state (something_else int)")
    before = await describe(connection, empty_schema)
    with pytest.raises(StateError, match="changed nothing"):
        await postgres_schema.migrate(database, empty_schema)
    assert await describe(connection, empty_schema) == before


async def test_tables_that_are_not_the_codes_are_refused(
    database: Database, connection: Connection, empty_schema: str
) -> None:
    store = PostgresStore(database, schema=empty_schema)
    with pytest.raises(StateError, match=r"no tables for this bot yet: run `bot migrate`$"):
        await store.connect()
    await postgres_schema.migrate(database, empty_schema, OURS)
    for revision, what in (("state_0000", "behind"), ("state_9999", "ahead of")):
        await connection.execute(f"UPDATE {empty_schema}.alembic_version SET version_num = $1", revision)
        with pytest.raises(
            StateError, match=rf"^the database is {what} this code \({revision}, not {REVISION}\)"
        ):
            await store.connect()
        with pytest.raises(StateError):
            await postgres_schema.migrate(database, empty_schema)


async def test_an_owners_branch_does_not_get_in_the_way(
    database: Database, connection: Connection, empty_schema: str
) -> None:
    await postgres_schema.migrate(database, empty_schema)
    await connection.execute(f"INSERT INTO {empty_schema}.alembic_version VALUES ('ffff')")
    store = PostgresStore(database, schema=empty_schema)
    await store.connect()
    await store.close()


# What the how-to that this engine goes back to creates, and how it writes.
SKETCHED_TABLE = """
    CREATE TABLE user_state (
        user_id TEXT PRIMARY KEY,
        state JSONB NOT NULL,
        created_at TIMESTAMP DEFAULT NOW(),
        updated_at TIMESTAMP DEFAULT NOW()
    );
    CREATE INDEX idx_user_state_updated ON user_state(updated_at);
"""
SKETCHED_WRITE = """
    INSERT INTO user_state (user_id, state, updated_at) VALUES ($1, $2, NOW())
    ON CONFLICT (user_id) DO UPDATE SET state = $2, updated_at = NOW()
"""


async def test_a_table_of_the_sketch_is_adopted(
    database: Database, connection: Connection, empty_schema: str
) -> None:
    await connection.execute(f"SET search_path TO {empty_schema}; SET timezone TO 'UTC'")
    await connection.execute(SKETCHED_TABLE)
    states: dict[str, Any] = {
        "1": {"last_message": "hi", "nested": {"a": [1, 2.5, None, "ü 👋"]}, "": 0},
        "2": {},
        "3": {"big": 2**63, "text": '{"looks": "like JSON"}'},
    }
    for user_id, state in states.items():
        await connection.execute(SKETCHED_WRITE, user_id, json.dumps(state))
    # By a client with a JSON codec, `json.dumps` encodes once more.
    states["4"] = {"encoded": "twice"}
    await connection.execute(SKETCHED_WRITE, "4", json.dumps(json.dumps(states["4"])))
    await connection.execute(SKETCHED_WRITE, "5", '["no", "object"]')
    await connection.execute(SKETCHED_WRITE, "6", '"no object"')
    await connection.execute("UPDATE user_state SET created_at = '2020-02-02 02:02:02' WHERE user_id = '1'")
    await connection.execute("UPDATE user_state SET created_at = NULL WHERE user_id = '2'")

    await postgres_schema.migrate(database, empty_schema)
    store = PostgresStore(database, schema=empty_schema)
    await store.connect()
    for user_id, state in states.items():
        record = await store.load(user_id)
        assert record.state == state
        await store.commit(user_id, Changes(state={"new": b"1"}), expect=record.version)
        assert (await store.load(user_id)).state == state | {"new": 1}
    for user_id, text in (("5", '["no", "object"]'), ("6", '"no object"')):
        with pytest.raises(StateCorrupt):
            await store.load(user_id)
        with pytest.raises(StateCorrupt):
            await store.commit(user_id, Changes(state={"new": b"1"}), expect=None)
        kept = await connection.fetchval("SELECT state::text FROM user_state WHERE user_id = $1", user_id)
        assert kept == text
    assert sorted([user_id async for user_id in store.users()]) == list("123456")
    await store.forget("5")
    assert (await store.load("5")).is_empty
    await store.close()
    created = await connection.fetchval(
        "SELECT created_at = timestamptz '2020-02-02 02:02:02+00' FROM user_state WHERE user_id = '1'"
    )
    assert created is True


async def test_what_is_adopted_is_what_is_created(
    database: Database, connection: Connection, empty_schema: str
) -> None:
    await postgres_schema.migrate(database, empty_schema)
    created = await describe(connection, empty_schema)
    await connection.execute(f"DROP SCHEMA {empty_schema} CASCADE; CREATE SCHEMA {empty_schema}")
    await connection.execute(f"SET search_path TO {empty_schema}")
    await connection.execute(SKETCHED_TABLE)
    await postgres_schema.migrate(database, empty_schema)
    assert await describe(connection, empty_schema) == created


OWNERS = """
from alembic import op

revision = "app_0001"
down_revision = None
branch_labels = ("app",)
depends_on = None


def upgrade() -> None:
    op.execute("CREATE TABLE note (id bigint)")


def downgrade() -> None:
    op.execute("DROP TABLE note")
"""


@pytest.mark.parametrize("files", [None, {}, {"README.md": "none"}], ids=["no folder", "empty", "readme"])
async def test_an_owner_need_not_have_migrations(
    database: Database,
    empty_schema: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str] | None,
) -> None:
    folder = tmp_path / "migrations"
    monkeypatch.setattr(postgres_schema, "OWN_MIGRATIONS", folder)
    if files is not None:
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    said = await postgres_schema.migrate(database, empty_schema)
    assert said == f"migrated the database from nothing to {REVISION}"


async def test_an_owners_migration_runs_with_the_engines(
    database: Database,
    connection: Connection,
    empty_schema: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgres_schema, "OWN_MIGRATIONS", tmp_path)
    await postgres_schema.migrate(database, empty_schema)
    (tmp_path / "app_0001.py").write_text(OWNERS)
    said = await postgres_schema.migrate(database, empty_schema)
    assert said == f"migrated the database from {REVISION} to app_0001, {REVISION}"
    assert await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{empty_schema}.note")

    failing = OWNERS.replace("app_0001", "app_0002").replace("= None\nbranch", '= "app_0001"\nbranch')
    failing = failing.replace('("app",)', "None")
    (tmp_path / "app_0002.py").write_text(failing)
    with pytest.raises(StateError, match=r"changed nothing: .*already exists"):
        await postgres_schema.migrate(database, empty_schema)
    (tmp_path / "app_0002.py").unlink()
    assert (await postgres_schema.migrate(database, empty_schema)).startswith("nothing to do")
    store = PostgresStore(database, schema=empty_schema)
    await store.connect()
    await store.close()


def test_an_owners_migrations_lie_at_the_top_of_the_project() -> None:
    assert Path(bot.__file__).parent.parent / "migrations" == postgres_schema.OWN_MIGRATIONS
