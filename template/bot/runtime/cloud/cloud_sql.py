"""PostgreSQL at Google Cloud SQL, through Google's connector and without a password.

With `INSTANCE_CONNECTION_NAME` set, each connection goes to the proxy beside the instance, by TLS 1.3 with a
certificate that Google's Admin API signs for the bot's own service account. It lasts an hour and is renewed
when a connection needs it, not in the background: Cloud Run may give no processor time to a service that
nobody calls.
"""

import asyncio
from typing import Any
from urllib.parse import quote

import aiohttp
import asyncpg
import google.auth
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud.sql.connector import Connector, IPTypes, RefreshStrategy, create_async_connector
from google.cloud.sql.connector.exceptions import CloudSQLIPTypeError
from pydantic import Field

from bot.runtime.cloud.postgres_doctor import rights
from bot.runtime.config import Environment, load
from bot.runtime.engines.postgres.connection import PASSING, Connection, Database, DatabaseSettings
from bot.runtime.engines.postgres.store import PostgresStore
from bot.runtime.errors import OperatorError, StateUnavailable
from bot.runtime.state.store import Finding

SCOPES = ["https://www.googleapis.com/auth/sqlservice.admin"]  # what the connector itself asks for


class CloudSqlSettings(Environment):
    """The instance at Cloud SQL. The settings have the names of Google's own samples."""

    instance_connection_name: str | None = Field(
        None, pattern=r"^([\w.-]+:)?[\w-]+:[\w-]+:[\w-]+$", description="PROJECT:REGION:INSTANCE"
    )
    db_iam_user: str | None = Field(
        None, description="The bot's service account: NAME@PROJECT.iam, as the database calls it."
    )
    db_name: str = Field("bot", description="The database.")
    private_ip: bool = Field(False, description="Whether to go to the instance's private address.")


class CloudSqlStore(PostgresStore):
    """Keeps records in a PostgreSQL at Cloud SQL."""

    @classmethod
    def database_of(cls, settings: DatabaseSettings) -> Database | None:
        """As `PostgresStore.database_of`, through the connector when an instance is named."""
        own = load(CloudSqlSettings)
        if own.instance_connection_name is None:
            return settings.database()
        if settings.database_url:
            raise OperatorError("DATABASE_URL and INSTANCE_CONNECTION_NAME name two databases: unset one")
        if own.db_iam_user is None:
            raise OperatorError("DB_IAM_USER is not set: it is the bot's service account, NAME@PROJECT.iam")
        return CloudSqlDatabase(own.instance_connection_name, own.db_iam_user, own, settings)

    async def diagnose(self) -> list[Finding]:
        """Look for what could cost records there, or show them to others. See `OperatorStore.diagnose`."""
        if load(CloudSqlSettings).instance_connection_name is None:
            text = "INSTANCE_CONNECTION_NAME is not set: the connector and IAM are not used"
            here = Finding("warning", text)
        else:
            here = Finding("ok", "the connector encrypts, verifies the server and signs in by IAM")
        return [here, *await super().diagnose(), await rights(self.database)]


class CloudSqlDatabase(Database):
    """An instance, reached through the connector."""

    def __init__(self, instance: str, user: str, own: CloudSqlSettings, settings: DatabaseSettings) -> None:
        """Describe the way; nothing is opened yet."""
        super().__init__(
            f"postgresql://{quote(user, safe='')}@{instance}/{own.db_name}",
            pool_size=settings.database_pool_size,
            timeout=settings.database_timeout,
            pooler=settings.database_pooler,
            connect=self._through_connector,
        )
        self._instance = instance
        self._login = {"user": user, "db": own.db_name}
        self._ip_type = IPTypes.PRIVATE if own.private_ip else IPTypes.PUBLIC
        self._connector: Connector | None = None
        self._making = asyncio.Lock()

    async def close(self) -> None:
        """Close every connection, and the connector."""
        await super().close()
        connector, self._connector = self._connector, None
        if connector:
            await connector.close_async()

    async def _through_connector(self, dsn: str, **options: Any) -> Connection:
        """What asyncpg's pool calls for each connection; the address is in the settings, not in `dsn`."""
        try:
            connector = await self._make_connector()
            return await connector.connect_async(
                self._instance, "asyncpg", ip_type=self._ip_type, **self._login, **options
            )
        except GoogleAuthError as error:
            raise _of_google(error) from None
        except (asyncpg.PostgresError, *PASSING, ValueError):
            raise
        except Exception as error:
            raise _of_google(error) from None

    async def _make_connector(self) -> Connector:
        async with self._making:
            if self._connector is None:
                # In a thread: outside of Google it looks for a metadata server for seconds.
                credentials, _ = await asyncio.to_thread(google.auth.default, scopes=SCOPES)
                self._connector = await create_async_connector(
                    credentials=credentials,
                    enable_iam_auth=True,
                    refresh_strategy=RefreshStrategy.LAZY,
                )
            return self._connector


def _of_google(error: Exception) -> Exception:
    """What an error before the database means to it. The connector's own have no base in common."""
    match error:
        case GoogleAuthError() if not (error.retryable or isinstance(error, TransportError)):
            text = f"Google's credentials cannot be used ({type(error).__name__})"
            return StateUnavailable(f"{text}: run `gcloud auth application-default login`")
        case aiohttp.ClientResponseError() if error.status < 500 and error.status != 429:
            text = f"Cloud SQL's Admin API refuses ({error.status} {error.message})"
            return StateUnavailable(f"{text}: see the roles in DEPLOY.md")
        case CloudSQLIPTypeError():
            kind, value = ("private", "true") if load(CloudSqlSettings).private_ip else ("public", "false")
            return StateUnavailable(f"the instance has no {kind} address: PRIVATE_IP is {value}")
        case _:
            return ConnectionError(0, f"Google's side: {type(error).__name__}")  # which may pass
