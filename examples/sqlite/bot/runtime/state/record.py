"""What is kept about a user: one record, with a version."""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from bot.runtime.errors import StateCorrupt
from bot.runtime.state.codec import clean, dumps, loads

if TYPE_CHECKING:
    from bot.runtime.config import Settings


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: who said it.
        text: what was said; NULs and lone surrogates become U+FFFD.
        at: when, in seconds since 1970.
    """

    role: Literal["user", "assistant"]
    text: str
    at: float

    def __post_init__(self) -> None:
        """Make the text storable on every engine."""
        if not self.text.isascii() or "\0" in self.text:  # spares most texts a call
            object.__setattr__(self, "text", clean(self.text))

    def to_json(self) -> dict[str, Any]:
        """The message as a JSON object."""
        return {"role": self.role, "text": self.text, "at": self.at}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(value["role"], value["text"], value["at"])


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
    """Everything the bot keeps about one user.

    Attributes:
        user_id: Telegram's id, as text.
        version: grows with every commit and is never used twice; 0 when nothing was ever kept.
        token: names the commit that wrote this version.
        state: the owner's own keys.
        history: the conversation, oldest message first.
        fsm: per conversation flow `{"state": ..., "data": ..., "at": ...}`, see `bot.runtime.state.fsm`.
        applied: ids of updates applied: of those acknowledged the newest, and all that `marks` names.
        outbox: per update id, its replies not yet known to be delivered.
        forgotten: the version at which the user was last forgotten; 0 for never.
        marks: bookkeeping without content, which `/reset` and `/forget` leave. By id, what
            `bot.runtime.telegram.transaction` notes of updates that may be delivered again; by name, counters
            (see `Turn`).
        files: content of the files of replies, by id; only in an export, engines keep them beside the record.
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

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show: bookkeeping alone is not about the user."""
        return not (self.state or self.history or self.fsm)

    @property
    def acknowledged(self) -> tuple[int, ...]:
        """Ids of the updates applied that are taken to be acknowledged, oldest first."""
        return tuple(update_id for update_id in self.applied if str(update_id) not in self.marks)

    def personal_data(self) -> dict[str, Any]:
        """What the user may have a copy of, as a JSON object."""
        return {
            "user_id": self.user_id,
            "state": self.state,
            "history": [message.to_json() for message in self.history],
            "fsm": self.fsm,
        }

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
        history: most messages.
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
    history: list[Message],
    applied: tuple[int, ...],
    outbox: Mapping[int, bytes],
    forgotten: int,
    marks: Mapping[str, bytes],
) -> UserRecord:
    """Make a record of its serialised parts.

    Raises:
        StateCorrupt: a part is not what a commit writes.
    """
    try:
        return UserRecord(
            user_id=user_id,
            version=version,
            token=token,
            state=_decoded(state),
            history=history,
            fsm=_decoded(fsm),
            applied=with_marked(applied, marks),
            outbox={key: OutboxEntry.from_json(loads(value)) for key, value in outbox.items()},
            forgotten=forgotten,
            marks=_decoded(marks),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StateCorrupt(f"its record cannot be read ({type(error).__name__})", user_id) from None


def with_marked(acknowledged: Iterable[int], marks: Iterable[str]) -> tuple[int, ...]:
    """All ids of updates that were applied: those acknowledged, then those that marks name."""
    return (*acknowledged, *(int(name) for name in marks if name.isdecimal()))


def _decoded(values: Mapping[str, bytes]) -> dict[str, Any]:
    """Read all at once, which takes a fraction of the time."""
    return dict(zip(values, loads(b"[" + b",".join(values.values()) + b"]"), strict=True))


def encode_entry(entry: OutboxEntry) -> bytes:
    """Serialise an outbox entry."""
    return dumps(entry.to_json(), "outbox")
