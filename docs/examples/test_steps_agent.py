"""The agent that works in steps."""

from datetime import timedelta

import pytest

from bot.runtime.testing import Chat, OperatorStore, Owner, Restart
from bot.steps_agent import SOURCES, Agent


class FailingAgent(Agent):
    """Finds one of the places closed, the first time."""

    async def look_up(self, question: str, source: str) -> str:
        assert self.turn.job
        if source == "archive" and not self.turn.job.tries:
            raise ConnectionError("closed")
        return await super().look_up(question, source)


@pytest.fixture
def owner(request: pytest.FixtureRequest) -> Owner:
    return Owner(agent=getattr(request, "param", Agent))


async def test_each_step_is_told(chat: Chat) -> None:
    assert await chat.say("ants") == ["I am looking into it."]
    *progress, last = await chat.wait(timedelta(0))
    assert progress == ["1 of 3", "2 of 3"]
    assert last.splitlines() == [f"{source}: nothing about ants" for source in SOURCES]


@pytest.mark.parametrize("owner", [FailingAgent], indirect=True)
async def test_a_step_that_fails_is_tried_again(chat: Chat) -> None:
    await chat.say("ants")
    assert await chat.wait(timedelta(0)) == ["1 of 3"]
    assert await chat.say("how far?") == ["I have looked in 1 of 3 places."]
    assert (await chat.wait(timedelta(minutes=1)))[0] == "2 of 3"


async def test_a_restart_costs_nothing(chat: Chat, store: OperatorStore, restart: Restart) -> None:
    await chat.say("ants")
    await restart()
    assert len(await chat.wait(timedelta(0))) == 3


async def test_it_can_be_stopped(chat: Chat) -> None:
    await chat.say("ants")
    assert await chat.say("stop") == ["I have stopped."]
    assert await chat.wait(timedelta(0)) == []
