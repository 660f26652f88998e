"""A SQLite file: its settings, what its errors mean, and the two threads that work on it.

SQLite lets one connection write at a time and has the disk flushed by every transaction. So one thread of the
process does all the writing, and puts into one transaction what is ready at that moment: many turns share one
flush (group commit). Another thread reads meanwhile, which a writer holds up no more than it does a writer.
"""

import asyncio
import contextlib
import os
import random
import shutil
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Literal, TypeVar, cast

import apsw
import structlog
from pydantic import Field, field_validator

from bot.runtime import config
from bot.runtime.config import KEEPS_APART, Environment, Seconds
from bot.runtime.errors import StateError, StateUnavailable
from bot.runtime.state.store import Finding

T = TypeVar("T")
Work = Callable[[apsw.Connection], T]
"""What is done in a transaction that may be shared: it raises `StateError` before it changes anything."""

_Outcome = tuple["asyncio.Future[Any]", Any, Exception | None]

log = structlog.get_logger(__name__)

APPLICATION_ID = 0x74677374
"""Stands in the head of the file and says whose it is: "tgst"."""

AT_ONCE = 256
"""Most pieces of work that share a transaction."""

GATHER_SECONDS = 0.001
"""How long the writer waits for others to come along, while as many as last time are not there yet."""

ERASE_SECONDS, LONGEST_ERASE_SECONDS = 0.5, 60.0
"""How soon to try again to erase what others still read: first, and in the end."""

ERASE_PATIENCE = 0.05
"""Seconds for which nobody can write while those who read are waited for."""

PAGES_AT_ONCE = 4_096
"""Pages that are looked through while nobody can write: 16 MB, in some ten milliseconds."""

MOST_PAGES = 0x02000000
"""Beyond this (137 GB) the number of a page, which others begin with, can look like the kind of a B-tree."""

WAL_BYTES = 16 * 1024 * 1024
"""The size to which the write-ahead log is cut when it was larger: a file of a reply may have 50 MB."""

LOCK_SECONDS = 0.001
"""How soon to try again while another process writes. SQLite's own time-out would wait longer each time."""

MOUNTS = Path("/proc/self/mounts")

REMOTE = {"9p", "afs", "ceph", "cifs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs", "virtiofs"}
"""File systems on which locks or shared memory may not hold: SQLite's files get damaged there."""

FREE_BYTES = 256 * 1024 * 1024
"""Room on the disk below which to warn: the log and a large reply have to fit."""

CHECKED_BYTES = 512 * 1024 * 1024
"""The size up to which all of the file is looked through, which takes some seconds."""

LARGE_WAL_BYTES = 256 * 1024 * 1024
"""More than it should grow to: somebody reads without an end."""


class FileSettings(Environment):
    """The SQLite file."""

    sqlite_path: str = Field(
        ".data/bot.sqlite3",
        description="The file, in a folder of this machine; a relative path begins at the project's folder. "
        "Every bot has a file of its own.",
        json_schema_extra=KEEPS_APART,
    )
    sqlite_sync: Literal["full", "normal"] = Field(
        "full",
        description="`normal`: commits do not wait for the disk; a power failure (not a kill) loses some.",
    )
    sqlite_timeout: Seconds = Field(
        10, description="Seconds a load or commit may take, waiting for other processes included."
    )

    @field_validator("sqlite_path")
    @classmethod
    def _path_is_a_file(cls, value: str) -> str:
        if value.startswith((":", "file:")):
            raise ValueError("must be a path; what only has to last as long as the process is backend memory")
        return value

    def database(self, schema: Sequence[str]) -> "Database":
        """The file described; `schema` as for `Database`."""
        path = config.PROJECT / Path(self.sqlite_path).expanduser()
        return Database(path, schema, sync=self.sqlite_sync, timeout=self.sqlite_timeout)


