"""An agent whose work takes longer than a reply may."""

import asyncio
from typing import Any

from bot.agent_adapter import TelegramAgentAdapter, Turn


class Agent(TelegramAgentAdapter):
    """Says at once that it has begun, and writes again when it knows more."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        """Begin the work. It starts once this turn is committed, and not at all if the turn fails."""
        self.background(self.research, self.turn.user_id, message)
        return "I am looking into it."

    async def research(self, user_id: str, question: str) -> None:
        """Find out, keep it, and tell. Nothing is kept or sent once the user has sent /forget."""
        finding = await self.look_up(question)

        async def keep(turn: Turn) -> None:  # may run again, if a message came in between
            turn.state.setdefault("findings", {})[question] = finding
            turn.remember("assistant", finding)

        await self.mutate(user_id, keep)
        await self.send(user_id, finding)

    async def look_up(self, question: str) -> str:
        """Stands for what takes its time."""
        await asyncio.sleep(0.1)
        return f"{question}: 42"
