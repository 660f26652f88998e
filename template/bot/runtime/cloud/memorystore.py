"""Redis at Google Cloud's Memorystore: in a private network, behind TLS of the instance's own authority."""

import ssl
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection
from redis.exceptions import ConnectionError

from bot.runtime.cloud.redis_address import refuse_unchecked
from bot.runtime.engines.redis.connection import RedisConnection, RedisSettings
from bot.runtime.engines.redis.doctor import diagnose, eviction, version
from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.state.store import Finding


class MemorystoreStore(RedisStore):
    """Keeps records in a Redis at Memorystore."""

    @classmethod
    def connection_to(cls, settings: RedisSettings) -> RedisConnection:
        """Make the way there; only the instance's own authority is trusted, when it is known.

        Raises:
            OperatorError: see `RedisStore.connection_to` and `refuse_unchecked`.
        """
        refuse_unchecked(settings)
        connection = RedisConnection(settings)
        if settings.redis_ca_file and isinstance(connection.client, Redis):
            connection.client.connection_pool.connection_class = InstanceConnection
        return connection

    async def diagnose(self) -> list[Finding]:
        """Look for what could cost records there. See `OperatorStore.diagnose`."""
        options = self.connection.address.options
        if not self.connection.address.hosts:
            here = Finding("warning", "REDIS_URL names no instance of Memorystore")
            return [here, *await super().diagnose()]
        judges = (version, _failover, _persistence, _eviction)
        return [
            _encryption(self.connection.address.is_tls),
            _password(bool(options.get("password"))),
            *await diagnose(self.connection, self._ttl, judges),
        ]


class InstanceConnection(SSLConnection):
    """A connection to an instance, which is known by its authorities (REDIS_CA_FILE) and not by a name."""

    def __init__(self, **options: Any) -> None:
        """Make it; nothing is opened yet.

        Raises:
            ConnectionError: a file cannot be read.
        """
        super().__init__(**options)
        files = self.ssl_context
        # redis-py's own context also trusts the machine's authorities, which sign for anybody. From Python
        # 3.13 on it also asks for an authority key identifier, which these certificates lack:
        # https://github.com/redis/redis-py/issues/3685
        files.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The address is where Python does not look for it, in the common name; these authorities vouch for
        # nobody else. https://github.com/envoyproxy/ratelimit/pull/409
        files.context.check_hostname = False
        try:
            files.context.load_verify_locations(files.ca_certs)
            if files.certfile:
                files.context.load_cert_chain(files.certfile, files.keyfile)
        except OSError:
            raise ConnectionError("REDIS_CA_FILE, REDIS_CERT_FILE or REDIS_KEY_FILE cannot be read") from None


def _encryption(is_tls: bool) -> Finding:
    if not is_tls:
        return Finding(
            "warning",
            "the connection is not encrypted: create the instance with "
            "--transit-encryption-mode=server-authentication and write rediss://",
        )
    return Finding("ok", "the connection is encrypted")


def _password(is_set: bool) -> Finding:
    if not is_set:
        text = "whoever is in the network can read the records: create the instance with --enable-auth"
        return Finding("warning", text)
    return Finding("ok", "the instance wants a password (AUTH)")


def _failover(info: dict[str, Any]) -> Finding:
    if info.get("role", "master") != "master":
        return Finding("error", "REDIS_URL names the instance's read endpoint, which takes no writes")
    if not info.get("connected_slaves"):
        return Finding(
            "warning", "the instance has no replica (basic tier): maintenance empties it (--tier=standard)"
        )
    return Finding("ok", "a replica takes over when the instance fails; the last moments may be lost")


def _persistence(info: dict[str, Any]) -> Finding:
    if info.get("aof_enabled"):
        return Finding("ok", "the server writes an append-only file")
    return Finding(
        "ok",
        "the instance writes no append-only file; if it and its replica fail, the last snapshot is what is "
        "left (--persistence-mode=rdb)",
    )


def _eviction(info: dict[str, Any]) -> Finding:
    # The default there is volatile-lru, and every record has an expiry unless STATE_TTL=0.
    return eviction(info, is_limited=True)
