"""The passwords of both servers, like every other secret, are in nothing that the bot writes."""

from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from redis.asyncio import Redis

from bot.runtime.engines.postgres import schema as postgres_schema
from bot.runtime.engines.postgres.connection import Database
from suite.engines.postgres.server import OwnServer
from suite.engines.redis.server import Server
from suite.support.runtime import Mode
from suite.support.secrecy import everything_written, expect_secret

pytestmark = pytest.mark.clause("secrets.never-written")

OF_REDIS, OF_POSTGRES = "pass:w/rd@of#redis", "pass:w/rd@of#postgres"


async def test_no_secret_is_written(
    tmp_path: Path,
    own_redis: Server,
    own_postgres: OwnServer,
    mode: Mode,
) -> None:
    await postgres_schema.migrate(Database(own_postgres.url), "public")
    async with Redis.from_url(own_redis.url) as client:
        await client.config_set("requirepass", OF_REDIS)
    redis_url = f"redis://:{quote(OF_REDIS, safe='')}@127.0.0.1:{own_redis.port}"
    parts = urlsplit(own_postgres.url)
    login = f"{parts.username or 'postgres'}:{quote(OF_POSTGRES, safe='')}"
    database_url = parts._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}").geturl()
    written = await everything_written(
        tmp_path,
        mode,
        break_store=own_redis.pause,
        mend_store=own_redis.resume,
        broken={"REDIS_URL": redis_url.replace("@", "-but-wrong@"), "REDIS_CONNECT_TIMEOUT": "1"},
        REDIS_URL=redis_url,
        DATABASE_URL=database_url,
        HYBRID_ACK="postgres",
    )
    for password in (OF_REDIS, OF_POSTGRES):
        expect_secret(written, password, quote(password, safe=""))
