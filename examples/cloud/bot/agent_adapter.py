"""The names your code imports: the agent's base class, the turn, settings, and the bot's words."""

from bot.runtime.config import Environment, load
from bot.runtime.errors import (
    AttachmentError,
    AttachmentTooLarge,
    JobStopped,
    OperatorError,
    StateConflict,
    StateCorrupt,
    StateError,
    StateTooLarge,
    StateUnavailable,
    StateValueError,
)
from bot.runtime.state.jobs import Job, job
from bot.runtime.state.record import Author, Message, Place, RecordId, chat, identity, person, topic
from bot.runtime.state.turn import Attachment, Turn, current_turn
from bot.runtime.telegram.agent import TelegramAgentAdapter, is_admin
from bot.runtime.telegram.texts import Texts

__all__ = [
    "Attachment",
    "AttachmentError",
    "AttachmentTooLarge",
    "Author",
    "Environment",
    "Job",
    "JobStopped",
    "Message",
    "OperatorError",
    "Place",
    "RecordId",
    "StateConflict",
    "StateCorrupt",
    "StateError",
    "StateTooLarge",
    "StateUnavailable",
    "StateValueError",
    "TelegramAgentAdapter",
    "Texts",
    "Turn",
    "chat",
    "current_turn",
    "identity",
    "is_admin",
    "job",
    "load",
    "person",
    "topic",
]
