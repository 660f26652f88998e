"""`bot state backup`: a copy that is whole, made while the bot writes, and put in the file's place."""

# ruff: noqa: ASYNC240 - files are what is tested here

import asyncio
from pathlib import Path

import apsw
import pytest

from bot.runtime.engines.sqlite.store import SqliteStore
from bot.runtime.errors import StateUnavailable
from bot.runtime.state.store import Changes
from suite.bot_api import FakeTelegram
from suite.engines.sqlite.conftest import Open
from suite.support.command_line import run
from suite.support.process import BotProcess

pytestmark = pytest.mark.clause("engine.backup")


async def test_a_copy_is_of_one_moment(direct: SqliteStore, open_store: Open, tmp_path: Path) -> None:
    """Two users take turns; a copy of two moments would show them apart."""

    async def take_turns() -> None:
        n = 0
        while True:
            n += 1
            for user in ("1", "2"):
                filling = Changes(state={"n": str(n).encode(), f"{n % 50}": b'"' + b"x" * 5_000 + b'"'})
                await direct.commit(user, filling, expect=None)

    writing = asyncio.create_task(take_turns())
    copies = []
    for number in range(5):
        await asyncio.sleep(0.1)
        file = tmp_path / f"copy-{number}"
        await asyncio.to_thread(direct.database.copy_to, file)
        copies.append(file)
    writing.cancel()
    counts = []
    for file in copies:
        assert file.stat().st_mode & 0o777 == 0o600
        store = await open_store(file)
        one, two = [(await store.load(user)).state["n"] for user in ("1", "2")]
        assert one - two in (0, 1)
        counts.append(one)
    assert counts == sorted(set(counts))
    assert not list(tmp_path.glob("*.partial"))


async def test_the_command_beside_a_running_bot_and_the_way_back(
    tmp_path: Path, telegram: FakeTelegram
) -> None:
    """As the page walks through it."""
    path, copy = tmp_path / "kept" / "bot.sqlite3", tmp_path / "copy"
    settings = {"SQLITE_PATH": str(path)}
    async with BotProcess(tmp_path / "running", telegram, **settings) as bot:
        telegram.message("one", user_id=1)
        await telegram.settled(60)
        copy.write_text("an older one")
        done = await asyncio.to_thread(run, tmp_path, "state", "backup", str(copy), **settings)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"copied {path} to {copy}: ")
        telegram.message("two", user_id=1)
        await telegram.settled(60)
        bot.process.kill()
        await bot.process.wait()
    for name in ("-wal", "-shm"):
        path.with_name(path.name + name).unlink(missing_ok=True)
    copy.replace(path)
    telegram.webhook_address = ""
    async with BotProcess(tmp_path / "running", telegram, **settings):
        telegram.message("three", user_id=1)
        await telegram.settled(60)
    assert telegram.texts(1)[-1] == "Processed: three (#2)"


async def test_no_copy_of_a_damaged_file_takes_the_place_of_a_good_one(
    open_store: Open, path: Path, tmp_path: Path
) -> None:
    store = await open_store()
    for n in range(50):
        await store.commit(str(n), Changes(state={"n": b'"' + b"x" * 500 + b'"'}), expect=0)
    await store.close()
    content = bytearray(path.read_bytes())
    content[-3 * 4_096 :] = bytes(3 * 4_096)
    path.write_bytes(content)
    copy = tmp_path / "copy"
    copy.write_text("a good one")
    store = await open_store()
    with pytest.raises(StateUnavailable, match="is damaged"):
        store.database.copy_to(copy)
    assert copy.read_text() == "a good one"
    assert not list(tmp_path.glob("*.partial"))


async def test_a_place_that_cannot_be_written_is_one_line(
    path: Path, tmp_path: Path, open_store: Open
) -> None:
    await open_store()
    settings = {"SQLITE_PATH": str(path)}
    nowhere = run(tmp_path, "state", "backup", str(tmp_path / "nowhere/copy"), **settings)
    itself = run(tmp_path, "state", "backup", str(path), **settings)
    for result, words in ((nowhere, "cannot write"), (itself, "is the database itself")):
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1
        assert words in result.stderr


async def test_a_copy_brings_nothing_back_that_was_erased(direct: SqliteStore, tmp_path: Path) -> None:
    await direct.commit("1", Changes(state={"n": b'"PINEAPPLE"'}), expect=0)
    reader = apsw.Connection(str(direct.database.path))
    reader.execute("BEGIN; SELECT count(*) FROM part").fetchall()
    await direct.forget("1")
    await asyncio.to_thread(direct.database.copy_to, tmp_path / "copy")
    reader.close()
    assert b"PINEAPPLE" not in (tmp_path / "copy").read_bytes()
