"""The agent that takes its time."""

import pytest

from bot.runtime.testing import Chat, OperatorStore, Owner, Restart
from bot.slow_agent import SOURCES, Agent


@pytest.fixture
def owner() -> Owner:
    return Owner(agent=Agent)


async def test_it_answers_when_it_is_done(chat: Chat) -> None:
    [answer] = await chat.say("ants")
    assert answer.splitlines() == [f"{source}: nothing about ants" for source in SOURCES]


async def test_every_question_counts_once(chat: Chat, store: OperatorStore, restart: Restart) -> None:
    await chat.say("ants")
    await restart()
    await chat.say("bees")
    assert await chat.state() == {"asked": 2}
