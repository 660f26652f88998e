"""The agent that works in the background."""

from typing import Any

import pytest

from bot.research_agent import Agent
from bot.runtime.testing import Chat, Owner

LOOKED_UP: list[str] = []


class FailingAgent(Agent):
    """Fails after it has handed over the work."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        await super().agent_logic(message, state)
        raise RuntimeError("after the work was handed over")

    async def look_up(self, question: str) -> str:
        LOOKED_UP.append(question)
        return ""


@pytest.fixture
def owner(request: pytest.FixtureRequest) -> Owner:
    """The agent, or the one that a test is parametrized with."""
    return Owner(agent=getattr(request, "param", Agent))


async def test_it_answers_at_once_and_writes_again(chat: Chat) -> None:
    assert await chat.say("the answer") == ["I am looking into it."]
    assert await chat.settle() == ["the answer: 42"]
    assert await chat.state() == {"findings": {"the answer": "the answer: 42"}}
    assert [said.role for said in await chat.history()] == ["user", "assistant", "assistant"]


@pytest.mark.parametrize("owner", [FailingAgent], indirect=True)
async def test_a_turn_that_fails_begins_nothing(chat: Chat) -> None:
    assert len(await chat.say("the answer")) == 1, "an apology"
    assert await chat.settle() == []
    assert LOOKED_UP == []
