"""The tables of the PostgreSQL engine: which version they have, and how they get the one this code needs.

The folder `migrations` here is an Alembic environment with the engine's own migrations: the branch `state`,
whose ids sort by age. The owner's, in `migrations/` at the top of the project, are a branch of their own. All
run in one transaction, one process at a time. An owner begins with `migrations/app_0001.py`:

    from alembic import op

    revision, down_revision, branch_labels, depends_on = "app_0001", None, ("app",), None

    def upgrade() -> None:
        op.execute("CREATE TABLE note (id bigint PRIMARY KEY, text text NOT NULL)")

In the next one, `down_revision` is "app_0001" and `branch_labels` is `None`.
"""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg

from bot.runtime.engines.postgres.connection import Connection, Database, describe
from bot.runtime.errors import StateError, StateUnavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection as BoundConnection
    from sqlalchemy.ext.asyncio import AsyncConnection

REVISION = "state_0004"
"""The newest migration of the branch `state`, which is what this code works with."""

MIGRATIONS = Path(__file__).parent / "migrations"

OWN_MIGRATIONS = Path(__file__).parents[4] / "migrations"
"""The owner's, at the top of the project; there may be none."""

_LOCK = 0x7374617465  # "state"; any number that nobody else locks


async def applied(connection: Connection, schema: str) -> str | None:
    """The newest of the engine's migrations that the database has had."""
    try:
        revision: str | None = await connection.fetchval(
            f"SELECT max(version_num) FROM \"{schema}\".alembic_version WHERE version_num LIKE 'state\\_%'"
        )
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return None
    return revision


def check(revision: str | None) -> None:
    """Refuse a database that this code cannot work with.

    Raises:
        StateError: the text says what to do.
    """
    if revision is None:
        raise StateError("the database has no tables for this bot yet: run `bot migrate`")
    if revision < REVISION:
        raise StateError(f"the database is behind this code ({revision}, not {REVISION}): run `bot migrate`")
    if revision > REVISION:
        raise StateError(
            f"the database is ahead of this code ({revision}, not {REVISION}): deploy the newer code"
        )


async def migrate(database: Database, schema: str, target: str = "heads", *, lastly: str = "") -> str:
    """Bring the tables to what this code needs.

    Args:
        database: where.
        schema: the schema they are in; it is created when it is not there.
        target: what Alembic calls a revision; `state@base` takes the engine's tables away again and leaves
            `user_state` with users' states.
        lastly: SQL to execute after them, in their transaction; names without a schema are of this one.

    Returns:
        One line that says what was done.

    Raises:
        StateUnavailable: the database does not answer.
        StateError: a migration failed; nothing was changed.
    """
    try:
        async with AsyncExitStack() as in_the_end:
            connection = await database.connect()
            in_the_end.callback(connection.terminate)
            async with connection.transaction():
                # Replicas that start at once migrate one after another. Lock and settings end with the
                # transaction, so they hold behind a pooler too.
                await connection.execute("SET LOCAL statement_timeout = 0")
                await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
                if not await connection.fetchval("SELECT to_regnamespace($1) IS NOT NULL", f'"{schema}"'):
                    await connection.execute(f'CREATE SCHEMA "{schema}"')
                before = await _revisions(connection, schema)
                bind = await _bind(connection)
                in_the_end.push_async_callback(bind.close)
                async with bind.begin():
                    await bind.run_sync(_run_alembic, schema, target)
                if lastly:
                    await connection.execute(lastly)
                after = await _revisions(connection, schema)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StateUnavailable(describe(error)) from None
    if before == after:
        return f"nothing to do: the database is at {', '.join(after) or 'nothing'}"
    return f"migrated the database from {', '.join(before) or 'nothing'} to {', '.join(after) or 'nothing'}"


async def _revisions(connection: Connection, schema: str) -> list[str]:
    """The heads of all branches that the database has had."""
    if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f'"{schema}".alembic_version'):
        return []
    rows = await connection.fetch(f'SELECT version_num FROM "{schema}".alembic_version ORDER BY 1')
    return [row["version_num"] for row in rows]


async def _bind(connection: Connection) -> "AsyncConnection":
    """SQLAlchemy's view of a connection that is in a transaction: what it begins is a savepoint of that."""
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    async def the_connection() -> Connection:
        return connection

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=the_connection,
        poolclass=NullPool,
        # Behind a pooler, names that count up would meet those of others.
        connect_args={"prepared_statement_name_func": lambda: f"migrate_{uuid4().hex}"},
    )
    return await engine.connect()


def _run_alembic(bind: "BoundConnection", schema: str, target: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    config = Config()
    config.set_main_option("script_location", *_quoted(MIGRATIONS))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(_quoted(MIGRATIONS / "versions", OWN_MIGRATIONS)))
    config.attributes.update(connection=bind, schema=schema)
    try:
        if target.endswith("base"):
            command.downgrade(config, target)
        else:
            command.upgrade(config, target)
    except CommandError as error:
        raise StateError(f"check the files in migrations/, Alembic says: {error}") from error
    except DBAPIError as error:
        raise StateError(
            f"a migration failed and changed nothing: {error.orig}; fix it and run `bot migrate` again"
        ) from error


def _quoted(*paths: Path) -> list[str]:
    """The paths as values of Alembic's configuration."""
    return [str(path).replace("%", "%%") for path in paths]