class Database:
    """Does work on the file, each piece in a transaction.

    Attributes:
        path: the file.
        sync: whether commits wait for the disk (`full`) or not (`normal`).
    """

    def __init__(self, path: Path, schema: Sequence[str], *, sync: str = "full", timeout: float = 10) -> None:
        """Describe a file; nothing is opened yet.

        Args:
            path: the file.
            schema: per version, from 1 on, the SQL that makes it of the version before. There has to be a
                table `erasing`.
            sync: see the attribute.
            timeout: seconds a piece of work may take, waiting included.
        """
        self.path = path
        self.sync = sync
        self._schema = schema
        self._timeout = timeout
        self._threads: tuple[_Writer, _Thread] | None = None

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt to write failed."""
        return self._threads is not None and self._threads[0].is_failing

    @property
    def wal(self) -> Path:
        """The write-ahead log beside the file."""
        return self.path.with_name(f"{self.path.name}-wal")

    async def open(self) -> str:
        """Open the file; create it, or bring its schema up to date, where that is due.

        Returns:
            One line that says what was done.

        Raises:
            StateUnavailable: it cannot be opened.
            StateError: it is no file for this code; the text says what to do.
        """
        if self._threads is None:
            await asyncio.to_thread(self._create)
            loop = asyncio.get_running_loop()
            self._threads = _Writer(self, loop, self._timeout), _Thread(self, loop, self._timeout)
            for thread in self._threads:
                thread.start()
        try:
            # What needs no change needs no lock either, which another process may have for long.
            if await self.read(_version) < len(self._schema):
                return await self.write(self._migrate)
            if (
                await self.read(lambda connection: connection.execute("SELECT page FROM erasing").get)
                is not None
            ):
                await self.write(lambda connection: None, erases=True)  # which a kill had interrupted
            return f"nothing to do: {self.path} is at version {len(self._schema)}"
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Finish what is under way, and close the file."""
        threads, self._threads = self._threads, None
        for thread in threads or ():
            thread.jobs.put(None)
            await asyncio.to_thread(thread.join)

    async def write(
        self, work: Work[T], *, user_id: str | None = None, seconds: float = 0, erases: bool = False
    ) -> T:
        """Do work that changes something.

        Args:
            work: what to do.
            user_id: whose record it is about, for errors.
            seconds: how long it may take beyond the time-out.
            erases: what it deletes has to be gone from the disk, too.

        Raises:
            StateUnavailable: it cannot be done, or not in time. Whether it was done may then be unknown.
        """
        return cast(T, await self._done(0, _Job(work, erases), user_id, seconds))

    async def read(self, work: Work[T], *, user_id: str | None = None, seconds: float = 0) -> T:
        """Do work that changes nothing; arguments and errors as for `write`."""
        return cast(T, await self._done(1, _Job(work), user_id, seconds))

    async def _done(self, thread: int, job: "_Job", user_id: str | None, seconds: float) -> Any:
        if self._threads is None:
            raise FileUnusable("the store is not connected", user_id)
        loop = asyncio.get_running_loop()
        job.future = loop.create_future()
        # SQLite gives up in time where others keep the file locked. A disk that hangs keeps the thread.
        timer = loop.call_later(self._timeout + 1 + seconds, self._give_up, job.future)
        self._threads[thread].jobs.put(job)
        try:
            return await job.future
        except _Failed as failed:
            raise FileUnusable(str(failed), user_id) from None
        finally:
            timer.cancel()

    def _give_up(self, future: "asyncio.Future[Any]") -> None:
        if not future.done():
            future.set_exception(_Failed(f"the disk of {self.path} does not answer"))

    def connect(self, patience: "Patience") -> apsw.Connection:
        """Open a connection, for one thread.

        Raises:
            StateError: the file is another program's, or of a newer version; it stays as it is.
            apsw.Error: it cannot be opened.
        """
        connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.set_busy_handler(patience)
            # Otherwise SQLite plans a statement anew, each time, when what it looks for is another value.
            connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
            if connection.readonly("main"):
                raise FileUnusable(MEANINGS[apsw.ReadOnlyError].format(file=self.path))
            self._check(connection)
            if connection.pragma("journal_mode") != "wal":
                self._begin_wal(connection)
            connection.execute(f"""
                PRAGMA synchronous = {self.sync};
                PRAGMA fullfsync = ON;
                PRAGMA checkpoint_fullfsync = ON;
                PRAGMA secure_delete = ON;
                PRAGMA temp_store = MEMORY;
                PRAGMA journal_size_limit = {WAL_BYTES};
            """)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: apsw.Connection) -> None:
        owner, version, has_tables = connection.execute(_HEAD).get
        if owner != APPLICATION_ID and (version or has_tables):
            raise StateError(f"{self.path} is the database of another program: set SQLITE_PATH")
        if version > len(self._schema):
            raise StateError(
                f"{self.path} is ahead of this code (version {version}, not {len(self._schema)}): "
                "deploy the newer code"
            )

    def _begin_wal(self, connection: apsw.Connection) -> None:
        """Give a new file its write-ahead log. Where another process is at the same, SQLite does not wait."""
        patience = Patience(self._timeout)
        attempts = 0
        while True:
            try:
                if connection.pragma("journal_mode", "wal") == "wal":
                    return
                raise StateError(
                    f"{self.path} needs a disk of this machine: its file system shares no memory"
                )
            except apsw.BusyError:
                if not patience(attempts):
                    raise
            attempts += 1

    def _migrate(self, connection: apsw.Connection) -> str:
        """Bring the schema to what this code needs."""
        version, newest = _version(connection), len(self._schema)
        if version == newest:  # another process was faster
            return f"nothing to do: {self.path} is at version {version}"
        for script in self._schema[version:]:
            connection.execute(script)
        connection.pragma("application_id", APPLICATION_ID)
        connection.pragma("user_version", newest)
        return f"migrated {self.path} from version {version} to {newest}"

    def _create(self) -> None:
        """Make the file where there is none: empty, and for nobody else to read.

        Raises:
            StateUnavailable: that cannot be done.
            StateError: there is none, and yet there is what was to go into it.
        """
        try:
            if not _size(self.path) and _size(self.wal):
                raise StateError(
                    f"{self.path} is missing or empty, but {self.wal.name} beside it holds its last "
                    "changes: put the file back, or take the other away, too"
                )
            if self.path.exists():
                return
            missing = [folder for folder in self.path.parents if not folder.exists()]
            for folder in reversed(missing):
                folder.mkdir(0o700, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            for folder in (self.path.parent, *(each.parent for each in missing)):
                flush_folder(folder)
        except OSError as error:
            raise FileUnusable(f"cannot create {self.path}: {error.strerror}") from None

    def copy_to(self, file: Path) -> None:
        """Write everything as of now to another file, once that is checked. Blocks; others go on.

        Raises:
            StateUnavailable: it cannot be written, or is damaged.
        """
        partial = file.with_name(f"{file.name}.partial")
        try:
            partial.unlink(missing_ok=True)
            with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), "rb") as output:
                with closing(self.connect(Patience(self._timeout))) as connection:
                    connection.execute("VACUUM INTO ?", (str(partial),))
                with closing(apsw.Connection(str(partial), flags=apsw.SQLITE_OPEN_READONLY)) as copy:
                    self._check(copy)
                    if copy.pragma("integrity_check") != "ok":
                        raise FileUnusable(f"the copy of {self.path} is damaged")
                os.fsync(output.fileno())
            partial.replace(file)
            flush_folder(file.parent)
        except OSError as error:
            raise FileUnusable(f"cannot write {file}: {error.strerror}") from None
        except apsw.Error as error:
            is_about_copy = isinstance(error, apsw.FullError | apsw.IOError)
            raise FileUnusable(describe(error, file if is_about_copy else self.path)) from None
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


