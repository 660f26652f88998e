"""PostgreSQL at DigitalOcean: on port 25060 the server itself, on 25061 its connection pools (PgBouncer).

Each cluster has an authority of its own. App Platform hands its certificate over as a variable.
"""

from pydantic import Field

from bot.runtime.cloud.postgres_address import PostgresAddress, trust
from bot.runtime.cloud.postgres_doctor import rights
from bot.runtime.config import Environment, load
from bot.runtime.engines.postgres.connection import Database, DatabaseSettings
from bot.runtime.engines.postgres.store import PostgresStore
from bot.runtime.errors import OperatorError
from bot.runtime.state.store import Finding

DOMAINS = (".db.ondigitalocean.com",)
POOL_PORT = 25061

HOW_TO_GET_IT = (
    "set DATABASE_CA_CERT to the cluster's CA certificate, which `doctl databases get-ca CLUSTER` prints, "
    "or name its file in DATABASE_URL (sslrootcert=...)"
)


class DigitaloceanSettings(Environment):
    """The database at DigitalOcean."""

    database_ca_cert: str | None = Field(
        None, description="The cluster's CA certificate: its text (PEM), no file's name."
    )


class DigitaloceanStore(PostgresStore):
    """Keeps records in a PostgreSQL at DigitalOcean."""

    @classmethod
    def database_of(cls, settings: DatabaseSettings) -> Database | None:
        """As `PostgresStore.database_of`, with the server verified."""
        address = PostgresAddress.within(DOMAINS, settings)
        if address is None:
            return settings.database()
        if address.port == POOL_PORT and settings.database_pooler != "transaction":
            raise OperatorError(
                f"DATABASE_URL names a connection pool (port {POOL_PORT}): set DATABASE_POOLER=transaction"
            )
        certificate = load(DigitaloceanSettings).database_ca_cert or ""
        return settings.database(**address.verifying(lambda: trust(certificate, HOW_TO_GET_IT)))

    async def diagnose(self) -> list[Finding]:
        """Look for what could cost records there, or show them to others. See `OperatorStore.diagnose`."""
        settings = load(DatabaseSettings)
        address = PostgresAddress.within(DOMAINS, settings)
        if address is None:
            here = Finding("warning", f"DATABASE_URL names no database of DigitalOcean (NAME{DOMAINS[0]})")
        else:
            here = address.encryption()
        found = [here, *await super().diagnose(), await rights(self.database)]
        if address and address.port != POOL_PORT:
            text = f"this is the server itself: a pool (port {POOL_PORT}) spares the few connections it has"
            found.append(Finding("warning", text))
        return found
