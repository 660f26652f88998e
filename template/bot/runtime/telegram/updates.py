"""Updates as Telegram sends them, and as aiogram reads them."""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import structlog
from aiogram import Bot
from aiogram.dispatcher.middlewares.user_context import UserContextMiddleware
from aiogram.enums import ChatType, ContentType
from aiogram.exceptions import ClientDecodeError, TelegramAPIError
from aiogram.methods import AnswerGuestQuery, SendMessage, TelegramMethod
from aiogram.types import (
    Chat,
    InaccessibleMessage,
    InlineQueryResultArticle,
    InputTextMessageContent,
    Message,
    Update,
    User,
)
from aiogram.types.update import UpdateTypeLookupError
from pydantic import ValidationError

from bot.runtime.config import Settings
from bot.runtime.state.record import HOME, Author, Place, RecordId, is_person
from bot.runtime.state.turn import Attachment, Incoming
from bot.runtime.telegram.calls import download, utf16_length

CUT_FROM, CUT_AT = 4_000, 4_096
"""UTF-16 units that a text has which a client has cut: it cuts between words where it can, and has to before
the latter: https://core.telegram.org/bots/api#sendmessage"""

MOST_PARTS = 10
"""Most parts of an album: https://core.telegram.org/bots/api#sendmediagroup"""

IDS_A_DAY = 10_000_000
"""More updates than any bot gets in a day. Telegram counts its updates; only after a week without any it
goes on anywhere else."""

V = TypeVar("V")

SAID = (
    *("message", "edited_message", "channel_post", "edited_channel_post"),
    *("business_message", "edited_business_message", "guest_message"),
)
"""Kinds of updates that consist of a message."""

QUERIES = ("pre_checkout_query", "shipping_query", "inline_query")
"""Kinds of updates that have to be answered within seconds, whatever else their person's updates are at."""

FILES = {
    "animation": "video/mp4",
    "audio": "audio/mpeg",
    "document": "application/octet-stream",
    "live_photo": "video/mp4",
    "photo": "image/jpeg",
    "sticker": "image/webp",
    "video": "video/mp4",
    "video_note": "video/mp4",
    "voice": "audio/ogg",
}
"""The kinds of files that people send, and the media type of those whose sender does not say."""

SENT_BY_PEOPLE = FILES.keys() | {
    "chat_shared", "checklist", "contact", "dice", "game", "giveaway", "invoice", "location", "paid_media",
    "passport_data", "poll", "rich_message", "story", "user_shared", "users_shared", "venue", "web_app_data",
}  # fmt: skip
"""The kinds of messages that somebody sent, besides texts, as opposed to Telegram telling about something."""

COMMAND = re.compile(r"/(?P<name>\w+)(?:@(?P<whose>\w+))?(?:\s+(?P<rest>\S.*))?\s*$", re.DOTALL)
"""A command, whose it is, and what follows it."""

STOP_BUTTON = re.compile(r"stop answer (\d+)")
"""The data of the button that stops an answer, with the id of the update that is answered."""

Stops = Callable[[int, int], bool]
"""Whether somebody has stopped the answer to an update in a chat, by their ids."""

_NAMES = re.compile(r"@\w+")

NAME_SECONDS = 5.0
"""How long asking Telegram for the bot's name may take."""

LONGEST_NAME = 100
"""Most characters of a file's name in the history."""

log = structlog.get_logger()


def parse_update(bot: Bot, raw: dict[str, Any]) -> Update | None:
    """Read an update, bound to the bot.

    Returns:
        `None`, after logging where it differs from what aiogram knows, when it cannot be read.
    """
    try:
        return Update.model_validate(raw, context={"bot": bot})
    except ValidationError as error:
        places = [".".join(map(str, fault["loc"])) for fault in error.errors(include_input=False)]
        log.error("update not understood", update_id=raw["update_id"], places=places[:5])
    except Exception as error:  # such as nesting without end
        log.error("update not understood", update_id=raw["update_id"], reason=type(error).__name__)
    return None


def is_known(update: Update, kind: str | None) -> bool:
    """Whether aiogram knows what kind of update it is and, of a message, what kind of content it has."""
    message = message_in(update)
    if kind and not (message and message.content_type == ContentType.UNKNOWN):
        return True
    fields = [*((message or update).model_extra or ())]
    log.warning("update of an unknown kind", update_id=update.update_id, fields=fields)
    return False


def date_of(update: Update) -> float | None:
    """When an update came, in seconds since 1970 by Telegram's clock; `None` when it does not say."""
    event = update.message or update.event  # what it mostly is takes no search
    edited_at: int | None = getattr(event, "edit_date", None)
    date = getattr(event, "date", None)
    return edited_at or (date.timestamp() if date else None)


def sent_at(update: Update) -> float:
    """When it was sent or, where it does not say, now; in seconds since 1970."""
    return update.message.date.timestamp() if update.message else time.time()


