"""What is kept under one id, a person's or a group's: one record, with a version.

A record holds one conversation per place: what was said in private is not in the history of a group. The one
at the record's own place (a person's private chat, a group's chat) is called `HOME`; what was said elsewhere
lies beside it, under the name of the place, and is loaded only for a turn there.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NewType, Self

import orjson

from bot.runtime.errors import StateCorrupt
from bot.runtime.state.codec import clean, dumps, loads

if TYPE_CHECKING:
    from bot.runtime.config import Settings


HOME = ""
"""The conversation at the record's own place."""

WAITING = "waiting:"
"""How the name begins of the record in which waits what is to change another one."""

BROADCAST = "broadcast:"
"""How the names of records begin that say who has a broadcast."""

FORGETTING = "forgetting:"
"""The record that says who is to be forgotten in records that several people share."""

UPGRADED_FROM, UPGRADED_TO = "upgraded_from", "upgraded_to"
"""Among the flows of a supergroup that was a group: which one. Among those of that group: which it became."""

RecordId = NewType("RecordId", str)
"""What names a record: made by `person`, `chat`, `topic` or `identity`, so that no two meanings share one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an update came from, and who is behind it, as Telegram's ids.

    Attributes:
        chat: the chat; `None` for what is in none, such as an inline query.
        topic: the topic in it, if it has any.
        business_connection: the connection by which the bot takes part in a person's chat with others.
        person: who wrote or pressed; `None` for channels and anonymous administrators.
        identity: the channel or group in whose name was written, instead of a person.
    """

    chat: int | None = None
    topic: int | None = None
    business_connection: str | None = None
    person: int | None = None
    identity: int | None = None

    @property
    def group(self) -> int | None:
        """The group or channel that it is in; `None` in private, and in no chat at all."""
        return self.chat if self.chat and self.chat < 0 else None

    def conversation(self, record: str) -> str:
        """The name of the conversation here, in a record."""
        if self.chat is not None and not self.business_connection:
            whole_chat = (str(self.chat), chat(self.chat), identity(self.chat))
            if record in (whole_chat if self.topic is None else (topic(self.chat, self.topic),)):
                return HOME
        parts = (self.chat, self.topic, self.business_connection)
        return ":".join("" if part is None else str(part) for part in parts)


def person(user_id: int) -> RecordId:
    """The record of a person."""
    return RecordId(str(user_id))


def chat(chat_id: int) -> RecordId:
    """The record of a chat: of a group, say, for all of its members."""
    return RecordId(str(chat_id) if chat_id < 0 else f"chat:{chat_id}")


def topic(chat_id: int, topic_id: int) -> RecordId:
    """The record of a topic of a chat."""
    return RecordId(f"topic:{chat_id}:{topic_id}")


def identity(chat_id: int) -> RecordId:
    """The record of a channel, or of a group's anonymous administrators, as somebody who writes."""
    return RecordId(f"identity:{chat_id}")


def is_person(record: str) -> bool:
    """Whether a record is one person's."""
    return record.isdecimal()


def address_of(record: str) -> tuple[int, int | None]:
    """The chat and the topic that a record is of.

    Raises:
        ValueError: it is not a record's id.
    """
    kind, *ids = record.split(":") if ":" in record else ("", record)
    return int(ids[0]), int(ids[1]) if kind == "topic" else None


def waiting_for(record: str) -> str:
    """The record in which waits what is to change this one."""
    return WAITING + record


def is_internal(record: str) -> bool:
    """Whether it is a record of the bot's own, about nobody."""
    return record.startswith((WAITING, BROADCAST, FORGETTING))


def is_waiting(record: str) -> bool:
    """Whether it is such a record, and nobody's own."""
    return record.startswith(WAITING)


def place_of(record: str) -> Place:
    """Where a record is at home: the private chat of a person, or the chat or topic that it is of."""
    try:
        chat_id, topic_id = address_of(record)
    except ValueError:
        return Place()
    return Place(chat_id, topic_id, person=chat_id if is_person(record) else None)


class Author(NamedTuple):
    """Who wrote a message, where several people may have.

    Attributes:
        id: Telegram's; of a channel or an anonymous administrator, the chat's.
        name: as Telegram shows it.
    """

    id: int
    name: str


