"""Your agent. This is the file to edit."""

from typing import Any

from bot.agent_adapter import TelegramAgentAdapter


class Agent(TelegramAgentAdapter):
    """What the bot says.

    `state` is an ordinary dict: whatever JSON you put there is there next time, also after a crash.
    `self.turn` is the update being handled: `self.turn.history` is the conversation so far,
    `self.turn.user` who wrote, and `self.turn.reply(method)` sends more than the text you return.
    `accepts = frozenset({"text", "photo"})` asks for more than text: see `self.turn.attachments`.
    """

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        """Answer a message; call your model here."""
        state["last_message"] = message
        state["message_count"] = state.get("message_count", 0) + 1
        return f"Processed: {message} (#{state['message_count']})"
