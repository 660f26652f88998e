"""An agent that remembers what its tool said, and sums up what was said long ago."""

from collections.abc import Sequence
from typing import Any

from bot.agent_adapter import Message, TelegramAgentAdapter


class Agent(TelegramAgentAdapter):
    """Looks the weather up, in place of a model that would have it looked up."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        """Call the tool, and keep call and result beside an empty text: people saw neither."""
        degrees = await self.weather(message)
        self.turn.remember("assistant", "", {"call": "weather", "city": message, "degrees": degrees})
        return f"{message}: {degrees} degrees"

    async def compact(self, old: Sequence[Message]) -> str | None:
        """Sum up what is soon to go: the older half of the conversation, and the summary of before."""
        said = "\n".join(f"{each.role}: {each.text}" for each in old if each.text)
        return await self.ask_model(f"Sum up in a few sentences:\n{said}")

    async def weather(self, city: str) -> int:
        """Where you would ask a service."""
        return len(city)

    async def ask_model(self, prompt: str) -> str:
        """Where you would ask a model."""
        return f"A talk of {prompt.count('user: ')} questions about the weather."
