"""What goes wrong on demand."""

import asyncio
import time

import aiohttp
import pytest
from aiogram import Bot
from aiogram.exceptions import (
    ClientDecodeError,
    TelegramBadRequest,
    TelegramForbiddenError,
    TelegramNetworkError,
    TelegramRetryAfter,
    TelegramServerError,
    TelegramUnauthorizedError,
)
from aiohttp import web

from suite.bot_api import FakeTelegram
from suite.own.bot_api.client import Call, Json, hook, ids

pytestmark = pytest.mark.clause("kit.telegram")


async def test_failures_on_demand(telegram: FakeTelegram, bot: Bot) -> None:
    telegram.fail("sendMessage", after=1)
    await bot.send_message(1, "a")
    with pytest.raises(TelegramServerError):
        await bot.send_message(1, "b")
    await bot.send_message(1, "c")
    telegram.fail("sendMessage", status=429, retry_after=7, times=2)
    telegram.fail("sendMessage", status=403)
    telegram.fail("sendMessage", status=401)
    telegram.fail("sendMessage", status=400, description="Bad Request: no")
    for _ in range(2):
        with pytest.raises(TelegramRetryAfter) as caught:
            await bot.send_message(1, "d")
        assert caught.value.retry_after == 7
    with pytest.raises(TelegramForbiddenError, match="blocked"):
        await bot.send_message(1, "e")
    with pytest.raises(TelegramUnauthorizedError):
        await bot.send_message(1, "f")
    with pytest.raises(TelegramBadRequest, match="no"):
        await bot.send_message(1, "g")
    await bot.send_message(1, "h")
    assert telegram.texts(1) == ["a", "c", "h"]
    assert [c.status for c in telegram.calls] == [200, 500, 200, 429, 429, 403, 401, 400, 200]
    with pytest.raises(KeyError):
        telegram.fail("sendMesage")


async def test_failures_of_one_chat(telegram: FakeTelegram, bot: Bot) -> None:
    telegram.fail("sendMessage", status=403, times=2, chat_id=7)
    telegram.bad_gateway("sendMessage", status=413, chat_id=8)
    telegram.fail("sendMessage")
    with pytest.raises(TelegramForbiddenError):
        await bot.send_message(7, "a")
    with pytest.raises(ClientDecodeError):
        await bot.send_message(8, "b")
    with pytest.raises(TelegramServerError):
        await bot.send_message(9, "c")
    with pytest.raises(TelegramForbiddenError):
        await bot.send_message(7, "d")
    for chat_id in (7, 8, 9):
        await bot.send_message(chat_id, "e")
    assert [c.status for c in telegram.calls] == [403, 413, 500, 403, 200, 200, 200]


async def test_an_update_expires(telegram: FakeTelegram, call: Call) -> None:
    a, b = (telegram.message(x, user_id=1) for x in "ab")
    telegram.expire(a)
    assert ids(await call("getUpdates")) == [b]
    assert telegram.dropped == [a]
    assert a not in telegram.acknowledged


async def test_bad_gateway(telegram: FakeTelegram, bot: Bot) -> None:
    telegram.bad_gateway("getMe")
    url = f"{telegram.url}/bot{telegram.token}/getMe"
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        assert (response.status, response.content_type) == (502, "text/html")
    assert await bot.get_me()


async def test_delay(telegram: FakeTelegram, bot: Bot) -> None:
    async def took() -> float:
        began = time.monotonic()
        await bot.send_message(1, "x")
        return time.monotonic() - began

    telegram.delay("sendMessage", 0.3, times=1)
    assert await took() >= 0.3
    telegram.delay("sendMessage", 60, times=1)
    waits = asyncio.create_task(took())
    await telegram.wait_for(lambda: len(telegram.calls) == 2)
    await took()  # at once, or this test would time out
    assert not waits.done()
    waits.cancel()
    telegram.delay("sendMessage", 0.05)
    assert min(await took(), await took()) >= 0.05
    telegram.delay("sendMessage", 60)
    telegram.delay("sendMessage", 0)
    await took()


async def test_a_dropped_answer_is_done_all_the_same(telegram: FakeTelegram, bot: Bot) -> None:
    telegram.drop_answer("sendMessage")
    with pytest.raises(TelegramNetworkError):
        await bot.send_message(1, "x")
    await bot.send_message(1, "y")
    assert telegram.texts(1) == ["x", "y"]
    assert [s.ok for s in telegram.sent] == [False, True]


async def test_repeat_while_polling(telegram: FakeTelegram, call: Call) -> None:
    a, b = (telegram.message(x, user_id=1) for x in "ab")
    assert ids(await call("getUpdates", offset=b + 1)) == []
    assert ids(await call("getUpdates", offset=0)) == []
    telegram.repeat(a)
    c = telegram.message("c", user_id=1)
    assert ids(await call("getUpdates", offset=c)) == [a, c]
    with pytest.raises(TimeoutError):
        await telegram.settled(0)
    assert ids(await call("getUpdates", offset=c + 1)) == []
    await telegram.settled(0)
    telegram.repeat(b)
    poll = await asyncio.wait_for(call("getUpdates", offset=c + 1, timeout=50), 1)
    assert ids(poll) == [b]
    with pytest.raises(KeyError):
        telegram.repeat(1)


async def test_repeat_by_webhook(telegram: FakeTelegram, call: Call) -> None:
    async with hook(lambda update: web.Response()) as address:
        await call("setWebhook", url=address)
        update_id = telegram.message("x", user_id=1)
        await telegram.settled(5)
        telegram.repeat(update_id)
        await telegram.settled(5)
    assert telegram.attempts[update_id] == 2


async def test_a_chat_takes_only_so_much(telegram: FakeTelegram, bot: Bot) -> None:
    telegram.limits = {"group": (2, 60), "draft": (1, 60)}
    sent = await bot.send_message(-7, "a")
    await bot.edit_message_text("b", chat_id=-7, message_id=sent.message_id)
    with pytest.raises(TelegramRetryAfter) as refused:
        await bot.send_message(-7, "c")
    assert 50 < refused.value.retry_after <= 60
    await bot.send_message(-8, "another group")
    await bot.send_chat_action(-7, "typing")
    for _ in range(5):
        await bot.send_message(1, "no limit is set for private chats")
    await bot.send_message_draft(chat_id=1, draft_id=1, text="x")
    with pytest.raises(TelegramRetryAfter):
        await bot.send_message_draft(chat_id=1, draft_id=1, text="y")
    telegram.limits = {"group": (2, 0.1), "draft": (1, 0.1)}
    await asyncio.sleep(0.1)  # what came before is over
    await bot.send_message(-7, "c")
    await bot.send_message_draft(chat_id=1, draft_id=1, text="y")
    assert telegram.texts(-7) == ["a", "c"]


async def test_reorder(telegram: FakeTelegram, call: Call) -> None:
    made = [telegram.message("x", user_id=1) for _ in range(150)]
    telegram.reorder(1)
    first = ids(await call("getUpdates"))
    assert first != made[:100]
    assert sorted(first) == made[:100]  # so an offset still loses nothing
    rest = ids(await call("getUpdates", offset=made[100]))
    assert sorted(rest) == made[100:]
    got: list[int] = []

    def answer(update: Json) -> web.Response:
        got.append(update["update_id"])
        return web.Response()

    async with hook(answer) as address:
        await call("setWebhook", url=address)
        later = [telegram.message("x", user_id=2) for _ in range(20)]
        telegram.reorder(2)
        await telegram.settled(5)
    of_2 = [update_id for update_id in got if update_id >= later[0]]
    assert of_2 != later
    assert sorted(of_2) == later
