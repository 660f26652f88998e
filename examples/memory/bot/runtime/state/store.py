"""What every engine promises about the records it keeps.

Everything the bot keeps about one user is one `UserRecord` with a version. It changes only by `commit`,
which is atomic and names the version it was computed from; so nothing is ever lost to a concurrent
writer, and an update whose id stands among the applied ones is never applied again.
"""

import secrets
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple, Protocol

from bot.runtime.errors import StateTooLarge
from bot.runtime.state.codec import dumps
from bot.runtime.state.record import HOME, Conversation, Limits, Message, UserRecord

APPLIED_LIMIT = 256
"""Ids kept per user of applied updates that are taken to be acknowledged: that of a poller's 100 unconfirmed
updates one blocks the others, or that Telegram repeats itself, must not matter."""

FORGOTTEN_SECONDS = 25 * 3600
"""How long a forgotten user's marker stays: longer than the 24 h for which Telegram keeps an update."""


FILE_SECONDS = FORGOTTEN_SECONDS
"""How long the file of a reply stays at most: so long can Telegram make the bot send the reply again."""

NEVER = 0
"""When a record is due that has nothing to do."""

FILE_PART = 256 * 1024
"""Bytes of a file that are written and read at a time: less than any engine's limit, and soon copied."""


@dataclass(frozen=True, slots=True)
class ConversationChange:
    """What one commit writes of a conversation.

    Attributes:
        now: what is noted of it after the commit. Messages whose numbers are below `now.first` are dropped.
        messages: messages to append; the last of them has the number before `now.next`.
    """

    now: Conversation
    messages: tuple[Message, ...] = ()

    @property
    def kept(self) -> int:
        """How many messages it has after the commit."""
        return self.now.next - self.now.first


