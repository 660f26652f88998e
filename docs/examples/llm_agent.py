"""An agent that asks a language model, with the conversation so far."""

from typing import Any

from aiohttp import ClientSession, ClientTimeout
from pydantic import Field, SecretStr

from bot.agent_adapter import Environment, TelegramAgentAdapter, load


class LlmSettings(Environment):
    """Where the model is: any server with the interface of OpenAI's chat completions."""

    llm_url: str = Field(description="Address of the interface, such as http://localhost:11434/v1.")
    llm_model: str = Field(description="Name of the model.")
    llm_key: SecretStr = Field(SecretStr(""), description="Key to it; never shown in logs.")


class Agent(TelegramAgentAdapter):
    """Answers with the model's words."""

    async def connect(self) -> None:
        """Open the connection to the model, once for all users."""
        await super().connect()
        self.settings = load(LlmSettings)
        key = self.settings.llm_key.get_secret_value()
        # Less than AGENT_TIMEOUT, so that the log says that the model was too slow.
        self.http = ClientSession(headers={"Authorization": f"Bearer {key}"}, timeout=ClientTimeout(total=45))

    async def close(self) -> None:
        """Close it."""
        await self.http.close()
        await super().close()

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        """Send the conversation, which ends with `message`, and return the answer."""
        system = f"Answer briefly. What you know about the user: {state.get('facts', [])}"
        conversation = [{"role": said.role, "content": said.text} for said in self.turn.history]
        answer, tokens = await self.ask([{"role": "system", "content": system}, *conversation])
        state["tokens"] = state.get("tokens", 0) + tokens
        return answer

    async def ask(self, messages: list[dict[str, str]]) -> tuple[str, int]:
        """Call the model; if that fails, an exception leaves the state as it was."""
        body = {"model": self.settings.llm_model, "messages": messages}
        url = f"{self.settings.llm_url}/chat/completions"
        async with self.http.post(url, json=body, raise_for_status=True) as response:
            reply = await response.json()
        return reply["choices"][0]["message"]["content"], reply["usage"]["total_tokens"]

    async def on_error(self, error: Exception) -> str | None:
        """Say what the user can do; the log has the error already."""
        if isinstance(error, TimeoutError):
            return "The model takes too long just now. Please ask again in a minute."
        return None
