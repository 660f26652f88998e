"""What a model is told and what it does, as pydantic-ai has it: kept in the record, beside the answers."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import orjson
import structlog
from pydantic import ValidationError
from pydantic_ai import BinaryContent, UserContent
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    RetryPromptPart,
    TextPart,
    TextPartDelta,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)

from bot.runtime.state.record import Message, exchanges, signed
from bot.runtime.state.turn import Turn

KEY = "pydantic_ai"
"""What the data beside a message of the history is called that is a run's."""

log = structlog.get_logger()


async def prompt_of(turn: Turn, message: str) -> Sequence[UserContent]:
    """What a person says: the text, with the author's name where others write, too, and the files.

    Raises:
        AttachmentError: a file cannot be had.
    """
    files = [BinaryContent(await each.read(), media_type=each.media_type) for each in turn.attachments]
    text = signed(message, turn.author)
    return [text, *files] if text else files


async def texts(events: AsyncIterable[Any]) -> AsyncGenerator[str, None]:
    """What a run says, as it says it; what it says between calls of tools are paragraphs of their own."""
    gap = ""
    async for event in events:
        match event:
            case (
                PartStartEvent(part=TextPart(content=text))
                | PartDeltaEvent(delta=TextPartDelta(content_delta=text))
            ) if text:
                yield gap + text
                gap = ""
            case PartEndEvent(part=TextPart(content=text)) if text:
                gap = "\n\n"


def keep(turn: Turn, messages: Sequence[ModelMessage]) -> None:
    """Keep a run's `new_messages()` beside the turn's answer: all of them with its commit, or none.

    Bytes of files are left out, and so are instructions, which are the agent's and not the conversation's.

    Raises:
        StateValueError: a tool was called with, or returned, what cannot be kept.
    """
    kept = ModelMessagesTypeAdapter.dump_python(list(map(_without_files, messages)), mode="json")
    for message in kept:
        message.pop("instructions", None)
        for part in (message, message.get("usage") or {}, *message["parts"]):
            for name in [name for name, value in part.items() if value is None and name != "content"]:
                del part[name]
    turn.remember_beside({KEY: kept, "asked": turn.job is None})


def messages_of(turn: Turn) -> list[ModelMessage]:
    """The conversation before the message that is being answered, as `message_history` of the next run.

    Messages without a run's data, such as those from before there was pydantic-ai, are given as texts. A
    call of a tool is there with what it returned, or not at all.
    """
    before = turn.history[:-1] if turn.history and turn.history[-1].role == "user" else turn.history
    found = _paired([each for exchange in exchanges(before) for each in _messages_in(exchange)])
    while found and isinstance(found[0], ModelResponse):  # which no model takes as the beginning
        del found[0]
    return found


def _messages_in(exchange: Sequence[Message]) -> Iterator[ModelMessage]:
    """The messages of an exchange: those of runs, and the texts of what no run has."""
    runs = [_run(each) for each in exchange]
    is_asked = any(run and run[1] for run in runs)
    for message, run in zip(exchange, runs, strict=True):
        if run:
            yield from run[0]
        elif message.is_summary:  # not as what the model said: none takes that as the beginning
            yield ModelRequest([UserPromptPart(f"In short, what was said before: {message.text}")])
        elif message.role == "user" and not is_asked:
            yield ModelRequest([UserPromptPart(signed(message.text, message.author))])
        elif message.role == "assistant" and message.text:
            yield ModelResponse([TextPart(message.text)])


def _run(message: Message) -> tuple[list[ModelMessage], bool] | None:
    """The messages of the run that is kept here, and whether they begin with what its person asked."""
    data = message.data
    if not isinstance(data, dict) or KEY not in data:
        return None
    try:
        return ModelMessagesTypeAdapter.validate_json(orjson.dumps(data[KEY])), bool(data.get("asked"))
    except ValidationError:
        log.warning("messages of another version of pydantic-ai: the model is told their text")
        return None


def _without_files(message: ModelMessage) -> ModelMessage:
    """The message with a word in the place of each file that a person sent."""
    parts: list[Any] = []
    for part in message.parts:
        if isinstance(part, UserPromptPart) and not isinstance(part.content, str):
            words = [
                f"[{each.media_type}]" if isinstance(each, BinaryContent) else each for each in part.content
            ]
            parts.append(replace(part, content=words))
        else:
            parts.append(part)
    return _with_parts(message, parts)


def _with_parts(message: ModelMessage, parts: list[Any]) -> ModelMessage:
    return cast(ModelMessage, replace(cast(Any, message), parts=parts))


def _paired(messages: Sequence[ModelMessage]) -> list[ModelMessage]:
    """The messages, without calls that nothing answers, and answers to no call."""
    parts = [part for message in messages for part in message.parts]
    calls = {part.tool_call_id for part in parts if isinstance(part, ToolCallPart)}
    paired = {None} | calls & {_call_of(part) for part in parts if not isinstance(part, ToolCallPart)}
    kept = [_with_parts(each, [part for part in each.parts if _call_of(part) in paired]) for each in messages]
    return [message for message in kept if message.parts]


def _call_of(part: Any) -> str | None:
    """Which call of a tool a part is, or answers."""
    is_of_a_tool = isinstance(part, ToolCallPart | ToolReturnPart | RetryPromptPart) and part.tool_name
    return part.tool_call_id if is_of_a_tool else None
