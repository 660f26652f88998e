"""What `bot doctor` looks for at every provider of PostgreSQL: more rights than the bot needs."""

from bot.runtime.engines.postgres.connection import Connection, Database
from bot.runtime.state.store import Finding


async def rights(database: Database) -> Finding:
    """Whether the bot is an administrator there.

    Raises:
        StateUnavailable: the server does not answer.
    """

    async def ask(connection: Connection) -> tuple[str, bool]:
        row = await connection.fetchrow(
            "SELECT current_user AS name, bool_or(rolsuper OR rolcreaterole) AS is_administrator"
            " FROM pg_roles WHERE pg_has_role(current_user, oid, 'MEMBER')"
        )
        return row["name"], row["is_administrator"]

    name, is_administrator = await database.run(ask)
    if is_administrator:
        text = f"the bot is {name} in the database, an administrator: give it a user of its own (DEPLOY.md)"
        return Finding("warning", text)
    return Finding("ok", f"the bot is {name} in the database, and no administrator")
