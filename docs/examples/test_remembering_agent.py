"""The agent that remembers more than words."""

import pytest

from bot.remembering_agent import Agent
from bot.runtime.testing import Chat, Owner


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch) -> Owner:
    monkeypatch.setenv("HISTORY_LIMIT", "12")
    return Owner(agent=Agent)


async def test_it_remembers_what_the_tool_said(chat: Chat) -> None:
    assert await chat.say("Oslo") == ["Oslo: 4 degrees"]
    asked, call, answer = await chat.history()
    assert (asked.text, call.text, answer.text) == ("Oslo", "", "Oslo: 4 degrees")
    assert call.data == {"call": "weather", "city": "Oslo", "degrees": 4}


async def test_old_messages_have_a_summary(chat: Chat) -> None:
    for city in ("Oslo", "Bergen", "Voss"):
        await chat.say(city)
    await chat.settle()
    summary, *rest = await chat.history()
    assert summary.is_summary
    assert summary.text == "A talk of 2 questions about the weather."
    assert [each.text for each in rest] == ["Voss", "", "Voss: 4 degrees"]
