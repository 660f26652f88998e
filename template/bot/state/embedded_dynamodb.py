"""A DynamoDB for development: started by the first process that needs it, stopped after the last one.

Its data lie in `.data/dynamodb`; `embedded_dynamodb_server.py` is the server. Two locks there, which the
kernel drops with the process that holds them, however it ends, say all that has to be known:

    users.lock    shared by every process that uses the server
    server.lock   held by the process that looks after the server, this module run by `python -m`

That process starts the server, starts it again when it is killed, and stops it once it gets `users.lock` for
itself. When it is killed itself, the server ends, and the next process to come starts both on the same port.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from bot.errors import OperatorError

FOLDER = Path(".data/dynamodb")
HOST = "127.0.0.1"

START_SECONDS = 60.0
"""How long a server may take to start, reading its file."""

WATCH_SECONDS = 0.2
"""How often the server is looked after."""


class EmbeddedDynamodb:
    """The server in a folder, as one of the processes that use it sees it."""

    def __init__(self, folder: Path = FOLDER) -> None:
        """Make it; nothing is started yet."""
        self._folder = folder
        self._use: IO[bytes] | None = None

    def join(self) -> str:
        """Use the server, and start it when nobody did; blocks until it answers.

        Returns:
            Its URL.

        Raises:
            OperatorError: it does not start.
        """
        if fcntl is None:
            raise OperatorError(
                "AWS_REGION is not set, and on Windows no server can be started: set AWS_REGION, or run "
                "DynamoDB local and set AWS_ENDPOINT_URL_DYNAMODB=http://localhost:8000 as well"
            )
        if not self._use:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._use = (self._folder / "users.lock").open("ab")
            except OSError as error:
                raise OperatorError(
                    f"cannot keep a server's data in {self._folder}: {error.strerror}"
                ) from None
        try:
            # Waits while a server is just being stopped.
            fcntl.flock(self._use, fcntl.LOCK_SH)
            self._wait_for_server()
        except BaseException:
            self.leave()
            raise
        return f"http://{HOST}:{_port(self._folder)}"

    def leave(self) -> None:
        """Use the server no longer."""
        if self._use:
            self._use.close()
            self._use = None

    def _wait_for_server(self) -> None:
        give_up = time.monotonic() + START_SECONDS
        while not (_is_locked(self._folder / "server.lock") and answers(self._folder)):
            if time.monotonic() > give_up:
                raise OperatorError(f"the server in {self._folder} does not answer: see server.log there")
            if not _is_locked(self._folder / "server.lock"):
                self._start()
            time.sleep(0.02)

    def _start(self) -> None:
        with (self._folder / "server.log").open("ab") as output:
            done = subprocess.run(  # noqa: S603 - our own module
                [sys.executable, "-m", "bot.state.embedded_dynamodb", str(self._folder.absolute())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=START_SECONDS,
            )
        if done.returncode:
            raise OperatorError(f"the server in {self._folder} does not start: see server.log there")


def start_server(folder: Path, port: int) -> "subprocess.Popen[bytes]":
    """Start a server; it ends with this process, if not before."""
    command = [sys.executable, "-m", "bot.state.embedded_dynamodb_server", str(folder), str(port)]
    return subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - our own module


def answers(folder: Path) -> bool:
    """Whether the server of a folder answers."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{_port(folder)}/", timeout=5) as answer:
            found: bytes = answer.read()
    except (OSError, ValueError):
        return False
    return found == os.fsencode(folder.absolute())


def look_after(folder: Path) -> None:
    """Run the server of a folder in a process of its own, until nobody uses it; returns once it answers."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        sys.exit(0 if os.read(reading, 1) else 1)
    os.close(reading)
    os.setsid()  # Ctrl-C in the terminal is for the bot, which may have something left to commit
    with (folder / "server.lock").open("ab") as server_lock, (folder / "users.lock").open("ab") as users_lock:
        try:
            fcntl.flock(server_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.write(writing, b"+")  # another process was faster
            return
        _watch(folder, users_lock, writing)


def _watch(folder: Path, users_lock: IO[bytes], started: int) -> None:
    port = _choose_port(folder)
    server = start_server(folder, port)
    give_up = time.monotonic() + START_SECONDS
    while not answers(folder):
        if server.poll() is not None or time.monotonic() > give_up:
            server.kill()
            return
        time.sleep(0.02)
    os.write(started, b"+")
    os.close(started)
    while not _lock_for_itself(users_lock):
        time.sleep(WATCH_SECONDS)
        if server.poll() is not None:
            server = start_server(folder, port)
    server.terminate()
    server.wait()


def _choose_port(folder: Path) -> int:
    """The port of last time, which running bots know; another where somebody else has it by now."""
    for port in (_port(folder), 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            chosen: int = probe.getsockname()[1]
        (folder / "port").write_text(str(chosen))
        return chosen
    raise OSError("no port is free")


def _port(folder: Path) -> int:
    try:
        return int((folder / "port").read_text())
    except (OSError, ValueError):
        return 0


def _lock_for_itself(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(path: Path) -> bool:
    with path.open("ab") as file:
        return not _lock_for_itself(file)


if __name__ == "__main__":
    look_after(Path(sys.argv[1]))
