"""What `bot doctor` says about Redis: what could cost records, or keep the bot from running."""

import re
import time
from typing import Any

from bot.state.redis_connection import RedisConnection
from bot.state.store import Finding

OLDEST = (6, 2)
"""Before it, LPOP takes no count."""

CLOCK_SECONDS = 5
"""A difference of clocks that people would notice in the times of messages."""


async def examine(connection: RedisConnection, ttl: float | None) -> list[Finding]:
    """Look at the server, or at every primary of the cluster.

    Raises:
        StateUnavailable: it did not answer, or does not permit INFO.
    """
    findings = [_lifetime(ttl)]
    for server in await connection.servers():
        info: dict[str, Any] = await connection.ask("INFO", server=server)
        seconds, _ = await connection.ask("TIME", server=server)
        findings += [
            _version(info),
            _role(info),
            _persistence(info),
            _eviction(info),
            _clock(int(seconds) - time.time()),
        ]
    return list(dict.fromkeys(findings))


def _lifetime(ttl: float | None) -> Finding:
    if ttl is None:
        return Finding("ok", "records are kept for ever (STATE_TTL=0)")
    return Finding("ok", f"records are kept for {ttl / 3600:g} hours after their last change (STATE_TTL)")


def _version(info: dict[str, Any]) -> Finding:
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info["redis_version"])
    numbers = re.findall(r"\d+", str(info["redis_version"]))[:2]
    if tuple(map(int, numbers)) < OLDEST:
        return Finding("error", f"the server is {name} {version}; it takes Redis 6.2 or newer, or Valkey")
    return Finding("ok", f"the server is {name} {version}")


def _role(info: dict[str, Any]) -> Finding:
    if info.get("role", "master") != "master":
        return Finding("error", "the server is a replica and takes no writes: REDIS_URL must name its master")
    replicas = info.get("connected_slaves", 0)
    if replicas:
        return Finding(
            "warning",
            f"{replicas} replicas follow it, asynchronously: a failover can lose the last moments' records",
        )
    return Finding("ok", "the server takes writes, and has no replicas")


def _persistence(info: dict[str, Any]) -> Finding:
    if not info.get("aof_enabled"):
        return Finding(
            "warning",
            "the server writes no append-only file: when it stops unexpectedly, everything since its last "
            "snapshot is lost; set `appendonly yes`",
        )
    if info.get("aof_last_write_status", "ok") != "ok":
        return Finding("error", "the server could not write its append-only file: is its disk full?")
    return Finding("ok", "the server writes an append-only file")


def _eviction(info: dict[str, Any]) -> Finding:
    policy = info.get("maxmemory_policy", "noeviction")
    limit = info.get("maxmemory", 0)
    size = info.get("maxmemory_human", "no limit") if limit else "no limit"
    if policy == "noeviction":
        return Finding("ok", f"the server evicts nothing (noeviction; memory: {size})")
    if limit or policy.startswith("allkeys"):
        return Finding(
            "warning",
            f"when memory runs out the server evicts users ({policy}; memory: {size}); "
            "set `maxmemory-policy noeviction`",
        )
    return Finding("ok", f"the server evicts nothing while its memory has no limit ({policy})")


def _clock(difference: float) -> Finding:
    if abs(difference) > CLOCK_SECONDS:
        way = "ahead of" if difference > 0 else "behind"
        return Finding("warning", f"the server's clock is {abs(difference):.0f} s {way} this machine's")
    return Finding("ok", "the server's clock agrees with this machine's")
