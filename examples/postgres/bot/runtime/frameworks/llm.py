"""The language model that the settings name, for an agent on pydantic-ai. Nothing else imports this."""

import os
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Self

import structlog
from pydantic import Field, SecretStr, model_validator
from pydantic_ai import Agent, InstrumentationSettings
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import ModelMessage, UserPromptPart
from pydantic_ai.models import Model, infer_model
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.providers import Provider, infer_provider_class

from bot.runtime.config import Environment
from bot.runtime.errors import OperatorError

HOSTS = {"ollama": "http://localhost:11434/v1"}
"""Where providers are that run on the same machine."""

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

    @model_validator(mode="after")
    def _names_a_model(self) -> Self:
        self.model()
        return self

    def secrets(self) -> Iterator[str]:
        """As everywhere, and the keys in the providers' own variables."""
        yield from super().secrets()
        yield from (value for name, value in os.environ.items() if name.endswith("_API_KEY"))

    def warnings(self) -> Iterator[str]:
        """What is missing."""
        if not self.llm_model:
            yield "LLM_MODEL is not set: a stand-in answers, without any model"

    def model(self) -> Model:
        """Make the model; the stand-in, if none is named.

        Raises:
            ValueError: it cannot be made; the text says why.
        """
        if not self.llm_model:
            return FunctionModel(stream_function=_stand_in)
        kind, _, name = self.llm_model.rpartition(":")
        key = self.llm_key.get_secret_value() if self.llm_key else None
        given = {"api_key": key, "base_url": self.llm_url or HOSTS.get(kind)}
        if self.llm_url and not kind:
            kind, given["api_key"] = "openai-chat", key or "none"  # which few servers of one's own ask for

        def provider(kind: str) -> Provider[Any]:
            return infer_provider_class(kind)(**{name: value for name, value in given.items() if value})

        try:
            return infer_model(f"{kind}:{name}" if kind else name, provider)
        except (UserError, ImportError, TypeError, ValueError) as error:
            if not key and "API_KEY" in str(error):
                raise ValueError(f"LLM_KEY is not set, and {kind} wants a key") from None
            raise ValueError(f"LLM_MODEL names no model that can be used: {error}") from None


def make_model(settings: LlmSettings) -> Model:
    """Make the model that the settings name, traced if they say so; with none, say that a stand-in answers.

    Raises:
        OperatorError: it cannot be traced.
    """
    if settings.llm_trace:
        _trace()
    for warning in settings.warnings():
        log.warning(warning)
    return settings.model()


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