def signed(text: str, author: Author | None) -> str:
    """A text after the name of who wrote it, where several people write."""
    return f"{author.name}: {text}" if author else text


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: who said it.
        text: what was said; NULs and lone surrogates become U+FFFD.
        at: when, in seconds since 1970.
        author: who wrote it, in a record that is not one person's; `None` elsewhere, and of the bot's own.
        json: what `data` gives, as JSON: so nobody changes what is kept by changing what they were given.
    """

    role: Literal["user", "assistant"]
    text: str
    at: float
    author: Author | None = None
    json: bytes | None = None

    def __post_init__(self) -> None:
        """Make the text storable on every engine."""
        if not self.text.isascii() or "\0" in self.text:  # spares most texts a call
            object.__setattr__(self, "text", clean(self.text))
        if self.author:
            object.__setattr__(self, "author", Author(self.author.id, clean(self.author.name)))

    @property
    def data(self) -> Any:
        """What `Turn.remember` was given to keep beside the text, made anew each time; `None` if nothing."""
        return None if self.json is None else loads(self.json)

    @property
    def is_summary(self) -> bool:
        """Whether this is what `compact` made of older messages, `data["summary"]` of them."""
        data = self.data
        return (
            isinstance(data, dict)
            and data.keys() == {"summary", "authors"}
            and type(data["summary"]) is int
            and isinstance(data["authors"], list)
            and all(type(each) is int for each in data["authors"])
        )

    def to_json(self) -> dict[str, Any]:
        """The message as a JSON object."""
        return self._with(self.data)

    def encode(self) -> bytes:
        """The same, serialised."""
        return orjson.dumps(self._with(self.json and orjson.Fragment(self.json)))

    def _with(self, data: Any) -> dict[str, Any]:
        value: dict[str, Any] = {"role": self.role, "text": self.text, "at": self.at}
        if self.author:
            value["author"] = self.author._asdict()
        if data is not None:
            value["data"] = data
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        role, text, at = value["role"], value["text"], value["at"]
        author, data = value.get("author"), value.get("data")
        json = None if data is None else orjson.dumps(data)
        return cls(role, text, at, author and Author(author["id"], author["name"]), json)


_message_fields = itemgetter("role", "text", "at")

TEXT_FIELDS = 3
"""How many fields a message has that nothing goes with."""


def exchanges(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """The parts of a conversation that belong together: each begins with what a person said."""
    begin = 0
    for number, message in enumerate(messages):
        if message.role == "user" and number:
            yield messages[begin:number]
            begin = number
    if messages:
        yield messages[begin:]


def carries_data(messages: Iterable[Message]) -> bool:
    """Whether there is data with any of them."""
    return any(message.json is not None for message in messages)


def summary_of(old: Sequence[Message], text: str) -> Message:
    """The message that takes the place of these; it names everybody whose words may be in it."""
    count, authors = 0, {message.author.id for message in old if message.author}
    for message in old:
        before = message.data if message.is_summary else {}
        count += before.get("summary", 1)
        authors.update(before.get("authors", ()))
    json = orjson.dumps({"summary": count, "authors": sorted(authors)})
    return Message("assistant", text, old[-1].at, json=json)


def without_data(messages: Iterable[Message]) -> list[Message]:
    """The same messages, of which nothing but the text is kept."""
    return [message if message.json is None else replace(message, json=None) for message in messages]


class Conversation(NamedTuple):
    """What a record notes of a conversation, beside its messages.

    Attributes:
        first: the number of its oldest message.
        next: the number that its next message gets. Numbers of a conversation are never used again.
        bytes: of its messages as JSON.
        at: when its newest message was said, in seconds since 1970.
    """

    first: int
    next: int
    bytes: int
    at: float


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """The replies of one update that are not yet known to be delivered.

    Attributes:
        replies: what to send, in order, as `bot.runtime.telegram.outbox` wrote it.
        at: when the update came, in seconds since 1970 by Telegram's clock; `None` for one that does not say.
        is_owed: Telegram will not bring the update again, so nothing but this entry tells of the replies.
        failures: attempts to send the reply whose turn it is that failed, as far as they were noted.
    """

    replies: list[dict[str, Any]]
    at: float | None
    is_owed: bool = False
    failures: int = 0

    def to_json(self) -> dict[str, Any]:
        """The replies as a JSON object."""
        seldom = {"owed": self.is_owed, "failures": self.failures}
        noted = {key: value for key, value in seldom.items() if value}
        return {"replies": self.replies, "at": self.at, **noted}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(value["replies"], value["at"], value.get("owed", False), value.get("failures", 0))

    def kept_files(self) -> list[str]:
        """The ids of those files of the replies that are kept beside the record."""
        files = (file for reply in self.replies for file in reply.get("files", {}).values())
        return [file["kept"] for file in files if "kept" in file]


@dataclass(slots=True)
class UserRecord:
    """Everything the bot keeps under one id.

    Attributes:
        user_id: the record's id; a person's is Telegram's, as text.
        version: grows with every commit and is never used twice; 0 when nothing was ever kept.
        token: names the commit that wrote this version.
        state: the owner's own keys.
        history: the conversation that was asked for, oldest message first.
        fsm: per conversation flow `{"state": ..., "data": ..., "at": ...}`, see `bot.runtime.state.fsm`.
        applied: ids of updates applied: of those acknowledged the newest, and all that `marks` names.
        outbox: per update id, its replies not yet known to be delivered.
        forgotten: the version at which the user was last forgotten; 0 for never.
        marks: bookkeeping without content, which `/reset` and `/forget` leave. By id, what
            `bot.runtime.telegram.transaction` notes of updates that may be delivered again; by name, counters
            (see `Turn`).
        files: content of the files of replies, by id; only in an export, engines keep them beside the record.
        conversation: the name of the one in `history`.
        conversations: what is noted of each, by name. Empty as long as there is none but `HOME`.
        others: the messages of those beside `HOME`, by name, when all were asked for.
        unread: the history as it is kept, until somebody asks for `history`.
        orphans: the names of those that were forgotten, and still stand in the store: version 1.0.0, which
            knows of none, leaves them. The next commit erases them.
    """

    user_id: str
    version: int = 0
    token: str = ""
    state: dict[str, Any] = field(default_factory=dict)
    history: list[Message] = field(default_factory=list)
    fsm: dict[str, dict[str, Any]] = field(default_factory=dict)
    applied: tuple[int, ...] = ()
    outbox: dict[int, OutboxEntry] = field(default_factory=dict)
    forgotten: int = 0
    marks: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    conversation: str = HOME
    conversations: dict[str, Conversation] = field(default_factory=dict)
    others: dict[str, list[Message]] = field(default_factory=dict)
    orphans: frozenset[str] = frozenset()
    unread: Sequence[Mapping[str, Any]] | None = field(default=None, init=False, repr=False, compare=False)

    def read_later(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Take these for the history. Few turns look at it, so they are made into `Message` when one does.

        Args:
            messages: as `Message.to_json` wrote them.

        Raises:
            KeyError, TypeError: they are none.
        """
        "".join([text for _, text, _ in map(_message_fields, messages)])  # it takes nothing but texts
        if any(len(each) > TEXT_FIELDS for each in messages):
            self.history = [Message.from_json(each) for each in messages]
        else:
            self.unread = messages
            del self.history

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Make the history, which is asked for the first time."""
            if name != "history":
                raise AttributeError(name)
            self.history = [Message.from_json(each) for each in self.unread]
            self.unread = None
            return self.history

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show: bookkeeping alone is not about the user."""
        return not (self.state or self.unread or self.history or self.fsm or self.conversations)

    def at(self, conversation: str | None) -> "UserRecord":
        """The same record, of which all conversations were asked for, as if only this one had been."""
        if conversation is None:
            return self
        history = self.others.get(conversation, []) if conversation else self.history
        return replace(self, history=history, conversation=conversation, others={})

    def without_orphans(self) -> "UserRecord":
        """The same record without conversations that began before its user was forgotten.

        Their numbers tell: those of a conversation begin after the version at which it began.
        """
        if not (self.conversations or self.others or self.conversation):
            return self
        old = {name for name, each in self.conversations.items() if name and each.first <= self.forgotten}
        known = self.conversations.keys() - old
        if self.conversation and self.conversation not in known:
            if self.unread or self.history:
                old.add(self.conversation)
            self.history, self.unread = [], None
        self.orphans = frozenset(old | (self.others.keys() - known))
        self.conversations = {name: each for name, each in self.conversations.items() if name in known}
        self.others = {name: each for name, each in self.others.items() if name in known}
        if self.conversations.keys() == {HOME}:
            self.conversations = {}
            self.orphans |= {HOME}
        return self

    @property
    def acknowledged(self) -> tuple[int, ...]:
        """Ids of the updates applied that are taken to be acknowledged, oldest first."""
        return tuple(update_id for update_id in self.applied if str(update_id) not in self.marks)

    def personal_data(self) -> dict[str, Any]:
        """What the user may have a copy of, as a JSON object."""
        value: dict[str, Any] = {
            "user_id": self.user_id,
            "state": self.state,
            "history": [message.to_json() for message in self.history],
            "fsm": self.fsm,
        }
        if self.others:
            value["conversations"] = {
                name: [message.to_json() for message in messages]
                for name, messages in sorted(self.others.items())
            }
        return value

    def to_json(self) -> dict[str, Any]:
        """The whole record as a JSON object: one line of an export."""
        value = self.personal_data() | {
            "applied": list(self.acknowledged),
            "outbox": {str(key): entry.to_json() for key, entry in self.outbox.items()},
            "marks": self.marks,
        }
        if self.files:
            value["files"] = {file: b64encode(content).decode() for file, content in self.files.items()}
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            user_id=value["user_id"],
            state=value["state"],
            history=[Message.from_json(message) for message in value["history"]],
            others={
                name: [Message.from_json(message) for message in messages]
                for name, messages in value.get("conversations", {}).items()
            },
            fsm=value["fsm"],
            applied=with_marked(value["applied"], value.get("marks", {})),
            outbox={int(key): OutboxEntry.from_json(entry) for key, entry in value["outbox"].items()},
            marks=value.get("marks", {}),
            files={file: b64decode(text, validate=True) for file, text in value.get("files", {}).items()},
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """What one record may hold.

    Attributes:
        max_bytes: most bytes of state, flows, history and outbox together, without the files of replies.
        history: most messages of each conversation.
        file_bytes: most bytes of a file of a reply.
    """

    max_bytes: int = 262_144
    history: int = 50
    file_bytes: int = 50 * 1024 * 1024

    @classmethod
    def from_settings(cls, settings: "Settings", file_bytes: int = 50 * 1024 * 1024) -> Self:
        """The limits that the settings set; `file_bytes` is the engine's default."""
        return cls(settings.state_max_bytes, settings.history_limit, settings.reply_file_bytes or file_bytes)


