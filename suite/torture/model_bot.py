"""Bots under torture whose agents ask a language model: `python -m suite.torture.model_bot run`.

`TORTURE_AGENT` says which one: the template's own on pydantic-ai, which shows its answers while they grow, or
one on the OpenAI Agents SDK, which asks before it sends anything.
"""

import os
import sys
from typing import TYPE_CHECKING

from bot.agent_adapter import TelegramAgentAdapter, job
from bot.runtime.cli import main
from suite.owner import replace_owner
from suite.torture.names import DEFERRED

if TYPE_CHECKING:
    from bot.runtime.app import Owner

AGENT, PYDANTIC_AI, OPENAI_AGENTS = "TORTURE_AGENT", "pydantic-ai", "openai-agents"


def agent_class() -> type[TelegramAgentAdapter]:
    """The agent, which says of each message that fails that it is sorry."""
    if os.environ[AGENT] == OPENAI_AGENTS:
        from suite.model_bot import OpenAIAgent as Agent
    else:
        from suite.llm_agent import Agent  # type: ignore[assignment]

    class Tortured(Agent):
        deferred = DEFERRED in os.environ

        async def on_error(self, error: Exception) -> str | None:
            return f"{self.turn.message.text} sorry" if self.turn.message else ""

        @job
        async def remind(self, text: str) -> str:
            self.turn.state.setdefault("reminded", []).append(text)
            return f"{text} reminded"

    return Tortured


def tortured_owner() -> "Owner":
    """An owner who wrote no more than that agent."""
    from bot.runtime.app import Owner
    from bot.runtime.telegram import jobs as runner
    from suite.torture.bot import hurry

    hurry()
    runner.FIRST_RETRY = 0.2
    return Owner(agent=agent_class())


if __name__ == "__main__":
    sys.argv[0] = "bot"
    replace_owner(tortured_owner)
    main()