_HEAD = """
    SELECT application_id, user_version, EXISTS (SELECT 1 FROM sqlite_schema)
    FROM pragma_application_id, pragma_user_version
"""
"""Whose the file is, all at one moment: another process may be making it."""

MEANINGS: dict[type[apsw.Error], str] = {
    apsw.FullError: "the disk that {file} is on is full: make room",
    apsw.ReadOnlyError: "{file} cannot be written to: file and folder have to belong to the bot's user",
    apsw.CantOpenError: "{file} cannot be opened{reason}: file and folder have to belong to the bot's user",
    apsw.NotADBError: "{file} is no SQLite database, or is damaged: set SQLITE_PATH, or restore a backup",
    apsw.CorruptError: "{file} is damaged: stop the bot, keep a copy, and restore a backup",
    apsw.BusyError: "another process keeps {file} locked",
    apsw.LockedError: "another process keeps {file} locked",
    apsw.ProtocolError: "another process keeps {file} locked",
    apsw.IOError: "the disk that {file} is on fails{reason}",
    apsw.PermissionsError: "{file} cannot be used: file and folder have to belong to the bot's user",
}
"""What SQLite's errors mean, and what to do."""


def describe(error: apsw.Error, file: Path, errno: int = 0) -> str:
    """Why SQLite did not do it, and what to do; quotes no records. `errno` is the operating system's."""
    reason = f" ({os.strerror(errno)})" if errno else ""
    for kind, text in MEANINGS.items():
        if isinstance(error, kind):
            return text.format(file=file, reason=reason)
    return f"SQLite cannot work on {file}: {type(error).__name__}{reason}"