def decode_record(
    user_id: str,
    *,
    version: int,
    token: str,
    state: Mapping[str, bytes],
    fsm: Mapping[str, bytes],
    history: list[Message] | None = None,
    unread: Sequence[Mapping[str, Any]] = (),
    applied: tuple[int, ...],
    outbox: Mapping[int, bytes],
    forgotten: int,
    marks: Mapping[str, bytes],
    conversations: Mapping[str, bytes] | None = None,
    others: Mapping[str, list[Message]] | None = None,
    conversation: str = HOME,
) -> UserRecord:
    """Make a record of its serialised parts, and of its history: that itself, or as JSON that is `unread`.

    Raises:
        StateCorrupt: a part is not what a commit writes.
    """
    try:
        record = UserRecord(
            user_id=user_id,
            version=version,
            token=token,
            state=_decoded(state),
            history=history or [],
            fsm=_decoded(fsm),
            applied=with_marked(applied, marks),
            outbox={key: OutboxEntry.from_json(loads(value)) for key, value in outbox.items()},
            forgotten=forgotten,
            marks=_decoded(marks),
            conversation=conversation,
            conversations=decode_conversations(_decoded(conversations)) if conversations else {},
            others=dict(others or {}),
        )
        if unread:
            record.read_later(unread)
        return record.without_orphans()
    except (ValueError, KeyError, TypeError) as error:
        raise StateCorrupt(f"its record cannot be read ({type(error).__name__})", user_id) from None


