"""A master that Sentinels name, and its failover."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.errors import StateUnavailable
from bot.runtime.state.store import Changes
from suite.engines.redis.server import Server, free_port, make_store

pytestmark = pytest.mark.clause("engine.topology")

PASSWORD = "sesame"


class Watched:
    """A master, a replica, and a Sentinel that watches them; all want a password."""

    def __init__(self, folder: Path) -> None:
        quick = {"masterauth": PASSWORD, "repl-diskless-sync-delay": "0"}
        self.master = Server(folder / "master", **quick).start()
        self.replica = Server(folder / "replica", replicaof=f"127.0.0.1 {self.master.port}", **quick).start()
        for server in (self.master, self.replica):
            with Redis.from_url(server.url) as client:
                client.config_set("requirepass", PASSWORD)
        self.port = free_port()
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\n"
            f"requirepass guard\n"
            f"sentinel monitor keeper 127.0.0.1 {self.master.port} 1\n"
            f"sentinel auth-pass keeper {PASSWORD}\n"
            "sentinel down-after-milliseconds keeper 500\n"
            "sentinel failover-timeout keeper 3000\n"
        )
        self._sentinel = subprocess.Popen(
            [self.master.binary, config, "--sentinel"], stdout=subprocess.DEVNULL, cwd=folder
        )

    def store(self, **options: Any) -> RedisStore:
        nobody = free_port()
        url = f"redis://:{PASSWORD}@127.0.0.1:{nobody},127.0.0.1:{self.port}/1"
        named: dict[str, Any] = {"redis_sentinel_master": "keeper", "redis_sentinel_password": "guard"}
        return make_store(url, **named | options)

    def end(self) -> None:
        self._sentinel.kill()
        self._sentinel.wait()
        self.master.end()
        self.replica.end()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path)
    yield watched
    watched.end()


@pytest.fixture
async def store(watched: Watched) -> AsyncIterator[RedisStore]:
    store = watched.store(redis_max_connections=3)
    await store.connect()
    yield store
    await store.close()


async def test_the_master_is_found_and_found_again_after_a_failover(
    watched: Watched, store: RedisStore
) -> None:
    version = await store.commit("1", Changes(state={"n": b"1"}), expect=0)
    await asyncio.gather(*(store.load("1") for _ in range(50)))
    direct = make_store(f"redis://:{PASSWORD}@127.0.0.1:{watched.master.port}/1")
    assert (await direct.load("1")).version == version
    assert await direct.connection.ask("WAIT", 1, 5_000) == 1
    for _ in range(100):  # a Sentinel asks the master every ten seconds who follows it
        (state,) = await sentinel_replicas(watched)
        if state:
            break
        await asyncio.sleep(0.2)
    await direct.close()

    await asyncio.to_thread(watched.master.kill)
    for _ in range(200):
        try:
            changes = Changes(state={"n": b"2"}, applied=(2,))
            await store.commit("1", changes, expect=version)
            break
        except StateUnavailable:
            await asyncio.sleep(0.1)
    promoted = make_store(f"redis://:{PASSWORD}@127.0.0.1:{watched.replica.port}/1")
    record = await promoted.load("1")
    assert (record.state, record.applied) == ({"n": 2}, (2,))
    await promoted.close()


async def sentinel_replicas(watched: Watched) -> list[bool]:
    """Whether the Sentinel knows the replica."""
    sentinel = make_store(f"redis://:guard@127.0.0.1:{watched.port}")
    known = await sentinel.connection.ask("SENTINEL", "REPLICAS", "keeper")
    await sentinel.close()
    return [any("slave" in str(replica) for replica in known)]


async def test_a_sentinel_that_does_not_know_the_master_or_the_bot(watched: Watched) -> None:
    wrongs: tuple[dict[str, Any], ...] = (
        {"redis_sentinel_master": "other"},
        {"redis_sentinel_password": "wrong"},
    )
    for wrong in wrongs:
        store = watched.store(redis_connect_timeout=0.3, **wrong)
        with pytest.raises(StateUnavailable) as caught:
            await store.connect()
        assert str(caught.value) == (
            "no Sentinel answers that knows the master named by REDIS_SENTINEL_MASTER"
        )
        await store.close()