def is_stop(text: str | None, username: str | None) -> bool:
    """Whether a text is the command `/stop`, and for no other bot than the one of this name."""
    command = COMMAND.match(text or "")
    if not command or command["name"].lower() != "stop" or command["rest"]:
        return False
    return command["whose"] is None or command["whose"].lower() == (username or command["whose"].lower())


def is_later(update_id: int, than: int) -> bool:
    """Whether an update came after another, within a day."""
    return 0 < update_id - than < IDS_A_DAY


def is_forgetting(update: Update) -> bool:
    """Whether somebody confirms that they want to be forgotten: by their own button, not another person's."""
    query = update.callback_query
    return query is not None and query.data == f"forget:{query.from_user.id}:1"


def is_about_forgetting(update: Update) -> bool:
    """Whether somebody asks in private to be forgotten."""
    message = update.message
    is_private = message is not None and message.chat.type == ChatType.PRIVATE
    return is_private and bool(message and re.match(r"/forget(@\w+)?\b", message.text or ""))


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
    if message is None or message.chat.id > 0:
        return None
    if message.migrate_to_chat_id:
        return message.chat.id, message.migrate_to_chat_id
    if message.migrate_from_chat_id:
        return message.migrate_from_chat_id, message.chat.id
    return None


def is_said(message: Message) -> bool:
    """Whether somebody sent this, as opposed to Telegram telling about a new title, member or pin."""
    return bool(message.text or message.caption) or message.content_type in SENT_BY_PEOPLE


def has_to_be_handled(message: Message) -> bool:
    """Whether it tells of money that was paid, or of a chat that gets another id: whoever it is from."""
    return not message.text and bool(
        (message.successful_payment or message.refunded_payment)
        or (message.migrate_to_chat_id or message.migrate_from_chat_id)
    )


async def name_of(bot: Bot) -> str | None:
    """The bot's user name in lower case. Telegram is asked once; `None` when it does not say."""
    try:
        async with asyncio.timeout(NAME_SECONDS):
            return ((await bot.me()).username or "").lower()
    except (TelegramAPIError, ClientDecodeError, TimeoutError):
        return None


def is_addressed(message: Message, bot_id: int, name: str | None) -> bool:
    """Whether a message is for the bot: in private, or a command, or with its name, or an answer to it.

    Args:
        message: what somebody said.
        bot_id: the bot's id.
        name: its user name in lower case; `None` when Telegram does not say: any name may be its own then.
    """
    if message.chat.type == ChatType.PRIVATE or message.guest_query_id:
        return True
    replied = message.reply_to_message
    # What opens a topic is no message, though all that is said in there replies to it.
    if replied and replied.from_user and replied.from_user.id == bot_id and not replied.forum_topic_created:
        return True
    entities = message.entities or message.caption_entities or ()
    if any(entity.user and entity.user.id == bot_id for entity in entities):
        return True
    text = (message.text or message.caption or "").lower()
    if (command := COMMAND.match(text)) and not command["whose"]:
        return True
    names = _NAMES.findall(text)
    return bool(names) if name is None else f"@{name}" in names


def answer(
    message: Message | InaccessibleMessage, text: str, **options: Any
) -> SendMessage | AnswerGuestQuery:
    """A message to where another one is: the same chat and topic, by the same business connection.

    Where the bot is a guest, it is the one answer that a guest gives.

    Args:
        message: that one.
        text: what to say.
        options: the text's `parse_mode`.
    """
    if isinstance(message, Message) and message.guest_query_id:
        content = InputTextMessageContent(message_text=text, **options)
        return message.answer_guest_query(
            InlineQueryResultArticle(id="answer", title="Answer", input_message_content=content)
        )
    topic = message.direct_messages_topic if isinstance(message, Message) else None
    return message.answer(text, direct_messages_topic_id=topic.topic_id if topic else None, **options)


def turned_down(update: Update, text: str) -> list[TelegramMethod[Any]]:
    """What tells somebody that nothing comes of an update, where it can be told."""
    if query := update.pre_checkout_query or update.shipping_query:
        return [query.answer(ok=False, error_message=text)]
    if update.inline_query:
        return [update.inline_query.answer([], cache_time=0, is_personal=True)]
    if update.callback_query:
        return [update.callback_query.answer(text, show_alert=True)]
    message = update.message or update.guest_message
    return [answer(message, text)] if message and is_said(message) else []


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


def message_in(update: Update) -> Message | None:
    """The message that was written or edited; `None` when an update brings none, as a pressed button."""
    return update.message or next(filter(None, (getattr(update, kind) for kind in SAID)), None)


def raw_of(update: Update) -> dict[str, Any]:
    """An update as Telegram would send it."""
    return update.model_dump(mode="json", by_alias=True, exclude_unset=True)


def is_part(update: Update, accepts: Collection[str]) -> bool:
    """Whether more is to be expected of what the agent takes: an album, or a text that the client has cut."""
    message = update.message
    if message is None:
        return False
    if message.media_group_id:
        return message.content_type in accepts
    return "text" in accepts and _is_text(message) and _may_be_cut(message.text or "")


