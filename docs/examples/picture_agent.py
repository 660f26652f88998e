"""An agent that looks at pictures and listens to voice messages."""

from typing import Any

from bot.agent_adapter import Attachment, AttachmentTooLarge, TelegramAgentAdapter


class Agent(TelegramAgentAdapter):
    """Hands what people send to a model that takes files."""

    accepts = frozenset({"text", "photo", "voice"})

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        """Answer. Of a photo or a voice message, `message` is the caption, or empty."""
        if not self.turn.attachments:
            return "Send me a picture, and ask something about it."
        (file,) = self.turn.attachments
        try:
            content = await file.read()
        except AttachmentTooLarge:
            return "That is too large for me."
        state["files"] = state.get("files", 0) + 1
        return await self.ask_model(file, content, message or "What is this?")

    async def ask_model(self, file: Attachment, content: bytes, question: str) -> str:
        """Ask the model: here it tells what it was given."""
        return f"{question} ({file.media_type}, {len(content)} bytes)"
