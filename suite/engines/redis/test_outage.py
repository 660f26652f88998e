"""The server is restarted, paused or killed in mid-traffic: no update is lost or applied twice."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

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

USERS, MESSAGES = 5, 30


@pytest.fixture
async def store(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RedisStore]:
    monkeypatch.setattr(redis_connection, "SOCKET_SECONDS", 0.5)
    monkeypatch.setattr(processor, "RETRY_DELAYS", (0.05, 0.3))
    store = make_store(server.url, redis_max_connections=5)
    yield store
    await store.close()


async def restart(server: Server) -> None:
    await asyncio.to_thread(server.stop)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(server.start)


async def pause(server: Server) -> None:
    server.pause()
    await asyncio.sleep(2)
    server.resume()


async def kill(server: Server) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(server.start)


@pytest.mark.parametrize("trouble", [restart, pause, kill])
async def test_in_mid_traffic(
    server: Server,
    store: RedisStore,
    mode: Mode,
    trouble: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:
    configure_logs(Settings())
    async with FakeTelegram(max_retry_after=0.1, max_delay=0.3) as telegram, Runtime(telegram, store, mode):
        sending = asyncio.create_task(send(telegram))
        for _ in range(2):
            await asyncio.sleep(0.4)
            await trouble(server)
        await sending
        await telegram.settled(180)
        for user in range(1, USERS + 1):
            record = await store.load(str(user))
            assert record.state == {"last_message": f"m{MESSAGES}", "message_count": MESSAGES}
            expected = [f"Processed: m{n} (#{n})" for n in range(1, MESSAGES + 1)]
            assert list(dict.fromkeys(telegram.texts(user))) == expected, "each, in order"
    said = capfd.readouterr().err
    away = said.count("updates are retried")
    assert 1 <= away <= 2, "one line each time: without it this test would not notice"
    assert said.count("the store answers again") == away


async def send(telegram: FakeTelegram) -> None:
    for n in range(1, MESSAGES + 1):
        for user in range(1, USERS + 1):
            telegram.message(f"m{n}", user_id=user)
        await asyncio.sleep(0.1)