def _version(connection: apsw.Connection) -> int:
    """The version of the schema; 0 of a file that is empty."""
    version: int = connection.pragma("user_version")
    return version


def _size(file: Path) -> int:
    """How many bytes there are in a file; 0 where there is none."""
    return file.stat().st_size if file.exists() else 0


def flush_folder(folder: Path) -> None:
    """Have the disk keep which files a folder has."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Patience:
    """Says whether to try again while another process has the lock: a busy handler of SQLite.

    Attributes:
        seconds: after which to give up.
    """

    def __init__(self, seconds: float) -> None:
        """Have patience for so long each time."""
        self.seconds = seconds
        self._began = 0.0

    def __call__(self, attempts: int) -> bool:
        """Wait a moment, or give up."""
        if attempts == 0:
            self._began = time.monotonic()
        elif time.monotonic() - self._began > self.seconds:
            return False
        time.sleep(LOCK_SECONDS * random.uniform(0.5, 1.5))
        return True


class FileUnusable(StateUnavailable):
    """The file cannot be worked on; the text says why, and what to do."""

    advice = "`bot doctor` shows more"


class _Failed(Exception):
    """The file cannot be worked on; the text says why."""


class _Locked(_Failed):
    """Nobody can write for now."""


@dataclass(slots=True, eq=False)
class _Job:
    """A piece of work, and who waits for it."""

    work: Work[Any]
    erases: bool = False
    future: "asyncio.Future[Any]" = field(init=False)


class _Thread(Thread):
    """A thread with a connection of its own. It does together what is ready together."""

    begin = "BEGIN"

    def __init__(self, database: Database, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        super().__init__(name=f"sqlite {self.begin.lower()}", daemon=True)
        self.jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self.patience = Patience(timeout)
        self.connection: apsw.Connection | None = None
        self.is_failing = False
        self._file = 0, 0
        self._database = database
        self._loop = loop

    def run(self) -> None:
        """Work until there is a `None` among the jobs, which comes last."""
        is_asked = True
        while is_asked:
            found = self.gather()
            is_asked = None not in found
            # Who was cancelled, or has given up, does not wait: it is as if they had not come.
            if jobs := [job for job in found if job and not job.future.done()]:
                outcomes = self._do(jobs)
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(_hand_back, outcomes)
        self.disconnect()

    def gather(self) -> "list[_Job | None]":
        """Wait for jobs, and take what is there."""
        return self.those_there([self.jobs.get()])

    def those_there(self, found: "list[_Job | None]") -> "list[_Job | None]":
        """Take what is there besides."""
        with contextlib.suppress(Empty):
            while len(found) < AT_ONCE:
                found.append(self.jobs.get_nowait())
        return found

    def before_commit(self, connection: apsw.Connection, jobs: list[_Job]) -> None:
        """Do what belongs into every transaction."""

    def after_commit(self) -> None:
        """Do what has to follow a transaction."""

    def disconnect(self) -> None:
        """Close the connection; what is not committed is rolled back."""
        if self.connection:
            with contextlib.suppress(apsw.Error):  # the log stays beside the file, for the next one
                self.connection.close(True)
            self.connection = None

    def _do(self, jobs: list[_Job]) -> list[_Outcome]:
        try:
            outcomes = self._together(jobs)
        except Exception as error:
            self.disconnect()
            self.is_failing = True
            if len(jobs) == 1 or isinstance(error, _Locked):
                return [(job.future, None, error) for job in jobs]
            # Nothing was changed. Whose fault it is shows when each is done alone.
            return [outcome for job in jobs for outcome in self._do([job])]
        self.is_failing = False
        self.after_commit()
        return outcomes

    def _together(self, jobs: list[_Job]) -> list[_Outcome]:
        """Do all of it in one transaction, or nothing."""
        outcomes: list[_Outcome] = []
        try:
            connection = self._connected()
            connection.execute(self.begin)
            for job in jobs:
                try:
                    outcomes.append((job.future, job.work(connection), None))
                except StateError as error:  # raised before it changed anything
                    outcomes.append((job.future, None, error))
            self.before_commit(connection, jobs)
            connection.execute("COMMIT")
        except apsw.Error as error:
            errno = self.connection.system_errno if self.connection else 0
            kind = _Locked if isinstance(error, apsw.BusyError) else _Failed
            raise kind(describe(error, self._database.path, errno)) from None
        return outcomes

    def _connected(self) -> apsw.Connection:
        """The connection to the file, which is still the same one."""
        path = self._database.path
        try:
            status = path.stat()
        except OSError as error:
            raise _Failed(f"{path} is gone ({error.strerror}): put it back, and {path.name}-wal") from None
        file = status.st_dev, status.st_ino
        if self.connection and file != self._file:
            # Its last changes are the other file's by now, and would be deleted with the log.
            self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self.disconnect()
        if not self.connection:
            self._file = file
            self.connection = self._database.connect(self.patience)
        return self.connection


class _Writer(_Thread):
    """The thread that writes. It waits a moment for others to come along, since the flush costs most."""

    begin = "BEGIN IMMEDIATE"

    def __init__(self, database: Database, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        super().__init__(database, loop, timeout)
        self._usual = 1  # how many came along last time
        self._erase_at: float | None = None  # when there is erasing to do; 0 for at once
        self._erase_again = ERASE_SECONDS

    def gather(self) -> "list[_Job | None]":
        """Wait for jobs, and take what comes with them. There may be none while it erases."""
        try:
            left = None if self._erase_at is None else max(0.0, self._erase_at - time.monotonic())
            found = self.those_there([self.jobs.get(timeout=left)] if left != 0 else [])
        except Empty:
            found = []
        if left is not None and time.monotonic() >= (self._erase_at or 0):
            self._erase()
        until = time.monotonic() + GATHER_SECONDS
        with contextlib.suppress(Empty):
            while found and len(found) < self._usual and (left := until - time.monotonic()) > 0:
                found.append(self.jobs.get(timeout=left))
        self._usual = len(found)
        return found

    def before_commit(self, connection: apsw.Connection, jobs: list[_Job]) -> None:
        """Note that there is erasing to do, for whoever opens the file after a kill."""
        if any(job.erases for job in jobs):
            connection.execute("REPLACE INTO erasing VALUES (1, 0)")
            self._erase_at, self._erase_again = 0.0, ERASE_SECONDS

    def after_commit(self) -> None:
        """Begin to erase what was deleted; in a file of a usual size that is all, before anybody is told."""
        if self._erase_at == 0:
            self._erase()

    def _erase(self) -> None:
        """Go on erasing. What another process still reads has to wait."""
        seconds, self.patience.seconds = self.patience.seconds, ERASE_PATIENCE
        try:
            connection = self._connected()
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            connection.execute("BEGIN IMMEDIATE")
            if _size(self._database.wal):
                raise apsw.BusyError("another process was faster")
            self._erase_at = time.monotonic() if self._fill_gaps(connection) else None
            connection.execute("COMMIT")
            self._erase_again = ERASE_SECONDS
        except (apsw.Error, StateError, _Failed) as error:
            self.disconnect()
            self._erase_at = time.monotonic() + self._erase_again
            self._erase_again = min(2 * self._erase_again, LONGEST_ERASE_SECONDS)
            if not isinstance(error, apsw.BusyError):
                log.warning("what was deleted is not erased yet", reason=type(error).__name__)
        finally:
            self.patience.seconds = seconds

    def _fill_gaps(self, connection: apsw.Connection) -> bool:
        """Fill those of some pages; whether there are more."""
        first: int | None = connection.execute("SELECT page FROM erasing").get
        if first is None:  # another process has done it
            return False
        following = fill_gaps(self._database.path, first, connection.pragma("page_size"))
        if following is None:
            connection.execute("DELETE FROM erasing")
        else:
            connection.execute("UPDATE erasing SET page = ?", (following,))
        return following is not None


def fill_gaps(path: Path, first: int, page_size: int) -> int | None:
    """Write zeros where B-trees have room, from one page on; nobody may write to the file meanwhile.

    When SQLite moves what is on one page to others, it leaves copies there that `secure_delete` does not
    reach later on.

    Returns:
        The page to go on with, if there are more.
    """
    # By SQLite's own means: closing a file that was opened otherwise drops the locks of this process.
    file = apsw.VFSFile("", str(path), [apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_MAIN_DB, 0])
    try:
        pages = file.xFileSize() // page_size
        last = min(first + PAGES_AT_ONCE, pages)
        if pages >= MOST_PAGES or last <= first:
            return None
        content = file.xRead((last - first) * page_size, first * page_size)
        for start in range(0, len(content), page_size):
            begin, end = _gap(content[start : start + page_size])
            if content.count(0, start + begin, start + end) < end - begin:
                file.xWrite(bytes(end - begin), first * page_size + start + begin)
        file.xSync(apsw.SQLITE_SYNC_FULL)
        return last if last < pages else None
    finally:
        file.xClose()


def _gap(page: bytes) -> tuple[int, int]:
    """Where the room on a page of a B-tree is (https://www.sqlite.org/fileformat2.html#b_tree_pages)."""
    head = 100 if page.startswith(b"SQLite format 3") else 0
    kind, cells = page[head], int.from_bytes(page[head + 3 : head + 5])
    if kind not in (2, 5, 10, 13):
        return 0, 0
    begin = head + (12 if kind < 10 else 8) + 2 * cells
    end = int.from_bytes(page[head + 5 : head + 7])
    return (begin, end) if begin < end <= len(page) else (0, 0)


def _hand_back(outcomes: list[_Outcome]) -> None:
    """Tell those who wait."""
    for future, result, error in outcomes:
        if future.done():  # cancelled
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


# --- what `bot doctor` says ---


async def diagnose(database: Database) -> list[Finding]:
    """Look at the file, at its folder and at the disk.

    Raises:
        StateUnavailable: it cannot be read.
    """
    path = database.path
    size = path.stat().st_size
    findings = [Finding("ok", f"SQLite {apsw.sqlite_lib_version()}: {path}, {size / 1e6:,.2f} MB")]
    if size <= CHECKED_BYTES:
        findings.append(await database.read(lambda connection: _integrity(connection, path)))
    findings += [durability(database.sync), file_system(path), access(path), room(path)]
    return findings + log_size(database.wal)


def _integrity(connection: apsw.Connection, path: Path) -> Finding:
    try:
        found = connection.execute("PRAGMA quick_check(1)").get
    except apsw.CorruptError as error:
        return Finding("error", describe(error, path))
    if found != "ok":
        return Finding("error", f"{path} is damaged: stop the bot, keep a copy, and restore a backup")
    return Finding("ok", "the file is sound")


def durability(sync: str) -> Finding:
    """What a power failure costs."""
    if sync == "full":
        return Finding("ok", "a commit is on the disk before it is acknowledged")
    return Finding(
        "warning",
        "commits do not wait for the disk (SQLITE_SYNC=normal): a power failure loses the last ones for good",
    )


def file_system(path: Path, mounts: Path = MOUNTS) -> Finding:
    """Whether the file is on a disk of this machine, as far as that can be told."""
    kind = kind_of_file_system(path, mounts)
    if kind in REMOTE or kind.startswith("fuse."):
        return Finding(
            "warning",
            f"{path} is on a network share or a shared folder ({kind}), where locks do not hold: it can be "
            "damaged; keep it on a disk of this machine, or choose another backend",
        )
    if kind in ("tmpfs", "ramfs"):
        return Finding("warning", f"{path} is in memory ({kind}), and gone when the machine restarts")
    return Finding("ok", f"the file is on a disk of this machine{f' ({kind})' if kind else ''}")


def kind_of_file_system(path: Path, mounts: Path) -> str:
    """What the system calls it; empty where it does not tell."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    found = Path(), ""
    for _, place, kind, *_ in (line.split(" ") for line in lines):
        folder = Path(place.replace("\\040", " "))
        if path.resolve().is_relative_to(folder) and len(folder.parts) >= len(found[0].parts):
            found = folder, kind
    return found[1]


def access(path: Path) -> Finding:
    """Who else may read what people wrote."""
    if os.name != "nt" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding("warning", f"others may read {path}: chmod 600 it, its -wal and its -shm")
    return Finding("ok", "nobody else on this machine may read the file")


def room(path: Path) -> Finding:
    """Whether the disk has room."""
    free = shutil.disk_usage(path.parent).free
    text = f"its disk has {free / 1e6:,.0f} MB left"
    return Finding("ok", text) if free >= FREE_BYTES else Finding("warning", f"{text}: make room")


def log_size(wal: Path) -> list[Finding]:
    """Whether the write-ahead log can be taken over into the file."""
    if not wal.exists() or wal.stat().st_size < LARGE_WAL_BYTES:
        return []
    size = wal.stat().st_size / 1e6
    return [Finding("warning", f"{wal} has {size:,.0f} MB: does another program read without an end?")]
