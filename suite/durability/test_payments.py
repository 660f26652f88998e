"""A payment is booked once, by its charge id, though it is told twice and the bot is killed in between."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiogram import F, Router
from aiogram.filters import Command
from aiogram.methods import RefundStarPayment, TelegramMethod
from aiogram.types import LabeledPrice, Message, PreCheckoutQuery

from bot.agent_adapter import TelegramAgentAdapter
from bot.runtime.app import Owner
from suite.agents import CountingAgent, Gate
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Mode, Runtime

pytestmark = pytest.mark.clause("payments")

Shop = Callable[..., Runtime]


@pytest.fixture
def shop(make_runtime: MakeRuntime, mode: Mode) -> Shop:
    """A bot that sells tea. What is given is called in the midst of a handler, by the handler's name."""

    def make(**middle: Callable[[], Any]) -> Runtime:
        before = Router()

        async def pause(name: str) -> None:
            if work := middle.pop(name, None):
                await work()

        @before.message(Command("buy"))
        async def buy(message: Message) -> TelegramMethod[Any]:
            price = LabeledPrice(label="Tea", amount=5)
            return message.answer_invoice(
                title="Tea", description="Green.", payload="tea", currency="XTR", prices=[price]
            )

        @before.pre_checkout_query()
        async def check(query: PreCheckoutQuery) -> TelegramMethod[Any]:
            await pause("check")
            return query.answer(ok=True)

        @before.message(F.successful_payment)
        async def paid(message: Message, agent: TelegramAgentAdapter) -> TelegramMethod[Any]:
            assert message.successful_payment
            orders = agent.turn.state.setdefault("orders", [])
            orders.append(message.successful_payment.telegram_payment_charge_id)
            await pause("paid")
            return message.answer(f"order {len(orders)}")

        @before.message(Command("refund"))
        async def refund(message: Message, agent: TelegramAgentAdapter) -> list[TelegramMethod[Any]]:
            back = RefundStarPayment(user_id=1, telegram_payment_charge_id=agent.turn.state["orders"].pop())
            return [back, message.answer("refunded")]

        bot = make_runtime(mode)
        bot.owner = Owner(agent=CountingAgent, before=[before])
        return bot

    return make


async def invoice(telegram: FakeTelegram) -> Any:
    telegram.message("/buy", user_id=1)
    await telegram.settled()
    return next(sent for sent in telegram.sent if sent.method == "sendInvoice")


async def test_bought_and_given_back(shop: Shop, telegram: FakeTelegram) -> None:
    async with shop() as bot:
        purchase = telegram.payments.buy(await invoice(telegram), user_id=1)
        await telegram.wait_for(lambda: purchase.state == "paid")
        await telegram.settled()
        assert (await bot.record(1)).state == {"orders": [purchase.charge_id]}
        for update_id in list(telegram.updates):
            telegram.repeat(update_id)
        await telegram.settled()
        assert (await bot.record(1)).state == {"orders": [purchase.charge_id]}
        telegram.message("/refund", user_id=1)
        await telegram.settled()
        assert purchase.state == "refunded"
        assert (await bot.record(1)).state == {"orders": []}
    assert telegram.texts(1) == ["order 1", "refunded"]


async def test_killed_in_the_midst_of_booking(shop: Shop, telegram: FakeTelegram) -> None:
    gate = Gate()
    bot = await shop(paid=gate.wait).start()
    purchase = telegram.payments.buy(await invoice(telegram), user_id=1)
    await asyncio.wait_for(gate.reached.wait(), 10)
    await bot.cut_off()
    assert (await bot.record(1)).state == {}
    async with bot:
        await telegram.settled()
        assert (await bot.record(1)).state == {"orders": [purchase.charge_id]}
    assert telegram.texts(1) == ["order 1"]


async def test_killed_when_it_is_booked_and_not_yet_said(shop: Shop, telegram: FakeTelegram) -> None:
    bot = await shop().start()
    sent = await invoice(telegram)
    telegram.delay("sendMessage", 30)
    purchase = telegram.payments.buy(sent, user_id=1)
    await telegram.wait_for(lambda: any(call.method == "sendMessage" for call in telegram.calls))
    await bot.cut_off()
    telegram.delay("sendMessage", 0)
    assert (await bot.record(1)).state == {"orders": [purchase.charge_id]}
    async with bot:
        await telegram.settled()
        assert (await bot.record(1)).state == {"orders": [purchase.charge_id]}
    assert set(telegram.texts(1)) == {"order 1"}


async def test_killed_before_it_agrees(shop: Shop, telegram: FakeTelegram) -> None:
    """Telegram asks again, and there is nothing that could have been kept half."""
    gate = Gate()
    bot = await shop(check=gate.wait).start()
    purchase = telegram.payments.buy(await invoice(telegram), user_id=1)
    await asyncio.wait_for(gate.reached.wait(), 10)
    await bot.cut_off()
    async with bot:
        await telegram.wait_for(lambda: purchase.state == "paid")
        await telegram.settled()
        assert (await bot.record(1)).state == {"orders": [purchase.charge_id]}


async def test_a_refund_killed_half_way_is_done_once(shop: Shop, telegram: FakeTelegram) -> None:
    async with shop() as bot:
        purchase = telegram.payments.buy(await invoice(telegram), user_id=1)
        await telegram.wait_for(lambda: purchase.state == "paid")
        await telegram.settled()
        telegram.drop_answer("refundStarPayment")  # done, and the bot does not know
        telegram.message("/refund", user_id=1)
        await telegram.settled()
        assert (await bot.record(1)).state == {"orders": []}
    assert purchase.state == "refunded"
    assert telegram.texts(1)[-1] == "refunded"
