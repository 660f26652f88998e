"""What `bot doctor` says about Redis: what could cost records, or keep the bot from running."""

import re
import time
from collections.abc import Callable, Iterable
from typing import Any

from bot.runtime.engines.redis.connection import Address, RedisConnection
from bot.runtime.errors import StateUnavailable
from bot.runtime.state.store import Finding

Judge = Callable[[dict[str, Any]], Finding]
"""Says what it makes of the answer to INFO."""

OLDEST = (6, 2)
"""Before it, LPOP takes no count."""

CLOCK_SECONDS = 5
"""A difference of clocks that people would notice in the times of messages."""


async def diagnose(
    connection: RedisConnection, ttl: float | None, judges: Iterable[Judge] | None = None
) -> list[Finding]:
    """Look at the server, or at every primary of the cluster.

    Args:
        connection: connections to it.
        ttl: seconds that records are kept; `None` for no limit.
        judges: what to look for in what each server says of itself; not given: all there is here.

    Raises:
        StateUnavailable: it did not answer.
    """
    findings = [lifetime(ttl), *certificate(connection.address)]
    for server in await connection.servers():
        ahead = await seconds_ahead(connection, server)
        try:
            info: dict[str, Any] = await connection.ask("INFO", server=server)
        except StateUnavailable as error:
            findings.append(Finding("warning", f"the server does not say how it is set up (INFO): {error}"))
        else:
            findings += [judge(info) for judge in judges or (version, role, persistence, eviction)]
            findings += disk(info, waits=connection.waits_for_disk)
        findings.append(clock(ahead))
    return list(dict.fromkeys(findings))


async def seconds_ahead(connection: RedisConnection, server: Any = None) -> float:
    """How far a server's clock is ahead of this machine's.

    Raises:
        StateUnavailable: it did not answer.
    """
    seconds, microseconds = await connection.ask("TIME", server=server)
    return int(seconds) + int(microseconds) / 1e6 - time.time()


def certificate(address: Address) -> list[Finding]:
    """Whether it matters what certificate the server shows; nothing where it does."""
    if not address.is_unchecked:
        return []
    return [
        Finding(
            "warning",
            "REDIS_URL turns checks of the server's certificate off (ssl_cert_reqs, ssl_check_hostname), so "
            "another server could take its place: set REDIS_CA_FILE to its certificate authority instead",
        )
    ]


def lifetime(ttl: float | None) -> Finding:
    """How long records are kept."""
    if ttl is None:
        return Finding("ok", "records are kept without a time limit (STATE_TTL=0)")
    return Finding("ok", f"records are kept for {ttl / 3600:g} hours after their last change (STATE_TTL)")


def version(info: dict[str, Any]) -> Finding:
    """Whether the bot's scripts run there."""
    if "redis_version" not in info:
        return Finding("ok", "the server does not tell its version")
    name = "Valkey" if "valkey_version" in info else "Redis"
    release = str(info.get("valkey_version") or info["redis_version"])
    numbers = re.findall(r"\d+", str(info["redis_version"]))[:2]
    if tuple(map(int, numbers)) < OLDEST:
        return Finding("error", f"the server is {name} {release}; it takes Redis 6.2 or newer, or Valkey")
    return Finding("ok", f"the server is {name} {release}")


def role(info: dict[str, Any]) -> Finding:
    """Whether it takes writes, and what a failover may cost."""
    if info.get("role", "master") != "master":
        return Finding("error", "the server is a replica and takes no writes: REDIS_URL must name its master")
    replicas = info.get("connected_slaves", 0)
    if replicas:
        return Finding(
            "warning",
            f"{replicas} replicas follow it, asynchronously: a failover can lose the last moments' records",
        )
    return Finding("ok", "the server takes writes, and has no replicas")


def persistence(info: dict[str, Any]) -> Finding:
    """What is left when it stops."""
    if not info.get("aof_enabled"):
        return Finding(
            "warning",
            "the server writes no append-only file: when it stops unexpectedly, everything since its last "
            "snapshot is lost; set `appendonly yes`",
        )
    if info.get("aof_last_write_status", "ok") != "ok":
        return Finding("error", "the server could not write its append-only file: is its disk full?")
    return Finding("ok", "the server writes an append-only file")


def disk(info: dict[str, Any], *, waits: bool) -> list[Finding]:
    """Whether the append-only file keeps up; `waits` says that commits wait for it."""
    delays = info.get("aof_delayed_fsync", 0)
    if waits:
        return [Finding("ok", "a commit waits for the append-only file (REDIS_WAIT_DISK)")]
    if not delays:
        return []
    return [
        Finding(
            "warning",
            f"the disk was too slow for the append-only file {delays} times since the server started "
            "(aof_delayed_fsync): killed at such a moment, it loses what it had acknowledged; give it a "
            "faster disk, or set REDIS_WAIT_DISK=true",
        )
    ]


def eviction(info: dict[str, Any], *, is_limited: bool = False) -> Finding:
    """What goes when memory runs out; `is_limited` says that it can, though the server does not."""
    policy = info.get("maxmemory_policy")
    limit = info.get("maxmemory", 0)
    size = info.get("maxmemory_human", "no limit") if limit else "no limit"
    if is_limited and not limit:
        size = "what was booked"
    if policy is None:
        return Finding("warning", "the server does not tell whether it evicts users when memory runs out")
    if policy == "noeviction":
        return Finding("ok", f"the server evicts nothing (noeviction; memory: {size})")
    if limit or is_limited or policy.startswith("allkeys"):
        return Finding(
            "warning",
            f"when memory runs out the server evicts users ({policy}; memory: {size}); "
            "set `maxmemory-policy noeviction`",
        )
    return Finding("ok", f"the server evicts nothing while its memory has no limit ({policy})")


def clock(difference: float) -> Finding:
    """Whether the server's clock, so many seconds ahead of this machine's, agrees with it."""
    if abs(difference) > CLOCK_SECONDS:
        way = "ahead of" if difference > 0 else "behind"
        return Finding("warning", f"the server's clock is {abs(difference):.0f} s {way} this machine's")
    return Finding("ok", "the server's clock agrees with this machine's")
