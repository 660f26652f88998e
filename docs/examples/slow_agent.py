"""An agent that takes minutes: what people write meanwhile is kept, and answered when its turn comes."""

import asyncio
from typing import Any

from bot.agent_adapter import TelegramAgentAdapter

SOURCES = ("library", "archive", "attic")


class Agent(TelegramAgentAdapter):
    """Looks a question up in several places, and shows how far it is."""

    deferred = True

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        """Take up to AGENT_TIMEOUT, which may be minutes."""
        found: list[str] = []
        for source in SOURCES:
            self.turn.show(f"I am in the {source} ...")
            found.append(await self.look_up(message, source))
        state["asked"] = state.get("asked", 0) + 1
        return "\n".join(found)

    async def look_up(self, question: str, source: str) -> str:
        """Stands for what takes a minute."""
        await asyncio.sleep(0)
        return f"{source}: nothing about {question}"
