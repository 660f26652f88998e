"""Counts each user's messages."""

import asyncio
from typing import Any

from bot.agent_adapter import TelegramAgentAdapter


class Agent(TelegramAgentAdapter):
    """What the bot says."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        """Count a message."""
        name, seconds = message.split()
        seen = state.setdefault("effects", [])
        await asyncio.sleep(float(seconds))  # the call of a model, or of another service
        seen.append(name)
        return f"{name} #{len(seen)}"
