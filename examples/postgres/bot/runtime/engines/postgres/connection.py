"""A PostgreSQL database: its settings, and a pool of connections that recovers by itself."""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qs, urlsplit

import asyncpg
from pydantic import Field, SecretStr, field_validator, model_validator

from bot.runtime.config import KEEPS_APART, Environment, Seconds
from bot.runtime.errors import StateUnavailable
from bot.runtime.logs import Outage
from bot.runtime.state.store import Finding

T = TypeVar("T")
Connection = Any  # asyncpg brings no types

START_SECONDS = 30.0
"""How long to wait at start for a server that is away, or refuses for now: a crash recovery takes seconds."""

CLOCK_TOLERANCE = 2.0
"""Seconds by which the clocks of bot and server may differ before `bot doctor` mentions it."""

RISKY_WHEN_OFF = {
    "fsync": "the whole database can be lost",
    "full_page_writes": "the whole database can be lost",
    "synchronous_commit": "the commits of the last moment are lost",
}

FIRST_DELAY, LONGEST_DELAY = 0.02, 1.0

PASSING = (
    OSError,  # refused, reset, timed out
    asyncpg.InterfaceError,  # the connection broke under us, or was closed
    asyncpg.InternalClientError,  # among them: the server is a standby
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,  # too many connections
    asyncpg.OperatorInterventionError,  # shutting down, starting up, crashed
    asyncpg.TransactionRollbackError,  # deadlock, serialization failure
    asyncpg.ReadOnlySQLTransactionError,  # a primary that has become a standby
)
"""Errors that may pass: worth a retry, unless they are `FINAL`, too."""

FINAL = (
    ValueError,  # options and arguments that cannot be, certificates that do not fit
    asyncpg.ProtocolViolationError,  # a pooler that refuses settings or passwords
)

POOLER_IS_BUSY = re.compile(
    r"no more connections|max client|query_wait_timeout|login has been failing|conn crashed", re.I
)
"""What PgBouncer and Supavisor say, with codes that mean other things besides, when trying again may help."""


KNOWN_OPTIONS = {
    *("host", "port", "user", "password", "passfile", "dbname", "database", "service", "servicefile"),
    *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "ssl_min_protocol_version"),
    *("ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib"),
    *("application_name", "options"),
}
"""What may stand after the `?` of an address: the driver's own, and two that it hands to the server."""

