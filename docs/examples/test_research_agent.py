"""The agent that works in the background, in a running bot."""

import pytest

from bot.research_agent import Agent
from tests.e2e.conftest import MakeRuntime
from tests.e2e.runtime import Mode
from tests.fake_telegram import FakeTelegram


async def test_it_answers_at_once_and_writes_again(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    async with make_runtime(mode, agent_class=Agent) as bot:
        telegram.message("the answer", user_id=1)
        await telegram.settled()
        assert telegram.texts(1) == ["I am looking into it."]
        await telegram.wait_for(lambda: len(telegram.texts(1)) == 2)
        assert telegram.texts(1)[1] == "the answer: 42"
        record = await bot.record(1)
        assert record.state == {"findings": {"the answer": "the answer: 42"}}
        assert [said.role for said in record.history] == ["user", "assistant", "assistant"]


async def test_a_turn_that_is_given_up_begins_nothing(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    async def look_up(self: Agent, question: str) -> str:
        begun.append(question)
        return ""

    async def fail_after(self: Agent, message: str, state: dict[str, object]) -> str:
        self.background(self.research, self.turn.user_id, message)
        raise RuntimeError("after the work was handed over")

    monkeypatch.setattr(Agent, "look_up", look_up)
    monkeypatch.setattr(Agent, "agent_logic", fail_after)
    async with make_runtime("webhook", agent_class=Agent):
        telegram.message("the answer", user_id=1)
        await telegram.settled()
        assert len(telegram.texts(1)) == 1, "an apology"
    assert begun == []
