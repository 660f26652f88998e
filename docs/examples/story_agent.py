"""An agent whose answers grow, in ten lines."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from bot.agent_adapter import TelegramAgentAdapter


class Agent(TelegramAgentAdapter):
    """Tells a story."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> AsyncGenerator[str, None]:
        """Yield the answer in pieces: together they are the answer."""
        state["stories"] = state.get("stories", 0) + 1
        for word in f"This is story {state['stories']}, about {message}. The end.".split():
            yield f"{word} "
            await asyncio.sleep(0.1)
