"""`bot state`, on engines whose records outlive the running bot."""

import asyncio
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bot.runtime.state.jobs import Job, put_job
from bot.runtime.state.record import Message
from bot.runtime.state.store import NEVER, Changes, OperatorStore
from bot.runtime.state.turn import Turn, mutate
from suite.contract.harness import Harness
from suite.support.command_line import BOT, environment, run

pytestmark = pytest.mark.clause("state-cli")

MARK = "a-mark-of-its-own"


async def put(store: OperatorStore, user_id: str, **state: object) -> None:
    """Set keys of a user's state, and say something."""

    async def change(turn: Turn) -> None:
        turn.state.update(state)
        turn.remember("user", f"hello from {user_id}")

    await mutate(store, user_id, change)


async def listed(store: OperatorStore) -> list[str]:
    return sorted([user async for user in store.users()])


def by_user(lines: Sequence[str | bytes]) -> list[dict[str, Any]]:
    """The records of an export. In which order their keys stand is the engine's affair."""
    return sorted(map(json.loads, lines), key=lambda record: str(record["user_id"]))


def say(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Say something in a chat of its own."""
    return run(folder, "chat", stdin=line)


async def test_what_is_said_in_a_chat_is_there_in_the_next(tmp_path: Path, store: OperatorStore) -> None:
    await asyncio.to_thread(say, tmp_path, "hi")
    result = await asyncio.to_thread(say, tmp_path, "there")
    assert result.stdout == "Processed: there (#2)\n"
    assert (await store.load("1")).state == {"last_message": "there", "message_count": 2}


async def test_show(tmp_path: Path, store: OperatorStore) -> None:
    await put(store, "7", colour="blue", list=[1, {}])
    result = run(tmp_path, "state", "show", "7")
    assert result.returncode == 0
    shown = json.loads(result.stdout)
    assert shown["state"] == {"colour": "blue", "list": [1, {}]}
    assert [message["text"] for message in shown["history"]] == ["hello from 7"]
    assert shown["version"] == (await store.load("7")).version
    nobody = run(tmp_path, "state", "show", "8")
    assert nobody.returncode == 1
    assert nobody.stderr == "error: nothing is kept about user 8: `bot state list` shows about whom\n"


async def test_what_was_lost_of_what_is_to_be_done_is_found_again(
    tmp_path: Path, store: OperatorStore
) -> None:
    async def later(turn: Turn) -> None:
        put_job(turn.fsm, Job(id="1", name="tell", at=2**50))

    await mutate(store, "7", later)
    await store.commit("7", Changes(due=NEVER), expect=None)
    for lost in (1, 0):
        result = await asyncio.to_thread(run, tmp_path, "state", "reindex")
        assert result.returncode == 0, result.stderr
        assert result.stdout == f"1 records have something to do; {lost} of them had been lost\n"
    assert (await store.due(10**9, 9)).due == [("7", 2**50)]


async def test_a_corrupt_record_is_shown_raw_and_can_be_forgotten(
    tmp_path: Path, store: OperatorStore, harness: Harness
) -> None:
    await put(store, "7", colour="blue")
    await harness.corrupt("7")
    result = run(tmp_path, "state", "show", "7")
    assert result.returncode == 1
    assert "store cannot be used: user 7: " in result.stderr
    assert "`bot state show --raw 7`" in result.stderr
    assert result.stderr.count("\n") == 1
    raw = run(tmp_path, "state", "show", "--raw", "7")
    assert raw.returncode == 0
    assert "blue" in raw.stdout
    assert run(tmp_path, "state", "forget", "7", "--yes").stdout == "forgot user 7\n"
    assert (await store.load("7")).is_empty


async def test_forget_asks_first(tmp_path: Path, store: OperatorStore) -> None:
    await put(store, "7", a=1)
    assert run(tmp_path, "state", "forget", "7", stdin="n\n").returncode == 1
    assert await listed(store) == ["7"]
    assert run(tmp_path, "state", "forget", "7", stdin="y\n").returncode == 0
    assert await listed(store) == []
    again = run(tmp_path, "state", "forget", "7", "--yes")
    assert (again.returncode, again.stdout) == (0, "nothing was kept about user 7\n")


async def test_export_and_import(tmp_path: Path, store: OperatorStore) -> None:
    for user in range(45):
        await put(store, str(user), number=user, text="ünïcode 👋", mark=MARK)
    before = {user_id: (await store.load(user_id)).to_json() for user_id in await listed(store)}
    result = run(tmp_path, "state", "export", "all.jsonl")
    assert (result.returncode, result.stdout) == (0, "exported 45 users to all.jsonl\n")
    lines = (tmp_path / "all.jsonl").read_bytes().splitlines()
    assert {json.loads(line)["user_id"]: json.loads(line) for line in lines} == before
    assert not (tmp_path / "all.jsonl").stat().st_mode & 0o077, "it is nobody else's business"
    piped = run(tmp_path, "state", "export", "-").stdout
    assert by_user(piped.splitlines()) == by_user(lines)

    for user_id in before:
        await store.forget(user_id)
    for _ in range(2):
        result = run(tmp_path, "state", "import", "all.jsonl", "--with-forgotten")
        assert (result.returncode, result.stdout) == (0, "imported 45 users from all.jsonl\n")
        assert {user_id: (await store.load(user_id)).to_json() for user_id in await listed(store)} == before


async def test_an_import_that_was_cut_off_can_be_run_again(tmp_path: Path, store: OperatorStore) -> None:
    for user in range(5):
        await put(store, str(user), number=user)
    run(tmp_path, "state", "export", "all.jsonl")
    whole = (tmp_path / "all.jsonl").read_bytes()
    for user in range(5):
        await store.forget(str(user))
    (tmp_path / "all.jsonl").write_bytes(whole[:-20])
    result = run(tmp_path, "state", "import", "all.jsonl", "--with-forgotten")
    assert result.returncode == 1
    assert result.stderr.startswith("error: all.jsonl, line 5: not JSON: ")
    assert result.stderr.endswith(" (4 users are imported; fix the line and import again)\n")
    assert result.stderr.count("\n") == 1
    assert len(await listed(store)) == 4
    (tmp_path / "all.jsonl").write_bytes(whole)
    assert run(tmp_path, "state", "import", "all.jsonl", "--with-forgotten").returncode == 0
    assert await listed(store) == ["0", "1", "2", "3", "4"]


async def test_a_user_who_stands_there_twice_is_as_the_last_line_has_them(
    tmp_path: Path, store: OperatorStore
) -> None:
    await put(store, "7", number=1)
    first = run(tmp_path, "state", "export", "-").stdout
    await put(store, "7", number=2)
    (tmp_path / "all.jsonl").write_text(first + run(tmp_path, "state", "export", "-").stdout)
    await put(store, "7", number=3)
    result = run(tmp_path, "state", "import", "all.jsonl")
    assert (result.returncode, result.stdout) == (0, "imported 1 users from all.jsonl\n")
    assert (await store.load("7")).state == {"number": 2}


async def test_an_import_says_how_many_stay_forgotten(tmp_path: Path, store: OperatorStore) -> None:
    await put(store, "7", number=1)
    await put(store, "8", number=1)
    run(tmp_path, "state", "export", "all.jsonl")
    await store.forget("7")
    result = run(tmp_path, "state", "import", "all.jsonl")
    assert result.returncode == 0
    assert result.stdout == (
        "imported 1 users from all.jsonl\nleft out, because they were forgotten here: 1\n"
    )
    assert await listed(store) == ["8"]


async def test_an_export_without_what_is_corrupt_takes_no_whole_ones_place(
    tmp_path: Path, store: OperatorStore, harness: Harness
) -> None:
    """That could be the only copy. Who is missing is named, and what to do; the others are beside it."""
    for user in ("7", "8", "9"):
        await put(store, user, a=1)
    run(tmp_path, "state", "export", "all.jsonl")
    before = (tmp_path / "all.jsonl").read_bytes()
    await harness.corrupt("7")
    await harness.corrupt("8")
    result = run(tmp_path, "state", "export", "all.jsonl")
    assert (result.returncode, result.stdout) == (1, "")
    *named, error = result.stderr.splitlines()
    assert sorted(line.split(":")[0] for line in named) == ["user 7", "user 8"]
    assert error.startswith(
        "error: 2 cannot be read, for the reasons above; the others are in all.jsonl.partial"
    )
    assert "state show --raw" in error
    assert (tmp_path / "all.jsonl").read_bytes() == before
    partial = (tmp_path / "all.jsonl.partial").read_bytes()
    assert [record["user_id"] for record in by_user(partial.splitlines())] == ["9"]
    piped = run(tmp_path, "state", "export", "-")
    assert (piped.returncode, piped.stdout.encode()) == (1, partial)

    for user in ("7", "8"):
        await store.forget(user)
    assert run(tmp_path, "state", "export", "all.jsonl").stdout == "exported 1 users to all.jsonl\n"
    assert [name for name in os.listdir(tmp_path) if name.startswith("all")] == ["all.jsonl"]


@pytest.mark.parametrize("what", ["export", "import"])
async def test_progress_is_shown_to_whoever_watches(tmp_path: Path, store: OperatorStore, what: str) -> None:
    pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")
    await put(store, "7", a=1)
    run(tmp_path, "state", "export", "all.jsonl")
    parent, child = pty.openpty()
    done = await asyncio.to_thread(
        lambda: subprocess.run(
            [*BOT, "state", what, "all.jsonl"],
            cwd=tmp_path,
            env=environment(tmp_path, TERM="xterm-256color"),
            stdout=subprocess.PIPE,
            stderr=child,
            timeout=180,
        )
    )
    os.close(child)
    seen = os.read(parent, 65_536)
    os.close(parent)
    assert done.returncode == 0
    assert b"records " in seen


async def test_of_a_user_that_was_only_forgotten_there_is_nothing_to_export(
    tmp_path: Path, store: OperatorStore
) -> None:
    message = Message("user", "hello", 1.0)
    await store.commit("7", Changes(messages=(message,), applied=(1,)), expect=0)
    await store.forget("7")
    assert run(tmp_path, "state", "export", "-").stdout == ""


async def test_import_can_merge(tmp_path: Path, store: OperatorStore) -> None:
    await put(store, "1", old=1, both=1)
    file = tmp_path / "users.jsonl"
    empty: dict[str, Any] = {"history": [], "fsm": {}, "applied": [], "outbox": {}}
    file.write_text(json.dumps({"user_id": "1", "state": {"both": 2, "new": 3}, **empty}) + "\n")
    result = await asyncio.to_thread(run, tmp_path, "state", "import", "--merge", str(file))
    assert (result.returncode, result.stderr) == (0, "")
    record = await store.load("1")
    assert record.state == {"old": 1, "both": 2, "new": 3}
    assert [message.text for message in record.history] == ["hello from 1"]


TRAVELLING = "suite.travelling_bot"


async def test_check_finds_all_whose_state_fits(tmp_path: Path, store: OperatorStore) -> None:
    await put(store, "1", _version=3, currency="EUR")
    await put(store, "2", town="Rome")
    await put(store, "waiting:1", anything=1)
    before = [(await store.load(user)).version for user in ("1", "2")]
    result = await asyncio.to_thread(run, tmp_path, "state", "check", module=TRAVELLING)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "checked 3 records: all fit, 1 as soon as upgraded\n"
    assert [(await store.load(user)).version for user in ("1", "2")] == before, "nothing is changed"
    assert (await store.load("2")).state == {"town": "Rome"}


async def test_check_names_what_does_not_fit_without_content(
    tmp_path: Path, store: OperatorStore, harness: Harness
) -> None:
    await put(store, "1", _version=3, currency="EUR")
    await put(store, "2", _version=3, currency="EUR", stops=[{MARK: MARK}], city=MARK * 9)
    await put(store, "-3", **{MARK: MARK})
    for number in range(40):
        await put(store, f"{100 + number}", _version=3, currency="NOK")
    await put(store, "4", currency="EUR")
    await harness.corrupt("4")
    result = await asyncio.to_thread(run, tmp_path, "state", "check", module=TRAVELLING)
    assert result.returncode == 1
    assert sorted(line.partition(":")[0] for line in result.stdout.splitlines()) == [
        "user -3", "user 2", "user 4",
    ]  # fmt: skip
    assert (
        "user 2: its state of version 3 is no Trip: city value_error, stops.0.town missing" in result.stdout
    )
    assert "upgrade failed from version 0 on (KeyError in travelling_bot.py, line" in result.stdout
    assert MARK not in result.stdout + result.stderr
    assert result.stderr.startswith("error: 3 records do not fit, for the reasons above")
    assert result.stderr.count("\n") == 1


async def test_check_of_an_agent_that_declares_nothing_reads_all(
    tmp_path: Path, store: OperatorStore, harness: Harness
) -> None:
    await put(store, "1", anything=1)
    assert (await asyncio.to_thread(run, tmp_path, "state", "check")).stdout == "checked 1 records: all fit\n"
    await harness.corrupt("1")
    assert (await asyncio.to_thread(run, tmp_path, "state", "check")).returncode == 1
