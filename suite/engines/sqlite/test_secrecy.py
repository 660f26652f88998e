"""What was erased is gone from the file, its log and its free pages; what is secret is in no line."""

import asyncio
import random
import secrets
import shutil
from pathlib import Path

import apsw
import pytest

from bot.runtime.engines.sqlite import connection as connection_module
from bot.runtime.engines.sqlite.store import SqliteStore
from bot.runtime.state.codec import dumps
from bot.runtime.state.record import Message, OutboxEntry, encode_entry
from bot.runtime.state.store import Changes, new_file_id
from bot.runtime.state.turn import Turn, mutate
from suite.engines.sqlite.conftest import Open
from suite.support.runtime import Mode
from suite.support.secrecy import everything_written, expect_secret

WORDS = b"PINEAPPLE"


def traces(path: Path) -> dict[str, int]:
    """How often the words stand in each of the files."""
    return {file.name: found for file in path.parent.iterdir() if (found := file.read_bytes().count(WORDS))}


def secret(size: int) -> str:
    """A text of that size or more, which bears the words all over."""
    return f"{WORDS.decode()} {secrets.token_hex(2)} " * (size // 14 + 1)


async def live(store: SqliteStore, user: str, chance: random.Random) -> None:
    """Write of everything that is kept about a person, small and large, over and over."""
    for update_id in range(1, 60):

        async def change(turn: Turn) -> None:
            for _ in range(3):
                turn.state[f"{WORDS.decode()} {chance.randint(1, 40)}"] = secret(
                    chance.choice([5, 300, 3_000])
                )
            for key in chance.sample(sorted(turn.state), min(2, len(turn.state) // 4)):
                del turn.state[key]
            turn.remember("user", secret(chance.choice([5, 300, 5_000])))

        await mutate(store, user, change)
        content = secret(chance.choice([10, 10_000])).encode()
        file = new_file_id(update_id, content)
        replies = [{"method": "sendMessage", "params": {"text": secret(50)}}]
        entry = encode_entry(OutboxEntry(replies, 1.0))
        fsm = {"flow": dumps({"state": "s", "data": {"said": secret(20)}, "at": 1.0}, "fsm")}
        outbox = {update_id: entry, update_id - 3: None}
        changes = Changes(applied=(update_id,), outbox=outbox, files={file: content}, fsm=fsm)
        version = (await store.load(user)).version
        await store.commit(user, changes, expect=version)


@pytest.mark.clause("forget.no-trace")
@pytest.mark.parametrize("seed", range(3))
async def test_forgetting_leaves_no_trace(direct: SqliteStore, path: Path, seed: int) -> None:
    """Among others who write meanwhile, and whose records share pages with what is erased.

    SQLite's `secure_delete` alone leaves some: copies of what it had moved from page to page before.
    """
    chance = random.Random(f"others {seed}")

    async def others() -> None:
        for n in range(300):
            message = Message("user", "x" * chance.choice([5, 300, 3_000]), 1.0)
            changes = Changes(
                state={f"{n}": b'"' + b"y" * (n * 7) + b'"'}, messages=(message,), keep_history=20
            )
            await direct.commit(str(n % 9), changes, expect=None)

    await asyncio.gather(live(direct, "77", random.Random(seed)), others())
    assert traces(path), "this is where it is looked for"
    assert await direct.forget("77")
    assert traces(path) == {}
    for n in range(9):
        await direct.commit(str(n), Changes(state={"after": b"1"}), expect=None)
    assert traces(path) == {}, "no page that was in memory brings them back"
    await direct.close()
    assert traces(path) == {}
    connection = apsw.Connection(str(path))
    assert connection.pragma("integrity_check") == "ok"
    connection.close()


@pytest.mark.clause("forget.no-trace")
async def test_a_commit_that_forgets_leaves_no_trace_either(direct: SqliteStore, path: Path) -> None:
    """As `/forget` in a chat does it, with a reply."""
    await live(direct, "77", random.Random(9))
    bye = {99: encode_entry(OutboxEntry([{"method": "sendMessage", "params": {"text": "bye"}}], 1.0))}
    version = (await direct.load("77")).version
    await direct.commit("77", Changes(forget=True, applied=(99,), outbox=bye), expect=version)
    assert traces(path) == {}


@pytest.mark.clause("forget.no-trace")
async def test_what_another_process_still_reads_is_erased_when_it_has_done(
    direct: SqliteStore, path: Path
) -> None:
    await live(direct, "77", random.Random(3))
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN; SELECT count(*) FROM part").fetchall()
    assert await direct.forget("77")
    assert traces(path), "it reads what was there when it began"
    for n in range(30):
        await asyncio.wait_for(direct.commit("1", Changes(state={"n": str(n).encode()}), expect=None), 1)
    reader.close()
    async with asyncio.timeout(10):
        while traces(path):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


@pytest.mark.clause("forget.no-trace")
async def test_records_that_expired_are_swept_without_a_trace(open_store: Open, path: Path) -> None:
    store = await open_store(ttl=3_600)
    for user in range(60):
        text = secret(500)
        await store.commit(str(user), Changes(messages=(Message("user", text, 1.0),)), expect=0)
    await store.commit("fresh", Changes(state={"a": b"1"}), expect=0)
    expire = "UPDATE record SET expires_at = 1 WHERE user <> 'fresh'"
    await store.database.write(lambda connection: connection.execute(expire).fetchall())
    assert traces(path)
    assert await store.sweep() == 60
    assert traces(path) == {}
    assert [user async for user in store.users()] == ["fresh"]


@pytest.mark.clause("record.expires")
async def test_sweeping_holds_nobody_up(open_store: Open) -> None:
    store = await open_store(ttl=3_600)
    for first in range(0, 1_000, 100):
        await asyncio.gather(
            *(
                store.commit(str(n), Changes(state={"a": b'"' + b"x" * 2_000 + b'"'}), expect=0)
                for n in range(first, first + 100)
            )
        )
    expire = "UPDATE record SET expires_at = 1"
    await store.database.write(lambda connection: connection.execute(expire).fetchall())
    sweeping = asyncio.create_task(store.sweep())
    waited = []
    loop = asyncio.get_running_loop()
    while not sweeping.done():
        began = loop.time()
        await store.commit("fresh", Changes(state={"a": b"1"}), expect=None)
        waited.append(loop.time() - began)
    assert await sweeping == 1_000
    assert len(waited) > 5
    assert sorted(waited)[len(waited) // 2] < 0.2


@pytest.mark.clause("secrets.never-written")
async def test_no_secret_is_written(tmp_path: Path, mode: Mode) -> None:
    path = tmp_path / "kept" / "bot.sqlite3"
    moved = tmp_path / "moved"
    written = await everything_written(
        tmp_path,
        mode,
        break_store=lambda: path.rename(moved),
        mend_store=lambda: moved.rename(path),
        broken={"SQLITE_PATH": str(tmp_path)},
        SQLITE_PATH=str(path),
    )
    expect_secret(written, "hunter2")


@pytest.mark.clause("forget.no-trace")
async def test_a_large_file_is_erased_bit_by_bit_and_after_a_kill(
    open_store: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others write meanwhile. What a kill interrupts goes on at the next start."""
    monkeypatch.setattr(connection_module, "PAGES_AT_ONCE", 8)
    store = await open_store()
    await live(store, "77", random.Random(5))
    await store.forget("77")
    for n in range(20):
        await store.commit(str(n), Changes(state={"a": b"1"}), expect=None)
    async with asyncio.timeout(10):
        while traces(path):  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    await live(store, "78", random.Random(6))
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN; SELECT count(*) FROM part").fetchall()
    await store.forget("78")
    copy = path.with_name("killed")
    copy.mkdir()
    for file in path.parent.glob("bot.sqlite3*"):
        shutil.copy(file, copy)
    reader.close()
    again = await open_store(copy / path.name)
    async with asyncio.timeout(10):
        while await again.database.read(lambda c: c.execute("SELECT * FROM erasing").fetchall()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert traces(copy / path.name) == {}
