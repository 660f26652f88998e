"""Redis at Upstash: what `bot doctor` says of it, asked of a server that has such a name on this machine."""

import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from bot.cloud.upstash import UpstashStore
from bot.config import Settings
from bot.state.store import Changes
from tests.redis.proxy import Proxy
from tests.redis.server import Server
from tests.test_cli import run

NAME = "calm-fox-12345.upstash.io"


@pytest.fixture
async def url(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A server behind TLS that has the name of a database of Upstash."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(NAME).configure_cert(context)
    look_up = socket.getaddrinfo

    def on_this_machine(host: Any, *arguments: Any, **options: Any) -> Any:
        return look_up("127.0.0.1" if host == NAME else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", on_this_machine)
    async with Proxy(server.url, tls=context) as proxy:
        url = proxy.url.replace("redis://127.0.0.1", f"rediss://default:@{NAME}")
        monkeypatch.setenv("REDIS_URL", url)
        monkeypatch.setenv("REDIS_CA_FILE", str(tmp_path / "ca.pem"))
        yield url


async def test_a_store_by_url(url: str) -> None:
    store = UpstashStore.from_settings(Settings())
    await store.connect()
    await store.commit("1", Changes(state={"city": b'"Oslo"'}), expect=0)
    assert (await store.load("1")).state == {"city": "Oslo"}
    assert {finding.level for finding in await store.examine()} == {"ok"}
    await store.close()


async def test_records_longer_than_a_request(url: str) -> None:
    store = UpstashStore.from_settings(Settings(state_max_bytes=6_000_000))
    await store.connect()
    (warning,) = [finding for finding in await store.examine() if finding.level == "warning"]
    assert "STATE_MAX_BYTES" in warning.text
    await store.close()


async def test_a_server_elsewhere(server: Server, tmp_path: Path) -> None:
    result = run(tmp_path, "doctor", REDIS_URL=server.url)
    assert "REDIS_URL names no database of Upstash" in result.stdout
