"""The agent that tells a story."""

import asyncio

import pytest

from bot.runtime.testing import Chat, Owner
from bot.story_agent import Agent


@pytest.fixture
def owner() -> Owner:
    return Owner(agent=Agent)


async def test_it_is_seen_while_it_is_told(chat: Chat) -> None:
    (story,) = await chat.say("owls")
    assert story.strip() == "This is story 1, about owls. The end."
    assert chat.frames[:3] == ["This ", "This is ", "This is story "]
    assert await chat.state() == {"stories": 1}


async def test_who_has_enough_stops_it(chat: Chat) -> None:
    saying = asyncio.create_task(chat.say("owls"))
    while len(chat.frames) < 2:  # noqa: ASYNC110 - there is nothing to wait for
        await asyncio.sleep(0.01)
    await chat.stop()
    (story,) = await saying
    assert story.startswith("This is")
    assert "The end." not in story
