"""Servers for development: started by the first process that needs one, stopped after the last.

Two locks in the server's folder, which the kernel drops with the process that holds them, however it ends,
say all that has to be known:

    users.lock    shared by every process that uses the server
    server.lock   held by its keeper, a process that looks after it

The keeper starts the server, starts it again when it is killed, and stops it once it gets `users.lock` for
itself. What is left when the keeper is killed, the next one puts right.
"""

import os
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import IO, ClassVar

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from bot.runtime import config
from bot.runtime.errors import OperatorError

HOST = "127.0.0.1"

START_SECONDS = 60.0
"""How long a server may take to start, reading its data."""

WATCH_SECONDS = 0.2
"""How often the server is looked after."""

Serve = Callable[[Path], Generator[None]]
"""What a keeper does, given the folder: starts the server and yields when it answers, looks after it whenever
it is asked to go on, and stops it when it is closed. Ends the process where the server does not start."""


class DevServer(ABC):
    """The server in a folder, as one of the processes that use it sees it.

    The module that a subclass stands in, run by `python -m` with the folder, has to `keep` such a server.

    Attributes:
        folder: where the server keeps its data, and its log.
    """

    name: ClassVar[str]
    """The name of its folder in the project's `.data/`, unless told otherwise."""

    missing: ClassVar[str]
    """What to say where such a server cannot be started."""

    def __init__(self, folder: Path | None = None) -> None:
        """Make it; nothing is started yet."""
        self.folder = folder or config.DATA / self.name
        self._use: IO[bytes] | None = None

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it is, as its clients are told."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it answers."""

    @property
    def is_startable(self) -> bool:
        """Whether this machine has what it takes."""
        return fcntl is not None

    @property
    def is_kept(self) -> bool:
        """Whether there is a keeper."""
        lock = self.folder / "server.lock"
        if not lock.exists():
            return False
        with lock.open("ab") as file:
            return not _lock_for_itself(file)

    def join(self) -> str:
        """Use the server, and start it when nobody did; blocks until it answers.

        Returns:
            Its address.

        Raises:
            OperatorError: it does not start.
        """
        if not self.is_startable:
            raise OperatorError(self.missing)
        if not self._use:
            is_new = not self.folder.exists()
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.folder.chmod(0o700)  # what people write is in there
                self._use = (self.folder / "users.lock").open("ab")
                if is_new:
                    config.announce_data(self.folder)
            except OSError as error:
                raise OperatorError(
                    f"cannot keep a server's data in {self.folder} ({error.strerror}): make it writable"
                ) from None
        try:
            fcntl.flock(self._use, fcntl.LOCK_SH)  # waits while a server is just being stopped
            self._wait()
        except BaseException:
            self.leave()
            raise
        return self.address

    def leave(self) -> None:
        """Use the server no longer."""
        if self._use:
            self._use.close()
            self._use = None

    def _wait(self) -> None:
        give_up = time.monotonic() + START_SECONDS
        while not (self.is_kept and self.answers()):
            if time.monotonic() > give_up:
                raise OperatorError(f"the server in {self.folder} does not answer: see server.log there")
            if not self.is_kept:
                self._start()
            time.sleep(0.02)

    def _start(self) -> None:
        with (self.folder / "server.log").open("ab") as output:
            keeper = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", type(self).__module__, str(self.folder.absolute())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        if keeper.wait():
            raise OperatorError(f"the server in {self.folder} does not start: see server.log there")


def keep(folder: Path, serve: Serve) -> None:
    """Run the server of a folder in a process of its own, until nobody uses it; returns once it answers."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        sys.exit(0 if os.read(reading, 1) else 1)
    os.close(reading)
    os.setsid()  # Ctrl-C in the terminal is for the bot, which may have something left to commit
    with (folder / "server.lock").open("ab") as server_lock, (folder / "users.lock").open("ab") as users_lock:
        if not _lock_for_itself(server_lock):
            os.write(writing, b"+")  # another process was faster
            return
        with closing(serve(folder)) as server:
            next(server)
            os.write(writing, b"+")
            os.close(writing)
            while not _lock_for_itself(users_lock):
                time.sleep(WATCH_SECONDS)
                next(server)


def choose_port(folder: Path) -> int:
    """The port of last time, which running bots know; another where somebody else has it by now."""
    for port in (port_of(folder), 0):
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


def port_of(folder: Path) -> int:
    """The port chosen last; 0 when there was none."""
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
