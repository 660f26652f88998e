"""A DynamoDB for development, in `.data/dynamodb`; `embedded_dynamodb_server.py` is the server."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import ClassVar

from bot.runtime.engines.dev_server import HOST, START_SECONDS, DevServer, choose_port, keep, port_of


class DynamodbDevServer(DevServer):
    """The server in a folder."""

    name: ClassVar[str] = "dynamodb"
    missing: ClassVar[str] = (
        "AWS_REGION is not set, and on Windows no server can be started: set AWS_REGION, or run "
        "DynamoDB local and set AWS_ENDPOINT_URL_DYNAMODB=http://localhost:8000 as well"
    )

    @property
    def address(self) -> str:
        """Its URL."""
        return f"http://{HOST}:{port_of(self.folder)}"

    def answers(self) -> bool:
        """Whether it answers, and is this folder's."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port_of(self.folder)}/", timeout=5) as answer:
                found: bytes = answer.read()
        except (OSError, ValueError):
            return False
        return found == os.fsencode(self.folder.absolute())


def start_server(folder: Path, port: int) -> "subprocess.Popen[bytes]":
    """Start a server; it ends with this process, if not before."""
    command = [
        sys.executable,
        "-m",
        "bot.runtime.engines.dynamodb.dev_server_process",
        str(folder),
        str(port),
    ]
    return subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - our own module


def serve(folder: Path) -> Generator[None]:
    """Look after the server. See `bot.runtime.engines.dev_server.Serve`."""
    port = choose_port(folder)
    server = start_server(folder, port)
    try:
        give_up = time.monotonic() + START_SECONDS
        while not DynamodbDevServer(folder).answers():
            if server.poll() is not None or time.monotonic() > give_up:
                sys.exit("the server did not start")
            time.sleep(0.02)
        while True:
            yield
            if server.poll() is not None:
                server = start_server(folder, port)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    keep(Path(sys.argv[1]), serve)
