"""Redis at Upstash: the way there, and what `bot doctor` says, tried on a server with such a name."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot.cloud.upstash import REQUEST_BYTES, UpstashStore
from bot.config import Settings
from bot.state.redis import RedisStore
from bot.state.store import Changes, StateUnavailable
from tests.redis.proxy import Proxy
from tests.redis.server import Server
from tests.redis.tls import WRONG, behind_tls, issue, named, resolve_here
from tests.test_cli import run

DOMAIN = ".upstash.io"
NAME = f"calm-fox-12345{DOMAIN}"


@pytest.fixture
async def upstash(
    server: Server, direct: RedisStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Proxy]:
    """A server of which only the password is known, that says nothing of itself and takes no CONFIG."""
    resolve_here(monkeypatch, DOMAIN)
    certificate = issue(tmp_path, NAME)
    await direct.connection.ask("CONFIG", "SET", "requirepass", "sesame")
    await direct.connection.ask("ACL", "SETUSER", "default", "-config", "-info")
    async with behind_tls(server.url, certificate) as proxy:
        monkeypatch.setenv("REDIS_URL", named(proxy, NAME, "default:sesame@"))
        monkeypatch.setenv("REDIS_CA_FILE", str(certificate.ca_file))
        yield proxy


@pytest.mark.usefixtures("upstash")
async def test_a_store_by_url() -> None:
    store = UpstashStore.from_settings(Settings())
    await store.connect()
    await store.commit("1", Changes(state={"city": b'"Oslo"'}), expect=0)
    assert (await store.load("1")).state == {"city": "Oslo"}
    findings = await store.examine()
    assert {finding.level for finding in findings} == {"ok"}
    assert "sesame" not in str(findings)
    await store.close()


@pytest.mark.usefixtures("upstash")
@pytest.mark.parametrize("flaw", WRONG)
async def test_a_certificate_that_is_not_to_be_believed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flaw: str
) -> None:
    certificate = issue(tmp_path, NAME, flaw)
    async with behind_tls(server.url, certificate) as proxy:
        monkeypatch.setenv("REDIS_URL", named(proxy, NAME, "default:sesame@"))
        monkeypatch.setenv("REDIS_CONNECT_TIMEOUT", "0.3")
        store = UpstashStore.from_settings(Settings())
        with pytest.raises(StateUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await store.connect()
        await store.close()


async def test_the_longest_record_fits_into_a_request(upstash: Proxy) -> None:
    """The largest STATE_MAX_BYTES that doctor finds right, all of it sent at once."""
    most = REQUEST_BYTES // 2
    store = UpstashStore.from_settings(Settings(state_max_bytes=most))
    await store.connect()
    assert {finding.level for finding in await store.examine()} == {"ok"}
    await store.forget("1")  # so that the server knows the script: else it is sent all twice
    upstash.reset()
    await store.commit("1", Changes(state={"text": b'"%b"' % (b"x" * (most - 100))}), expect=None)
    assert most < upstash.sent < REQUEST_BYTES * 0.6
    await store.close()

    greedy = UpstashStore.from_settings(Settings(state_max_bytes=most + 1))
    await greedy.connect()
    (warning,) = [finding for finding in await greedy.examine() if finding.level == "warning"]
    assert "STATE_MAX_BYTES" in warning.text
    await greedy.close()
    assert Settings().state_max_bytes < most, "as rendered, it fits"


async def test_an_address_that_is_not_encrypted_and_a_user_who_may_only_read(
    server: Server, direct: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_here(monkeypatch, DOMAIN)
    await direct.connection.ask("ACL", "SETUSER", "default_ro", "on", ">sesame", "~*", "+@read", "+@all")
    monkeypatch.setenv("REDIS_URL", f"redis://default_ro:sesame@{NAME}:{server.port}")
    store = UpstashStore.from_settings(Settings())
    await store.connect()
    errors = [finding.text for finding in await store.examine() if finding.level == "error"]
    assert len(errors) == 2
    assert "rediss://" in errors[0]
    assert "default_ro" in errors[1]
    await store.close()


async def test_a_server_elsewhere(server: Server, tmp_path: Path) -> None:
    result = await asyncio.to_thread(run, tmp_path, "doctor", REDIS_URL=server.url)
    assert "REDIS_URL names no database of Upstash" in result.stdout
    assert "append-only" in result.stdout, "and what is to be said of any server"
