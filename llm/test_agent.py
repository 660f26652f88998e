"""Your agent with pydantic-ai's test models. Change these tests along with `bot/agent.py`."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelRequest
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel
from pydantic_ai.models.test import TestModel

from bot.agent import Agent, assistant
from bot.runtime.testing import Chat, OperatorStore, Owner, Restart


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch) -> Owner:
    """Your agent, with a budget."""
    monkeypatch.setenv("LLM_DAILY_TOKENS", "300")
    return Owner(agent=Agent)


class Told:
    """A model that says what it is told to, and keeps what it was asked."""

    def __init__(self, *said: str | DeltaToolCalls) -> None:
        self.said = list(said)
        self.asked: list[ModelMessage] = []
        self.model = FunctionModel(stream_function=self.answer)

    async def answer(self, asked: list[ModelMessage], _: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
        self.asked = asked
        yield self.said.pop(0)

    @property
    def kinds(self) -> list[str]:
        return [part.part_kind for message in self.asked for part in message.parts]


async def test_without_a_model_a_stand_in_answers(chat: Chat) -> None:
    (answer,) = await chat.say("hi")
    assert answer.endswith("hi")


async def test_the_answer_grows_and_is_rendered(chat: Chat) -> None:
    with assistant.override(model=TestModel(call_tools=[], custom_output_text="I like **green** tea.")):
        assert await chat.say("And you?") == ["I like green tea."]
    assert len(chat.frames) > 1


async def test_it_notes_what_it_learns(chat: Chat) -> None:
    call: DeltaToolCalls = {0: DeltaToolCall("note", '{"fact": "likes tea"}')}
    with assistant.override(model=Told(call, "Noted.").model):
        await chat.say("I like tea")
    assert await chat.state() == {"notes": ["likes tea"]}


async def test_it_reminds(chat: Chat) -> None:
    call: DeltaToolCalls = {0: DeltaToolCall("remind_me", '{"minutes": 5, "text": "the tea"}')}
    with assistant.override(model=Told(call, "I will.").model):
        assert await chat.say("Remind me of the tea in five minutes") == ["I will."]
    assert await chat.wait(timedelta(minutes=4)) == []
    assert await chat.wait(timedelta(minutes=2)) == ["You wanted to be reminded: the tea"]


async def test_the_model_is_told_what_was_said_and_done_before(
    chat: Chat, store: OperatorStore, restart: Restart
) -> None:
    with assistant.override(model=TestModel(call_tools=["note"])):
        await chat.say("I like tea")
    await restart()
    told = Told("Tea.")
    with assistant.override(model=told.model):
        assert await chat.say("What do I like?") == ["Tea."]
    if store.survives_exit:
        assert told.kinds == ["user-prompt", "tool-call", "tool-return", "text", "user-prompt"]


async def test_it_tells_nobody_else_what_it_noted(chat: Chat) -> None:
    with assistant.override(model=TestModel(call_tools=["note"])):
        await chat.say("I like tea")
    group = await chat.group("Friends", "Bob")
    told = Told("Hello, all.")
    with assistant.override(model=told.model):
        assert await group.say(f"{group.bot}, say hello") == ["Hello, all."]
    assert told.kinds == ["user-prompt"]
    assert isinstance(told.asked[-1], ModelRequest)
    assert "notes" not in (told.asked[-1].instructions or "")


async def test_it_takes_pictures_and_voice(chat: Chat) -> None:
    with assistant.override(model=TestModel(call_tools=[], custom_output_text="A cat.")):
        assert await chat.send_photo(b"a picture", caption="What is this?") == ["A cat."]
        assert await chat.send_voice(b"meow") == ["A cat."]


async def test_a_day_has_so_many_tokens(chat: Chat) -> None:
    await chat.say("word " * 300)
    spent = ["That is all for today. Please come back tomorrow."]
    assert await chat.say("and on") == spent
    await chat.say("/reset")
    assert await chat.say("and on") == spent
    await chat.wait(timedelta(days=1))
    assert await chat.say("and on") != spent


async def test_a_model_that_fails_changes_nothing(chat: Chat) -> None:
    async def fail(asked: list[ModelMessage], _: AgentInfo) -> AsyncIterator[str]:
        yield "Well, "
        raise ModelHTTPError(503, "a model")

    with assistant.override(model=FunctionModel(stream_function=fail)):
        (answer,) = await chat.say("hi")
    assert answer.startswith("The model does not answer")
    assert (await chat.state(), await chat.history()) == ({}, [])
