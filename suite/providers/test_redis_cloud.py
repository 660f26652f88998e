"""Redis Cloud: user, password and authority, and what `bot doctor` says of a database's settings."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot.runtime.chosen import NAMESPACE
from bot.runtime.cloud.redis_cloud import RedisCloudStore
from bot.runtime.config import Settings
from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.errors import OperatorError, StateUnavailable
from bot.runtime.state.store import Changes
from suite.engines.redis.proxy import Proxy
from suite.engines.redis.server import RIGHTS, Server
from suite.engines.redis.tls import UNCHECKED, WRONG, behind_tls, issue, named, resolve_here
from suite.support.command_line import run

pytestmark = pytest.mark.clause("provider.connects")

DOMAIN = ".redns.redis-cloud.com"
NAME = f"redis-12345.c1.eu-west-1-3.ec2{DOMAIN}"


@pytest.fixture
async def database(
    server: Server, direct: RedisStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Proxy]:
    """A database with a user of the bot's own."""
    await direct.connection.ask("ACL", "SETUSER", "bot", "on", ">p@ss", f"~{NAMESPACE}:*", *RIGHTS.split())
    resolve_here(monkeypatch, DOMAIN)
    certificate = issue(tmp_path, NAME)
    async with behind_tls(server.url, certificate) as proxy:
        monkeypatch.setenv("REDIS_URL", named(proxy, NAME, "bot:p%40ss@"))
        monkeypatch.setenv("REDIS_CA_FILE", str(certificate.ca_file))
        monkeypatch.setenv("REDIS_CONNECT_TIMEOUT", "0.5")
        yield proxy


@pytest.mark.usefixtures("database")
async def test_a_user_of_its_own() -> None:
    store = RedisCloudStore.from_settings(Settings())
    await store.connect()
    await store.bind(42)
    await store.commit("1", Changes(state={"city": b'"Oslo"'}), expect=0)
    assert (await store.load("1")).state == {"city": "Oslo"}
    assert [user async for user in store.users()] == ["1"]
    assert await store.forget("1") is True
    findings = await store.diagnose()
    assert {finding.level for finding in findings} == {"ok"}
    assert any("the user bot" in finding.text for finding in findings)
    assert "p@ss" not in str(findings)
    await store.close()


async def test_a_wrong_password(database: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", named(database, NAME, "bot:sesame@"))
    store = RedisCloudStore.from_settings(Settings())
    with pytest.raises(StateUnavailable, match="does not accept the user name and password") as caught:
        await store.connect()
    assert "sesame" not in str(caught.value)
    await store.close()


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("flaw", WRONG)
async def test_a_certificate_that_is_not_to_be_believed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flaw: str
) -> None:
    certificate = issue(tmp_path, NAME, flaw)
    async with behind_tls(server.url, certificate) as proxy:
        monkeypatch.setenv("REDIS_URL", named(proxy, NAME, "bot:p%40ss@"))
        store = RedisCloudStore.from_settings(Settings())
        with pytest.raises(StateUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await store.connect()
        await store.close()


@pytest.mark.parametrize("weakness", UNCHECKED)
def test_an_address_that_believes_every_certificate(monkeypatch: pytest.MonkeyPatch, weakness: str) -> None:
    monkeypatch.setenv("REDIS_URL", f"rediss://bot:p%40ss@{NAME}:6379/0?{weakness}")
    with pytest.raises(OperatorError, match="turns checks of the server's certificate off") as caught:
        RedisCloudStore.from_settings(Settings())
    assert "\n" not in str(caught.value)
    assert "p%40ss" not in str(caught.value)


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("name", "value", "warning"),
    [
        ("maxmemory-policy", "volatile-lru", "evicts users (volatile-lru"),
        ("maxmemory-policy", "allkeys-lru", "evicts users (allkeys-lru"),
        ("appendonly", "no", "under Durability"),
        ("maxclients", "30", "REDIS_MAX_CONNECTIONS"),
    ],
)
async def test_settings_that_cost_records_or_answers(
    direct: RedisStore, name: str, value: str, warning: str
) -> None:
    store = RedisCloudStore.from_settings(Settings())
    await store.connect()
    await direct.connection.ask("CONFIG", "SET", name, value)
    (text,) = [finding.text for finding in await store.diagnose() if finding.level == "warning"]
    assert warning in text
    await store.close()


@pytest.mark.usefixtures("database")
async def test_a_user_who_may_not_ask(direct: RedisStore) -> None:
    await direct.connection.ask("ACL", "SETUSER", "bot", "-info")
    store = RedisCloudStore.from_settings(Settings())
    await store.connect()
    (text,) = [finding.text for finding in await store.diagnose() if finding.level != "ok"]
    assert "does not say how it is set up" in text
    await store.close()


async def test_a_database_that_is_open(server: Server, tmp_path: Path) -> None:
    result = await asyncio.to_thread(run, tmp_path, "doctor", REDIS_URL=server.url)
    assert "switch TLS on" in result.stdout
    assert "who may do everything" in result.stdout
