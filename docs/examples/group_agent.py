"""An agent that hears more of a group than what is addressed to it."""

from typing import Any

from aiogram.types import Update

from bot.agent_adapter import TelegramAgentAdapter


class Agent(TelegramAgentAdapter):
    """Answers who asks it, and whoever asks about tea."""

    def wants(self, update: Update) -> bool:
        """Decide at once, by the update alone: this is called for all that is said in a group."""
        text = update.message.text if update.message else None
        return super().wants(update) or "tea?" in (text or "")

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        """Answer."""
        return "Green or black?"