@dataclass(frozen=True, slots=True)
class Changes:
    """What one commit writes: only what changed.

    Attributes:
        state: JSON of each changed top-level key; `None` deletes it.
        fsm: the same for conversation flows.
        messages: messages to append to the conversation at `HOME`.
        clear_history: drop its messages kept so far, before appending.
        keep_history: how many of its newest messages stay.
        conversations: each other conversation that changed, by name; `None` drops it. What stands there of
            `HOME` is only noted. These need a commit that names the version it expects.
        applied: ids of applied updates to note; of these, the newest `APPLIED_LIMIT` are kept.
        outbox: JSON of the replies of an update; `None` drops them.
        files: content of the files of those replies, by the id of each (see `new_file_id`). They are kept
            beside the record, as long as its outbox has replies of their update. Files need a commit that
            names the version it expects.
        marks: JSON of bookkeeping that outlives forgetting, by name; `None` deletes it. One that is named by
            the id of an update keeps this among the applied ones, whatever their number.
        due: when the record has something to do next, by the store's clock in microseconds since 1970;
            `NEVER` for nothing, `None` to leave that, and whoever claimed it, as it is. A record stays for
            its time to live after that, too.
        forget: erase everything first, leaving a marker with the applied ids and marks.
        size: bytes of state, flows, history and outbox after this commit, as far as the writer knows.
        token: names this commit, so that a retry after a lost answer recognises itself.
    """

    state: Mapping[str, bytes | None] = field(default_factory=dict)
    fsm: Mapping[str, bytes | None] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    clear_history: bool = False
    keep_history: int | None = None
    conversations: Mapping[str, ConversationChange | None] = field(default_factory=dict)
    applied: tuple[int, ...] = ()
    outbox: Mapping[int, bytes | None] = field(default_factory=dict)
    marks: Mapping[str, bytes | None] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    due: int | None = None
    forget: bool = False
    size: int = 0
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def noted(self) -> dict[str, bytes | None]:
        """JSON of what is noted of each conversation that changed, by name; `None` where it is dropped."""
        return {
            name: None if change is None else dumps(list(change.now), "conversations")
            for name, change in self.conversations.items()
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """What `bot doctor` says about one thing.

    Attributes:
        level: whether it is well, a risk, or in the way of running.
        text: what was found and, unless it is well, what to do.
    """

    level: Literal["ok", "warning", "error"]
    text: str


class Agenda(NamedTuple):
    """What is to be done.

    Attributes:
        now: the store's time at some moment between question and answer, in microseconds since 1970.
        due: records that have something to do, and when, earliest first.
        unsure: microseconds by which that time may be later than `now`, as far as the engine can tell.
    """

    now: int
    due: list[tuple[str, int]]
    unsure: int = 0


class StoreClock:
    """How far the store's clock is ahead of this machine's monotonic one, which nobody sets: two bounds.

    Attributes:
        least: so many microseconds at least; until the store has told the time, by this machine's clock.
        most: so many at most.
    """

    def __init__(self) -> None:
        """Take this machine's clock until the store's is known."""
        self.least = self.most = time.time_ns() // 1_000 - monotonic()
        self.is_known = False

    def hear(self, now: int, before: int, unsure: int = 0) -> None:
        """Note what the store says, which was asked at a time of the monotonic clock. The bounds narrow.

        Args:
            now: its time in microseconds since 1970, at some moment since then.
            before: when it was asked, as `monotonic` told it.
            unsure: microseconds by which its time may have been later.
        """
        least, most = now - monotonic(), now + unsure - before
        if self.is_known and self.least <= most and least <= self.most:
            # A slow answer tells less than earlier ones did; what contradicts them says that a clock was set.
            least, most = max(least, self.least), min(most, self.most)
        self.least, self.most, self.is_known = least, most, True


def monotonic() -> int:
    """This machine's monotonic clock, in microseconds."""
    return time.monotonic_ns() // 1_000


class StateStore(Protocol):
    """What turns ask of an engine. Every method is safe to call from many tasks at once."""

    name: ClassVar[str]
    """The engine's name."""
    survives_exit: ClassVar[bool]
    """Whether records outlive the process."""
    due_seconds: ClassVar[float]
    """Seconds between two looks for what is due, unless `JOBS_SECONDS` says otherwise."""
    limits: Limits

    async def connect(self) -> None:
        """Connect. Calling it again does nothing.

        Raises:
            StateUnavailable: the backend did not answer in time.
        """

    async def close(self) -> None:
        """Close every connection."""

    async def ping(self) -> Mapping[str, float] | None:
        """Check that the backend answers.

        Returns:
            Numbers for `/readyz`, if the engine has any.

        Raises:
            StateUnavailable: it does not answer.
        """

    async def load(self, user_id: str, conversation: str | None = HOME) -> UserRecord:
        """Read a record. An unknown, expired or forgotten user's is empty; one that expired has version 0.

        Args:
            user_id: whose.
            conversation: which conversation is wanted, by name. No other is read, unless the backend keeps
                a record in one piece. `None`: all of them.

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

    async def read_file(self, user_id: str, file: str) -> bytes | None:
        """The content of a file of a reply; `None` when it is gone, or not all of it is there.

        Raises:
            StateUnavailable: the backend did not answer.
        """

    async def drop_files(self, user_id: str, files: Iterable[str]) -> None:
        """Delete files of replies that were delivered. The record stays as it is.

        Raises:
            StateUnavailable: the backend did not answer; they go with their replies, or `FILE_SECONDS` later.
        """

    async def due(self, within: float, most: int) -> Agenda:
        """Which records have something to do, now or soon. It is a hint: the records decide.

        What a claim took is due again when the claim ends. A record may be listed that is gone, or that has
        nothing to do any more, but none that has is left out.

        Args:
            within: seconds to look ahead.
            most: how many records to list; those that are due first.

        Raises:
            StateUnavailable: the backend did not answer.
        """

    async def claim(self, user_id: str, seen: int, until: int, counts: int = 1) -> int:
        """Take what a record has to do: until then, nobody else finds it due. Its version stays.

        Args:
            user_id: the record.
            seen: when it was due, as `due` or the last claim said.
            until: when it is due again, unless a commit says otherwise first; `NEVER` notes that the record
                turned out to have nothing to do.
            counts: 0 to prolong a claim, and -1 to give it back as if it had not been.

        Returns:
            How often it was claimed since a commit last said when it is due, with this time, and at least 1;
            0 when it is no longer due then: another process was first. Nothing is claimed then.

        Raises:
            StateUnavailable: nobody knows whether it was claimed.
        """

    async def forget(self, user_id: str) -> bool:
        """Erase everything about a user, in every place it is kept, corrupt or not.

        Returns:
            Whether there was anything.
        """

    def users(self) -> AsyncIterator[str]:
        """The ids of all users of whom a record is kept, a page at a time, in no order."""


class OperatorStore(StateStore, Protocol):
    """What only operators ask of an engine: its start, `bot migrate`, `bot doctor`, `bot state`."""

    async def migrate(self) -> str:
        """Create or upgrade the tables, or whatever else the backend needs.

        Returns:
            One line that says what was done.
        """

    async def diagnose(self) -> list[Finding]:
        """Look for what could cost records or keep the bot from running."""

    async def bind(self, bot_id: int) -> None:
        """Note on first use whose records these are.

        Raises:
            StateForeign: they belong to another bot.
        """

    async def reindex(self) -> int:
        """Rebuild what `due` looks at from the records.

        Returns:
            How many have something to do.

        Raises:
            StateUnavailable: the backend did not answer; what was done so far stays.
        """

    async def raw(self, user_id: str) -> str:
        """What is stored for a user as the backend holds it, readable even when it is corrupt."""


def next_version(previous: int) -> int:
    """The version after `previous`: the time in microseconds, or one more when the clock is behind."""
    return max(previous + 1, time.time_ns() // 1000)


def new_file_id(update_id: int, content: bytes) -> str:
    """A new id for a file of a reply: `<update id>/<random>/<bytes>`."""
    return f"{update_id}/{secrets.token_hex(8)}/{len(content)}"


def update_of(file: str) -> int:
    """The id of the update that a file is a reply to."""
    return int(file.partition("/")[0])


def parts_of(file: str) -> list[str]:
    """The names of the parts in which a file is kept: its id, and their numbers."""
    size = int(file.rpartition("/")[2])
    return [f"{file}/{number}" for number in range(-(-size // FILE_PART))]


def cut(file: str, content: bytes) -> Iterator[tuple[str, memoryview]]:
    """The parts of a file, by name."""
    view = memoryview(content)
    for number, name in enumerate(parts_of(file)):
        yield name, view[number * FILE_PART : (number + 1) * FILE_PART]


def joined(file: str, parts: Iterable[bytes | None]) -> bytes | None:
    """The content of a file of its parts; `None` when one is missing."""
    content = b"".join(part for part in parts if part is not None)
    return content if len(content) == int(file.rpartition("/")[2]) else None


def check_size(user_id: str, changes: Changes, limits: Limits) -> None:
    """Refuse a commit that would make the record too large.

    Raises:
        StateTooLarge: it would.
    """
    if changes.size > limits.max_bytes:
        raise StateTooLarge(f"{changes.size} bytes are more than STATE_MAX_BYTES={limits.max_bytes}", user_id)
