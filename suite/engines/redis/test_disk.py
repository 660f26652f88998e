"""A disk that is too slow for the append-only file, and REDIS_WAIT_DISK."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bot.runtime.engines.redis import connection
from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.errors import StateUnavailable
from bot.runtime.state.store import Changes
from suite.engines.redis.proxy import Proxy
from suite.engines.redis.server import Server, make_store
from suite.support.command_line import run

pytestmark = pytest.mark.clause("engine.outage")


@contextmanager
def slow_disk(server: Server, seconds: float) -> Iterator[None]:
    """Have every `fdatasync` of the server take so long."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed, without which no disk can be made slow")
    slowness = f"inject=fdatasync:delay_enter={int(seconds * 1e6)}"
    command = ["strace", "-f", "-qq", "-e", "trace=fdatasync", "-e", slowness, "-p", str(server.pid)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as strace:
        tasks = Path(f"/proc/{server.pid}/task")
        while any("TracerPid:\t0" in (task / "status").read_text() for task in tasks.iterdir()):
            time.sleep(0.01)
        try:
            yield
        finally:
            os.kill(server.pid, signal.SIGKILL)
            strace.kill()  # which would hold the dead one
            server.kill()


async def count_up(store: RedisStore, seconds: float) -> int:
    """Commit again and again; the last count that was acknowledged."""
    count, give_up = 0, time.monotonic() + seconds
    while time.monotonic() < give_up:
        with suppress(StateUnavailable, TimeoutError):
            async with asyncio.timeout(give_up - time.monotonic()):
                changes = Changes(state={"count": str(count + 1).encode()})
                await store.commit("1", changes, expect=None)
                count += 1
        await asyncio.sleep(0.02)
    return count


@pytest.mark.parametrize("waits", [False, True])
async def test_a_server_killed_while_its_disk_is_slow(tmp_path: Path, waits: bool) -> None:
    """It acknowledges what it has not even written; whoever waits for the file loses nothing."""
    server = Server(tmp_path / "server").start()
    store = make_store(server.url, redis_wait_disk=waits)
    await store.connect()
    with slow_disk(server, 3):
        acknowledged = await count_up(store, 2)
    await asyncio.to_thread(server.start)
    kept = (await store.load("1")).state.get("count", 0)
    await store.close()
    server.end()
    print(f"acknowledged {acknowledged}, kept {kept}")
    assert kept >= acknowledged if waits else kept < acknowledged


async def test_what_is_read_is_in_the_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit of a process that was killed while it waited is not taken for done by the next one."""
    monkeypatch.setattr(connection, "DISK_SECONDS", 0.5)
    server = Server(tmp_path / "server").start()
    hasty, store = make_store(server.url), make_store(server.url, redis_wait_disk=True)
    await hasty.connect()
    await store.connect()
    with slow_disk(server, 4):
        while not (await hasty.connection.ask("INFO", "persistence"))["aof_pending_bio_fsync"]:
            await hasty.commit("1", Changes(state={"n": b"0"}), expect=None)
        changes = Changes(state={"n": b"1"}, applied=(7,))
        await hasty.commit("1", changes, expect=None)
        with pytest.raises(StateUnavailable, match="too slow for its append-only file"):
            await store.load("1")
        with pytest.raises(StateUnavailable, match="too slow for its append-only file"):
            await store.commit("1", changes, expect=None)
    await hasty.close()
    await store.close()


@pytest.mark.clause("wire.round-trips")
async def test_waiting_takes_no_further_round_trip(server: Server) -> None:
    async with Proxy(server.url) as proxy:
        store = make_store(proxy.url, redis_wait_disk=True)
        await store.connect()
        for _ in range(2):  # at the first time, the server learns the scripts
            proxy.reset()
            version = (await store.load("1")).version
            await store.commit("1", Changes(state={"n": b"1"}), expect=version)
        assert proxy.round_trips == 2
        await store.close()


@pytest.mark.clause("cli")
@pytest.mark.parametrize(
    ("config", "cluster", "reason"),
    [
        ({"rename-command": 'WAITAOF ""'}, "", "Redis 7.2 or newer, or Valkey: the server is older"),
        ({"appendonly": "no"}, "", "set `appendonly yes`"),
        ({}, "true", "REDIS_WAIT_DISK does not work with REDIS_CLUSTER"),
    ],
)
async def test_a_server_that_cannot_wait_is_refused(
    tmp_path: Path, config: dict[str, str], cluster: str, reason: str
) -> None:
    server = Server(tmp_path / "server", **config).start()
    settings = {"REDIS_URL": server.url, "REDIS_WAIT_DISK": "true"}
    settings |= {"REDIS_CLUSTER": cluster} if cluster else {}
    done = await asyncio.to_thread(run, tmp_path, "state", "show", "1", **settings)
    server.end()
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert reason in line


@pytest.mark.clause("doctor.server")
@pytest.mark.parametrize("waits", [False, True])
async def test_doctor_sees_that_the_disk_was_slow(tmp_path: Path, waits: bool) -> None:
    server = Server(tmp_path / "server").start()
    store = make_store(server.url, redis_wait_disk=waits)
    await store.connect()
    with slow_disk(server, 5):
        await count_up(store, 4)
        findings = await store.diagnose()
    await store.close()
    if waits:
        assert [each.level for each in findings if "REDIS_WAIT_DISK" in each.text] == ["ok"]
    else:
        (text,) = [each.text for each in findings if each.level == "warning"]
        assert "aof_delayed_fsync" in text
