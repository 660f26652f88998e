"""Your agent with pydantic-ai's test models. Change these tests along with `bot/agent.py`."""

from collections.abc import AsyncIterator
from datetime import timedelta

from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel
from pydantic_ai.models.test import TestModel

from bot.agent import assistant
from bot.runtime.testing import Chat


async def test_without_a_model_a_stand_in_answers(chat: Chat) -> None:
    (answer,) = await chat.say("hi")
    assert answer.endswith("hi")


async def test_it_notes_what_it_learns(chat: Chat) -> None:
    with assistant.override(model=TestModel(call_tools=["note"], custom_output_text="I **will** remember.")):
        assert await chat.say("I like tea") == ["I will remember."]
    assert await chat.state() == {"notes": ["a"]}


async def test_it_reminds(chat: Chat) -> None:
    async def answer(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
        if messages[-1].parts[-1].part_kind == "tool-return":
            yield "I will."
        else:
            yield {0: DeltaToolCall("remind_me", '{"minutes": 5, "text": "the tea"}')}

    with assistant.override(model=FunctionModel(stream_function=answer)):
        assert await chat.say("Remind me of the tea in five minutes") == ["I will."]
    assert await chat.wait(timedelta(minutes=4)) == []
    assert await chat.wait(timedelta(minutes=2)) == ["You wanted to be reminded: the tea"]


async def test_the_model_is_told_what_was_said_and_done_before(chat: Chat) -> None:
    told: list[list[ModelMessage]] = []

    async def answer(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[str]:
        told.append(messages)
        yield "Tea."

    with assistant.override(model=TestModel(call_tools=["note"])):
        await chat.say("I like tea")
    with assistant.override(model=FunctionModel(stream_function=answer)):
        assert await chat.say("What do I like?") == ["Tea."]
    kinds = [part.part_kind for message in told[0] for part in message.parts]
    assert kinds == ["user-prompt", "tool-call", "tool-return", "text", "user-prompt"]


async def test_it_takes_pictures(chat: Chat) -> None:
    with assistant.override(model=TestModel(call_tools=[], custom_output_text="A cat.")):
        assert await chat.send_photo(b"a picture", caption="What is this?") == ["A cat."]
