"""`bot doctor` on servers that are set up well and badly."""

import ssl
from pathlib import Path

import pytest
import trustme

from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.state.store import Finding
from suite.engines.redis.proxy import Proxy
from suite.engines.redis.server import Server, make_store
from suite.support.command_line import run

pytestmark = pytest.mark.clause("doctor.server")


async def texts(store: RedisStore, level: str) -> list[str]:
    return [finding.text for finding in await store.diagnose() if finding.level == level]


async def test_a_server_that_is_set_up_well(direct: RedisStore) -> None:
    findings = await direct.diagnose()
    assert {finding.level for finding in findings} == {"ok"}
    said = "\n".join(finding.text for finding in findings)
    assert "Valkey" in said
    assert "24 hours" in said
    assert "append-only" in said


@pytest.mark.parametrize(
    ("name", "value", "warning"),
    [
        ("appendonly", "no", "append-only file"),
        ("maxmemory-policy", "allkeys-lru", "evicts users"),
        ("maxmemory-policy", "volatile-lru", None),
    ],
)
async def test_settings_that_cost_records(
    direct: RedisStore, name: str, value: str, warning: str | None
) -> None:
    await direct.connection.ask("CONFIG", "SET", name, value)
    found = await texts(direct, "warning")
    assert len(found) == (1 if warning else 0)
    assert all(str(warning) in text for text in found)


async def test_a_limit_of_memory_with_a_policy_that_evicts(direct: RedisStore) -> None:
    await direct.connection.ask("CONFIG", "SET", "maxmemory", "100mb")
    assert await texts(direct, "warning") == []
    await direct.connection.ask("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    (text,) = await texts(direct, "warning")
    assert "volatile-lru" in text


async def test_a_replica(direct: RedisStore, server: Server) -> None:
    await direct.connection.ask("REPLICAOF", "127.0.0.1", "1")
    (text,) = await texts(direct, "error")
    assert "replica" in text


async def test_a_record_kept_for_ever(server: Server) -> None:
    store = make_store(server.url, ttl=None)
    assert Finding("ok", "records are kept without a time limit (STATE_TTL=0)") in await store.diagnose()
    await store.close()


@pytest.mark.parametrize("weakness", ["ssl_cert_reqs=none", "ssl_check_hostname=false"])
async def test_a_certificate_that_nobody_looks_at(server: Server, tmp_path: Path, weakness: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority = trustme.CA()
    authority.issue_cert("elsewhere.example").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with Proxy(server.url, tls=context) as proxy:
        url = proxy.url.replace("redis://", "rediss://") + f"/0?{weakness}"
        store = make_store(url, redis_ca_file=tmp_path / "ca.pem")
        (text,) = await texts(store, "warning")
        assert "another server could take its place" in text
        await store.close()


async def test_the_command(tmp_path: Path, server: Server) -> None:
    url = f"redis://:sesame@127.0.0.1:{server.port}"
    result = run(tmp_path, "doctor", REDIS_URL=server.url, STATE_TTL="7200")
    assert "ok  the redis store answers" in result.stdout
    assert "2 hours" in result.stdout
    refused = run(tmp_path, "doctor", REDIS_URL=url)
    assert "error  the redis store cannot be used: the server does not accept the user name" in refused.stdout
    assert "sesame" not in refused.stdout + refused.stderr
