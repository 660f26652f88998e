"""Redis at Upstash: the way there, and what `bot doctor` says, tried on a server with such a name."""

import asyncio
import os
from asyncio.subprocess import PIPE, STDOUT
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from shutil import copy, which
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bot.runtime.chosen import NAMESPACE
from bot.runtime.cloud.upstash import REQUEST_BYTES, UpstashStore
from bot.runtime.config import Settings
from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.errors import OperatorError, StateUnavailable
from bot.runtime.state.store import Changes
from suite.engines.redis.proxy import Proxy
from suite.engines.redis.server import Server
from suite.engines.redis.tls import UNCHECKED, WRONG, behind_tls, issue, named, resolve_here
from suite.support.command_line import run

pytestmark = pytest.mark.clause("provider.connects")

DOMAIN = ".upstash.io"
NAME = f"calm-fox-12345{DOMAIN}"
RIGHTS = "+@read +@write +@scripting +@connection -@dangerous +time"
"""What a user of the bot's own needs, as DEPLOY.md says it: `bot doctor` asks no INFO there."""


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
    findings = await store.diagnose()
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
    assert {finding.level for finding in await store.diagnose()} == {"ok"}
    await store.forget("1")  # so that the server knows the script: else it is sent all twice
    upstash.reset()
    await store.commit("1", Changes(state={"text": b'"%b"' % (b"x" * (most - 100))}), expect=None)
    assert most < upstash.sent < REQUEST_BYTES * 0.6
    await store.close()

    greedy = UpstashStore.from_settings(Settings(state_max_bytes=most + 1))
    await greedy.connect()
    (warning,) = [finding for finding in await greedy.diagnose() if finding.level == "warning"]
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
    errors = [finding.text for finding in await store.diagnose() if finding.level == "error"]
    assert len(errors) == 2
    assert "rediss://" in errors[0]
    assert "default_ro" in errors[1]
    await store.close()


@pytest.mark.skipif(not which("curl"), reason="infra/upstash.sh takes curl")
async def test_the_script_that_creates_the_database(tmp_path: Path) -> None:
    """By Upstash's developer API, of which this is as much as the script asks of it."""
    asked: list[tuple[str, str, Any]] = []

    async def answer(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Basic {b64encode(b'me@example.com:a key').decode()}"
        asked.append(
            (request.method, request.path_qs, await request.json() if request.can_read_body else None)
        )
        return web.json_response(
            {
                "database_id": "id",
                "endpoint": "calm-fox-1",
                "password": "sesame",
                "port": 6379,
                "eviction": True,
            }
        )

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    (tmp_path / "infra").mkdir()
    copy(Path(__file__).parents[2] / "infra/upstash.sh", tmp_path / "infra")

    async with TestServer(app) as api:
        environment = {
            "PATH": os.environ["PATH"],
            "UPSTASH_EMAIL": "me@example.com",
            "UPSTASH_API_KEY": "a key",
            "UPSTASH_API": str(api.make_url("")).rstrip("/"),
        }

        async def script(*arguments: str) -> tuple[int | None, str]:
            process = await asyncio.create_subprocess_exec(
                "bash",
                "infra/upstash.sh",
                *arguments,
                cwd=tmp_path,
                env=environment,
                stdout=PIPE,
                stderr=STDOUT,
            )
            said, _ = await process.communicate()
            return process.returncode, said.decode()

        url = "REDIS_URL=rediss://default:sesame@calm-fox-1.upstash.io:6379\n"
        env = tmp_path / ".env"
        for kept in ("BOT_TOKEN=42:x", ""):  # a last line that does not end, and no file
            env.unlink(missing_ok=True)
            if kept:
                env.write_text(kept, "utf-8")
            assert await script("create", "my-bot", "eu-west-1", "payg") == (
                0,
                "created id at calm-fox-1.upstash.io\n",
            )
            assert env.read_text("utf-8") == (f"{kept}\n{url}" if kept else url)
        assert env.stat().st_mode & 0o777 == 0o600
        code, said = await script("create", "my-bot", "eu-west-1", "payg")
        assert (code, "set in .env already" in said) == (1, True)
        code, said = await script("show", "id")
        assert (code, "Eviction is on" in said, "sesame" in said) == (1, True, False)
        assert (await script("delete", "id"))[0] == 0
        assert (await script())[0] == 2
    body = {"database_name": "my-bot", "platform": "aws", "primary_region": "eu-west-1", "plan": "payg"}
    assert asked == [
        *[("POST", "/redis/database", body | {"tls": True, "eviction": False})] * 2,
        ("GET", "/redis/database/id?credentials=hide", None),
        ("DELETE", "/redis/database/id", None),
    ]


@pytest.mark.usefixtures("upstash")
async def test_a_lesser_user(upstash: Proxy, direct: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstash's rules are tried on a server that has no others than Redis."""
    await direct.connection.ask("ACL", "SETUSER", "bot", "on", ">token", f"~{NAMESPACE}:*", *RIGHTS.split())
    monkeypatch.setenv("REDIS_URL", named(upstash, NAME, "bot:token@"))
    store = UpstashStore.from_settings(Settings())
    await store.connect()
    await store.bind(42)
    await store.commit("1", Changes(state={"city": b'"Oslo"'}), expect=0)
    assert (await store.load("1")).state == {"city": "Oslo"}
    assert [user async for user in store.users()] == ["1"]
    assert {finding.level for finding in await store.diagnose()} == {"ok"}
    with pytest.raises(StateUnavailable, match="ACL"):
        await store.connection.ask("FLUSHALL")
    await store.close()


@pytest.mark.parametrize("weakness", UNCHECKED)
def test_an_address_that_believes_every_certificate(monkeypatch: pytest.MonkeyPatch, weakness: str) -> None:
    monkeypatch.setenv("REDIS_URL", f"rediss://default:sesame@{NAME}:6379/0?{weakness}")
    with pytest.raises(OperatorError, match="turns checks of the server's certificate off") as caught:
        UpstashStore.from_settings(Settings())
    assert "\n" not in str(caught.value)
    assert "sesame" not in str(caught.value)


async def test_a_server_elsewhere(server: Server, tmp_path: Path) -> None:
    result = await asyncio.to_thread(run, tmp_path, "doctor", REDIS_URL=server.url)
    assert "REDIS_URL names no database of Upstash" in result.stdout
    assert "append-only" in result.stdout, "and what is to be said of any server"
