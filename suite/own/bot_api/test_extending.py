"""A test, or an owner's project, teaches the server what it does not know."""

import asyncio

import pytest
from aiogram import Bot
from aiogram.exceptions import TelegramBadRequest, TelegramNetworkError, TelegramServerError

from suite.bot_api import ApiError, Call, FakeTelegram, Json, bad_request
from suite.own.bot_api.client import Call as PlainCall
from suite.own.bot_api.client import refused

pytestmark = pytest.mark.clause("kit.telegram")


async def test_a_method_is_taught(telegram: FakeTelegram, bot: Bot, call: PlainCall) -> None:
    refused(await call("sendDice", chat_id=1), 404, "Not Found: method not found")

    @telegram.method("sendDice", "chat_id emoji")
    async def send_dice(call: Call) -> Json:
        if call.params.get("emoji", "🎲") != "🎲":
            raise bad_request("wrong dice emoji specified")
        return telegram.post(call, {"dice": {"emoji": "🎲", "value": 4}}, "🎲")

    message = await bot.send_dice(1)
    assert message.dice
    assert message.dice.value == 4
    assert [(s.method, s.text) for s in telegram.sent] == [("sendDice", "🎲")]
    with pytest.raises(TelegramBadRequest, match="wrong dice emoji"):
        await bot.send_dice(1, emoji="🎯")
    refused(await call("sendDice", chat_id=1, value=6), 400, "sendDice has no parameter 'value'")
    telegram.block(1)
    refused(await call("senddice", chat_id=1), 403, "blocked")
    assert "sendDice" in telegram.methods()


async def test_a_known_method_is_done_otherwise(telegram: FakeTelegram, bot: Bot) -> None:
    known = telegram.methods()["sendMessage"]

    @telegram.method("sendMessage")
    async def send_loud(call: Call) -> Json:
        call.params["text"] = call.params["text"].upper()
        message: Json = await known.do(call)
        return message

    assert (await bot.send_message(1, "hello")).text == "HELLO"
    assert telegram.texts(1) == ["HELLO"]


async def test_without_a_list_every_parameter_is_taken(telegram: FakeTelegram, call: PlainCall) -> None:
    @telegram.method("getMyStarBalance")
    async def balance(call: Call) -> Json:
        return {"amount": int(call.params["whatever"])}

    assert await call("getMyStarBalance", whatever=9) == (200, {"ok": True, "result": {"amount": 9}})


async def test_a_fault_of_its_own(telegram: FakeTelegram, bot: Bot) -> None:
    seen: list[str] = []

    async def slow_then_busy(call: Call) -> None:
        seen.append(call.params["text"])
        await asyncio.sleep(0)
        raise ApiError(503, "Service Unavailable")

    async def cut(call: Call) -> None:
        call.cut = True

    telegram.fault("sendMessage", slow_then_busy, times=2, after=1)
    telegram.fault("sendmessage", cut)
    await bot.send_message(1, "a")
    for text in "bc":
        with pytest.raises(TelegramServerError):
            await bot.send_message(1, text)
    with pytest.raises(TelegramNetworkError):
        await bot.send_message(1, "d")
    await bot.send_message(1, "e")
    assert seen == ["b", "c"]
    assert telegram.texts(1) == ["a", "d", "e"]
    with pytest.raises(KeyError):
        telegram.fault("sendMesage", cut)


async def test_a_taught_method_fails_on_demand(telegram: FakeTelegram, bot: Bot, call: PlainCall) -> None:
    @telegram.method("getStarTransactions", "offset limit")
    async def transactions(call: Call) -> Json:
        return {"transactions": []}

    telegram.fail("getStarTransactions", status=429, retry_after=3)
    status, answer = await call("getStarTransactions")
    assert (status, answer["parameters"]) == (429, {"retry_after": 3})
    assert (await bot.get_star_transactions()).transactions == []
