"""Files that cannot be used, and disks that fail: one line each, and nothing is lost or taken for new."""

# ruff: noqa: ASYNC240 - files are what is tested here

import asyncio
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path

import apsw
import pytest

from bot.runtime.engines.sqlite.connection import Database
from bot.runtime.engines.sqlite.store import SCHEMA, SqliteStore
from bot.runtime.errors import StateError, StateUnavailable
from bot.runtime.state.store import Changes
from suite.bot_api import FakeTelegram
from suite.engines.sqlite.conftest import Open
from suite.engines.sqlite.disk import FailingDisk
from suite.support.command_line import run
from suite.support.process import BotProcess
from suite.support.runtime import Runtime

pytestmark = pytest.mark.clause("engine.file")

IS_ROOT = os.name == "posix" and os.geteuid() == 0


async def put(store: SqliteStore, user: str = "1", n: int = 1) -> int:
    return await store.commit(user, Changes(state={"n": str(n).encode()}), expect=None)


async def with_a_record(open_store: Open, path: Path) -> bytes:
    """A file with a record in it, and what it holds."""
    store = await open_store()
    await put(store)
    await store.close()
    return path.read_bytes()


def a_text(path: Path) -> None:
    path.write_text("Dear diary, " * 1_000)


def of_another_program(path: Path) -> None:
    path.unlink()
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)")
    connection.close()


