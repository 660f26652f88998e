"""Redis Cloud, where a database keeps and evicts what its plan and its settings say."""

from typing import Any

from bot.runtime.cloud.redis_address import refuse_unchecked
from bot.runtime.config import load
from bot.runtime.engines.redis.connection import Address, RedisConnection, RedisSettings
from bot.runtime.engines.redis.doctor import diagnose, eviction, version
from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.state.store import Finding


class RedisCloudStore(RedisStore):
    """Keeps records in a database of Redis Cloud."""

    @classmethod
    def connection_to(cls, settings: RedisSettings) -> RedisConnection:
        """Make the connections.

        Raises:
            OperatorError: see `RedisStore.connection_to` and `refuse_unchecked`.
        """
        refuse_unchecked(settings)
        return RedisConnection(settings)

    async def diagnose(self) -> list[Finding]:
        """Look for what could cost records there. See `OperatorStore.diagnose`."""
        address = self.connection.address
        if not address.hosts:
            here = Finding("warning", "REDIS_URL names no database of Redis Cloud")
            return [here, *await super().diagnose()]
        most = load(RedisSettings).redis_max_connections

        def connections(info: dict[str, Any]) -> Finding:
            return _connections(info, most)

        judges = (version, _role, _persistence, _eviction, connections)
        return [
            _encryption(address),
            _user(address),
            *await diagnose(self.connection, self._ttl, judges),
        ]


def _encryption(address: Address) -> Finding:
    if not address.is_tls:
        return Finding(
            "warning", "the connection is not encrypted: switch TLS on in the console and write rediss://"
        )
    return Finding("ok", "the connection is encrypted")


def _user(address: Address) -> Finding:
    user = address.options.get("username") or "default"
    if user == "default":
        return Finding("ok", "the bot is the user default, who may do everything (DEPLOY.md: a lesser one)")
    return Finding("ok", f"the bot is the user {user}")


def _role(info: dict[str, Any]) -> Finding:
    if info.get("role", "master") != "master":
        return Finding(
            "error", "REDIS_URL names a replica, which takes no writes: name the public or private endpoint"
        )
    return Finding("ok", "the database takes writes")


def _persistence(info: dict[str, Any]) -> Finding:
    if info.get("aof_enabled"):
        return Finding("ok", "the database writes an append-only file")
    return Finding(
        "warning",
        "the database does not say that it writes an append-only file: look in the console, under Durability "
        "(with replication the replica may write it)",
    )


def _eviction(info: dict[str, Any]) -> Finding:
    # The default there is volatile-lru, and every record has an expiry unless STATE_TTL=0.
    return eviction(info, is_limited=True)


def _connections(info: dict[str, Any], most: int) -> Finding:
    allowed = info.get("maxclients")
    if allowed is None:
        return Finding("ok", f"a process opens up to {most} connections (REDIS_MAX_CONNECTIONS)")
    if most > allowed:
        return Finding(
            "warning",
            f"a process may open {most} connections, and the plan allows {allowed}: "
            "set REDIS_MAX_CONNECTIONS lower, for all processes together",
        )
    return Finding("ok", f"the plan allows {allowed} connections, a process opens up to {most}")
