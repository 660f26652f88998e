"""What probes and Prometheus are told, when things are well and when they are not."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from bot.runtime import health
from bot.runtime.errors import StateUnavailable
from bot.runtime.logs import configure_logs
from bot.runtime.telegram import processor, receiver
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Mode, Runtime

pytestmark = pytest.mark.clause("health")


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def asked(http: aiohttp.ClientSession, bot: Runtime, path: str) -> tuple[int, dict[str, Any]]:
    async with http.get(f"http://127.0.0.1:{bot.port}{path}") as response:
        return response.status, await response.json()


async def measured(http: aiohttp.ClientSession, bot: Runtime, name: str) -> float:
    """The value of a metric that has no labels, or of one with its labels."""
    async with http.get(f"http://127.0.0.1:{bot.port}/metrics") as response:
        lines = (await response.text()).splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name), 0)


async def until(http: aiohttp.ClientSession, bot: Runtime, path: str, status: int) -> dict[str, Any]:
    """Ask until the answer has this status."""
    for _ in range(500):
        now, said = await asked(http, bot, path)
        if now == status:
            return said
        await asyncio.sleep(0.02)
    raise TimeoutError(f"{path} did not answer {status} within 10 s")


async def test_a_loop_that_is_late_is_not_well(
    make_runtime: MakeRuntime, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(health, "LAG_LIMIT", 0.3)
    async with make_runtime("polling") as bot:
        assert (await asked(http, bot, "/healthz"))[0] == 200
        asyncio.get_running_loop().call_later(0.05, time.sleep, 0.6)
        await asyncio.sleep(0.04)
        status, said = await asked(http, bot, "/healthz")
        while status == 200:
            status, said = await asked(http, bot, "/healthz")
        assert status == 503
        assert said["status"] == "late"
        assert said["lag_seconds"] > 0.3
        await until(http, bot, "/healthz", 200)
        assert await measured(http, bot, "bot_loop_lag_seconds_count") > 0


async def test_not_ready_while_the_store_does_not_answer(
    make_runtime: MakeRuntime,
    http: aiohttp.ClientSession,
    telegram: FakeTelegram,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "READY_SECONDS", 0.2)
    async with make_runtime("webhook") as bot:
        await until(http, bot, "/readyz", 200)

        async def hang() -> None:
            await asyncio.sleep(60)

        monkeypatch.setattr(bot.store, "ping", hang)
        started = time.monotonic()
        status, said = await asked(http, bot, "/readyz")
        assert (status, said["faults"]) == (503, ["the store does not answer"])
        assert time.monotonic() - started < 2
        assert (await asked(http, bot, "/healthz"))[0] == 200, "a restart would not help"


async def test_an_outage_is_two_lines(
    make_runtime: MakeRuntime,
    http: aiohttp.ClientSession,
    telegram: FakeTelegram,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    mode: Mode,
) -> None:
    """However many updates, probes and attempts there are: when it begins, and when it is over."""

    async def away(*_: object) -> None:
        raise StateUnavailable("it does not answer")

    async with make_runtime(mode) as bot:
        configure_logs(bot.settings)
        await until(http, bot, "/readyz", 200)
        monkeypatch.setattr(processor, "RETRY_DELAYS", (0.05, 0.05))
        with monkeypatch.context() as outage:
            for name in ("load", "ping"):
                outage.setattr(bot.store, name, away)
            for user_id in range(1, 6):
                telegram.message("hi", user_id=user_id)
            for _ in range(3):
                assert (await asked(http, bot, "/readyz"))[0] == 503
                await asyncio.sleep(0.1)
        await telegram.settled(60)
    said = capfd.readouterr().err.splitlines()
    lines = [line for line in said if "[warning" in line or "answers again" in line]
    assert ["updates are retried" in line for line in lines if "memory store" not in line] == [True, False]


async def test_telegrams_outage_is_two_lines(
    make_runtime: MakeRuntime,
    telegram: FakeTelegram,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    mode: Mode,
) -> None:
    monkeypatch.setattr(receiver, "FIRST_BACKOFF", 0.01)
    telegram.fail("getUpdates" if mode == "polling" else "setWebhook", status=502, times=4)
    bot = make_runtime(mode)
    configure_logs(bot.settings)
    async with bot:
        telegram.message("hi", user_id=1)
        await telegram.settled(60)
    said = capfd.readouterr().err
    assert said.count("Telegram is asked again") == 1
    assert said.count("fetched again" if mode == "polling" else "Telegram answers") == 1


async def test_not_ready_while_it_drains(
    make_runtime: MakeRuntime, http: aiohttp.ClientSession, telegram: FakeTelegram, mode: Mode
) -> None:
    bot = await make_runtime(mode).start()
    await until(http, bot, "/readyz", 200)
    update_id = telegram.message("sleep 1", user_id=1)
    await telegram.wait_for(lambda: telegram.attempts[update_id])
    bot._stop.set()
    assert (await until(http, bot, "/readyz", 503))["faults"] == ["updates are not coming in"]
    assert (await asked(http, bot, "/healthz"))[0] == 200
    await bot.ended()
    assert telegram.texts(1) == ["Processed: sleep 1 (#1)"]


async def test_not_ready_when_the_webhook_is_set_elsewhere(
    make_runtime: MakeRuntime,
    http: aiohttp.ClientSession,
    telegram: FakeTelegram,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receiver, "WATCH_SECONDS", 0.05)
    async with make_runtime("webhook") as bot:
        await until(http, bot, "/readyz", 200)
        await asyncio.sleep(0.2)
        assert (await asked(http, bot, "/readyz"))[0] == 200
        telegram.webhook = None
        await until(http, bot, "/readyz", 503)
        telegram.message("hi", user_id=1)
        await asyncio.sleep(0.5)
        assert await measured(http, bot, "bot_pending_updates") == 1


async def test_the_age_of_the_queue(
    make_runtime: MakeRuntime, http: aiohttp.ClientSession, telegram: FakeTelegram, mode: Mode
) -> None:
    async with make_runtime(mode) as bot:
        assert await measured(http, bot, "bot_queue_age_seconds") == 0
        update_id = telegram.message("sleep 0.5", user_id=1, date=int(time.time()) - 3600)
        await telegram.wait_for(lambda: telegram.attempts[update_id])
        await asyncio.sleep(0.1)
        assert 3600 <= await measured(http, bot, "bot_queue_age_seconds") < 3610
        assert await measured(http, bot, "bot_updates_in_flight") == 1
        await telegram.settled()
        assert await measured(http, bot, "bot_queue_age_seconds") == 0