def newer(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", len(SCHEMA) + 1)
    connection.close()


def cut_short(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def overwritten(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4_096 * 1 : 4_096 * 9] = os.urandom(4_096 * 8)
    path.write_bytes(content)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (a_text, "is no SQLite database"),
        (of_another_program, "is the database of another program: set SQLITE_PATH"),
        (
            newer,
            f"is ahead of this code (version {len(SCHEMA) + 1}, not {len(SCHEMA)}): deploy the newer code",
        ),
        (cut_short, "is damaged: stop the bot, keep a copy, and restore a backup"),
        (overwritten, "is damaged: stop the bot, keep a copy, and restore a backup"),
        (a_folder, "cannot be opened"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_one_that_cannot_be_used_is_named_and_left_alone(
    open_store: Open, path: Path, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    await with_a_record(open_store, path)
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    result = run(tmp_path, "state", "export", str(tmp_path / "users.jsonl"), SQLITE_PATH=str(path))
    assert result.returncode == 1, result.stdout
    assert result.stderr.startswith("error: "), result.stderr
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert str(path) in result.stderr
    for use in (lambda store: store.load("1"), lambda store: put(store, "2")):
        with pytest.raises(StateError) as caught:
            await use(await open_store())
        assert words in str(caught.value)
    assert (path.read_bytes() if path.is_file() else b"") == before
    doctor = run(tmp_path, "doctor", SQLITE_PATH=str(path))
    assert "error  " in doctor.stdout
    assert words in doctor.stdout
    assert not (tmp_path / "users.jsonl").exists()


async def test_a_log_without_its_file_is_not_thrown_away(
    open_store: Open, path: Path, tmp_path: Path
) -> None:
    """SQLite deletes what is beside an empty file."""
    store = await open_store()
    await put(store)
    log = store.database.wal.read_bytes()
    assert log
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    left = elsewhere / "bot.sqlite3-wal"
    for empty in (False, True):
        left.write_bytes(log)
        if empty:
            (elsewhere / "bot.sqlite3").touch()
        with pytest.raises(StateError, match=r"missing or empty, but bot\.sqlite3-wal beside it holds"):
            await open_store(elsewhere / "bot.sqlite3")
        assert left.read_bytes() == log


async def test_a_log_left_behind_by_a_kill_is_taken_over(
    open_store: Open, path: Path, tmp_path: Path
) -> None:
    store = await open_store()
    version = await put(store)
    for file in path.parent.iterdir():
        if not file.name.endswith("-shm"):
            shutil.copy(file, tmp_path)
    left = await open_store(tmp_path / path.name)
    assert (await left.load("1")).version == version


async def test_it_is_made_for_nobody_else_to_read(direct: SqliteStore, path: Path) -> None:
    await put(direct)
    assert {file.name for file in path.parent.iterdir()} == {
        path.name,
        f"{path.name}-wal",
        f"{path.name}-shm",
    }
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file
    assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_one_that_is_moved_while_the_bot_runs_is_missed(
    direct: SqliteStore, path: Path, tmp_path: Path
) -> None:
    """Else everybody's changes went to where nobody finds them."""
    await put(direct)
    moved = tmp_path / "moved"
    path.rename(moved)
    for _ in range(2):
        with pytest.raises(StateUnavailable, match="is gone"):
            await put(direct, n=2)
        with pytest.raises(StateUnavailable, match="is gone"):
            await direct.load("1")
    assert not path.exists()
    moved.rename(path)
    assert (await direct.load("1")).state == {"n": 1}
    await put(direct, n=3)
    assert (await direct.load("1")).state == {"n": 3}


async def test_one_that_is_replaced_while_the_bot_runs_is_the_one_from_then_on(
    direct: SqliteStore, open_store: Open, path: Path, tmp_path: Path
) -> None:
    await put(direct)
    other = await open_store(tmp_path / "other")
    await put(other, n=7)
    await other.close()
    content = (tmp_path / "other").read_bytes()
    for name in ("-wal", "-shm"):
        path.with_name(path.name + name).unlink()
    (tmp_path / "other").replace(path)
    assert (await direct.load("1")).state == {"n": 7}
    await put(direct, "2", 8)
    assert (await direct.load("1")).state == {"n": 7}
    await direct.close()
    assert len(path.read_bytes()) >= len(content)
    again = await open_store()
    assert {user async for user in again.users()} == {"1", "2"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FailingDisk]:
    """A disk in front of the real one."""
    disk = FailingDisk(tmp_path / "told")
    yield disk
    disk.unregister()


@pytest.mark.parametrize(
    ("told", "words"),
    [("full", "is full: make room"), ("read-only", "cannot be written to"), ("broken", "fails")],
)
@pytest.mark.usefixtures("disk")
async def test_a_disk_that_fails_in_traffic_loses_nothing(
    open_store: Open, tmp_path: Path, told: str, words: str
) -> None:
    """Reads go on, updates are tried again, and are all handled when it is over."""
    store = await open_store()
    async with FakeTelegram() as telegram, Runtime(telegram, store, "polling") as bot:
        telegram.message("one", user_id=1)
        await telegram.settled(60)
        (tmp_path / "told").write_text(told)
        for user in (1, 2):
            telegram.message("two", user_id=user)
        await asyncio.sleep(0.5)
        with pytest.raises(StateUnavailable, match=words):
            await put(store, "3")
        assert (await store.load("1")).state["message_count"] == 1
        assert (await store.load("2")).version == 0
        with pytest.raises(StateUnavailable, match=words):
            await store.ping()
        (tmp_path / "told").write_text("well")
        await telegram.settled(60)
        await store.ping()
        assert (await bot.record(1)).state == {"message_count": 2, "last_message": "two"}
        assert (await bot.record(2)).state == {"message_count": 1, "last_message": "two"}
        assert telegram.texts(1)[-1] == "Processed: two (#2)"


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(file: RawIOBase) -> None:
    while True:
        file.write(b"x" * 4_096)


def can_mount() -> bool:
    if not (IS_ROOT and sys.platform == "linux" and shutil.which("mount")):
        return False
    return subprocess.run(["mount", "--fake", "-t", "tmpfs", "tmpfs", "/mnt"], check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="only root can mount a small disk")
async def test_a_disk_that_is_full(open_store: Open, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small"):
        store = await open_store(tmp_path / "small" / "bot.sqlite3")
        await put(store)
        ballast = tmp_path / "small" / "ballast"
        with ballast.open("ab", buffering=0) as file, pytest.raises(OSError, match="space"):
            fill(file)
        hoard = Changes(state={"n": b'"' + b"x" * 900_000 + b'"'}, size=1)
        with pytest.raises(StateUnavailable, match="is full: make room"):
            await store.commit("2", hoard, expect=None)
        assert (await store.load("1")).state
        ballast.unlink()
        await put(store, "99")
        assert (await store.load("99")).state == {"n": 1}
        await store.close()


@pytest.mark.skipif(sys.platform != "linux", reason="another process is limited")
async def test_a_quota(tmp_path: Path, telegram: FakeTelegram) -> None:
    """The system refuses what goes beyond it, in a bot that runs."""
    file = tmp_path / "kept" / "bot.sqlite3"
    async with BotProcess(tmp_path / "running", telegram, SQLITE_PATH=str(file)) as bot:
        await bot.ready()
        telegram.message("one", user_id=1)
        await telegram.settled(60)
        whole = resource.prlimit(bot.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(bot.process.pid, resource.RLIMIT_FSIZE, (4_096, whole[1]))
        telegram.message("two", user_id=1)
        await telegram.wait_for(lambda: "updates are retried" in bot.written, 60)
        resource.prlimit(bot.process.pid, resource.RLIMIT_FSIZE, whole)
        await telegram.settled(60)
        assert await bot.stop() == 0
    assert telegram.texts(1) == ["Processed: one (#1)", "Processed: two (#2)"]
    assert "File too large" in bot.written


def immutable(path: Path, value: bool) -> bool:
    """Have nobody write to it, not even who has it open; whether that can be done here."""
    flag = "+i" if value else "-i"
    return (
        shutil.which("chattr") is not None
        and subprocess.run(["chattr", flag, str(path)], check=False).returncode == 0
    )


async def test_a_file_made_read_only_in_traffic(tmp_path: Path, telegram: FakeTelegram) -> None:
    path = tmp_path / "kept" / "bot.sqlite3"
    log = path.with_name("bot.sqlite3-wal")
    async with BotProcess(tmp_path / "running", telegram, SQLITE_PATH=str(path)) as bot:
        await bot.ready()
        telegram.message("one", user_id=1)
        await telegram.settled(60)
        if not (IS_ROOT and immutable(log, True)):
            pytest.skip("only root can do that, on some file systems")
        try:
            immutable(path, True)
            telegram.message("two", user_id=1)
            await telegram.wait_for(lambda: "updates are retried" in bot.written, 60)
            started = await asyncio.to_thread(run, tmp_path, "state", "show", "1", SQLITE_PATH=str(path))
            assert started.returncode == 1
            assert started.stderr.count("\n") == 1
            assert "cannot be written to" in started.stderr
        finally:
            immutable(path, False)
            immutable(log, False)
        await telegram.settled(60)
        assert await bot.stop() == 0
    assert telegram.texts(1) == ["Processed: one (#1)", "Processed: two (#2)"]


@pytest.mark.skipif(IS_ROOT, reason="root may write everywhere")
async def test_a_file_or_folder_that_is_not_ours(open_store: Open, path: Path, tmp_path: Path) -> None:
    await with_a_record(open_store, path)
    for place in (path, path.parent):
        mode = place.stat().st_mode
        place.chmod(mode & ~0o222)
        result = run(tmp_path, "state", "show", "1", SQLITE_PATH=str(path))
        place.chmod(mode)
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run(tmp_path, "state", "list", SQLITE_PATH=str(tmp_path / "file/bot.sqlite3"))
    assert result.returncode == 1
    assert "cannot create" in result.stderr
    assert result.stderr.count("\n") == 1


async def test_one_that_stays_locked_is_unavailable_and_in_time(open_store: Open, path: Path) -> None:
    store = await open_store(timeout=0.3)
    await put(store)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    began = asyncio.get_running_loop().time()
    outcomes = await asyncio.gather(*(put(store, str(n)) for n in range(20)), return_exceptions=True)
    assert asyncio.get_running_loop().time() - began < 1
    assert all(isinstance(each, StateUnavailable) for each in outcomes)
    assert "another process keeps" in str(outcomes[0])
    assert (await store.load("1")).state == {"n": 1}, "reading goes on"
    another = await open_store(timeout=0.3)
    assert (await another.load("1")).state == {"n": 1}, "and so does starting"
    other.close()
    await put(store, n=2)


async def test_connections_of_other_stores_do_not_keep_a_lock(open_store: Open) -> None:
    stores = [await open_store() for _ in range(5)]
    await asyncio.gather(*(put(store, f"{n}") for n, store in enumerate(stores)))
    await asyncio.gather(*(store.close() for store in stores[1:]))
    assert len([user async for user in stores[0].users()]) == 5


async def test_the_schema_is_brought_up_to_date_at_start(path: Path) -> None:
    """As a version that adds a column would do it; and `bot migrate` says so."""
    old = SqliteStore(Database(path, SCHEMA))
    await old.connect()
    await put(old)
    await old.close()
    newer_schema = (*SCHEMA, "ALTER TABLE record ADD COLUMN extra TEXT")
    new = SqliteStore(Database(path, newer_schema))
    assert await new.migrate() == f"migrated {path} from version {len(SCHEMA)} to {len(SCHEMA) + 1}"
    assert await new.migrate() == f"nothing to do: {path} is at version {len(SCHEMA) + 1}"
    await new.connect()
    assert (await new.load("1")).state == {"n": 1}
    await new.close()
    with pytest.raises(StateError, match="is ahead of this code"):
        await old.connect()


async def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    old = SqliteStore(Database(path, SCHEMA))
    await old.connect()
    await put(old)
    await old.close()
    broken = SqliteStore(Database(path, (*SCHEMA, "CREATE TABLE half (a); CREATE TABLE record (a)")))
    with pytest.raises(StateError):
        await broken.connect()
    await old.connect()
    assert (await old.load("1")).state == {"n": 1}
    tables = await old.database.read(lambda c: c.execute("SELECT name FROM sqlite_schema").fetchall())
    assert ("half",) not in tables
    await old.close()


@pytest.mark.clause("engine.connects")
async def test_relative_paths_belong_to_the_project(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in ("", "data/state.db"):
        project = tmp_path / f"project{len(path)}"
        project.mkdir()
        result = run(project, "migrate", **({"SQLITE_PATH": path} if path else {"SQLITE_PATH": ""}))
        assert result.returncode == 0, result.stderr
        assert (project / (path or ".data/bot.sqlite3")).is_file()


@pytest.mark.clause("engine.connects")
@pytest.mark.parametrize("value", [":memory:", "file:bot.db?mode=ro"])
async def test_what_is_no_path_is_refused(tmp_path: Path, value: str) -> None:
    result = run(tmp_path, "state", "list", SQLITE_PATH=value)
    assert result.returncode == 1
    assert result.stderr.startswith("error: bad settings: SQLITE_PATH: must be a path")
    assert result.stderr.count("\n") == 1


@pytest.mark.clause("store.due")
async def test_an_index_that_is_gone_is_made_again(direct: SqliteStore) -> None:
    await direct.commit("1", Changes(state={"a": b"1"}, due=5), expect=0)
    await direct.database.write(lambda connection: connection.execute("DROP INDEX record_due"))
    assert (await direct.due(0, 9)).due == [("1", 5)], "nothing needs it, but for speed"
    assert await direct.reindex() == 1
    made = "SELECT count(*) FROM sqlite_schema WHERE name = 'record_due'"
    assert await direct.database.read(lambda connection: connection.execute(made).get) == 1
