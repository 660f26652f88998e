"""Redis or Valkey at Amazon ElastiCache, by password or, with `ELASTICACHE_NAME`, by who the bot is (IAM).

By IAM there is no password: each connection is opened with a token, a request that the bot's AWS credentials
sign and that holds for 15 minutes. ElastiCache ends such a connection after 12 hours; it is replaced before.
https://docs.aws.amazon.com/AmazonElastiCache/latest/dg/auth-iam.html (read in November 2026)
"""

import asyncio
import time
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from botocore.session import Session
from pydantic import Field, SecretStr
from redis.asyncio import RedisCluster
from redis.asyncio.connection import SSLConnection
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError

from bot.runtime.cloud.aws_token import AwsSigner
from bot.runtime.cloud.redis_address import refuse_unchecked
from bot.runtime.config import Environment, load
from bot.runtime.engines.redis.connection import REFUSED, Address, RedisConnection, RedisSettings
from bot.runtime.engines.redis.doctor import diagnose, eviction, role, version
from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.errors import OperatorError, StateUnavailable
from bot.runtime.state.store import Finding

CONNECTION_SECONDS = 11 * 3600.0
"""Age at which a connection is replaced."""

DOMAIN = ".cache.amazonaws.com"


class ElasticacheSettings(Environment):
    """Authentication by IAM at ElastiCache."""

    elasticache_name: str | None = Field(
        None,
        pattern=r"^[a-z][a-z0-9-]*$",
        description="Name of the cache or replication group, to log in by IAM. Unset: by password.",
    )
    aws_region: str | None = Field(None, description="Region at AWS, such as eu-central-1.")


class ElasticacheStore(RedisStore):
    """Keeps records in a cache at ElastiCache."""

    @classmethod
    def connection_to(cls, settings: RedisSettings) -> RedisConnection:
        """Make the connections.

        Raises:
            OperatorError: see `refuse_unchecked`; also when something is missing that IAM takes.
        """
        refuse_unchecked(settings)
        ours = load(ElasticacheSettings)
        if ours.elasticache_name is None:
            return RedisConnection(settings)
        return IamConnection(settings, ours.elasticache_name, ours.aws_region)

    async def diagnose(self) -> list[Finding]:
        """Look for what could cost records there. See `OperatorStore.diagnose`."""
        address = self.connection.address
        if not address.hosts or not all(_is_there(host) for host, _ in address.hosts):
            here = Finding("warning", f"REDIS_URL names no cache at ElastiCache (NAME...{DOMAIN})")
            return [here, *await super().diagnose()]
        judges = (version, role, _persistence, _room if is_serverless(address) else _eviction)
        return [
            _encryption(address),
            _login(self.connection),
            _mode(address, isinstance(self.connection.client, RedisCluster)),
            *await diagnose(self.connection, self._ttl, judges),
            await self._listing(),
        ]

    async def _listing(self) -> Finding:
        # A serverless cache was seen to refuse it to a user with few rights:
        # https://github.com/redis/redis/issues/13402 (read in November 2026)
        try:
            for server in await self.connection.servers():
                await self.connection.ask("SCAN", 0, "MATCH", self._key("*", "meta"), server=server)
        except StateUnavailable as error:
            text = f"the cache does not list users (SCAN), as `bot state export` does: {error}"
            return Finding("warning", f"{text}; turns do not need it (DEPLOY.md)")
        return Finding("ok", "the cache lists users (SCAN)")