def decode_conversations(values: Mapping[str, Any]) -> dict[str, Conversation]:
    """Read what is noted of conversations. Raises `TypeError` when it is something else."""
    return {name: Conversation(*value) for name, value in values.items()}


def with_marked(acknowledged: Iterable[int], marks: Iterable[str]) -> tuple[int, ...]:
    """All ids of updates that were applied: those acknowledged, then those that marks name."""
    return (*acknowledged, *(int(name) for name in marks if name.isdecimal()))


def _decoded(values: Mapping[str, bytes]) -> dict[str, Any]:
    """Read all at once, which takes a fraction of the time."""
    return dict(zip(values, loads(b"[" + b",".join(values.values()) + b"]"), strict=True))


def encode_entry(entry: OutboxEntry) -> bytes:
    """Serialise an outbox entry."""
    return dumps(entry.to_json(), "outbox")


def merged_others(
    existing: Mapping[str, list[Message]], imported: Mapping[str, list[Message]]
) -> dict[str, list[Message]]:
    """The conversations of two records, by name."""
    return {
        name: merged_history(existing.get(name, []), imported.get(name, []))
        for name in (*existing, *(imported.keys() - existing.keys()))
    }


def merged_history(existing: list[Message], imported: list[Message]) -> list[Message]:
    """The messages of two copies of a conversation, by their time. Safe to repeat."""
    known = set(existing)
    missing = [message for message in imported if message not in known]
    if not missing:
        return existing
    begun = {**_begun(imported), **_begun(existing)}
    return sorted([*existing, *missing], key=lambda message: begun.get(message, message.at))


def _begun(messages: Sequence[Message]) -> dict[Message, float]:
    """When the exchange of each message began, where data ties them together."""
    tied = (exchange for exchange in exchanges(messages) if carries_data(exchange))
    return {message: exchange[0].at for exchange in tied for message in exchange}
