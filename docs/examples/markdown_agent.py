"""An agent whose answers are Markdown."""

from typing import Any

from bot.agent_adapter import TelegramAgentAdapter


class Agent(TelegramAgentAdapter):
    """Answers in Markdown, as a language model does."""

    format = "markdown"

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        """Return what the model wrote, as it is: `self.turn.history` has it like this, too."""
        return await self.ask_model(message)

    async def ask_model(self, question: str) -> str:
        """Call yours here."""
        return f"**You asked:** {question}\n\n- See [the docs](https://docs.python.org/3/)\n- or `help()`"
