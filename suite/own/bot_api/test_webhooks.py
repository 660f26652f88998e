"""Webhooks are delivered to as Telegram does it."""

import asyncio
import itertools
import time

import pytest
from aiogram import Bot
from aiohttp import web

from suite.bot_api import FakeTelegram
from suite.own.bot_api.client import Call, Json, hook, refused

pytestmark = pytest.mark.clause("kit.telegram")


async def test_webhook_delivers(telegram: FakeTelegram, bot: Bot) -> None:
    got: list[Json] = []

    def answer(update: Json) -> web.Response:
        got.append(update)
        return web.Response(status=204)

    before = telegram.message("before", user_id=1)
    async with hook(answer) as address:
        telegram.webhook_address = address
        await bot.set_webhook("https://bot.example/hook", secret_token="s-E_3", max_connections=3)
        after = telegram.message("after", user_id=1)
        await telegram.settled(5)
    assert [u["update_id"] for u in got] == [before, after]
    assert {u["headers"]["X-Telegram-Bot-Api-Secret-Token"] for u in got} == {"s-E_3"}
    assert {u["path"] for u in got} == {"/hook"}
    assert telegram.acknowledged.keys() == telegram.attempts.keys() == {before, after}
    assert telegram.webhook
    assert telegram.webhook.max_connections == 3
    info = await bot.get_webhook_info()
    assert (info.url, info.pending_update_count) == ("https://bot.example/hook", 0)
    await bot.delete_webhook()
    assert (await bot.get_webhook_info()).url == ""


@pytest.mark.parametrize(
    ("params", "description"),
    [
        ({"url": "bot.example"}, "invalid webhook URL"),
        ({"url": "ftp://bot.example"}, "invalid webhook URL"),
        ({"url": "https://bot.example:port"}, "invalid webhook URL"),
        ({"url": "https://b.e/", "secret_token": "x" * 257}, "secret token is too long"),
        ({"url": "https://b.e/", "secret_token": "a b"}, "unallowed characters"),
        ({"url": "https://b.e/", "secret_token": "ä"}, "unallowed characters"),
        ({"url": "https://b.e/", "max_connections": 0}, "max_connections"),
        ({"url": "https://b.e/", "max_connections": 101}, "max_connections"),
        ({"url": "https://b.e/", "allowed_updates": "message"}, "allowed_updates"),
        ({"url": "https://b.e/", "drop_pending": True}, "drop_pending"),
    ],
)
async def test_bad_webhooks(
    telegram: FakeTelegram,
    call: Call,
    params: Json,
    description: str,
) -> None:
    refused(await call("setWebhook", **params), 400, description)
    assert telegram.webhook is None


async def test_https_is_required_on_demand(telegram: FakeTelegram, call: Call) -> None:
    telegram.allow_http_webhooks = False
    refused(await call("setWebhook", url="http://bot.example/"), 400, "An HTTPS URL must be")
    refused(await call("setWebhook", url="https://bot.example:8080/"), 400, "only on ports")
    assert (await call("setWebhook", url="https://bot.example:8443/"))[0] == 200
    assert (await call("setWebhook", url=""))[0] == 200
    assert telegram.webhook is None


async def test_redelivery_backs_off(telegram: FakeTelegram, call: Call, bot: Bot) -> None:
    times: list[float] = []
    statuses = iter([500, 307, 503, 404, 401, 500, 500, 200])

    def answer(update: Json) -> web.Response:
        times.append(time.monotonic())
        return web.Response(status=next(statuses), headers={"Location": "/elsewhere"})

    telegram.max_delay = 0.1
    async with hook(answer) as address:
        await call("setWebhook", url=address)
        update_id = telegram.message("x", user_id=1)
        await telegram.wait_for(lambda: len(times) == 7)
        assert update_id not in telegram.acknowledged
        info = await bot.get_webhook_info()
        assert info.pending_update_count == 1
        assert (info.last_error_message or "").startswith("Wrong response from the webhook: ")
        await telegram.settled(2)  # without `max_delay` the last wait alone is 3.2 s
    assert telegram.attempts[update_id] == 8
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert waits[0] >= 0.05
    assert min(waits[1:]) >= 0.1