TUNING_OPTIONS = {
    *("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    *("tcp_user_timeout", "channel_binding", "gssencmode", "client_encoding", "fallback_application_name"),
    *("sslnegotiation", "sslcompression", "sslsni", "load_balance_hosts", "connection_limit", "pool_timeout"),
    *("socket_timeout", "max_idle_connection_lifetime", "statement_cache_size", "prepared_statements"),
    *("uselibpqcompat", "supa"),
}
"""Options of other drivers, in addresses that providers hand out: the bot does these in its own way."""

SSL_MODES = {"true": "require", "1": "require", "no-verify": "require", "false": "disable", "0": "disable"}
"""What other drivers call `sslmode`."""


def _understood(address: str) -> str:
    """An address of PostgreSQL, whoever wrote it, as the driver takes it.

    Raises:
        ValueError: it is none, or has an option that means something here; the text names it.
    """
    scheme, separator, rest = address.strip().partition("://")
    if not re.fullmatch(r"postgres(ql)?(\+\w+)?", scheme) or not separator:
        raise ValueError("must be an address like postgresql://user:password@host:5432/database")
    try:
        parts = urlsplit(f"postgresql://{rest}")
    except ValueError:
        raise ValueError("is not an address; special characters of a password are written %XX") from None
    if "#" in rest or "@" in parts.path or "@" in parts.query.partition("=")[0]:
        raise ValueError("has special characters in its password: write them %XX (# is %23, / is %2F)")
    for host in parts.netloc.rpartition("@")[2].split(","):
        port = host.rpartition("]")[2].partition(":")[2]
        if port and not (port.isdecimal() and 0 < int(port) < 65_536):
            raise ValueError("has a port that is none: it is a number up to 65535")
    options = []
    for option in filter(None, parts.query.split("&")):
        name, _, value = option.partition("=")
        if name in ("ssl", "sslmode"):
            options.append(f"sslmode={SSL_MODES.get(value.lower(), value)}")
        elif name in KNOWN_OPTIONS:
            options.append(option)
        elif name == "schema" and value != "public":
            raise ValueError("has the option schema: leave it out, and set DATABASE_SCHEMA")
        elif name not in TUNING_OPTIONS | {"schema", "pgbouncer"}:
            raise ValueError(f"has the option {name[:40]!r}, which is not known here: leave it out")
    return parts._replace(query="&".join(options)).geturl()


class DatabaseSettings(Environment):
    """The PostgreSQL database."""

    database_url: SecretStr | None = Field(
        None, description="PostgreSQL. Unset: a server of its own in .data/, for development."
    )
    pgpassword: SecretStr | None = Field(
        None, description="libpq's own, used by the driver where the URL has none; known here for the logs."
    )
    database_schema: str = Field(
        "public",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="Schema the tables are in; keeps several bots apart in one database.",
        json_schema_extra=KEEPS_APART,
    )
    database_pool_size: int = Field(10, ge=1, le=1_000, description="Most connections of this process.")
    database_timeout: Seconds = Field(10, description="Seconds a load or commit may take, retries included.")
    database_pooler: Literal["transaction"] | None = Field(
        None, description="`transaction` behind a pooler in transaction mode, such as PgBouncer."
    )

    @field_validator("database_url")
    @classmethod
    def _url_is_postgres(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(_understood(value.get_secret_value()))

    @model_validator(mode="before")
    @classmethod
    def _url_may_tell_of_a_pooler(cls, values: dict[str, Any]) -> dict[str, Any]:
        options = str(values.get("database_url") or "").partition("?")[2].split("&")
        return {"database_pooler": "transaction"} | values if "pgbouncer=true" in options else values

    def database(self, **options: Any) -> "Database | None":
        """The database described, with more of `Database`'s options; `None` when there is no URL."""
        if self.database_url is None:
            return None
        return Database(
            self.database_url.get_secret_value(),
            pool_size=self.database_pool_size,
            timeout=self.database_timeout,
            pooler=self.database_pooler,
            **options,
        )


class Database:
    """Runs work on connections of a pool, again when the server was away for a moment.

    Attributes:
        pool_size: most connections.
        session_settings: what each connection asks the server for, in its own units; none behind a pooler.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        timeout: float = 10,
        pooler: str | None = None,
        connect: Callable[..., Awaitable[Connection]] = asyncpg.connect,
        **options: Any,
    ) -> None:
        """Describe a database; nothing is opened yet.

        Args:
            url: a `postgresql://` address.
            pool_size: most connections.
            timeout: seconds a piece of work may take, retries included.
            pooler: `transaction` when the server is a pooler that gives each transaction another connection.
            connect: opens each connection; takes the URL and what else `asyncpg.connect` does.
            options: handed to it, such as `ssl`, or as `password` a function that is asked each time.
        """
        self.pool_size = pool_size
        self._url = url
        self._timeout = timeout
        self._pooler = pooler
        self._connect = connect
        # Behind a pooler nothing may depend on the session: no settings, and no statements with names. Those
        # without are sent once to learn their types and again to be executed, which takes two round trips.
        session: dict[str, Any] = {"statement_cache_size": 0}
        self.session_settings: dict[str, str] = {}
        if pooler != "transaction":
            milliseconds = str(int(timeout * 1000))
            self.session_settings = {
                "statement_timeout": milliseconds,
                "idle_in_transaction_session_timeout": milliseconds,
                # Each statement goes to one user by a key. On tables that have grown since their last
                # vacuum the server would plan each execution anew, which takes longer than to execute it.
                "plan_cache_mode": "force_generic_plan",
            }
            session = {"server_settings": {"application_name": "bot", **self.session_settings}}
        self._options = {"dsn": url, "timeout": timeout, **session, **options}
        if "target_session_attrs" not in url:
            self._options["target_session_attrs"] = "read-write"
        self._pool: Any = None

    @property
    def address(self) -> str:
        """Where it is, without user and password."""
        parts = urlsplit(self._url)
        host = parts.netloc.rpartition("@")[2] or parse_qs(parts.query).get("host", ["localhost"])[0]
        return host + parts.path

    @property
    def is_open(self) -> bool:
        """Whether there is a pool."""
        return self._pool is not None

    async def open(self) -> None:
        """Open the pool and wait for the server.

        Raises:
            StateUnavailable: it did not answer in `START_SECONDS`, or refuses us.
        """
        try:
            self._pool = await asyncpg.create_pool(
                min_size=0,
                max_size=self.pool_size,
                reset=_keep,
                connect=self._connect_to_write,
                **self._options,
            )
            await self.wait(_ask)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close every connection; those that work go on for at most a second."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            await asyncio.wait_for(pool.close(), timeout=1)
        except (TimeoutError, *PASSING):
            pool.terminate()

    async def connect(self) -> Connection:
        """Open a connection outside the pool.

        Raises:
            StateUnavailable: the server refuses us.
        """
        try:
            return await self._connect_to_write(**self._options)
        except (asyncpg.PostgresError, *PASSING, ValueError) as error:
            raise StateUnavailable(describe(error)) from None

    async def wait(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do `work` as `run` does, for as long as a bot that starts waits for its server.

        Raises:
            StateUnavailable: as `run`.
        """
        outage = Outage("waiting for PostgreSQL", "PostgreSQL answers")

        def tell(reason: str) -> None:
            outage.goes_on(address=self.address, reason=reason)

        result = await self.run(work, seconds=START_SECONDS, before_retry=tell)
        outage.ends()
        return result

    async def run(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        user_id: str | None = None,
        seconds: float | None = None,
        before_retry: Callable[[str], None] = lambda reason: None,
    ) -> T:
        """Do `work` on a connection.

        Args:
            work: is done again when it failed for a reason that may pass.
            user_id: whose record it is about, for errors.
            seconds: for how long to try, instead of the time-out.
            before_retry: told why it has to be done again.

        Raises:
            StateUnavailable: it cannot be done, or not in time.
        """
        if self._pool is None:
            raise StateUnavailable("the store is not connected", user_id)
        clock = asyncio.get_running_loop().time
        deadline = clock() + (seconds or self._timeout)
        reason = "no connection became free"
        for delay in delays():
            try:
                async with asyncio.timeout_at(min(deadline, clock() + self._timeout)):
                    return await self._attempt(work)
            except TimeoutError:
                if deadline - clock() < delay:
                    raise StateUnavailable(f"no answer in time ({reason})", user_id) from None
                before_retry("no answer in time")
            except (asyncpg.PostgresError, *PASSING, ValueError) as error:
                reason = describe(error)
                is_final = isinstance(error, FINAL) or not isinstance(error, PASSING)
                if (is_final and not POOLER_IS_BUSY.search(str(error))) or deadline - clock() < delay:
                    raise StateUnavailable(reason, user_id) from None
                before_retry(reason)
                if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                    await self._pool.expire_connections()
            await asyncio.sleep(delay)
        raise AssertionError("delays have no end")

    async def diagnose(self) -> list[Finding]:
        """Look for what could cost records or keep the bot from running.

        Raises:
            StateUnavailable: the server does not answer.
        """
        row = await self.run(_look)
        findings = [Finding("ok", f"PostgreSQL {row['server_version']} at {self.address}")]
        if row["is_standby"]:
            findings.append(
                Finding("error", "the server is a standby, which takes no writes: name its primary")
            )
        for setting, loss in RISKY_WHEN_OFF.items():
            if row[setting] == "off":
                findings.append(Finding("warning", f"{setting} is off: if the server crashes, {loss}"))
        if self._pooler is None and row["free"] < self.pool_size:
            text = f"the server has {row['free']} connections left, DATABASE_POOL_SIZE is {self.pool_size}"
            findings.append(Finding("warning", text))
        ahead = row["now"] - time.time()
        if abs(ahead) > CLOCK_TOLERANCE:
            findings.append(Finding("warning", f"the server's clock differs from this one by {ahead:+.0f} s"))
        return findings

    async def _connect_to_write(self, *arguments: Any, **options: Any) -> Connection:
        """As `connect`; but a server that takes no writes is asked why."""
        try:
            return await self._connect(*arguments, **options)
        except asyncpg.TargetServerAttributeNotMatched:
            connection = await self._connect(*arguments, **options | {"target_session_attrs": "any"})
            try:
                is_standby = await connection.fetchval("SELECT pg_is_in_recovery()")
            finally:
                connection.terminate()
            if is_standby:
                raise
            raise _IsReadOnly from None

    async def _attempt(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        pool = self._pool
        if pool is None:  # closed since the attempt before
            raise StateUnavailable("the store is not connected")
        async with pool.acquire() as connection:
            try:
                return await work(connection)
            except (asyncio.CancelledError, TimeoutError):
                # A server that hangs would not answer a request to cancel either. And if it went without a
                # word, as in a failover, no other connection is of use: each is opened anew when needed.
                connection.terminate()
                await pool.expire_connections()
                raise


class _IsReadOnly(ConnectionError):
    """The server is the one to write to, and was told to take no writes."""


def describe(error: BaseException) -> str:
    """Why PostgreSQL did not do it, in words that quote neither records nor passwords."""
    if isinstance(error, _IsReadOnly):
        return "PostgreSQL is read-only, and no standby: has it reached the size that its plan allows?"
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "PostgreSQL is a standby, which cannot be written to"
    if isinstance(error, asyncpg.ProtocolViolationError) and "startup parameter" in error.args[0]:
        return f"PostgreSQL: {error.args[0]} (is it a pooler? set DATABASE_POOLER=transaction)"
    if isinstance(error, asyncpg.PostgresError):
        is_about_the_connection = isinstance(error, PASSING) or getattr(error, "severity", "") == "FATAL"
        return f"PostgreSQL: {error.args[0] if is_about_the_connection else type(error).__name__}"
    if isinstance(error, TimeoutError):
        return "PostgreSQL does not answer"
    if isinstance(error, OSError):
        return f"cannot reach PostgreSQL ({error.strerror or type(error).__name__})"
    if isinstance(error, asyncpg.ClientConfigurationError):
        return "DATABASE_URL cannot be used: see its options"
    return f"the connection to PostgreSQL broke ({type(error).__name__})"


def delays() -> Iterator[float]:
    """Seconds to wait before each further attempt, without end."""
    delay = FIRST_DELAY
    while True:
        yield delay * random.uniform(0.5, 1)
        delay = min(2 * delay, LONGEST_DELAY)


async def _keep(connection: Connection) -> None:
    """Return a connection without a reset, which would cost a round trip: nothing changes sessions."""


async def _ask(connection: Connection) -> None:
    await connection.fetchval("SELECT 1")


async def _look(connection: Connection) -> Any:
    return await connection.fetchrow("""
        SELECT
            current_setting('server_version') AS server_version,
            pg_is_in_recovery() AS is_standby,
            current_setting('fsync') AS fsync,
            current_setting('full_page_writes') AS full_page_writes,
            current_setting('synchronous_commit') AS synchronous_commit,
            current_setting('max_connections')::int
                - current_setting('superuser_reserved_connections')::int
                - coalesce(current_setting('reserved_connections', true)::int, 0)
                - (SELECT sum(numbackends) FROM pg_stat_database) AS free,
            extract(epoch FROM clock_timestamp())::float8 AS now
    """)
