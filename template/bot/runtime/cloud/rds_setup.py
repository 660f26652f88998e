"""Makes the bot's user in a new database: `python -m bot.runtime.cloud.rds_setup`, as the administrator.

The user signs in by IAM only, and may make tables in this database and its schema. It is made no member of
any role but `rds_iam`, and the administrator no member of it: who is one of `rds_iam`, even by way of another
role, can sign in by token only. Since PostgreSQL 16 whoever makes a role without being a superuser becomes
one of it, and cannot leave; so a role does that which is gone afterwards.
"""

import asyncio

from bot.runtime.cloud.rds import RdsStore
from bot.runtime.config import load
from bot.runtime.engines.postgres.connection import Database, DatabaseSettings
from bot.runtime.errors import OperatorError

USER = "bot"  # the name in infra/rds.yaml

MAKE = f"""
CREATE ROLE {USER}_maker CREATEROLE;
GRANT {USER}_maker TO CURRENT_USER;
SET LOCAL ROLE {USER}_maker;
CREATE ROLE {USER} LOGIN;
RESET ROLE;
DROP ROLE {USER}_maker;
"""

GRANT = f"""
GRANT rds_iam TO {USER};
GRANT USAGE, CREATE ON SCHEMA public TO {USER};
DO $$ BEGIN
    EXECUTE format('GRANT CREATE, CONNECT, TEMPORARY ON DATABASE %I TO {USER}', current_database());
END $$;
"""


async def set_up(database: Database) -> None:
    """Make the user; one that is there stays as it is, but for its rights.

    Raises:
        StateUnavailable: the server refuses us.
    """
    connection = await database.connect()
    try:
        async with connection.transaction():
            if not await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", USER):
                await connection.execute(MAKE)
            await connection.execute(GRANT)
    finally:
        await connection.close()


if __name__ == "__main__":
    found = RdsStore.database_of(load(DatabaseSettings))
    if found is None:
        raise OperatorError("DATABASE_URL is not set: put that of the master user into the environment")
    asyncio.run(set_up(found))
