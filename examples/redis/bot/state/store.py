"""What is kept about a user, and what every engine promises about it.

Everything the bot keeps about one user is one `UserRecord` with a version. It changes only by `commit`,
which is atomic and names the version it was computed from; so nothing is ever lost to a concurrent
writer, and an update whose id stands among the applied ones is never applied again.
"""

import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, Self

from bot.state.codec import clean, dumps, loads

APPLIED_LIMIT = 256
"""Applied update ids kept per user. Telegram shows at most 100 unconfirmed updates to a poller and opens
at most 100 webhook connections, so no more than 200 can be applied and yet unacknowledged."""

FORGOTTEN_SECONDS = 25 * 3600
"""How long a forgotten user's marker stays: longer than the 24 h for which Telegram keeps an update."""

OUTBOX_SECONDS = 25 * 3600
"""Age at which an undelivered reply is dropped: its update can no longer be delivered again."""


class StateError(Exception):
    """Something is wrong with a user's record. Carries the user's id, never what is kept."""

    def __init__(self, reason: str, user_id: str | None = None) -> None:
        """Make an error.

        Args:
            reason: what happened, without any content.
            user_id: whose record; `None` when it concerns the backend as a whole.
        """
        super().__init__(f"user {user_id}: {reason}" if user_id else reason)
        self.user_id = user_id


class StateUnavailable(StateError):
    """The backend did not answer. Whether a commit was applied is then unknown."""


class StateConflict(StateError):
    """Somebody else committed first. Nothing was written."""


class StateTooLarge(StateError):
    """The record would exceed `STATE_MAX_BYTES`. Nothing was written."""


class StateCorrupt(StateError):
    """What is stored is not a record of ours. It is left as it is."""


class StateForgotten(StateError):
    """The user was forgotten after the caller began. Nothing was written."""


class StateForeign(StateError):
    """The store belongs to another bot."""


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
class Outgoing:
    """The replies of one update that are not yet known to be delivered.

    Attributes:
        replies: what to send, in order, as `bot.telegram.replies` wrote it.
        at: when the update came, in seconds since 1970 by Telegram's clock; `None` for one that does not say.
    """

    replies: list[dict[str, Any]]
    at: float | None

    def is_over(self, now: float | None) -> bool:
        """Whether Telegram can no longer deliver the update again. `now` is by Telegram's clock, too."""
        return self.at is not None and now is not None and now - self.at > OUTBOX_SECONDS

    def to_json(self) -> dict[str, Any]:
        """The replies as a JSON object."""
        return {"replies": self.replies, "at": self.at}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(replies=value["replies"], at=value["at"])


@dataclass(slots=True)
class UserRecord:
    """Everything the bot keeps about one user.

    Attributes:
        user_id: Telegram's id, as text.
        version: grows with every commit and is never used twice; 0 when nothing was ever kept.
        token: names the commit that wrote this version.
        state: the owner's own keys.
        history: the conversation, oldest message first.
        fsm: per conversation flow `{"state": ..., "data": ..., "at": ...}`, see `bot.state.fsm`.
        applied: ids of the updates applied last, oldest first.
        outbox: per update id, its replies not yet known to be delivered.
        forgotten: the version at which the user was last forgotten; 0 for never.
    """

    user_id: str
    version: int = 0
    token: str = ""
    state: dict[str, Any] = field(default_factory=dict)
    history: list[Message] = field(default_factory=list)
    fsm: dict[str, dict[str, Any]] = field(default_factory=dict)
    applied: tuple[int, ...] = ()
    outbox: dict[int, Outgoing] = field(default_factory=dict)
    forgotten: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show: bookkeeping alone is not about the user."""
        return not (self.state or self.history or self.fsm)

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
        return self.personal_data() | {
            "applied": list(self.applied),
            "outbox": {str(key): entry.to_json() for key, entry in self.outbox.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            user_id=value["user_id"],
            state=value["state"],
            history=[Message.from_json(message) for message in value["history"]],
            fsm=value["fsm"],
            applied=tuple(value["applied"]),
            outbox={int(key): Outgoing.from_json(entry) for key, entry in value["outbox"].items()},
        )


@dataclass(frozen=True, slots=True)
class Changes:
    """What one commit writes: only what changed.

    Attributes:
        state: JSON of each changed top-level key; `None` deletes it.
        fsm: the same for conversation flows.
        messages: messages to append to the history.
        clear_history: drop the messages kept so far, before appending.
        keep_history: how many of the newest messages stay.
        applied: update ids to note as applied.
        outbox: JSON of the replies of an update; `None` drops them.
        forget: erase everything first, leaving a marker with the applied ids.
        size: bytes of state, flows and history after this commit, as far as the writer knows.
        token: names this commit, so that a retry after a lost answer recognises itself.
    """

    state: Mapping[str, bytes | None] = field(default_factory=dict)
    fsm: Mapping[str, bytes | None] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    clear_history: bool = False
    keep_history: int | None = None
    applied: tuple[int, ...] = ()
    outbox: Mapping[int, bytes | None] = field(default_factory=dict)
    forget: bool = False
    size: int = 0
    token: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one record may hold.

    Attributes:
        max_bytes: most bytes of state, flows and history together.
        history: most messages.
    """

    max_bytes: int = 262_144
    history: int = 50


