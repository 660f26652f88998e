"""The server is restarted, paused or killed in mid-traffic: no update is lost or applied twice."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest

from bot.runtime.config import Settings
from bot.runtime.engines.redis import connection as redis_connection
from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.logs import configure_logs
from bot.runtime.telegram import processor
from suite.bot_api import FakeTelegram
from suite.engines.redis.server import Server, make_store
from suite.support.runtime import Mode, Runtime

pytestmark = pytest.mark.clause("engine.outage")

USERS = 5
AWAY, BACK = "updates are retried", "the store answers again"


@pytest.fixture
async def store(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RedisStore]:
    monkeypatch.setattr(redis_connection, "SOCKET_SECONDS", 0.5)
    monkeypatch.setattr(processor, "RETRY_DELAYS", (0.05, 0.3))
    store = make_store(server.url, redis_max_connections=5)
    yield store
    await store.close()


@asynccontextmanager
async def restart(server: Server) -> AsyncIterator[None]:
    await asyncio.to_thread(server.stop)
    yield
    await asyncio.to_thread(server.start)


@asynccontextmanager
async def pause(server: Server) -> AsyncIterator[None]:
    server.pause()
    yield
    server.resume()


@asynccontextmanager
async def kill(server: Server) -> AsyncIterator[None]:
    await asyncio.to_thread(server.kill)
    yield
    await asyncio.to_thread(server.start)


class Said:
    """What the bot says of its store: that it is away, and that it is back."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd
        self.lines: list[str] = []

    async def until(self, line: str, times: int) -> None:
        """Wait until it has said it so often."""
        async with asyncio.timeout(60):
            while self.read().count(line) < times:  # noqa: ASYNC110 - it is written to standard error
                await asyncio.sleep(0.02)

    def read(self) -> list[str]:
        """All that it has said."""
        self.lines += re.findall(f"{AWAY}|{BACK}", self._capfd.readouterr().err)
        return self.lines


@pytest.mark.parametrize("trouble", [restart, pause, kill])
async def test_in_mid_traffic(
    server: Server,
    store: RedisStore,
    mode: Mode,
    trouble: Callable[[Server], AbstractAsyncContextManager[None]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    configure_logs(Settings())
    said, is_over = Said(capfd), asyncio.Event()
    async with FakeTelegram(max_retry_after=0.1, max_delay=0.3) as telegram, Runtime(telegram, store, mode):
        sending = asyncio.create_task(send(telegram, is_over))
        for _ in range(2):
            enough = len(telegram.acknowledged) + USERS
            await telegram.wait_for(partial(has_acknowledged, telegram, enough), 60)
            before = said.read().count(AWAY)
            async with trouble(server):
                await said.until(AWAY, before + 1)
            await said.until(BACK, before + 1)
        is_over.set()
        sent = await sending
        await telegram.settled(100)
        for user in range(1, USERS + 1):
            record = await store.load(str(user))
            assert record.state == {"last_message": f"m{sent}", "message_count": sent}
            expected = [f"Processed: m{n} (#{n})" for n in range(1, sent + 1)]
            assert list(dict.fromkeys(telegram.texts(user))) == expected, "each, in order"
    assert said.read() == [AWAY, BACK] * (len(said.lines) // 2), "one line each time"


def has_acknowledged(telegram: FakeTelegram, many: int) -> bool:
    return len(telegram.acknowledged) > many


async def send(telegram: FakeTelegram, is_over: asyncio.Event) -> int:
    """Write until it is over; how many messages each user wrote."""
    for n in itertools.count(1):
        for user in range(1, USERS + 1):
            telegram.message(f"m{n}", user_id=user)
        await asyncio.sleep(0.1)
        if is_over.is_set():
            return n
    raise AssertionError
