"""The server for development: shared by all who need it, gone when nobody does; its data are kept."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from bot.runtime.chosen import ENGINE
from bot.runtime.config import Settings
from bot.runtime.engines import create_store
from bot.runtime.engines import dev_server as embedded
from bot.runtime.engines.dev_server import WATCH_SECONDS, DevServer
from bot.runtime.errors import OperatorError, StateConflict, StateUnavailable
from bot.runtime.state.store import Changes, OperatorStore
from suite.dev_servers.server import chat, make_server, process_ids, say, wait_until, wait_until_gone
from suite.support import warm
from suite.support.command_line import environment, run

pytestmark = [
    pytest.mark.clause("dev-server.shared"),
    # They are shared by the same code: one proves it.
    *([pytest.mark.rarely] if ENGINE != "redis" else []),
]


async def connected() -> OperatorStore:
    store = create_store(Settings())
    await store.connect()
    return store


async def state_of(store: OperatorStore, user_id: str) -> dict[str, object]:
    """A user's state, from a server that may just be starting: that can take longer than a call waits."""
    for _ in range(5):
        try:
            return (await store.load(user_id)).state
        except StateUnavailable:
            pass
    raise AssertionError("it does not answer")


def test_nobody_else_on_the_machine_reads_its_data(server: DevServer) -> None:
    server.folder.mkdir(parents=True, mode=0o755)  # of an earlier version
    server.join()
    assert server.folder.stat().st_mode & 0o777 == 0o700


async def test_it_keeps_its_data_and_stops_with_its_last_user(server: DevServer) -> None:
    first = await connected()
    version = await first.commit("1", Changes(state={"a": b'"\xc3\xbc"', "": b"[1.5]"}), expect=0)
    second = await connected()
    await second.commit("1", Changes(state={"b": b"2"}), expect=version)
    await second.close()
    await second.close()
    await asyncio.sleep(3 * WATCH_SECONDS)
    before = await first.load("1")
    assert before.state == {"a": "ü", "": [1.5], "b": 2}, "it is still there for the first"
    await first.close()
    wait_until_gone(server)
    store = await connected()
    after = await store.load("1")
    assert after.state == before.state
    assert after.version >= before.version
    with pytest.raises(StateConflict):
        await store.commit("1", Changes(state={"a": b"1"}), expect=version)
    await store.close()


def test_who_joins_twice_leaves_once(server: DevServer) -> None:
    assert server.join() == server.join() == server.address
    server.leave()
    server.leave()
    wait_until_gone(server)


COUNT = """
import asyncio
from bot.runtime.config import Settings
from bot.runtime.engines import create_store
from bot.runtime.state.turn import mutate

async def add(turn):
    turn.state["count"] = turn.state.get("count", 0) + 1

async def main():
    store = create_store(Settings())
    await store.connect()
    await mutate(store, "1", add)
    await store.close()

asyncio.run(main())
"""


async def test_many_who_come_at_once_share_one(server: DevServer, tmp_path: Path) -> None:
    (tmp_path / "count_once.py").write_text(COUNT)
    counting, env = [sys.executable, "-m", "count_once"], environment(tmp_path)
    for round_ in range(1, 3):
        many = [await warm.start(counting, cwd=tmp_path, env=env) for _ in range(4)]
        assert [await process.wait() for process in many] == [0] * 4
        store = await connected()
        assert await state_of(store, "1") == {"count": 4 * round_}
        await store.close()
        wait_until_gone(server)


async def test_every_command_sees_what_the_running_bot_writes(server: DevServer, tmp_path: Path) -> None:
    store = await connected()
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
async def test_killed_it_comes_back_with_its_data(server: DevServer, victim: str) -> None:
    store = await connected()
    version = await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    await store.close()
    wait_until_gone(server)
    store = await connected()
    kept = {"a": 1}
    if ENGINE != "firestore":  # whose emulator writes down only now and then what it has
        await store.commit("1", Changes(state={"b": b"2"}), expect=version)
        kept |= {"b": 2}
    pid, keeper = process_ids(server)
    for number in {"server": [pid], "keeper": [keeper], "both": [keeper, pid]}[victim]:
        os.kill(number, signal.SIGKILL)
    if victim != "server":  # its keeper is gone: the next to come puts that right
        wait_until(lambda: not server.is_kept)
        await asyncio.to_thread(server.join)
    assert await state_of(store, "1") == kept, "whoever used it goes on"
    assert process_ids(server)[0] != pid
    await store.close()


def test_a_user_that_is_killed_does_not_keep_it_running(server: DevServer, tmp_path: Path) -> None:
    process = chat(tmp_path)
    assert say(process, "hi") == "Processed: hi (#1)"
    assert server.is_kept
    process.kill()
    process.communicate()
    wait_until_gone(server)
    again = run(tmp_path, "chat", stdin="hi\n")
    assert (again.stdout, again.stderr) == ("Processed: hi (#2)\n", "")


def test_ctrl_c_is_for_the_bot_alone(server: DevServer) -> None:
    server.join()
    assert all(os.getpgid(pid) != os.getpgid(0) for pid in process_ids(server))


def test_a_place_that_cannot_be_written_to(server: DevServer, tmp_path: Path) -> None:
    (tmp_path / ".data").write_text("a file")
    result = run(tmp_path, "state", "show", "1")
    assert result.returncode == 1
    assert result.stderr.startswith("error: cannot keep a server's data in ")
    assert result.stderr.count("\n") == 1
    (tmp_path / ".data").unlink()


def test_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "fcntl", None)
    with pytest.raises(OperatorError, match=r"\bset\b.*: (set|install) ") as raised:
        make_server().join()
    assert str(raised.value) == make_server().missing
