"""Updates as Telegram sends them, and as aiogram reads them."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import structlog
from aiogram import Bot
from aiogram.dispatcher.middlewares.user_context import UserContextMiddleware
from aiogram.methods import SendMessage
from aiogram.types import Chat, InaccessibleMessage, Message, Update, User
from aiogram.types.update import UpdateTypeLookupError
from pydantic import ValidationError

from bot.runtime.state.record import HOME, Author, Place, RecordId, is_person

IDS_A_DAY = 10_000_000
"""More updates than any bot gets in a day. Telegram counts its updates; only after a week without any it
goes on anywhere else."""

V = TypeVar("V")

SAID = (
    *("message", "edited_message", "channel_post", "edited_channel_post"),
    *("business_message", "edited_business_message"),
)
"""Kinds of updates that consist of a message."""

log = structlog.get_logger()


def parse_update(bot: Bot, raw: dict[str, Any]) -> Update | None:
    """Read an update, bound to the bot.

    Returns:
        `None`, after logging where it differs from what aiogram knows, when it cannot be read. Telegram would
        only deliver the same again, so such an update counts as done.
    """
    try:
        return Update.model_validate(raw, context={"bot": bot})
    except ValidationError as error:
        places = [".".join(map(str, fault["loc"])) for fault in error.errors(include_input=False)]
        log.error("update not understood, skipped", update_id=raw["update_id"], places=places[:5])
        return None


def date_of(update: Update) -> float | None:
    """When an update came, in seconds since 1970 by Telegram's clock; `None` when it does not say."""
    edited_at: int | None = getattr(update.event, "edit_date", None)
    date = getattr(update.event, "date", None)
    return edited_at or (date.timestamp() if date else None)


def sent_at(update: Update) -> float:
    """When it was sent or, where it does not say, now; in seconds since 1970."""
    return update.message.date.timestamp() if update.message else time.time()


def is_later(update_id: int, than: int) -> bool:
    """Whether an update came after another, within a day."""
    return 0 < update_id - than < IDS_A_DAY


def queue_of(update: Update, sender: "Sender", secret: str) -> int:
    """A number for the queue in which Telegram keeps an update; never 0.

    Of each queue Telegram brings an update to a webhook when the one before is acknowledged. There is one per
    chat for its messages, and one per user for each kind of query: telling them apart by chat and kind is
    finer, and so safe. The number does not show which chat it is.
    """
    name = f"{kind_of(update)}:{sender.chat.id if sender.chat else ''}"
    if sender.author and (update.callback_query or not said_in(update)):  # the record is not one person's
        name += f":{sender.place.person}"
    return 1 + int.from_bytes(blake2b(name.encode(), key=secret.encode()[:64], digest_size=4).digest())


def kind_of(update: Update) -> str | None:
    """What kind of update it is, such as `message`; `None` for one that aiogram does not know."""
    try:
        return update.event_type
    except UpdateTypeLookupError:
        return None


def said_in(update: Update) -> Message | InaccessibleMessage | None:
    """The message that was written, or under which a button was pressed; `None` when nobody did either."""
    if update.callback_query:
        return update.callback_query.message
    return next((event for event in (getattr(update, kind) for kind in SAID) if event), None)


def upgrade_in(update: Update) -> tuple[int, int] | None:
    """The ids of a group and of the supergroup that it became, in an update that tells of it.

    The old chat ends with such a message, and the new one begins with another: either may come first.
    """
    message = update.message
    if message and message.migrate_to_chat_id:
        return message.chat.id, message.migrate_to_chat_id
    if message and message.migrate_from_chat_id:
        return message.migrate_from_chat_id, message.chat.id
    return None


def answer(message: Message | InaccessibleMessage, text: str) -> SendMessage:
    """A message to where another one is: the same chat and topic, by the same business connection."""
    topic = message.direct_messages_topic if isinstance(message, Message) else None
    return message.answer(text, direct_messages_topic_id=topic.topic_id if topic else None)


@dataclass(frozen=True, slots=True)
class Sender:
    """Who an update is from, and where.

    Attributes:
        user: who wrote or pressed, if anybody did.
        chat: where.
        user_id: the record that it changes; `None` when nothing of it is kept.
        place: where, and who, as ids.
        author: who wrote, where a history has to tell people apart.
    """

    user: User | None
    chat: Chat | None
    user_id: str | None
    place: Place
    author: Author | None = None

    @property
    def lock_key(self) -> str:
        """What is handled one after another has the same key."""
        return self.user_id or f"nobody:{self.chat.id if self.chat else ''}"

    @property
    def conversation(self) -> str:
        """The name of the conversation here, within the record."""
        return self.place.conversation(self.user_id) if self.user_id else HOME

    @property
    def language(self) -> str | None:
        """The user's language, as an IETF tag."""
        return self.user.language_code if self.user else None


def sender_of(update: Update, record_of: Callable[[Place], RecordId | None]) -> Sender:
    """Who an update is from, and which record it changes. Channels and the anonymous are nobody."""
    context = UserContextMiddleware.resolve_event_context(update)
    message = update.message or update.edited_message
    said = said_in(update)
    speaker = said.sender_chat if isinstance(said, Message) and not update.callback_query else None
    has_person = context.user is not None and not (message and message.sender_chat)
    direct = said.direct_messages_topic if isinstance(said, Message) else None
    place = Place(
        chat=context.chat.id if context.chat else None,
        topic=direct.topic_id if direct else context.thread_id,
        business_connection=context.business_connection_id,
        person=context.user.id if context.user and has_person else None,
        identity=speaker.id if speaker else None,
    )
    record = record_of(place)
    author = None
    if record and not is_person(record):
        if place.person and context.user:
            author = Author(context.user.id, context.user.full_name)
        elif speaker:
            author = Author(speaker.id, speaker.full_name)
    return Sender(context.user, context.chat, record, place, author)


class LruDict(Generic[V]):
    """A dict by update id that drops the least recently set ids."""

    def __init__(self, limit: int = 65_536) -> None:
        """Make an empty dict of at most `limit` ids."""
        self._limit = limit
        self._values: OrderedDict[int, V] = OrderedDict()

    def __contains__(self, update_id: int) -> bool:
        """Whether the id is there."""
        return update_id in self._values

    def get(self, update_id: int, default: V) -> V:
        """The value of an id."""
        return self._values.get(update_id, default)

    def set(self, update_id: int, value: V) -> None:
        """Set a value, which makes the id the newest."""
        self._values[update_id] = value
        self._values.move_to_end(update_id)
        if len(self._values) > self._limit:
            self._values.popitem(last=False)
