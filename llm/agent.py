"""Your agent: a language model with tools. This is the file to edit."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pydantic_ai
from pydantic_ai import RunContext, RunUsage
from pydantic_ai.exceptions import ModelAPIError

from bot.agent_adapter import TelegramAgentAdapter, job, load
from bot.runtime.frameworks.llm import LlmSettings, make_model
from bot.runtime.frameworks.pydantic_ai import keep, messages_of, prompt_of, texts


class Agent(TelegramAgentAdapter):
    """What the bot says: what the model says. `state["notes"]` is what it noted about a person."""

    accepts = frozenset({"text", "photo", "voice"})
    format = "markdown"

    async def connect(self) -> None:
        """Make the model that LLM_MODEL names."""
        await super().connect()
        self.settings = load(LlmSettings)
        self.model = await self.enter(make_model(self.settings))

    async def agent_logic(self, message: str, state: dict[str, Any]) -> AsyncGenerator[str, None]:
        """Have the model answer, and show the answer while it grows."""
        limit, usage = self.settings.llm_daily_tokens, RunUsage()
        if limit and self.turn.count("tokens") >= limit:
            yield "That is all for today. Please come back tomorrow."
            return
        prompt, before = await prompt_of(self.turn, message), messages_of(self.turn)
        try:
            async with assistant.run_stream_events(
                prompt, message_history=before, model=self.model, deps=self, usage=usage
            ) as events:
                async for text in texts(events):
                    yield text
            keep(self.turn, events.new_messages())
        finally:
            self.turn.count("tokens", usage.total_tokens)

    @job
    async def remind(self, text: str) -> str:
        """Say what somebody wanted to be reminded of."""
        return f"You wanted to be reminded: {text}"

    async def on_error(self, error: Exception) -> str | None:
        """Say what the person can do; the log has the error already."""
        if isinstance(error, ModelAPIError | TimeoutError):
            return "The model does not answer just now. Please try again in a minute."
        return None


assistant = pydantic_ai.Agent(deps_type=Agent, instructions="Answer briefly. Write Markdown.")


@assistant.instructions
def known(run: RunContext[Agent]) -> str:
    """What the model is told of a person, but not where others read along."""
    turn = run.deps.turn
    return "" if turn.place.group else f"Your notes on this person: {turn.state.get('notes', [])}"


@assistant.tool
async def note(run: RunContext[Agent], fact: str) -> str:
    """Note a fact about the person, for later conversations."""
    run.deps.turn.state.setdefault("notes", []).append(fact)
    return "Noted."


@assistant.tool
async def remind_me(run: RunContext[Agent], minutes: float, text: str) -> str:
    """Remind the person of something in so many minutes."""
    run.deps.turn.later(timedelta(minutes=minutes), run.deps.remind, text=text)
    return "The reminder is set."
