"""The development server: shared, stopped by the last, and back after anything."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bot.runtime.engines.postgres.dev_server import PostgresDevServer
from bot.runtime.engines.postgres.store import PostgresStore
from bot.runtime.errors import OperatorError
from bot.runtime.state.store import Changes
from suite.engines.postgres.server import OwnServer
from suite.support.command_line import environment

pytestmark = pytest.mark.clause("dev-server.shared")

USER = """
import sys
from pathlib import Path
from bot.runtime.engines.postgres.dev_server import PostgresDevServer

server = PostgresDevServer(Path(sys.argv[1]))
print(server.start_now(), flush=True)
sys.stdin.readline()
server.stop_now()
print("left", flush=True)
sys.stdin.readline()
"""

Users = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A data folder; whatever still runs in it is killed in the end."""
    folder = tmp_path / "postgres"
    yield folder
    if pid := postmaster(folder):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def use(folder: Path) -> Iterator[Users]:
    """Start a process that uses the server until it gets a line."""
    processes: list[subprocess.Popen[str]] = []

    def use() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", USER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    yield use
    for process in processes:
        process.kill()
        process.communicate()


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def leave(process: "subprocess.Popen[str]") -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()
    assert said(process) == "left"


def postmaster(folder: Path) -> int | None:
    """The process id of the server, if it runs."""
    try:
        pid = int((folder / "postmaster.pid").read_text().partition("\n")[0])
    except FileNotFoundError:
        return None
    return pid if psutil.pid_exists(pid) else None


def test_it_is_started_once_and_stopped_by_the_last(folder: Path, use: Users) -> None:
    first, second = use(), use()
    url = said(first)
    assert said(second) == url.replace("first", "second")
    pid = postmaster(folder)
    assert pid
    leave(first)
    assert postmaster(folder) == pid
    third = use()
    assert said(third) == url
    leave(second)
    assert postmaster(folder) == pid
    leave(third)
    assert postmaster(folder) is None


def test_users_that_are_killed_do_not_keep_it_running(folder: Path, use: Users) -> None:
    first, second = use(), use()
    said(first)
    said(second)
    first.kill()
    first.wait()
    leave(second)
    assert postmaster(folder) is None
    third = use()
    said(third)
    third.kill()
    third.wait()
    assert postmaster(folder), "nobody was there to stop it"
    fourth = use()
    said(fourth)
    leave(fourth)
    assert postmaster(folder) is None


def test_killed_while_it_makes_its_database(folder: Path) -> None:
    """What is half there is made anew."""
    process = subprocess.Popen([sys.executable, "-c", USER, folder], start_new_session=True)
    while not (folder / "PG_VERSION").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    server = PostgresDevServer(folder)
    server.start_now()
    server.stop_now()


async def test_what_was_committed_is_there_after_everything_is_killed(own_server: OwnServer) -> None:
    store = PostgresStore(own_server.embedded)
    await store.connect()
    for n in range(50):
        await store.commit(f"{n}", Changes(state={"n": str(n).encode()}), expect=0)
    await asyncio.to_thread(own_server.crash)
    assert (await store.load("49")).state == {"n": 49}
    assert len([user async for user in store.users()]) == 50
    await store.close()


@pytest.mark.parametrize("content", [f"{os.getpid()}\n/elsewhere\n", "1\n", "", "999999999\nx\n1\n"])
def test_a_lock_file_left_behind_is_no_obstacle(folder: Path, content: str) -> None:
    """After a reboot, or in a new container, another process has the id that stands in it."""
    server = PostgresDevServer(folder)
    server.start_now()
    server.stop_now()
    (folder / "postmaster.pid").write_text(content)
    server.start_now()
    assert postmaster(folder)
    server.stop_now()
    assert postmaster(folder) is None


async def test_two_stores_of_one_process_share_it(folder: Path) -> None:
    one, other = (PostgresStore(PostgresDevServer(folder)) for _ in range(2))
    await asyncio.gather(one.connect(), other.connect())
    await one.commit("1", Changes(state={"a": b"1"}), expect=0)
    await one.close()
    assert (await other.load("1")).state == {"a": 1}
    await other.close()
    assert postmaster(folder) is None


async def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    """The path of a Unix socket has at most 107 characters."""
    store = PostgresStore(PostgresDevServer(tmp_path / ("x" * 60) / ("y" * 60) / "postgres"))
    await store.connect()
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    await store.close()


def test_without_the_library_it_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fasteners", None)
    with pytest.raises(OperatorError, match=r"^DATABASE_URL is not set, .*: set DATABASE_URL=.*`uv sync`$"):
        PostgresDevServer(folder).start_now()


def test_one_that_does_not_start_is_one_line(folder: Path) -> None:
    server = PostgresDevServer(folder)
    server.start_now()
    server.stop_now()
    (folder / "PG_VERSION").write_text("9\n")
    with pytest.raises(OperatorError, match=r"^the development server does not start"):
        server.start_now()


def test_one_that_does_not_even_begin_has_no_log_to_look_at(folder: Path) -> None:
    folder.mkdir()
    (folder / "mine.txt").write_text("something else")
    with pytest.raises(OperatorError) as raised:
        PostgresDevServer(folder).start_now()
    assert "exists but is not empty" in str(raised.value), "it says why"
    assert (folder / "mine.txt").read_text() == "something else"
    assert not (folder / "log").exists()
    assert str(folder / "log") not in str(raised.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="not run by root")
def test_run_by_root_it_adds_no_user_to_the_system(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it need the programs that would."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    before = Path("/etc/passwd").read_bytes()
    server = PostgresDevServer(folder)
    server.start_now()
    assert (folder / "PG_VERSION").owner() == "nobody"
    server.stop_now()
    assert Path("/etc/passwd").read_bytes() == before
    for file in (folder, *folder.rglob("*")):  # as a bot left it that had a user added
        shutil.chown(file, "daemon")
    server.start_now()
    server.stop_now()


def test_a_newcomer_types_one_command(tmp_path: Path) -> None:
    """`bot chat` and `bot state` see the same records, and leave no server behind."""
    env = environment(tmp_path)
    assert "DATABASE_URL" not in env

    said: list[str] = []

    def bot(*arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-m", "suite.counting_bot", *arguments],
            cwd=tmp_path,
            env=env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0
        said.append(done.stderr)
        return done.stdout

    assert bot("chat", stdin="hello\n") == "Processed: hello (#1)\n"
    assert bot("chat", stdin="there\n") == "Processed: there (#2)\n"
    assert '"message_count": 2' in bot("state", "show", "1")
    assert bot("migrate").startswith("nothing to do")
    place = tmp_path / ".data" / "postgres"
    assert said[0] == f"Starting a server for development, which keeps its data in {place}\n"
    assert not any(said[1:])
    assert postmaster(tmp_path / ".data" / "postgres") is None
