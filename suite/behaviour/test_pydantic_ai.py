"""pydantic-ai's messages in the record, with the real package."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent, BinaryContent
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

from bot.runtime.engines.memory.store import MemoryStore
from bot.runtime.frameworks.pydantic_ai import KEY, keep, messages_of, texts
from bot.runtime.state.record import Limits
from bot.runtime.state.store import OperatorStore
from bot.runtime.state.turn import Turn, mutate
from suite.bot_api import FakeTelegram
from suite.parts import outlives_the_process
from suite.support.process import BotProcess

pytestmark = pytest.mark.clause("history.pydantic-ai")


async def say(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
    """Look something up, and be done."""
    if messages[-1].parts[-1].part_kind == "tool-return":
        yield "Done."
    else:
        yield {0: DeltaToolCall("look_up", '{"word": "x"}', tool_call_id=f"call-{len(messages)}")}


assistant = Agent(FunctionModel(stream_function=say), instructions="Be brief.")


@assistant.tool_plain
def look_up(word: str) -> dict[str, Any]:
    """Look a word up."""
    return {"word": word, "meaning": None}


async def asked(store: MemoryStore, text: str, *, prompt: Sequence[Any] | str = "") -> list[ModelMessage]:
    """Have a turn in which the model answers; what it was told before, and what the run added."""

    async def answer(turn: Turn) -> list[ModelMessage]:
        turn.remember("user", text)
        told = messages_of(turn)
        async with assistant.run_stream_events(prompt or text, message_history=told) as events:
            said = "".join([each async for each in texts(events)])
            assert events.result
            keep(turn, events.result.new_messages())
        turn.remember("assistant", said)
        return [*told, *events.result.new_messages()]

    return await mutate(store, "1", answer)


async def told(store: MemoryStore) -> list[ModelMessage]:
    """What the model would be told."""

    async def look(turn: Turn) -> list[ModelMessage]:
        return messages_of(turn)

    return await mutate(store, "1", look)


def kinds(messages: Sequence[ModelMessage]) -> list[str]:
    """The kinds of all parts."""
    return [part.part_kind for message in messages for part in message.parts]


def without_instructions(messages: Sequence[ModelMessage]) -> list[ModelMessage]:
    for message in messages:
        if isinstance(message, ModelRequest):
            message.instructions = None
    return list(messages)


EXCHANGE = ["user-prompt", "tool-call", "tool-return", "text"]


async def test_what_a_run_said_and_did_comes_back_as_it_was() -> None:
    store = MemoryStore()
    await asked(store, "one")
    everything = await asked(store, "two")
    assert await told(store) == without_instructions(everything)
    assert kinds(everything) == EXCHANGE * 2
    said = [(each.role, each.text) for each in (await store.load("1")).history]
    assert said == [("user", "one"), ("assistant", "Done."), ("user", "two"), ("assistant", "Done.")]


async def test_what_is_kept_is_appended_and_not_written_again() -> None:
    store = MemoryStore()
    await asked(store, "one")
    before = (await store.load("1")).history
    await asked(store, "two")
    assert (await store.load("1")).history[:2] == before


async def test_texts_of_before_are_told_as_texts() -> None:
    store = MemoryStore()

    async def talk(turn: Turn) -> None:
        for role, text in (("assistant", "Good morning"), ("user", "hi"), ("assistant", "hello")):
            turn.remember(role, text)  # type: ignore[arg-type]

    await mutate(store, "1", talk)
    await asked(store, "one")
    found = await told(store)
    assert kinds(found) == ["user-prompt", "text", *EXCHANGE], "it begins with what a person said"
    assert found[1].parts[0] == TextPart("hello")


async def test_a_summary_is_told_first() -> None:
    store = MemoryStore()
    for number in range(3):
        await asked(store, str(number))

    async def compact(turn: Turn) -> None:
        assert turn.replace_oldest(turn.history[:4], "numbers")

    await mutate(store, "1", compact)
    found = await told(store)
    assert kinds(found) == ["user-prompt", *EXCHANGE]
    assert found[0].parts[0].content == "In short, what was said before: numbers"  # type: ignore[union-attr]


@pytest.mark.parametrize("limit", [2, 3, 4, 5])
async def test_calls_go_with_their_answers(limit: int) -> None:
    store = MemoryStore(Limits(history=limit))
    for number in range(4):
        await asked(store, str(number))
    assert kinds(await told(store)) == EXCHANGE * (limit // 2)


async def test_a_run_that_is_too_large_keeps_its_text() -> None:
    store = MemoryStore(Limits(max_bytes=2_000))
    await asked(store, "one", prompt="long " * 1_000)
    found = await told(store)
    assert kinds(found) == ["user-prompt", "text"]
    assert found[0].parts[0].content == "one"  # type: ignore[union-attr]


async def test_files_leave_a_word() -> None:
    store = MemoryStore()
    await asked(
        store, "[photo]", prompt=["Who is it?", BinaryContent(b"12345" * 99, media_type="image/jpeg")]
    )
    found = await told(store)
    assert found[0].parts[0].content == ["Who is it?", "[image/jpeg]"]  # type: ignore[union-attr]


async def test_messages_that_cannot_be_read_are_told_as_texts() -> None:
    store = MemoryStore()

    async def talk(turn: Turn) -> None:
        turn.remember("user", "hi")
        turn.remember("assistant", "hello", {KEY: [{"kind": "of tomorrow"}], "asked": True})

    await mutate(store, "1", talk)
    assert kinds(await told(store)) == ["user-prompt", "text"]


async def test_a_call_that_nothing_answers_is_not_told() -> None:
    store = MemoryStore()

    async def stop(turn: Turn) -> None:
        turn.remember("user", "hi")
        call = ModelResponse([TextPart("One moment."), ToolCallPart("look_up", {"word": "x"})])
        keep(turn, [ModelRequest.user_text_prompt("hi"), call])
        turn.remember("assistant", "One moment.")

    await mutate(store, "1", stop)
    assert kinds(await told(store)) == ["user-prompt", "text"]


@pytest.mark.skipif(not outlives_the_process(), reason="nothing is kept when the bot ends")
async def test_killed_between_a_call_and_the_commit(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    """The model sees every call with its answer; each is made once, as far as anybody can tell."""
    places = ["called", "said", "kept"]
    for number, place in enumerate([*places, "nowhere"]):
        async with BotProcess(tmp_path / "bot", telegram, "suite.buying_bot") as bot:
            telegram.message(f"die when {place} {number}", user_id=1)
            if place in places:
                await bot.process.wait()
            else:
                await telegram.settled(60)
                assert await bot.stop() == 0, bot.written
    assert telegram.texts(1) == ["bought 1", "bought 2", "bought 3", "bought 4"]
    record = await store.load("1")
    assert record.state == {"bought": 4}
    assert [each.role for each in record.history] == ["user", "assistant"] * 4
