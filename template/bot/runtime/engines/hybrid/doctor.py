"""What `bot doctor` says about Redis and PostgreSQL together: what could cost commits that only Redis has."""

from typing import Any

from bot.runtime.engines.hybrid.postgres import HybridPostgres
from bot.runtime.engines.hybrid.redis import HybridRedis
from bot.runtime.engines.redis.doctor import certificate, clock, disk, role, version
from bot.runtime.state.store import Finding

WAITING_SECONDS = 60.0
"""A commit that waits for PostgreSQL for longer means that something is in the way."""


async def diagnose(redis: HybridRedis, postgres: HybridPostgres, *, waits: bool) -> list[Finding]:
    """Look at both servers, and at what waits in between.

    Args:
        redis: the one.
        postgres: the other.
        waits: whether an update is acknowledged only when PostgreSQL has it.

    Raises:
        StateUnavailable: a server does not answer.
    """
    info: dict[str, Any] = await redis.connection.ask("INFO")
    ahead = await redis.seconds_ahead()
    backlog = await redis.backlog()
    findings = [version(info), role(info), _persistence(info, waits), _eviction(info), clock(ahead)]
    findings += certificate(redis.connection.address)
    if not waits:
        findings += disk(info, waits=redis.connection.waits_for_disk)
    if backlog.seconds > WAITING_SECONDS:
        text = f"{backlog.users} users' commits wait for PostgreSQL, the oldest for {backlog.seconds:.0f} s"
        findings.append(Finding("warning", f"{text}: the log of `bot run` says why"))
    else:
        findings.append(Finding("ok", f"{backlog.users} users' commits wait for PostgreSQL"))
    return findings + await postgres.diagnose()


def _persistence(info: dict[str, Any], waits: bool) -> Finding:
    if not info.get("aof_enabled"):
        if waits:
            return Finding("ok", "an update is acknowledged when PostgreSQL has it (HYBRID_ACK=postgres)")
        return Finding(
            "warning",
            "Redis writes no append-only file, and HYBRID_ACK=redis acknowledges what only Redis has: when "
            "it stops, that is lost; set `appendonly yes` or, where the service has no such file, "
            "HYBRID_ACK=postgres",
        )
    if info.get("aof_last_write_status", "ok") != "ok":
        return Finding("error", "Redis could not write its append-only file: is its disk full?")
    return Finding("ok", "Redis writes an append-only file")


def _eviction(info: dict[str, Any]) -> Finding:
    policy = info.get("maxmemory_policy", "noeviction")
    limit = info.get("maxmemory_human", "no limit") if info.get("maxmemory") else "no limit"
    if policy.startswith("allkeys"):
        return Finding(
            "error",
            f"when memory runs out Redis evicts also what PostgreSQL lacks ({policy}; memory: {limit}); "
            "set `maxmemory-policy volatile-lru`",
        )
    if policy == "noeviction" and info.get("maxmemory"):
        return Finding(
            "warning",
            f"when memory runs out Redis refuses writes ({policy}; memory: {limit}), though PostgreSQL has "
            "most of what it holds; set `maxmemory-policy volatile-lru`",
        )
    return Finding("ok", f"Redis evicts only what PostgreSQL has ({policy}; memory: {limit})")
