"""AWS' own settings, in the environment and in `.env`, and what is said where they are wrong."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from bot.runtime.config import Settings
from bot.runtime.engines import create_store
from bot.runtime.engines.dynamodb.store import MOST_BYTES, DynamodbStore
from bot.runtime.errors import OperatorError, StateUnavailable
from bot.runtime.state.store import Changes
from suite.engines.dynamodb.server import Server, environment_of, free_port, make_store, make_table
from suite.support.command_line import environment, run

SECRET = "hunter2hunter2"


def test_without_a_region_and_without_the_development_dependencies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.runtime.engines.dynamodb.connection.find_spec", lambda _: None)
    with pytest.raises(OperatorError, match=r"^AWS_REGION is not set: put AWS_REGION=\.\.\. into \.env"):
        create_store(Settings())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"DYNAMODB_TABLE": "x"}, "bad settings: DYNAMODB_TABLE: "),
        ({"DYNAMODB_TABLE": "no spaces"}, "bad settings: DYNAMODB_TABLE: "),
        ({"DYNAMODB_TIMEOUT": "0"}, "bad settings: DYNAMODB_TIMEOUT: "),
        ({"AWS_ACCESS_KEY_ID": SECRET}, "bad settings: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong"),
        ({"AWS_SECRET_ACCESS_KEY": SECRET}, "bad settings: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"AWS_PROFILE": "nobody"}, "AWS_PROFILE names a profile that ~/.aws/config does not have"),
        ({"AWS_ENDPOINT_URL_DYNAMODB": "http://localhost:1"}, "no region is set: put AWS_REGION=..."),
        ({"AWS_ENDPOINT_URL_DYNAMODB": f"http://me:{SECRET}@x"}, "bad settings: AWS_ENDPOINT_URL_DYNAMODB: "),
        ({"STATE_MAX_BYTES": str(MOST_BYTES + 1)}, "STATE_MAX_BYTES is more than fits into an item"),
    ],
    ids=lambda value: ascii(value)[:40],
)  # fmt: skip
def test_bad_settings_are_one_line(tmp_path: Path, settings: dict[str, str], reason: str) -> None:
    result = run(tmp_path, "migrate", **settings)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {reason}")
    assert result.stderr.count("\n") == 1
    assert SECRET not in result.stderr


async def test_a_server_that_is_not_there_is_one_line() -> None:
    store = make_store(f"http://127.0.0.1:{free_port()}", table="test", dynamodb_connect_timeout=1)
    with pytest.raises(StateUnavailable, match=r"^DynamoDB cannot be reached \(EndpointConnectionError\)$"):
        await store.connect()
    await store.close()


async def test_a_server_that_is_starting_is_waited_for(server: Server) -> None:
    await make_table(server.url, "test")
    server.kill()
    store = make_store(server.url, table="test")
    connecting = asyncio.create_task(store.connect())
    await asyncio.sleep(1)
    assert not connecting.done()
    await asyncio.to_thread(server.start)
    await connecting
    await store.close()


def test_settings_of_aws_stand_in_a_file(tmp_path: Path, url: str, fresh: str) -> None:
    lines = [f"{name}={value}" for name, value in environment_of(url, fresh).items()]
    (tmp_path / ".env").write_text("\n".join(lines))
    assert run(tmp_path, "migrate").stdout.startswith(f"table {fresh}: created")
    other = f"other-{fresh}"
    assert run(tmp_path, "migrate", DYNAMODB_TABLE=other).stdout.startswith(f"table {other}: created")


def test_a_profile(tmp_path: Path, url: str, fresh: str) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text("[profile bot]\nregion = eu-central-1\n")
    (tmp_path / ".aws/credentials").write_text(
        f"[bot]\naws_access_key_id = x\naws_secret_access_key = {SECRET}\n"
    )
    settings = {"AWS_PROFILE": "bot", "AWS_ENDPOINT_URL_DYNAMODB": url, "NAMESPACE": fresh}
    assert run(tmp_path, "migrate", **settings).stdout.startswith(f"table {fresh}-state: created")


LOGIN = """
sso_start_url = https://example.awsapps.com/start
sso_region = eu-central-1
sso_account_id = 123456789012
sso_role_name = bot
"""
EXPIRED = {"Version": 1, "AccessKeyId": "x", "SecretAccessKey": "y", "Expiration": "2020-01-01T00:00:00Z"}
PROCESS = f"credential_process = echo '{json.dumps(EXPIRED)}'"
ROLE = "role_arn = arn:aws:iam::123456789012:role/bot\nsource_profile = person"


ADVICE = "is it running, is its address right? `bot doctor` shows more"


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        (LOGIN, "the login at AWS is over: run `aws sso login`, or `aws login`"),
        (PROCESS, f"the credentials have expired, and no newer ones are to be had; {ADVICE}"),
        (ROLE, f"there are no credentials: AWS refuses AssumeRole (AccessDenied); {ADVICE}"),
    ],
    ids=["login", "process", "role"],
)
async def test_credentials_that_cannot_be_had(tmp_path: Path, profile: str, reason: str) -> None:
    person = f"[profile person]\naws_access_key_id = x\naws_secret_access_key = {SECRET}\n"
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text(f"{person}[profile bot]\nregion = eu-central-1\n{profile}\n")
    denial = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>No.</Message></Error></ErrorResponse>"
    async with answering(web.Response(status=403, text=denial, content_type="text/xml")) as sts:
        settings = {"AWS_PROFILE": "bot", "AWS_ENDPOINT_URL_STS": sts, "AWS_ENDPOINT_URL_DYNAMODB": sts}
        result = await asyncio.to_thread(run, tmp_path, "state", "show", "1", **settings)
    expected = f"error: the dynamodb store cannot be used: {reason}\n"
    assert (result.returncode, result.stdout, result.stderr) == (1, "", expected)


@asynccontextmanager
async def answering(answer: web.Response) -> AsyncIterator[str]:
    """The URL of a server that answers all requests like this."""

    async def handle(_: web.BaseRequest) -> web.Response:
        return answer

    server = web.ServerRunner(web.Server(handle))
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{server.addresses[0][1]}"
    await server.cleanup()


async def test_a_closed_store_can_be_connected_again(direct: DynamodbStore) -> None:
    await direct.commit("1", Changes(), expect=0)
    await direct.close()
    await direct.connect()
    assert (await direct.load("1")).version > 0


def test_libraries_do_not_log_what_is_kept(tmp_path: Path, url: str, fresh: str) -> None:
    """At DEBUG, botocore would log requests whole."""
    settings = environment_of(url, fresh)
    run(tmp_path, "migrate", **settings)
    done = subprocess.run(
        [sys.executable, "-m", "suite.counting_bot", "chat"],
        cwd=tmp_path,
        env=environment(tmp_path, LOG_LEVEL="DEBUG", **settings),
        input="my secret words\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "Processed: my secret words (#1)\n"
    assert "my secret words" not in done.stderr
