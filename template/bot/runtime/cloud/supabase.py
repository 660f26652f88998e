"""PostgreSQL at Supabase, whose Data API shows tables of `public` to whoever has the project's public key.

So the bot's tables are closed to it: row-level security is on, without policies, and the API's roles hold no
grants. The bot owns the tables, and an owner is not subject to it.

There are three ways to the database: `db.REF.supabase.co:5432` itself, by IPv6; a pooler in session mode on
port 5432 of `NAME.pooler.supabase.com`; and one in transaction mode on its port 6543.
"""

from pathlib import Path
from typing import ClassVar, Literal

from bot.runtime.cloud.postgres_address import PostgresAddress, trust_file
from bot.runtime.cloud.postgres_doctor import rights
from bot.runtime.config import load
from bot.runtime.engines.postgres.connection import Connection, Database, DatabaseSettings
from bot.runtime.engines.postgres.store import PostgresStore
from bot.runtime.errors import OperatorError, StateError
from bot.runtime.state.store import Finding

DOMAINS = (".supabase.co", ".supabase.com")
DIRECT = ".supabase.co"
TRANSACTION_PORT = 6543

AUTHORITY = Path(__file__).with_name("supabase.pem")
HOW_TO_GET_IT = (
    f"get the certificate from Supabase's dashboard (Database, Settings, SSL Configuration) into {AUTHORITY}"
)

TABLES = ("alembic_version", "user_state", "user_message", "user_talk", "user_file", "user_state_owner")

CLOSE = """
DO $$
DECLARE
    of_ours text;
    api_role text;
BEGIN
    FOREACH of_ours IN ARRAY 'TABLES'::text[] LOOP
        IF to_regclass(of_ours) IS NULL THEN
            CONTINUE;
        END IF;
        IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass(of_ours)) THEN
            EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', of_ours);
        END IF;
        EXECUTE format('REVOKE ALL ON TABLE %I FROM PUBLIC', of_ours);
        FOR api_role IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
            EXECUTE format('REVOKE ALL ON TABLE %I FROM %I', of_ours, api_role);
        END LOOP;
    END LOOP;
END $$
""".strip().replace("TABLES", f"{{{','.join(TABLES)}}}")
"""Closes the bot's tables in the first schema of the search path; does nothing to those that are closed."""

FREE_BYTES = 500_000_000
"""Size at which a free project becomes read-only. https://supabase.com/docs/guides/platform/database-size"""

OPEN_TABLES = """
    SELECT c.relname AS name,
        c.relkind IN ('r', 'p') AND NOT c.relrowsecurity AS is_without_security,
        (SELECT string_agg(rolname, ', ' ORDER BY rolname) FROM pg_roles
            WHERE rolname IN ('anon', 'authenticated')
            AND has_table_privilege(oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')) AS granted_to
    FROM pg_class AS c
    WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    ORDER BY c.relname
"""


class SupabaseStore(PostgresStore):
    """Keeps records in a PostgreSQL at Supabase."""

    after_migrations: ClassVar[str] = CLOSE

    @classmethod
    def database_of(cls, settings: DatabaseSettings) -> Database | None:
        """As `PostgresStore.database_of`, with the server verified."""
        address = PostgresAddress.within(DOMAINS, settings)
        if address is None:
            return settings.database()
        if address.port == TRANSACTION_PORT and settings.database_pooler != "transaction":
            raise OperatorError(
                "DATABASE_URL names Supabase's pooler in transaction mode (port 6543): "
                "set DATABASE_POOLER=transaction, or take the session pooler (port 5432)"
            )
        return settings.database(**address.verifying(lambda: trust_file(AUTHORITY, HOW_TO_GET_IT)))

    async def open_database(self) -> Database:
        """As `PostgresStore.open_database`; tables whose rows are hidden are not taken for empty ones."""
        database = await super().open_database()
        table = f"{self._schema}.{TABLES[0]}"

        async def ask(connection: Connection) -> bool | None:
            query = "SELECT row_security_active(to_regclass($1))"
            is_hidden: bool | None = await connection.fetchval(query, table)
            return is_hidden

        if await database.run(ask):
            raise StateError("row-level security hides every row from the bot: it has to own the tables")
        return database

    async def diagnose(self) -> list[Finding]:
        """Look for what could cost records there, or show them to others. See `OperatorStore.diagnose`."""
        settings = load(DatabaseSettings)
        address = PostgresAddress.within(DOMAINS, settings)
        if address is None:
            here = Finding("warning", "DATABASE_URL names no database of Supabase (NAME.supabase.com)")
        else:
            here = address.encryption()
        found = [here, *await super().diagnose(), await rights(self.database)]
        if address and address.host.endswith(DIRECT) and address.port != TRANSACTION_PORT:
            text = f"{address.host} has IPv6 only, unless IPv4 was added; the session pooler has IPv4"
            found.append(Finding("warning", text))
        if address and address.port != TRANSACTION_PORT and settings.database_pooler:
            text = "DATABASE_POOLER=transaction costs a second round trip, and port 5432 does not need it"
            found.append(Finding("warning", text))
        return [*found, *await self._session(), await self._size(), *await self._closed_to_others()]

    async def _session(self) -> list[Finding]:
        """What of the session is not as the bot asks: the session pooler keeps that to itself."""
        wanted = self.database.session_settings

        async def look(connection: Connection) -> list[Finding]:
            found = []
            query = "SELECT name, setting, quote_ident(current_user) FROM pg_settings WHERE name = ANY($1)"
            for name, actual, role in await connection.fetch(query, list(wanted)):
                if actual != wanted[name]:
                    remedy = f"ALTER ROLE {role} SET {name} = '{wanted[name]}'"
                    found.append(
                        Finding("warning", f"the pooler drops {name}, which is {actual} now: {remedy}")
                    )
            return found

        return await self.database.run(look)

    async def _size(self) -> Finding:
        async def ask(connection: Connection) -> int:
            size: int = await connection.fetchval("SELECT pg_database_size(current_database())")
            return size

        size = await self.database.run(ask)
        text = (
            f"the database has {size / 1e6:.0f} MB; a free project is read-only beyond {FREE_BYTES / 1e6:.0f}"
        )
        return Finding("warning" if 0.8 * FREE_BYTES < size < FREE_BYTES else "ok", text)

    async def _closed_to_others(self) -> list[Finding]:
        async def look(connection: Connection) -> list[Finding]:
            found = []
            for row in await connection.fetch(OPEN_TABLES, self._schema):
                name, is_ours = row["name"], row["name"] in TABLES
                level: Literal["error", "warning"] = "error" if is_ours else "warning"
                remedy = "run `bot migrate`" if is_ours else "the API may show it to everybody"
                if row["is_without_security"]:
                    found.append(Finding(level, f"table {name} has no row-level security: {remedy}"))
                if row["granted_to"]:
                    found.append(Finding(level, f"{name} is granted to {row['granted_to']}: {remedy}"))
            return found

        found = await self.database.run(look)
        return found or [Finding("ok", "tables are closed to Supabase's API (row-level security, no grants)")]
