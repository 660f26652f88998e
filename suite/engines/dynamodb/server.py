"""Throw-away servers for the tests of the DynamoDB engine, and the one that most of them share."""

import atexit
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

from botocore.loaders import JSONFileLoader

from bot.runtime.engines.dynamodb import table as dynamodb_table
from bot.runtime.engines.dynamodb.connection import DynamodbClient, DynamodbSettings
from bot.runtime.engines.dynamodb.dev_server import DynamodbDevServer, start_server
from bot.runtime.engines.dynamodb.store import DynamodbStore

START_SECONDS = 180.0

_read_file = JSONFileLoader.load_file


@cache
def _read_once(path: str) -> Any:
    return _read_file(JSONFileLoader(), path)


# Each new client reads megabytes of JSON, which takes longer than most tests. They are read once.
patch.object(JSONFileLoader, "load_file", lambda _, file_path: _read_once(file_path)).start()

CREDENTIALS = {
    "aws_region": "eu-central-1",
    "aws_access_key_id": "AKIATESTKEYOFTHEBOT",
    "aws_secret_access_key": "test-secret-of-aws",
}


class Server:
    """A server of a test's own, which can be paused, killed and started again over the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def start(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "port").write_text(str(self.port))
        self._process = start_server(self.folder, self.port)
        give_up = time.monotonic() + START_SECONDS
        while not DynamodbDevServer(self.folder).answers():
            assert self._process.poll() is None, "it ended"
            assert time.monotonic() < give_up, "it does not answer"
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """Stop it as an operator would."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it with SIGKILL; nothing, when it is gone."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        if self._process:
            self._process.send_signal(number)
            self._process.wait()
            assert self._process.stdin
            self._process.stdin.close()


def free_port() -> int:
    """A port that no client takes by chance while its server is down."""
    while True:
        port = random.randrange(12_000, 22_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@cache
def shared_url() -> str:
    """The server that the tests share: TEST_DYNAMODB_URL, or one that ends with them."""
    if url := os.environ.get("TEST_DYNAMODB_URL"):
        return url
    folder = Path(tempfile.mkdtemp(prefix="bot-tests-"))
    server = Server(folder).start()

    def end() -> None:
        server.kill()
        shutil.rmtree(folder)

    atexit.register(end)
    return server.url


@cache
def shared_table() -> str:
    """The name of the table that the tests share there."""
    return f"test-{secrets.token_hex(4)}"


def make_client(url: str, table: str, **options: Any) -> DynamodbClient:
    """A way to a server; `options` are settings of it."""
    settings = {**CREDENTIALS, "aws_endpoint_url_dynamodb": url, "dynamodb_table": table, **options}
    return DynamodbClient(DynamodbSettings.model_validate(settings), table)


def make_store(
    url: str, namespace: str = "test", limits: Any = None, ttl: float | None = None, **options: Any
) -> DynamodbStore:
    """A store on a server's table; `options` are settings of the connection."""
    table = options.pop("table", None) or shared_table()
    return DynamodbStore(make_client(url, table, **options), namespace, limits, ttl)


async def make_table(url: str, table: str | None = None) -> str:
    """Make a table unless it is there, and say what was done."""
    client = make_client(url, table or shared_table())
    await client.open()
    try:
        return await dynamodb_table.migrate(client)
    finally:
        await client.close()


def environment_of(url: str, table: str | None = None) -> dict[str, str]:
    """The settings with which a process sees a table."""
    own = {name.upper(): value for name, value in CREDENTIALS.items()}
    return {**own, "AWS_ENDPOINT_URL_DYNAMODB": url, "DYNAMODB_TABLE": table or shared_table()}
