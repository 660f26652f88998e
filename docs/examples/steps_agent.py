"""An agent whose work takes hours: it is cut into steps, each of which is a turn."""

import asyncio
from datetime import timedelta
from typing import Any

from bot.agent_adapter import TelegramAgentAdapter, job

SOURCES = ("library", "archive", "attic")


class Agent(TelegramAgentAdapter):
    """Looks a question up in one source after another."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        """Begin, or say how far it is."""
        if message == "stop":
            for each in self.turn.jobs:
                self.turn.cancel(each.id)
            return "I have stopped."
        if self.turn.jobs:
            return f"I have looked in {len(state['found'])} of {len(SOURCES)} places."
        state["found"] = []
        self.turn.later(timedelta(0), self.look, question=message)
        return "I am looking into it."

    @job(retries=5)
    async def look(self, question: str) -> str:
        """Do one step. What it found and the next step are committed together: a kill repeats one at most."""
        found: list[str] = self.turn.state["found"]
        found.append(await self.look_up(question, SOURCES[len(found)]))
        if len(found) < len(SOURCES):
            self.turn.later(timedelta(0), self.look, question=question)
            return f"{len(found)} of {len(SOURCES)}"
        return "\n".join(found)

    async def look_up(self, question: str, source: str) -> str:
        """Stands for what takes its time, up to AGENT_TIMEOUT."""
        await asyncio.sleep(0)
        return f"{source}: nothing about {question}"
