"""The agent that answers in Markdown."""

import json

import pytest

from bot.markdown_agent import Agent
from bot.runtime.testing import Chat, Owner


@pytest.fixture
def owner() -> Owner:
    """Have `chat` run this agent in place of the one in `bot/agent.py`."""
    return Owner(agent=Agent)


async def test_it_is_shown_as_it_is_meant(chat: Chat) -> None:
    assert await chat.say("why?") == ["You asked: why?\n\n• See the docs\n• or help()"]
    (reply,) = chat.replies
    kinds = [entity["type"] for entity in json.loads(reply.params["entities"])]
    assert kinds == ["bold", "text_link", "code"]
