"""The names your code imports: the agent's base class, the turn, settings, and the bot's words."""

from bot.runtime.config import Environment, load
from bot.runtime.errors import (
    AttachmentError,
    AttachmentTooLarge,
    OperatorError,
    StateConflict,
    StateCorrupt,
    StateError,
    StateTooLarge,
    StateUnavailable,
    StateValueError,
)
from bot.runtime.state.record import Message
from bot.runtime.state.turn import Attachment, Turn, current_turn
from bot.runtime.telegram.agent import TelegramAgentAdapter, is_admin
from bot.runtime.telegram.texts import Texts

__all__ = [
    "Attachment",
    "AttachmentError",
    "AttachmentTooLarge",
    "Environment",
    "Message",
    "OperatorError",
    "StateConflict",
    "StateCorrupt",
    "StateError",
    "StateTooLarge",
    "StateUnavailable",
    "StateValueError",
    "TelegramAgentAdapter",
    "Texts",
    "Turn",
    "current_turn",
    "is_admin",
    "load",
]
