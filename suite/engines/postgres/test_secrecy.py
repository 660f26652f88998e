"""The database's password, like every other secret, is in nothing that the bot writes."""

from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from bot.runtime.engines.postgres.connection import Database
from suite.engines.postgres.server import OwnServer
from suite.support.runtime import Mode
from suite.support.secrecy import everything_written, expect_secret

pytestmark = pytest.mark.clause("secrets.never-written")

PASSWORD = "pass:w/rd@of#postgres"


async def test_no_secret_is_written(
    tmp_path: Path,
    own_server: OwnServer,
    own_database: Database,
    mode: Mode,
) -> None:
    parts = urlsplit(own_server.url)
    user = parts.username or "postgres"
    place = parts.netloc.rpartition("@")[2]
    url = parts._replace(netloc=f"{user}:{quote(PASSWORD, safe='')}@{place}").geturl()
    written = await everything_written(
        tmp_path,
        mode,
        break_store=own_server.embedded.stop_now,
        mend_store=own_server.embedded.start_now,
        broken={"DATABASE_URL": url.replace(f"//{user}:", "//nobody:")},
        DATABASE_URL=url,
    )
    expect_secret(written, PASSWORD, quote(PASSWORD, safe=""))
