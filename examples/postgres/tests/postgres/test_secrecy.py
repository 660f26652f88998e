"""The database's password, like every other secret, is in nothing that the bot writes."""

from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from bot.state.postgres_database import Database
from tests.e2e.conftest import mode  # noqa: F401 - a fixture
from tests.e2e.runtime import Mode
from tests.e2e.secrecy import everything_written, expect_secret
from tests.postgres.server import OwnServer

PASSWORD = "pass:w/rd@of#postgres"


@pytest.mark.timeout(180)
async def test_no_secret_is_written(
    tmp_path: Path,
    own_server: OwnServer,
    own_database: Database,
    mode: Mode,  # noqa: F811
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