async def test_retry_after_is_honoured_up_to_a_cap(telegram: FakeTelegram, call: Call) -> None:
    times: list[float] = []

    def answer(update: Json) -> web.Response:
        times.append(time.monotonic())
        busy = web.Response(status=503, headers={"Retry-After": "30"})
        return busy if len(times) == 1 else web.Response()

    telegram.max_retry_after = 0.3
    async with hook(answer) as address:
        await call("setWebhook", url=address)
        telegram.message("x", user_id=1)
        await telegram.settled(5)
    assert 0.3 <= times[1] - times[0] < 5


async def test_slow_and_absent_webhooks(telegram: FakeTelegram, call: Call) -> None:
    count = 0

    async def answer(update: Json) -> web.Response:
        nonlocal count
        count += 1
        await asyncio.sleep(5 if count == 1 else 0)
        return web.Response()

    telegram.webhook_timeout = 0.1
    await call("setWebhook", url="http://127.0.0.1:1/")
    update_id = telegram.message("x", user_id=1)
    await telegram.wait_for(lambda: telegram.attempts[update_id] == 2)
    async with hook(answer) as address:
        telegram.webhook_address = address
        await telegram.settled(5)
    assert count == 2


async def test_one_update_of_a_chat_at_a_time(telegram: FakeTelegram, call: Call) -> None:
    running: set[str] = set()
    overlaps: set[tuple[str, str]] = set()
    order: list[str] = []
    failed = False

    async def answer(update: Json) -> web.Response:
        nonlocal failed
        query = update.get("callback_query")
        name = query["data"] if query else update["message"]["text"]
        overlaps.update((other, name) for other in running)
        running.add(name)
        await asyncio.sleep(0.05)
        running.discard(name)
        if name == "1a" and not failed:
            failed = True
            return web.Response(status=500)
        order.append(name)
        return web.Response()

    async with hook(answer) as address:
        await call("setWebhook", url=address)
        telegram.message("1a", user_id=1)
        telegram.message("1b", user_id=1)
        telegram.callback("1q", user_id=1)
        telegram.callback("1r", user_id=1)
        telegram.callback("2q", user_id=2)
        telegram.message("2a", user_id=2)
        telegram.message("3a", user_id=1, chat_id=-3)
        telegram.message("3b", user_id=2, chat_id=-3)
        await telegram.settled(5)
    pairs = {frozenset(pair) for pair in overlaps}
    for lane in (("1a", "1b"), ("1q", "1r"), ("3a", "3b")):
        assert frozenset(lane) not in pairs
        assert order.index(lane[0]) < order.index(lane[1])
    for apart in (("1a", "1q"), ("1a", "2a"), ("1q", "2q"), ("1a", "3a")):
        assert frozenset(apart) in pairs
    assert order.index("2a") < order.index("1a")  # a failing chat does not hold back others


async def test_max_connections(telegram: FakeTelegram, call: Call) -> None:
    running = most = 0

    async def answer(update: Json) -> web.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return web.Response()

    async with hook(answer) as address:
        await call("setWebhook", url=address, max_connections=3)
        for user in range(1, 13):
            telegram.message("x", user_id=user)
        await telegram.settled(5)
    assert most == 3


async def test_the_same_webhook_again_changes_nothing(telegram: FakeTelegram, call: Call) -> None:
    async def answer(update: Json) -> web.Response:
        await asyncio.sleep(0.2)
        return web.Response()

    async with hook(answer) as address:
        await call("setWebhook", url=address)
        update_id = telegram.message("x", user_id=1)
        await telegram.wait_for(lambda: telegram.attempts[update_id])
        await call("setWebhook", url=address)
        await telegram.settled(5)
        assert telegram.attempts[update_id] == 1
        update_id = telegram.message("y", user_id=1)
        await telegram.wait_for(lambda: telegram.attempts[update_id])
        await call("setWebhook", url=f"{address}/other")
        await telegram.settled(5)
        assert telegram.attempts[update_id] == 2


async def test_a_webhook_outlives_an_outage(telegram: FakeTelegram, call: Call) -> None:
    async with hook(lambda update: web.Response()) as address:
        await call("setWebhook", url=address)
        await telegram.stop()
        update_id = telegram.message("x", user_id=1)
        await asyncio.sleep(0.05)
        assert telegram.attempts[update_id] == 0
        await telegram.start()
        await telegram.settled(5)
