"""The keys of AWS, like every other secret, are in nothing that the bot writes."""

from pathlib import Path

import pytest

from suite.engines.dynamodb.server import Server, environment_of, make_table
from suite.engines.dynamodb.throttle import Throttle
from suite.support.runtime import Mode
from suite.support.secrecy import everything_written, expect_secret

KEY = "AKIAKEYTHATNOBODYSEES"
SECRET = "secret/of+aws/that+nobody/sees"
TOKEN = "token/of+a/session=="


@pytest.mark.timeout(180)
async def test_no_secret_is_written(
    tmp_path: Path,
    server: Server,
    mode: Mode,
) -> None:
    await make_table(server.url)
    throttle = Throttle(lambda: server.url)
    await throttle.start()
    secrets = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN}
    settings = {
        **environment_of(throttle.url),
        **secrets,
        "DYNAMODB_TIMEOUT": "3",
        "DYNAMODB_CONNECT_TIMEOUT": "30",
    }
    throttle.refuse_next("ProvisionedThroughputExceededException", "InternalServerError")
    written = await everything_written(
        tmp_path,
        mode,
        break_store=server.pause,
        mend_store=server.resume,
        broken={"DYNAMODB_TABLE": "no-such-table"},
        **settings,
    )
    await throttle.stop()
    expect_secret(written, *secrets.values())
