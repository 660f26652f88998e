"""An agent that takes files."""

import pytest

from bot.picture_agent import Agent
from bot.runtime.testing import Chat, Owner


@pytest.fixture
def owner() -> Owner:
    """Have `chat` run this agent in place of the one in `bot/agent.py`."""
    return Owner(agent=Agent)


async def test_it_is_given_the_picture_and_the_question(chat: Chat) -> None:
    assert await chat.send_photo(b"...", caption="A cat?") == ["A cat? (image/jpeg, 3 bytes)"]
    assert await chat.send_voice(b"....") == ["What is this? (audio/ogg, 4 bytes)"]
    assert (await chat.history())[0].text == "[photo] A cat?"


async def test_what_it_does_not_accept_is_answered_all_the_same(chat: Chat) -> None:
    assert await chat.send_file("notes.pdf", b"...") == ["I can read text only, so far."]
    assert await chat.state() == {}
