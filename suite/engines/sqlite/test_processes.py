"""Several processes of one machine on one file: none waits for ever, none loses a commit, killed or not."""

import asyncio
import json
import signal
import sys
from contextlib import suppress
from pathlib import Path

import apsw
import pytest

from bot.runtime.engines.sqlite.connection import Database
from bot.runtime.engines.sqlite.store import SCHEMA, SqliteStore
from bot.runtime.state.store import Changes
from suite.engines.sqlite.conftest import Open

pytestmark = pytest.mark.clause("replicas.share")

USERS, SECONDS = 10, 2.0


async def write(path: Path, name: str, seconds: float) -> None:
    """What each process does: commits as fast as it can, and tells of each when it is acknowledged."""
    store = SqliteStore(Database(path, SCHEMA))
    await store.connect()
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    longest = 0.0

    async def one(user: str) -> None:
        nonlocal longest
        n = 0
        while loop.time() < until:
            n += 1
            began = loop.time()
            await store.commit(user, Changes(state={name: str(n).encode()}), expect=None)
            longest = max(longest, loop.time() - began)
            print(json.dumps([user, n, longest]), flush=True)

    await asyncio.gather(*(one(str(user)) for user in range(USERS)))
    await store.close()


async def started(path: Path, name: str, seconds: float) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "suite.engines.sqlite.test_processes", str(path), name, str(seconds)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def told(
    process: asyncio.subprocess.Process, *, before: bytes = b"", is_killed: bool = False
) -> tuple[dict[str, int], float]:
    """What was acknowledged, by user; and the longest that a commit took."""
    out, err = await process.communicate()
    assert is_killed or process.returncode == 0, err.decode()
    acknowledged, longest = {}, 0.0
    for line in (before + out).splitlines(keepends=True):
        if line.endswith(b"\n"):  # or it was killed over it
            user, n, longest = json.loads(line)
            acknowledged[user] = n
    return acknowledged, longest


async def test_three_write_to_the_same_records(open_store: Open, path: Path) -> None:
    processes = [await started(path, f"p{number}", SECONDS) for number in range(3)]
    found = [await told(process) for process in processes]
    store = await open_store()
    for user in map(str, range(USERS)):
        state = (await store.load(user)).state
        assert state == {f"p{number}": counts[user] for number, (counts, _) in enumerate(found)}
    totals = [sum(counts.values()) for counts, _ in found]
    assert min(totals) > max(totals) / 4, f"each had its share: {totals}"
    assert max(longest for _, longest in found) < 3


async def test_killed_again_and_again_they_lose_nothing(open_store: Open, path: Path) -> None:
    known: dict[str, int] = {}
    for number in range(6):
        process = await started(path, f"p{number}", 60)
        assert process.stdout
        before = b"".join([await process.stdout.readline() for _ in range(50 * (number + 1))])
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        acknowledged, _ = await told(process, before=before, is_killed=True)
        known |= {f"p{number} {user}": n for user, n in acknowledged.items()}
        store = await open_store()
        for user in map(str, range(USERS)):
            for name, n in (await store.load(user)).state.items():
                assert n - known.get(f"{name} {user}", 0) in (0, 1)
        await store.close()
    assert sum(known.values()) > 100
    connection = apsw.Connection(str(path))
    assert connection.pragma("integrity_check") == "ok"


async def test_many_begin_at_once_with_a_file_that_is_not_there(path: Path) -> None:
    """Each makes it, or finds it made."""
    for attempt in range(10):
        stores = [SqliteStore(Database(path.with_name(str(attempt)), SCHEMA)) for _ in range(8)]
        await asyncio.gather(*(store.connect() for store in stores))
        await asyncio.gather(*(store.commit(str(n), Changes(), expect=0) for n, store in enumerate(stores)))
        await asyncio.gather(*(store.close() for store in stores))
    processes = [await started(path.with_name("other"), f"p{number}", 0.1) for number in range(4)]
    for process in processes:
        await told(process)


@pytest.mark.clause("engine.outage")
async def test_one_that_is_frozen_with_the_lock_holds_the_others_up_no_longer_than_they_wait(
    open_store: Open, path: Path
) -> None:
    store = await open_store(timeout=5)
    process = await started(path, "frozen", 60)
    await asyncio.sleep(2)
    process.send_signal(signal.SIGSTOP)
    outcomes = await asyncio.gather(store.commit("x", Changes(), expect=None), return_exceptions=True)
    assert outcomes  # with or without the lock: it is over in time
    process.send_signal(signal.SIGCONT)
    await store.commit("x", Changes(), expect=None)
    process.send_signal(signal.SIGKILL)
    await told(process, is_killed=True)


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
