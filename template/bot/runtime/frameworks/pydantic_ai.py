"""pydantic-ai over the record: the model that the settings name, what it is told, and what it says.

Only an agent that uses pydantic-ai imports this: see docs/build-a-model-bot.md of the template.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import structlog
from pydantic import Field, SecretStr
from pydantic_ai import Agent, BinaryContent, InstrumentationSettings, UserContent
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    UserPromptPart,
)
from pydantic_ai.models import Model, infer_model
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.providers import Provider, infer_provider_class

from bot.runtime.config import Environment
from bot.runtime.errors import OperatorError
from bot.runtime.state.turn import Turn

log = structlog.get_logger()


class LlmSettings(Environment):
    """The language model, of a bot that has one."""

    llm_model: str | None = Field(
        None,
        description="The model, as provider:name, such as openai:gpt-5.2, anthropic:claude-sonnet-4-5 or "
        "ollama:qwen3; with LLM_URL its name alone. Unset: a stand-in, which needs no model.",
    )
    llm_key: SecretStr | None = Field(
        None, description="The provider's key. Unset: the provider's own variable, such as OPENAI_API_KEY."
    )
    llm_url: str | None = Field(
        None,
        description="Address of the model's server, such as http://localhost:11434/v1, if it is not the "
        "provider's usual one. Without a provider in LLM_MODEL, the server's interface is OpenAI's.",
    )
    llm_daily_tokens: int = Field(
        0, ge=0, description="Tokens that one person may use in 24 hours; 0: as many as they like."
    )
    llm_trace: bool = Field(
        False, description="Whether runs are traced by OpenTelemetry, or Logfire if that is installed."
    )

    def secrets(self) -> Iterator[str]:
        """As everywhere, and the keys in the providers' own variables."""
        yield from super().secrets()
        yield from (value for name, value in os.environ.items() if name.endswith("_API_KEY"))


def make_model(settings: LlmSettings) -> Model:
    """Make the model that the settings name; a stand-in, and say so, if they name none.

    Raises:
        OperatorError: it cannot be made.
    """
    if settings.llm_trace:
        _trace()
    if not settings.llm_model:
        log.warning("LLM_MODEL is not set: a stand-in answers, without any model")
        return FunctionModel(stream_function=_stand_in)
    key = settings.llm_key.get_secret_value() if settings.llm_key else None
    given = {"base_url": settings.llm_url, "api_key": key}
    name = settings.llm_model
    if settings.llm_url and ":" not in name:
        name, given["api_key"] = f"openai-chat:{name}", key or "none"  # which servers at home do not ask for

    def provider(kind: str) -> Provider[Any]:
        return infer_provider_class(kind)(**{name: value for name, value in given.items() if value})

    try:
        return infer_model(name, provider)
    except (UserError, ImportError, TypeError, ValueError) as error:
        raise OperatorError(f"LLM_MODEL cannot be used: {error}") from None


def _trace() -> None:
    """Trace every run, without what people and the model say.

    Raises:
        OperatorError: nothing is installed that could keep a trace.
    """
    if find_spec("logfire"):
        import_module("logfire").configure(send_to_logfire="if-token-present", console=False)
    elif not find_spec("opentelemetry.sdk"):
        raise OperatorError("LLM_TRACE needs Logfire or OpenTelemetry's SDK: uv add logfire")
    Agent.instrument_all(InstrumentationSettings(include_content=False, include_binary_content=False))


async def _stand_in(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[str]:
    """Repeat what was said."""
    asked = messages[-1].parts[-1]
    said = asked.content if isinstance(asked, UserPromptPart) else ""
    texts = [said] if isinstance(said, str) else [each for each in said or () if isinstance(each, str)]
    yield "There is no model yet, so I can only repeat: "
    yield " ".join(texts) or "(a file)"


async def prompt_of(turn: Turn, message: str) -> Sequence[UserContent]:
    """What a person says: the text, with the author's name where others write, too, and the files.

    Raises:
        AttachmentError: a file cannot be had.
    """
    files = [
        BinaryContent(await each.read(), media_type=each.media_type, identifier=each.kind)
        for each in turn.attachments
    ]
    text = f"{turn.author.name}: {message}" if turn.author else message
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
