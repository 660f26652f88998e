"""The agent with a list."""

import asyncio

import pytest

from bot.runtime.testing import Chat, Owner
from bot.todo_agent import Agent


@pytest.fixture
def owner() -> Owner:
    """Have `chat` run this agent in place of the one in `bot/agent.py`."""
    return Owner(agent=Agent)


async def test_the_list_is_kept(chat: Chat) -> None:
    assert await chat.say("buy tea") == ["1. buy tea"]
    assert await chat.say("call Bob") == ["2. call Bob"]
    assert await chat.say("done 1") == ["Done: buy tea"]
    assert await chat.say("list") == ["1. call Bob"]
    assert await chat.person("Bob").say("list") == ["Nothing."]


async def test_reset_empties_it(chat: Chat) -> None:
    await chat.say("buy tea")
    await chat.say("/reset")
    assert await chat.state() == {}


async def test_quick_messages_are_all_on_it() -> None:
    agent = Agent("")
    await asyncio.gather(*(agent.handle_message(user_id="1", message=f"item {n}") for n in range(5)))
    assert len((await agent.get_user_state("1"))["todo"]) == 5
