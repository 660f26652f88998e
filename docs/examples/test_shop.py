"""The shop, as somebody who buys meets it."""

import pytest

from bot.agent import Agent
from bot.runtime.testing import Chat, Owner, Restart
from bot.shop import before


@pytest.fixture
def owner() -> Owner:
    """Have `chat` run the shop."""
    return Owner(agent=Agent, before=[before])


async def test_a_payment_is_booked_once(chat: Chat, restart: Restart) -> None:
    assert await chat.say("/buy") == ["[invoice]"]
    assert await chat.pay() == ["Thank you! Order 1 is on its way."]
    await restart()
    await chat.redeliver()  # as when the bot was killed before it could say that it has it
    assert list((await chat.state())["orders"].values()) == ["tea"]


async def test_it_refuses_more_than_it_has(chat: Chat) -> None:
    await chat.say("/buy")
    for _ in range(3):
        await chat.pay()
    assert await chat.pay() == ["Three pounds are all I can send you."]
    assert len((await chat.state())["orders"]) == 3


async def test_stars_go_back(chat: Chat) -> None:
    await chat.say("/buy")
    await chat.pay()
    (charge_id,) = (await chat.state())["orders"]
    assert await chat.say("/refund") == ["Your Stars are on their way back."]
    back = [call.params for call in chat.replies if call.method == "refundStarPayment"]
    assert back == [{"user_id": "1", "telegram_payment_charge_id": charge_id}]
    assert await chat.say("/refund") == ["There is nothing to give back."]
