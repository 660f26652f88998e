"""Redis at Upstash, which speaks the protocol of Redis but is a server of its own.

It writes every commit to its disk, so there is no append-only file to switch on, and nothing that it says of
itself tells about one. What loses records there is the database's switch "Eviction", which the bot cannot
see.
"""

from bot.runtime.cloud.redis_address import refuse_unchecked
from bot.runtime.engines.redis.connection import Address, RedisConnection, RedisSettings
from bot.runtime.engines.redis.doctor import clock, lifetime, seconds_ahead
from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.state.store import Finding

DOMAIN = ".upstash.io"

REQUEST_BYTES = 10_000_000
"""Longest request of the free and the pay-as-you-go plan.
https://upstash.com/docs/redis/troubleshooting/max_request_size_exceeded (read in November 2026)"""


class UpstashStore(RedisStore):
    """Keeps records in a Redis at Upstash."""

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
        if not address.hosts or not all(host.endswith(DOMAIN) for host, _ in address.hosts):
            here = Finding("warning", f"REDIS_URL names no database of Upstash (NAME{DOMAIN})")
            return [here, *await super().diagnose()]
        return [
            lifetime(self._ttl),
            _encryption(address),
            _user(address),
            _size(self.limits.max_bytes),
            Finding("ok", "every commit is on disk; the database's switch Eviction must be off (DEPLOY.md)"),
            clock(await seconds_ahead(self.connection)),
        ]


def _encryption(address: Address) -> Finding:
    if not address.is_tls:
        return Finding("error", "REDIS_URL is not encrypted: Upstash wants rediss://")
    return Finding("ok", "the connection is encrypted")


def _user(address: Address) -> Finding:
    user = address.options.get("username") or "default"
    if user == "default_ro":
        return Finding("error", "REDIS_URL names the user default_ro, who may only read: take default")
    return Finding("ok", f"the bot is the user {user}")


def _size(most: int) -> Finding:
    # A commit may replace the whole record, and bring replies under way beside it.
    if 2 * most > REQUEST_BYTES:
        return Finding(
            "warning",
            f"STATE_MAX_BYTES is {most}, and Upstash takes requests of {REQUEST_BYTES} bytes on its smaller "
            f"plans: set {REQUEST_BYTES // 2} at most",
        )
    return Finding("ok", f"records of {most} bytes (STATE_MAX_BYTES) fit into Upstash's requests")
