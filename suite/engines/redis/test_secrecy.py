"""The password of Redis, like every other secret, is in nothing that the bot writes."""

from pathlib import Path
from urllib.parse import quote

import pytest
from redis.asyncio import Redis

from suite.engines.redis.server import Server
from suite.support.runtime import Mode
from suite.support.secrecy import everything_written, expect_secret

pytestmark = pytest.mark.clause("secrets.never-written")

PASSWORD = "pass:w/rd@of#redis"


async def test_no_secret_is_written(tmp_path: Path, mode: Mode) -> None:
    server = Server(tmp_path / "server").start()
    async with Redis.from_url(server.url) as client:
        await client.config_set("requirepass", PASSWORD)
    url = f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}"
    try:
        written = await everything_written(
            tmp_path,
            mode,
            break_store=server.pause,
            mend_store=server.resume,
            broken={"REDIS_URL": url.replace("@", "-but-wrong@"), "REDIS_CONNECT_TIMEOUT": "1"},
            REDIS_URL=url,
        )
    finally:
        server.end()
    expect_secret(written, PASSWORD, quote(PASSWORD, safe=""))
