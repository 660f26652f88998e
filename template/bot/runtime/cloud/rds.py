"""PostgreSQL at Amazon RDS: no password, but for each connection a token that the bot's AWS credentials sign.

That is so when neither `DATABASE_URL` nor `PGPASSWORD` has a password. A token is good for 15 minutes, to
open a connection, which then stays. After a failover of a Multi-AZ instance its name leads to another
machine: each new connection looks it up again, and those to what has become a standby are given up.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from bot.runtime.cloud.aws_token import AwsSigner
from bot.runtime.cloud.postgres_address import PostgresAddress, trust_file
from bot.runtime.cloud.postgres_doctor import rights
from bot.runtime.config import load
from bot.runtime.engines.postgres.connection import Connection, Database, DatabaseSettings
from bot.runtime.engines.postgres.store import PostgresStore
from bot.runtime.errors import OperatorError
from bot.runtime.state.store import Finding

# NAME.ID.REGION.rds.amazonaws.com, in China NAME.ID.rds.REGION.amazonaws.com.cn or like the others
DOMAINS = (".amazonaws.com", ".amazonaws.com.cn")
REGION = re.compile(r"\.([a-z0-9-]+)\.rds\.amazonaws\.com(?:\.cn)?$|\.rds\.([a-z0-9-]+)\.amazonaws\.com\.cn$")

AUTHORITIES = Path(__file__).with_name("rds.pem")
HOW_TO_GET_THEM = (
    f"curl --fail --output {AUTHORITIES} https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"
)


class RdsStore(PostgresStore):
    """Keeps records in a PostgreSQL at Amazon RDS."""

    @classmethod
    def database_of(cls, settings: DatabaseSettings) -> Database | None:
        """As `PostgresStore.database_of`, with the server verified and tokens for passwords."""
        address = PostgresAddress.within(DOMAINS, settings)
        if address is None:
            return settings.database()
        options = address.verifying(lambda: trust_file(AUTHORITIES, HOW_TO_GET_THEM))
        if _is_by_token(address, settings):
            if "ssl" not in options:
                raise OperatorError(
                    "DATABASE_URL has no password, and tokens go to verified servers only: leave sslmode out"
                )
            options["password"] = tokens(address)
        return settings.database(**options)

    async def diagnose(self) -> list[Finding]:
        """Look for what could cost records there, or show them to others. See `OperatorStore.diagnose`."""
        settings = load(DatabaseSettings)
        address = PostgresAddress.within(DOMAINS, settings)
        if address is None:
            text = "DATABASE_URL names no database of Amazon RDS (NAME.ID.REGION.rds.amazonaws.com)"
            here = [Finding("warning", text)]
        elif _is_by_token(address, settings):
            here = [address.encryption(), Finding("ok", "each connection has a token of its own (IAM)")]
        else:
            text = "the bot has a password, which nobody renews: grant it rds_iam, and leave the password out"
            here = [address.encryption(), Finding("warning", text)]
        mine = [await rights(self.database), *await self._insists_on_encryption()]
        return [*here, *await super().diagnose(), *mine]

    async def _insists_on_encryption(self) -> list[Finding]:
        async def ask(connection: Connection) -> str | None:
            value: str | None = await connection.fetchval("SELECT current_setting('rds.force_ssl', true)")
            return value

        if await self.database.run(ask) in ("0", "off"):
            text = "rds.force_ssl is off: the server also takes connections that are not encrypted"
            return [Finding("warning", text)]
        return []


def tokens(address: PostgresAddress) -> Callable[[], Awaitable[str]]:
    """What asyncpg asks for the password of each connection.

    Raises:
        OperatorError: the address names no user, or a server whose region it does not say.
        StateUnavailable: later, when it is asked: there are no credentials.
    """
    found = REGION.search(address.host)
    if found is None:
        raise OperatorError(
            f"DATABASE_URL has no password, and {address.host} is no instance at RDS: put one in, or name one"
        )
    if not address.user:
        raise OperatorError("DATABASE_URL has neither user nor password: name the user who signs in by IAM")
    signer = AwsSigner("rds-db", found[1] or found[2])

    async def token() -> str:
        place = f"{address.host}:{address.port}"
        return await asyncio.to_thread(signer.token, place, Action="connect", DBUser=address.user)

    return token


def _is_by_token(address: PostgresAddress, settings: DatabaseSettings) -> bool:
    return not address.has_password and settings.pgpassword is None
