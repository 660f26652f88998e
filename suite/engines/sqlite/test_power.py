"""The power fails: what was acknowledged is there afterwards, on a disk that forgets what was not flushed."""

import asyncio
from pathlib import Path
from random import Random

import apsw
import pytest

from bot.runtime.engines.sqlite.store import SqliteStore
from bot.runtime.state.record import Message
from bot.runtime.state.store import Changes
from suite.engines.sqlite.conftest import Open
from suite.engines.sqlite.disk import forgetful_disk

pytestmark = pytest.mark.clause("engine.power-loss")

USERS, FAILURES = 12, 25

Acknowledged = dict[str, int]


async def write(store: SqliteStore, user: str, acknowledged: Acknowledged) -> None:
    """Commit without an end, and note what was acknowledged."""
    version, count = 0, 0
    while True:
        count += 1
        text = str(count).encode()
        message = Message("user", str(count), 1.0)
        changes = Changes(state={"a": text, "b": text}, messages=(message,), keep_history=30)
        version = await store.commit(user, changes, expect=version)
        acknowledged[user] = count


async def more(acknowledged: Acknowledged, commits: int) -> None:
    """Wait until so many more are acknowledged."""
    goal = sum(acknowledged.values()) + commits
    while sum(acknowledged.values()) < goal:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def fail_again_and_again(
    open_store: Open, folder: Path, sync: str, chance: Random
) -> list[tuple[Path, Acknowledged]]:
    """What is left each time, and what had been acknowledged."""
    with forgetful_disk() as disk:
        store = await open_store(sync=sync)
        acknowledged: Acknowledged = {}
        writers = [asyncio.create_task(write(store, str(n), acknowledged)) for n in range(USERS)]
        left = []
        for number in range(FAILURES):
            await more(acknowledged, chance.randint(1, 40))
            known, place = dict(acknowledged), folder / str(number)
            place.mkdir()
            disk.fail(place, chance if number % 2 else None)
            left.append((place / "bot.sqlite3", known))
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        await store.close()
    return left


async def lost(open_store: Open, file: Path, known: Acknowledged) -> int:
    """How many commits are gone; every record that is there is whole."""
    store = await open_store(file)
    gone = 0
    for user, count in known.items():
        record = await store.load(user)
        kept = record.state.get("a", 0)
        assert record.state.get("b", 0) == kept
        assert [message.text for message in record.history] == [
            str(n) for n in range(max(1, kept - 29), kept + 1)
        ]
        gone += max(0, count - kept)
    await store.close()
    connection = apsw.Connection(str(file))
    assert connection.pragma("integrity_check") == "ok"
    connection.close()
    return gone


async def test_no_acknowledged_commit_is_lost(open_store: Open, tmp_path: Path) -> None:
    for file, known in await fail_again_and_again(open_store, tmp_path, "full", Random(1)):
        assert await lost(open_store, file, known) == 0


async def test_the_setting_that_trades_this_loses_some_and_damages_nothing(
    open_store: Open, tmp_path: Path
) -> None:
    """This is also what tells that the disk of these tests forgets."""
    left = await fail_again_and_again(open_store, tmp_path, "normal", Random(1))
    assert sum([await lost(open_store, file, known) for file, known in left]) > 0


async def test_a_failure_while_the_log_goes_into_the_file_loses_nothing(
    open_store: Open, tmp_path: Path
) -> None:
    """Which it does again and again here."""
    with forgetful_disk() as disk:
        store = await open_store()
        await store.database.write(lambda connection: connection.wal_autocheckpoint(5))
        acknowledged: Acknowledged = {}
        writers = [asyncio.create_task(write(store, str(n), acknowledged)) for n in range(USERS)]
        left = []
        for number in range(FAILURES):
            await more(acknowledged, 20)
            known, place = dict(acknowledged), tmp_path / str(number)
            place.mkdir()
            disk.fail(place, Random(number))
            left.append((place / "bot.sqlite3", known))
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        await store.close()
    for file, known in left:
        assert await lost(open_store, file, known) == 0


async def test_the_file_itself_and_its_folder_are_on_the_disk(
    direct: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bot.runtime.engines.sqlite import connection

    flushed: list[Path] = []
    monkeypatch.setattr(connection, "flush_folder", flushed.append)
    other = SqliteStore(connection.Database(path.parent / "a/b/bot.sqlite3", ("SELECT 1",)))
    await asyncio.to_thread(other.database._create)
    assert {path.parent / "a/b", path.parent / "a", path.parent} <= set(flushed)
