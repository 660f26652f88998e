"""It is fast enough not to be what is measured."""

import time

import pytest
from aiohttp import web

from suite.bot_api import FakeTelegram
from suite.own.bot_api.client import Call, Json, hook, ids

pytestmark = pytest.mark.clause("kit.telegram")


async def test_10_000_updates_are_polled_fast(telegram: FakeTelegram, call: Call) -> None:
    last = [telegram.message("x", user_id=n % 200 + 1) for n in range(10_000)][-1]
    began, offset = time.monotonic(), 0
    while offset <= last:
        offset = ids(await call("getUpdates", offset=offset))[-1] + 1
    await call("getUpdates", offset=offset)
    assert len(telegram.acknowledged) == 10_000
    assert time.monotonic() - began < 3


async def test_200_users_at_once(telegram: FakeTelegram, call: Call) -> None:
    async def answer(update: Json) -> web.Response:
        chat_id = update["message"]["chat"]["id"]
        await call("sendMessage", chat_id=chat_id, text=update["message"]["text"])
        return web.Response()

    for n in range(5):
        for user in range(1, 201):
            telegram.message(f"{n}", user_id=user)
    async with hook(answer) as address:
        await call("setWebhook", url=address, max_connections=100)
        await telegram.settled(20)
    for user in range(1, 201):
        assert telegram.texts(user) == ["0", "1", "2", "3", "4"]
