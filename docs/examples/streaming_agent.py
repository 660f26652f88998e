"""An agent whose answers are shown while the model makes them up."""

from collections.abc import AsyncGenerator
from json import loads
from typing import Any

from aiohttp import ClientSession, ClientTimeout

from bot.agent_adapter import TelegramAgentAdapter, load
from bot.llm_agent import LlmSettings


class Agent(TelegramAgentAdapter):
    """Passes on what the model says, as it says it."""

    async def connect(self) -> None:
        """Open the connection to the model, once for all users."""
        await super().connect()
        self.settings = load(LlmSettings)
        key = self.settings.llm_key.get_secret_value()
        self.http = ClientSession(headers={"Authorization": f"Bearer {key}"}, timeout=ClientTimeout(total=45))

    async def close(self) -> None:
        """Close it."""
        await self.http.close()
        await super().close()

    async def agent_logic(self, message: str, state: dict[str, Any]) -> AsyncGenerator[str, None]:
        """Yield the answer in pieces: together they are the answer."""
        said = [{"role": each.role, "content": each.text} for each in self.turn.history]
        body = {"model": self.settings.llm_model, "messages": said, "stream": True}
        url = f"{self.settings.llm_url}/chat/completions"
        async with self.http.post(url, json=body, raise_for_status=True) as response:
            async for line in response.content:
                if line.startswith(b"data: {"):
                    yield loads(line[6:])["choices"][0]["delta"].get("content") or ""
        state["answers"] = state.get("answers", 0) + 1
