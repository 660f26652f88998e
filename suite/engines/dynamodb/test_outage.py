"""The server is restarted, paused, killed or busy in mid-traffic: no update is lost or applied twice."""

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest

from bot.runtime.config import Settings
from bot.runtime.engines.dynamodb import connection as dynamodb_client
from bot.runtime.engines.dynamodb.store import DynamodbStore
from bot.runtime.errors import StateUnavailable
from bot.runtime.logs import configure_logs
from bot.runtime.telegram import processor
from suite.bot_api import FakeTelegram
from suite.engines.dynamodb.server import Server, make_store, make_table
from suite.engines.dynamodb.throttle import Throttle
from suite.support.runtime import Mode, Runtime

USERS, MESSAGES = 10, 20
TIMEOUT, TROUBLE = 2.5, 4.0
"""Seconds of patience, also on a busy machine, and the longer ones that each trouble lasts."""


@pytest.fixture
async def throttle(server: Server) -> AsyncIterator[Throttle]:
    """In front of the test's own server."""
    await make_table(server.url)
    throttle = Throttle(lambda: server.url)
    await throttle.start()
    yield throttle
    await throttle.stop()


@pytest.fixture
async def store(throttle: Throttle, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DynamodbStore]:
    monkeypatch.setattr(dynamodb_client, "READ_SECONDS", 1.5)
    monkeypatch.setattr(processor, "RETRY_DELAYS", (0.05, 0.3))
    store = make_store(throttle.url, dynamodb_max_connections=5, dynamodb_timeout=TIMEOUT)
    yield store
    await store.close()


@pytest.mark.parametrize("error", ["ThrottlingException", "RequestLimitExceeded", "InternalServerError"])
@pytest.mark.parametrize("is_connected", [False, True], ids=["before", "between"])
async def test_a_table_that_refuses_for_now_is_waited_for(
    throttle: Throttle, error: str, is_connected: bool
) -> None:
    """Whether it refuses a bot that starts or, connected, one that notes whose store this is."""
    store = make_store(throttle.url, dynamodb_connect_timeout=20, dynamodb_timeout=0.5)

    async def start() -> None:
        await store.connect()
        await store.bind(42)

    if is_connected:
        await store.connect()
    throttle.refuse(1, error, Random())
    starting = asyncio.create_task(start())
    await asyncio.sleep(1.5)
    assert not starting.done()
    throttle.refuse_no_more()
    await starting
    await store.close()


async def test_a_table_that_refuses_for_good_is_not(throttle: Throttle) -> None:
    store = make_store(throttle.url)
    await store.connect()
    throttle.refuse(1, "AccessDeniedException", Random())
    with pytest.raises(StateUnavailable, match="do not permit dynamodb:UpdateItem"):
        await asyncio.wait_for(store.bind(42), 1)
    await store.close()


async def restart(server: Server, throttle: Throttle) -> None:
    await asyncio.to_thread(server.stop)
    await asyncio.sleep(TROUBLE)
    await asyncio.to_thread(server.start)


async def pause(server: Server, throttle: Throttle) -> None:
    server.pause()
    await asyncio.sleep(TROUBLE)
    server.resume()


async def kill(server: Server, throttle: Throttle) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(TROUBLE)
    await asyncio.to_thread(server.start)


async def be_busy(server: Server, throttle: Throttle) -> None:
    throttle.refuse(0.9, "ThrottlingException", Random(1))
    await asyncio.sleep(TROUBLE)
    throttle.refuse_no_more()


async def fail(server: Server, throttle: Throttle) -> None:
    throttle.refuse(0.9, "InternalServerError", Random(1))
    await asyncio.sleep(TROUBLE)
    throttle.refuse_no_more()


# How updates come makes no difference to the engine: each way has its share.
@pytest.mark.parametrize(
    ("trouble", "mode"),
    [(restart, "polling"), (pause, "webhook"), (kill, "polling"), (be_busy, "webhook"), (fail, "polling")],
)
async def test_in_mid_traffic(
    server: Server,
    throttle: Throttle,
    store: DynamodbStore,
    trouble: Any,
    mode: Mode,
    capfd: pytest.CaptureFixture[str],
) -> None:
    configure_logs(Settings())
    async with FakeTelegram(max_retry_after=0.1, max_delay=0.3) as telegram, Runtime(telegram, store, mode):
        sending = asyncio.create_task(send(telegram))
        await asyncio.sleep(0.4)
        await trouble(server, throttle)
        await sending
        await telegram.settled(120)
        for user in range(1, USERS + 1):
            record = await store.load(str(user))
            assert record.state == {"last_message": f"m{MESSAGES}", "message_count": MESSAGES}
            expected = [f"Processed: m{n} (#{n})" for n in range(1, MESSAGES + 1)]
            assert list(dict.fromkeys(telegram.texts(user))) == expected, "each, in order"
    assert "updates are retried" in capfd.readouterr().err, "this test would not notice"


async def send(telegram: FakeTelegram) -> None:
    for n in range(1, MESSAGES + 1):
        for user in range(1, USERS + 1):
            telegram.message(f"m{n}", user_id=user)
        await asyncio.sleep(0.25)
