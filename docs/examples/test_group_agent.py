"""An agent in a group."""

import pytest

from bot.group_agent import Agent
from bot.runtime.testing import Chat, Owner


@pytest.fixture
def owner() -> Owner:
    """Have `chat` run this agent in place of the one in `bot/agent.py`."""
    return Owner(agent=Agent)


async def test_it_hears_what_it_wants(chat: Chat) -> None:
    team = await chat.group("Team", "Bob")
    bob = team.person("Bob")
    assert await bob.say("hi all") == []
    assert await bob.say("who wants tea?") == ["Green or black?"]
    assert await bob.say(f"{team.bot} hi") == ["Green or black?"]