def belongs_to(update: Update, parts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an update goes on where these parts end."""
    message, last = update.message, parts[-1]["message"]
    if message is None or message.chat.id != last["chat"]["id"]:
        return False
    if group := last.get("media_group_id"):
        return message.media_group_id == str(group)
    sender = last.get("from", {}).get("id")
    is_same = message.message_thread_id == last.get("message_thread_id")
    is_same = is_same and bool(message.from_user and message.from_user.id == sender)
    return is_same and _is_text(message) and _may_be_cut(last["text"])


def merged(bot: Bot, parts: Sequence[Mapping[str, Any]], update_id: int) -> Update:
    """One update of its parts: the first message, with all texts or the caption of whichever has one."""
    message = dict(parts[0]["message"])
    messages = [part["message"] for part in parts]
    if "media_group_id" in message:
        captioned = next((each for each in messages if each.get("caption")), message)
        names = ("caption", "caption_entities", "show_caption_above_media")
        message |= {name: captioned[name] for name in names if name in captioned}
    else:
        text, entities = "", list[dict[str, Any]]()
        for each in messages:
            start = utf16_length(text)
            entities += [
                {**entity, "offset": entity["offset"] + start} for entity in each.get("entities", ())
            ]
            text += each["text"]
        message |= {"text": text, **({"entities": entities} if entities else {})}
    raw = {"update_id": update_id, "message": message}
    return Update.model_validate(raw, context={"bot": bot})


def _may_be_cut(text: str) -> bool:
    return CUT_FROM <= utf16_length(text) <= CUT_AT


def _is_text(message: Message) -> bool:
    return bool(message.text) and not (message.text or "").startswith("/")


def incoming(
    update: Update, sender: Sender, bot: Bot, settings: Settings, parts: Sequence[Update] = ()
) -> Incoming:
    """What came in, as turns show it; of an album, the files of all its parts."""
    message = message_in(update)
    attachments: Sequence[Attachment] = ()
    title = ""
    if message and not message.text and is_said(message):
        attachments = [
            file
            for each in parts or [update]
            if (part := message_in(each))
            for file in attachments_in(part, bot, settings)
        ]
        names = [f"{file.kind}: {_one_line(file.name)}" if file.name else file.kind for file in attachments]
        title = f"[{', '.join(names) or ContentType(message.content_type).value}]"
    if message and message.edit_date:
        title = f"[edited] {title}".strip()
    return Incoming(
        update=update,
        message=message,
        chat=sender.chat,
        user=sender.user if sender.place.person else None,
        place=sender.place,
        author=sender.author,
        attachments=attachments,
        at=date_of(update),
        is_admin=is_listed(settings.admins, sender),
        title=title,
    )


def attachments_in(message: Message, bot: Bot, settings: Settings) -> list[Attachment]:
    """The files of a message; none of those that are still to be paid for."""
    found = []
    for holder in message.paid_media.paid_media if message.paid_media else [message]:
        for kind, media_type in FILES.items():
            file = getattr(holder, kind, None)
            if not file or (kind == "document" and message.animation):  # the same file once more
                continue
            if isinstance(file, list):  # a photo's sizes
                file = max(file, key=lambda size: size.width * size.height)
            elif kind == "sticker" and (file.is_animated or file.is_video):
                media_type = "video/webm" if file.is_video else "application/x-tgsticker"
            found.append(
                Attachment(
                    kind=kind,
                    media_type=getattr(file, "mime_type", None) or media_type,
                    size=file.file_size,
                    name=getattr(file, "file_name", None) or "",
                    file_id=file.file_id,
                    fetch=partial(
                        download,
                        bot,
                        file.file_id,
                        size=file.file_size,
                        most=settings.attachment_bytes,
                        seconds=settings.attachment_timeout,
                    ),
                )
            )
    return found


def _one_line(name: str) -> str:
    return re.sub(r"[\s\[\]]+", " ", name)[:LONGEST_NAME]


def sender_of(update: Update, record_of: Callable[[Place], RecordId | None]) -> Sender:
    """Who an update is from, and which record it changes. Channels and the anonymous are nobody."""
    context = UserContextMiddleware.resolve_event_context(update)
    message = message_in(update)
    said = message or (update.callback_query and update.callback_query.message)
    speaker = message.sender_chat if message else None
    chat = context.chat or (message.chat if message else None)
    direct = said.direct_messages_topic if isinstance(said, Message) else None
    person = context.user.id if context.user and not speaker else None
    if update.stopped_message_generation and chat and chat.type == ChatType.PRIVATE:
        person = chat.id  # Telegram does not say who it was
    place = Place(
        chat=chat.id if chat else None,
        topic=direct.topic_id if direct else context.thread_id,
        business_connection=context.business_connection_id,
        person=person,
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


def is_listed(people: Collection[int | str] | None, sender: Sender) -> bool:
    """Whether ids or user names (in lower case, without @) name who an update is from."""
    if not people or sender.user is None or sender.place.person is None:
        return False
    return sender.user.id in people or (sender.user.username or "").lower() in people


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
