"""The emulator for development: shared by all who need it, gone when nobody does; its records are kept."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bot.config import Settings
from bot.errors import OperatorError
from bot.state import embedded_firestore
from bot.state.embedded_firestore import FOLDER, EmbeddedFirestore
from bot.state.engine import create_store
from bot.state.firestore_client import FirestoreSettings
from bot.state.store import Changes, StateUnavailable
from tests.firestore.server import NONE
from tests.test_cli import environment, run

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no emulator to start"),
    pytest.mark.skipif(embedded_firestore.command(1) is None, reason=NONE),
    pytest.mark.timeout(180),
]


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Everybody is in the test's folder, without settings; nothing is left running there."""
    for name in ("FIRESTORE_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.chdir(tmp_path)
    yield
    wait_until(lambda: not is_running())


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.05)


def is_running() -> bool:
    """Whether there is an emulator, or somebody who looks after one."""
    lock = FOLDER / "server.lock"
    port = embedded_firestore._port(FOLDER)
    return (lock.exists() and embedded_firestore._is_locked(lock)) or embedded_firestore.answers(port)


def is_alive(pid: int) -> bool:
    """Whether a process is there, and is no zombie."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and ") Z " not in status.read_text()


def process_id() -> int | None:
    """The process of the emulator."""
    wanted = f"--port={embedded_firestore._port(FOLDER)}".encode()
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if wanted in line.read_bytes().split(b"\0"):
                return int(line.parent.name)
    return None


def process_ids() -> tuple[int, int]:
    """The process of the emulator, and of whoever looks after it."""
    pid = process_id()
    assert pid, "it does not run"
    return pid, int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def put(user_id: str, **state: bytes) -> None:
    store = create_store(Settings())
    await store.connect()
    await store.commit(user_id, Changes(state=state), expect=None)
    await store.close()


async def get(user_id: str) -> dict[str, object]:
    store = create_store(Settings())
    await store.connect()
    record = await store.load(user_id)
    await store.close()
    return record.state


async def test_it_keeps_its_records_and_stops_with_its_last_user() -> None:
    first = create_store(Settings())
    await first.connect()
    version = await first.commit("1", Changes(state={"a": b'"\xc3\xbc"', "": b"[1.5]"}), expect=0)
    await put("1", b=b"2")
    await asyncio.sleep(3 * embedded_firestore.WATCH_SECONDS)
    assert (await first.load("1")).state == {"a": "ü", "": [1.5], "b": 2}, "it is still there for the first"
    await first.close()
    wait_until(lambda: not is_running())
    store = create_store(Settings())
    await store.connect()
    record = await store.load("1")
    assert record.state == {"a": "ü", "": [1.5], "b": 2}
    assert record.version > version, (
        "a version is never used twice, also not by an emulator that started anew"
    )
    await store.close()


COUNT = """
import asyncio
from bot.config import Settings
from bot.state.engine import create_store
from bot.state.turn import mutate

async def add(turn):
    turn.state["count"] = turn.state.get("count", 0) + 1

async def main():
    store = create_store(Settings())
    await store.connect()
    await mutate(store, "1", add)
    await store.close()

asyncio.run(main())
"""


async def test_many_who_come_at_once_share_one() -> None:
    for round_ in range(1, 3):
        many = [await asyncio.create_subprocess_exec(sys.executable, "-c", COUNT) for _ in range(4)]
        assert [await process.wait() for process in many] == [0] * 4
        assert await get("1") == {"count": 4 * round_}
        wait_until(lambda: not is_running())


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no /proc to find its process by")
async def test_an_emulator_that_is_killed_is_started_again_with_what_was_exported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await put("1", a=b"1")
    wait_until(lambda: not is_running())
    store = create_store(Settings())
    await store.connect()
    await store.commit("1", Changes(state={"b": b"2"}), expect=None)
    emulator, _ = process_ids()
    os.kill(emulator, signal.SIGKILL)
    wait_until(lambda: process_id() not in (None, emulator))
    for _ in range(10):  # a call waits for ten seconds, and an emulator may take longer to start
        with suppress(StateUnavailable):
            assert (await store.load("1")).state == {"a": 1}, "what came after the last export is lost"
            break
    else:
        raise AssertionError("it does not answer")
    await store.close()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no /proc to find its process by")
async def test_an_emulator_whose_keeper_was_killed_is_replaced() -> None:
    store = create_store(Settings())
    await store.connect()
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    before, keeper = process_ids()
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: not is_alive(keeper))
    await store.close()
    assert await get("1") == {"a": 1}
    wait_until(lambda: not is_running())
    assert not is_alive(before)


def test_a_chat_needs_nothing_but_the_emulator(tmp_path: Path) -> None:
    for number in (1, 2):
        done = subprocess.run(
            [sys.executable, "-m", "tests.counting_bot", "chat"],
            env=environment(tmp_path),
            input="hi\n",
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert (done.stdout, done.stderr) == (f"Processed: hi (#{number})\n", "")
        wait_until(lambda: not is_running())


def test_where_it_is_not_installed_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_firestore, "INSTALLED", "nowhere")
    with pytest.raises(OperatorError, match="GOOGLE_CLOUD_PROJECT nor FIRESTORE_EMULATOR_HOST"):
        EmbeddedFirestore(FirestoreSettings()).join()
    done = run(tmp_path, "state", "show", "1", PATH="/nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: neither GOOGLE_CLOUD_PROJECT nor FIRESTORE_EMULATOR_HOST is set")
