"""The agent whose state has a shape."""

import pytest

from bot.runtime.testing import Chat, Owner
from bot.trip_agent import Agent


@pytest.fixture
def owner() -> Owner:
    return Owner(agent=Agent)


async def test_it_is_kept(chat: Chat) -> None:
    await chat.say("go Bergen")
    assert await chat.say("pack socks") == ["Bergen, paying in EUR: socks"]
    assert await chat.state() == {"_version": 2, "city": "Bergen", "currency": "EUR", "packed": ["socks"]}


async def test_version_1_is_taken_over(chat: Chat) -> None:
    await chat.put_state({"_version": 1, "town": "Oslo", "packed": ["hat"], "rating": 5})
    assert await chat.say("pack socks") == ["Oslo, paying in NOK: hat, socks"]
    state = await chat.state()
    assert state == {"_version": 2, "city": "Oslo", "currency": "NOK", "packed": ["hat", "socks"]}


async def test_a_reset_leaves_the_currency(chat: Chat) -> None:
    await chat.put_state({"_version": 2, "city": "Oslo", "currency": "NOK"})
    await chat.say("/reset")
    assert await chat.say("hi") == ["Somewhere, paying in NOK: "]
