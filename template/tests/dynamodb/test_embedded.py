"""The server for development: shared by all who need it, gone when nobody does, its data kept."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.config import Settings
from bot.errors import OperatorError
from bot.state import embedded_dynamodb
from bot.state.embedded_dynamodb import EmbeddedDynamodb, answers
from bot.state.engine import create_store
from bot.state.store import Changes
from tests.dynamodb.server import Server, make_store, make_table
from tests.test_cli import environment, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no server to start")

FOLDER = Path(".data/dynamodb")


@pytest.fixture(autouse=True)
def no_server_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Everybody is in the test's folder; nothing is left running there."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.chdir(tmp_path)
    yield
    wait_until(lambda: not is_running())


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.02)


def is_running() -> bool:
    """Whether there is a server, or somebody who looks after one."""
    lock = FOLDER / "server.lock"
    return (lock.exists() and embedded_dynamodb._is_locked(lock)) or answers(FOLDER)


def process_ids() -> tuple[int, int]:
    """The process of the server in this folder, and of whoever looks after it."""
    port = (FOLDER / "port").read_text()
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    )
    for line in listed.stdout.splitlines():
        if line.endswith(f"embedded_dynamodb_server {FOLDER.absolute()} {port}"):
            pid, parent = line.split()[:2]
            return int(pid), int(parent)
    raise AssertionError("there is none")


def ask(url: str, operation: str, **request: Any) -> Any:
    """Send a request without any client."""
    headers = {"X-Amz-Target": f"DynamoDB_20120810.{operation}", "Content-Type": "application/x-amz-json-1.0"}
    body = json.dumps(request).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
        return json.load(answer)


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
    assert "(#1)" in chat(tmp_path, 1).communicate("hi\n", timeout=60)[0]
    first, second = EmbeddedDynamodb(), EmbeddedDynamodb()
    url = first.join()
    assert first.join() == url
    assert second.join() == url
    first.leave()
    first.leave()
    time.sleep(3 * embedded_dynamodb.WATCH_SECONDS)
    assert ask(url, "ListTables") == {"TableNames": ["my-bot-state"]}
    second.leave()
    wait_until(lambda: not is_running())
    assert "(#2)" in chat(tmp_path, 1).communicate("hi\n", timeout=60)[0]


COUNT = """
from bot.state.embedded_dynamodb import EmbeddedDynamodb
from tests.dynamodb.test_embedded import add

server = EmbeddedDynamodb()
add(server.join())
server.leave()
"""


def add(url: str) -> int:
    """Add one to a number that the server keeps."""
    answer = ask(
        url,
        "UpdateItem",
        TableName="test",
        Key={"id": {"S": "count"}},
        UpdateExpression="ADD n :one",
        ExpressionAttributeValues={":one": {"N": "1"}},
        ReturnValues="ALL_NEW",
    )
    return int(answer["Attributes"]["n"]["N"])


async def test_many_who_come_at_once_share_one(tmp_path: Path) -> None:
    server = EmbeddedDynamodb()
    await make_table(await asyncio.to_thread(server.join), "test")
    server.leave()
    for round_ in range(2):
        wait_until(lambda: not is_running())
        many = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", COUNT, cwd=tmp_path) for _ in range(4)
        ]
        assert [await process.wait() for process in many] == [0] * 4
        assert add(await asyncio.to_thread(server.join)) == 5 * (round_ + 1)
        server.leave()


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
async def test_killed_it_comes_back_with_its_data(tmp_path: Path, victim: str) -> None:
    store = create_store(Settings())
    await store.connect()
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    server, keeper = process_ids()
    for number in {"server": [server], "keeper": [keeper], "both": [keeper, server]}[victim]:
        os.kill(number, signal.SIGKILL)
    if victim != "server":  # who looks after it is gone: the next to come puts that right
        wait_until(lambda: not is_running())
        newcomer = EmbeddedDynamodb()
        await asyncio.to_thread(newcomer.join)
        newcomer.leave()
    assert (await store.load("1")).state == {"a": 1}, "whoever used it goes on"
    assert process_ids()[0] != server
    await store.close()


def test_a_user_that_is_killed_does_not_keep_it_running(tmp_path: Path) -> None:
    process = chat(tmp_path, 1)
    assert process.stdin
    assert process.stdout
    process.stdin.write("hi\n")
    process.stdin.flush()
    assert process.stdout.readline() == "Processed: hi (#1)\n"
    assert is_running()
    process.kill()
    process.communicate()
    wait_until(lambda: not is_running())
    assert "(#2)" in chat(tmp_path, 1).communicate("hi\n", timeout=60)[0]


def test_ctrl_c_is_for_the_bot_alone() -> None:
    server = EmbeddedDynamodb()
    server.join()
    assert all(os.getpgid(pid) != os.getpgid(0) for pid in process_ids())
    server.leave()


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / ".data").write_text("a file")
    result = run(tmp_path, "state", "show", "1")
    assert result.returncode == 1
    assert result.stderr.startswith("error: cannot keep a server's data in ")
    assert result.stderr.count("\n") == 1


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    folder = tmp_path / ".data/dynamodb"
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_text("nonsense\n")
    result = run(tmp_path, "state", "show", "1")
    assert result.returncode == 1
    assert "does not start: see server.log there" in result.stderr
    assert result.stderr.count("\n") == 1


async def test_the_journal_is_cut_short_where_it_was_cut_off_or_overwritten(server: Server) -> None:
    await make_table(server.url, "test")
    store = make_store(server.url, table="test")
    await store.connect()
    version = 0
    for n in range(100):
        version = await store.commit("1", Changes(state={"n": str(n).encode()}), expect=version)
    server.kill()
    journal = server.folder / "journal.jsonl"
    lines = journal.read_bytes().splitlines()
    with journal.open("ab") as file:
        file.write(lines[-1][:-20])  # killed in mid-write, before it answered
    await asyncio.to_thread(server.start)
    assert (await store.load("1")).version == version
    assert (await store.load("1")).state == {"n": 99}
    assert len(journal.read_bytes().splitlines()) == len(lines) - 99
    await store.commit("1", Changes(state={"n": b"100"}), expect=version)
    server.kill()
    await asyncio.to_thread(server.start)
    assert (await store.load("1")).state == {"n": 100}
    await store.close()


def test_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_dynamodb, "fcntl", None)
    with pytest.raises(OperatorError, match="AWS_ENDPOINT_URL_DYNAMODB=http://localhost:8000"):
        EmbeddedDynamodb().join()
