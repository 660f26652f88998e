"""What `bot doctor` says of settings that put commits at risk which only Redis has."""

import pytest

from suite.engines.hybrid.harness import HybridHarness
from suite.engines.redis.server import Server

pytestmark = pytest.mark.clause("doctor.server")


@pytest.mark.parametrize(
    ("name", "value", "ack", "level", "part"),
    [
        ("appendonly", "yes", "redis", "ok", "Redis writes an append-only file"),
        ("appendonly", "no", "redis", "warning", "HYBRID_ACK=redis acknowledges what only Redis has"),
        ("appendonly", "no", "postgres", "ok", "acknowledged when PostgreSQL has it"),
        ("maxmemory-policy", "volatile-lru", "redis", "ok", "evicts only what PostgreSQL has"),
        ("maxmemory-policy", "allkeys-lru", "redis", "error", "evicts also what PostgreSQL lacks"),
    ],
)
async def test_settings_of_redis(
    own_redis: Server, hybrid: HybridHarness, name: str, value: str, ack: str, level: str, part: str
) -> None:
    hybrid.redis_url = own_redis.url
    store = await hybrid.make(ack=ack)
    await store.redis.connection.ask("CONFIG", "SET", "maxmemory", "100mb")
    await store.redis.connection.ask("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    await store.redis.connection.ask("CONFIG", "SET", name, value)
    findings = await store.diagnose()
    assert [finding.level for finding in findings if part in finding.text] == [level]
    others = [finding for finding in findings if part not in finding.text]
    assert not [finding for finding in others if "Redis" in finding.text and finding.level != "ok"]