class IamConnection(RedisConnection):
    """Connections that are opened with tokens, and replaced before ElastiCache ends them."""

    def __init__(self, settings: RedisSettings, name: str, region: str | None) -> None:
        """Make it; nothing is opened yet.

        Args:
            settings: where the cache is, and as which user; no password.
            name: of the cache, or of the replication group that is no serverless cache.
            region: where it is; `None`: what the AWS configuration says.

        Raises:
            OperatorError: the address or the region is missing, or has what IAM does not want.
        """
        url = settings.redis_url.get_secret_value() if settings.redis_url else ""
        address = Address.of_url(url) if url else None
        user = address.options.get("username") if address else None
        if not address or not address.is_tls or not user or address.options.get("password"):
            raise OperatorError("ELASTICACHE_NAME wants REDIS_URL=rediss://USER@HOST:6379, and no password")
        region = region or Session().get_config_variable("region")
        if region is None:
            raise OperatorError("AWS_REGION is not set: the token names the region of the cache")
        tokens = Tokens(region, name, user, is_serverless=is_serverless(address))
        parts = urlsplit(url)
        place = SecretStr(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
        super().__init__(settings.model_copy(update={"redis_url": place}), credential_provider=tokens)
        if isinstance(self.client, RedisCluster):
            # Its nodes, those of now and those it will hear of, make their connections of this class.
            self.client.connection_kwargs["connection_class"] = ShortLivedConnection
            for node in self.client.startup_nodes:
                node.connection_class = ShortLivedConnection
        else:
            self.client.connection_pool.connection_class = ShortLivedConnection

    async def open(self) -> None:
        """Wait until the cache answers.

        Raises:
            StateUnavailable: see `RedisConnection.open`.
        """
        try:
            await super().open()
        except StateUnavailable as error:
            if REFUSED not in str(error):
                raise
            raise StateUnavailable(
                "ElastiCache does not accept the token: the role needs elasticache:Connect on this cache and "
                "this user, whose id and name must be the same, and ELASTICACHE_NAME must be the cache's name"
            ) from None


class ShortLivedConnection(SSLConnection):
    """A connection that is replaced, when it is used again, before it is too old."""

    _opened = 0.0

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Note the time, and log in."""
        self._opened = time.monotonic()
        try:
            await super().on_connect_check_health(check_health)
        except BaseException:
            # redis-py takes whatever is open for logged in, also when signing failed or nobody waited for it.
            await self.disconnect(nowait=True)
            raise

    async def check_health(self) -> None:
        """Be asked before each command whether the connection can be used."""
        if time.monotonic() - self._opened > CONNECTION_SECONDS:
            await self.disconnect()
            await self.connect()  # type: ignore[no-untyped-call]
        else:
            await super().check_health()  # type: ignore[no-untyped-call]


class Tokens(CredentialProvider):
    """A token for each connection: signing is cheap, and none is used when it is old."""

    def __init__(self, region: str, name: str, user: str, *, is_serverless: bool) -> None:
        """Make it; credentials are looked for when the first connection is opened."""
        self._signer = AwsSigner("elasticache", region)
        self._name = name
        self._user = user
        self._asked = {"Action": "connect", "User": user}
        if is_serverless:
            self._asked["ResourceType"] = "ServerlessCache"

    async def get_credentials_async(self) -> tuple[str, str]:
        """Give the user and a token that was signed just now.

        Raises:
            ConnectionError: there are no AWS credentials, or not now.
        """
        # It may ask the container's or the machine's metadata service.
        return self._user, await asyncio.to_thread(self.sign)

    def sign(self) -> str:
        """Sign a token with the credentials of now.

        Raises:
            ConnectionError: see `get_credentials_async`.
        """
        try:
            return self._signer.token(self._name, **self._asked)
        except StateUnavailable as error:
            raise ConnectionError(str(error)) from None


def is_serverless(address: Address) -> bool:
    """Whether a cache is a serverless one, by its name."""
    return any(".serverless." in host for host, _ in address.hosts)


def _is_there(host: str) -> bool:
    return DOMAIN in host


def _encryption(address: Address) -> Finding:
    if not address.is_tls:
        return Finding("error", "REDIS_URL is not encrypted: a serverless cache wants rediss://")
    return Finding("ok", "the connection is encrypted")


def _login(connection: RedisConnection) -> Finding:
    if isinstance(connection, IamConnection):
        return Finding("ok", "the bot logs in by IAM, with a token per connection")
    if not connection.address.options.get("password"):
        text = "whoever is in the network can read the records: set ELASTICACHE_NAME, to log in by IAM"
        return Finding("warning", text)
    return Finding("ok", "the bot logs in by a password, which does not expire (ELASTICACHE_NAME: by IAM)")


def _mode(address: Address, is_cluster: bool) -> Finding:
    if is_serverless(address) and not is_cluster:
        return Finding("error", "a serverless cache is a cluster: set REDIS_CLUSTER=true")
    return Finding("ok", "REDIS_CLUSTER is set" if is_cluster else "the cache is taken for a single server")


def _persistence(info: dict[str, Any]) -> Finding:
    if info.get("aof_enabled"):
        return Finding("ok", "the server writes an append-only file")
    return Finding(
        "ok",
        "ElastiCache writes no append-only file: copies in other zones keep the records, but for the last "
        "moments before a failover; if all are lost, the last snapshot is what is left",
    )


def _room(_: dict[str, Any]) -> Finding:
    return Finding(
        "ok", "users are evicted when the cache reaches its largest size (CacheUsageLimits): keep far below"
    )


_eviction = partial(eviction, is_limited=True)
