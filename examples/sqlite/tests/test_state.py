"""What your bot keeps, on the backend's own server: nothing is lost, nothing counts twice.

An agent of the tests' own does the counting: nothing you change in `bot/` changes what is proven here.
"""

import asyncio
from typing import Any

import pytest

from bot.agent_adapter import TelegramAgentAdapter
from bot.runtime.testing import Chat, NotAcknowledged, OperatorStore, Owner, Restart


class CountingAgent(TelegramAgentAdapter):
    """Counts messages, thinking about each for as long as a test says."""

    seconds = 0.0

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        """Count a message."""
        await asyncio.sleep(self.seconds)
        state["count"] = state.get("count", 0) + 1
        return f"#{state['count']}"


@pytest.fixture
def owner() -> Owner:
    """A bot of this agent alone, in place of yours."""
    return Owner(agent=CountingAgent)


async def test_a_restart_loses_nothing(chat: Chat, store: OperatorStore, restart: Restart) -> None:
    await chat.say("one")
    await restart()
    if store.survives_exit:
        assert await chat.say("two") == ["#2"]
        assert [message.text for message in await chat.history()] == ["one", "#1", "two", "#2"]
    else:  # backend memory, and it says so
        assert (await chat.state(), await chat.history()) == ({}, [])


async def test_quick_messages_all_count_in_order(chat: Chat, store: OperatorStore) -> None:
    answers = await asyncio.gather(*(chat.say(str(number)) for number in range(50)))
    assert answers == [[f"#{number}"] for number in range(1, 51)]
    assert await chat.state() == {"count": 50}


async def test_an_update_that_comes_twice_counts_once(
    chat: Chat, store: OperatorStore, restart: Restart
) -> None:
    await chat.say("hi")
    assert await chat.redeliver() == []
    assert await chat.state() == {"count": 1}
    await restart()
    assert await chat.redeliver() == ["#1"]  # an answer may come twice; what it did counts once
    assert await chat.state() == {"count": 1}
    assert len(await chat.history()) == 2


async def test_a_bot_killed_over_a_message_gets_it_again(
    chat: Chat, store: OperatorStore, restart: Restart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CountingAgent, "seconds", 3600)
    saying = asyncio.create_task(chat.say("hi"))
    await asyncio.sleep(0.1)
    await restart()
    with pytest.raises(NotAcknowledged):
        await saying
    assert await chat.state() == {}
    monkeypatch.setattr(CountingAgent, "seconds", 0)
    assert await chat.redeliver() == ["#1"]
    assert await chat.state() == {"count": 1}


async def test_two_people_do_not_meet(chat: Chat, store: OperatorStore) -> None:
    bob = chat.person("Bob")
    await asyncio.gather(*(each.say("hi") for each in [chat, bob] * 10))
    assert await chat.state() == await bob.state() == {"count": 10}


async def test_forget_leaves_no_trace(chat: Chat, store: OperatorStore) -> None:
    await chat.say("pineapple")
    await chat.person("Bob").say("hi")
    assert "pineapple" in await store.raw("1")
    assert {user async for user in store.users()} == {"1", "2"}

    await chat.say("/forget")
    await chat.press("Erase everything")
    kept = await store.raw("1")
    assert "pineapple" not in kept
    assert "count" not in kept
    assert {user async for user in store.users()} == {"2"}
