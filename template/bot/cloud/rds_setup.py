"""Makes the bot's user in a new database: `python -m bot.cloud.rds_setup`, as the administrator.

The user signs in by IAM only, and may make tables in this database and its schema. It is made no member of
any role but `rds_iam`, and the administrator no member of it: who is one of `rds_iam`, even by way of another
role, can sign in by token only.
"""

import asyncio

import asyncpg

from bot.cloud.rds import RdsStore
from bot.config import load
from bot.errors import OperatorError
from bot.state.postgres_database import Database, DatabaseSettings

USER = "bot"  # the name in infra/rds.yaml

STATEMENTS = (
    f"CREATE ROLE {USER} LOGIN",
    f"GRANT rds_iam TO {USER}",
    f"DO $$ BEGIN EXECUTE format('GRANT CREATE, CONNECT, TEMPORARY ON DATABASE %I TO {USER}', "
    "current_database()); END $$",
    f"GRANT USAGE, CREATE ON SCHEMA public TO {USER}",
)


async def set_up(database: Database) -> None:
    """Make the user; one that is there stays as it is, but for its rights.

    Raises:
        StateUnavailable: the server refuses us.
    """
    connection = await database.connect()
    try:
        for statement in STATEMENTS:
            try:
                await connection.execute(statement)
            except asyncpg.DuplicateObjectError:
                continue
    finally:
        await connection.close()


if __name__ == "__main__":
    found = RdsStore.database_of(load(DatabaseSettings))
    if found is None:
        raise OperatorError("DATABASE_URL is not set")
    asyncio.run(set_up(found))