@dataclass(frozen=True, slots=True)
class Finding:
    """What `bot doctor` says about one thing.

    Attributes:
        level: whether it is well, a risk, or in the way of running.
        text: what was found and, unless it is well, what to do.
    """

    level: Literal["ok", "warning", "error"]
    text: str


class StateStore(Protocol):
    """What an engine does. Every method is safe to call from many tasks at once."""

    name: ClassVar[str]
    """The engine's name."""
    survives_exit: ClassVar[bool]
    """Whether records outlive the process."""
    limits: Limits

    async def connect(self) -> None:
        """Get ready. Calling it again does nothing.

        Raises:
            StateUnavailable: the backend did not answer in time.
        """

    async def close(self) -> None:
        """Let go of every connection."""

    async def ping(self) -> Mapping[str, float] | None:
        """Ask the backend for a sign of life.

        Returns:
            Numbers that say how it is, for `/readyz`, where an engine has any.

        Raises:
            StateUnavailable: it gave none.
        """

    async def migrate(self) -> str:
        """Create or upgrade what the backend has to hold.

        Returns:
            One line that says what was done.
        """

    async def examine(self) -> list[Finding]:
        """Look for what could cost records or keep the bot from running."""

    async def claim(self, bot_id: int) -> None:
        """Note on first use whose records these are.

        Raises:
            StateForeign: they belong to another bot.
        """

    async def load(self, user_id: str) -> UserRecord:
        """Read a record. An unknown, expired or forgotten user's is empty; one that expired has version 0.

        Raises:
            StateUnavailable: never read this as "new user".
            StateCorrupt: what is stored is not a record.
        """

    async def commit(self, user_id: str, changes: Changes, *, expect: int | None) -> int:
        """Write `changes`, all or nothing.

        Args:
            user_id: whose record.
            changes: what to write.
            expect: the version `changes` was computed from; 0 when there was no record. `None` merges
                into whatever is there.

        Returns:
            The record's new version. The same commit again (by its token) returns the same.

        Raises:
            StateConflict: the record has another version, or is gone.
            StateTooLarge: `changes.size` exceeds the limit.
            StateUnavailable: nobody knows whether it was applied.
        """

    async def forget(self, user_id: str) -> bool:
        """Erase everything about a user, in every place it is kept, corrupt or not.

        Returns:
            Whether there was anything.
        """

    def users(self) -> AsyncIterator[str]:
        """The ids of all users of whom a record is kept, a page at a time, in no order."""

    async def raw(self, user_id: str) -> str:
        """What is stored for a user as the backend holds it, readable even when it is corrupt."""


def next_version(previous: int) -> int:
    """The version after `previous`: the time in microseconds, or one more when the clock is behind."""
    return max(previous + 1, time.time_ns() // 1000)


def check_size(user_id: str, changes: Changes, limits: Limits) -> None:
    """Refuse a commit that would make the record too large.

    Raises:
        StateTooLarge: it would.
    """
    if changes.size > limits.max_bytes:
        raise StateTooLarge(f"{changes.size} bytes are more than STATE_MAX_BYTES={limits.max_bytes}", user_id)


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
            applied=applied,
            outbox={key: Outgoing.from_json(loads(value)) for key, value in outbox.items()},
            forgotten=forgotten,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StateCorrupt(f"its record cannot be read ({type(error).__name__})", user_id) from None


def _decoded(values: Mapping[str, bytes]) -> dict[str, Any]:
    """Read all at once, which takes a fraction of the time."""
    return dict(zip(values, loads(b"[" + b",".join(values.values()) + b"]"), strict=True))


def encode_outgoing(entry: Outgoing) -> bytes:
    """Serialise an outbox entry."""
    return dumps(entry.to_json(), "outbox")
