"""The memory engine: records in a dict, serialised as on every other engine, gone when the bot stops."""

import heapq
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar

from bot.runtime.errors import StateConflict, StateForeign
from bot.runtime.state.record import HOME, Limits, Message, UserRecord, decode_record
from bot.runtime.state.store import (
    APPLIED_LIMIT,
    FORGOTTEN_SECONDS,
    NEVER,
    Agenda,
    Changes,
    Finding,
    check_size,
    next_version,
    update_of,
)

if TYPE_CHECKING:
    from bot.runtime.config import Settings

K = TypeVar("K")

SWEEP_SECONDS = 60.0


@dataclass(slots=True)
class _Row:
    """One user's record, serialised."""

    version: int = 0
    token: str = ""
    state: dict[str, bytes] = field(default_factory=dict)
    fsm: dict[str, bytes] = field(default_factory=dict)
    history: list[Message] = field(default_factory=list)
    applied: tuple[int, ...] = ()
    outbox: dict[int, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    forgotten: int = 0
    marks: dict[str, bytes] = field(default_factory=dict)
    conversations: dict[str, bytes] = field(default_factory=dict)
    others: dict[str, list[Message]] = field(default_factory=dict)
    due: int = NEVER
    claims: int = 0
    expires: float | None = None

    @property
    def has_expired(self) -> bool:
        return self.expires is not None and self.expires <= time.time()

    @property
    def is_marker(self) -> bool:
        """Whether all that is left is that the user was forgotten."""
        return self.forgotten > 0 and not (self.state or self.fsm or self.history or self.conversations)


class MemoryStore:
    """Keeps records in this process only. For trying things out, and for agents run on their own."""

    name: ClassVar[str] = "memory"
    survives_exit: ClassVar[bool] = False
    due_seconds: ClassVar[float] = 1.0

    def __init__(self, limits: Limits | None = None, ttl: float | None = None) -> None:
        """Make an empty store.

        Args:
            limits: what one record may hold.
            ttl: seconds after its last commit that a record is kept; `None` for no limit.
        """
        self.limits = limits or Limits()
        self._ttl = ttl
        self._rows: dict[str, _Row] = {}
        self._waiting: dict[str, _Row] = {}
        self._bot_id: int | None = None
        self._swept = time.time()
        self._newest_version = 0

    @classmethod
    def from_settings(cls, settings: "Settings") -> Self:
        """Make the store that the settings describe."""
        limits = Limits.from_settings(settings)
        return cls(limits, settings.state_ttl or None)

    async def connect(self) -> None:
        """Do nothing: a dict is always there."""

    async def close(self) -> None:
        """Do nothing: the records stay for whoever still holds this object."""

    async def ping(self) -> None:
        """Do nothing: a dict always answers."""

    async def migrate(self) -> str:
        """Do nothing: a dict has no schema."""
        return "the memory store has nothing to migrate"

    async def diagnose(self) -> list[Finding]:
        """Say what this engine is not for."""
        return [Finding("warning", "the memory store forgets everything when the bot stops")]

    async def bind(self, bot_id: int) -> None:
        """Note whose records these are, or refuse another bot. See `OperatorStore.bind`."""
        if self._bot_id not in (None, bot_id):
            raise StateForeign(
                f"the store belongs to bot {self._bot_id}, not to {bot_id}: make one for each bot"
            )
        self._bot_id = bot_id

    async def load(self, user_id: str, conversation: str | None = HOME) -> UserRecord:
        """Read a record. See `StateStore.load`."""
        row = self._live_row(user_id)
        if row is None:
            return UserRecord(user_id, conversation=conversation or HOME)
        history = row.others.get(conversation, []) if conversation else row.history
        others = row.others if conversation is None else {}
        return decode_record(
            user_id,
            version=row.version,
            token=row.token,
            state=row.state,
            fsm=row.fsm,
            history=list(history),
            applied=row.applied,
            outbox=row.outbox,
            forgotten=row.forgotten,
            marks=row.marks,
            conversation=conversation or HOME,
            conversations=row.conversations,
            others={name: list(messages) for name, messages in others.items()},
        )

    async def commit(self, user_id: str, changes: Changes, *, expect: int | None) -> int:
        """Write changes. See `StateStore.commit`."""
        row = self._live_row(user_id) or _Row()
        if row.token == changes.token:
            return row.version
        if expect is not None and expect != row.version:
            raise StateConflict("another commit was first", user_id)
        check_size(user_id, changes, self.limits)
        self._rows[user_id] = row = self._applied(row, changes)
        if row.due:
            self._waiting[user_id] = row
        else:
            self._waiting.pop(user_id, None)
        self._sweep()
        return self._rows[user_id].version

    async def read_file(self, user_id: str, file: str) -> bytes | None:
        """Read a file of a reply. See `StateStore.read_file`."""
        row = self._live_row(user_id)
        return row.files.get(file) if row else None

    async def drop_files(self, user_id: str, files: Iterable[str]) -> None:
        """Delete files of replies. See `StateStore.drop_files`."""
        if row := self._live_row(user_id):
            for file in files:
                row.files.pop(file, None)

    async def due(self, within: float, most: int) -> Agenda:
        """Which records have something to do. See `StateStore.due`."""
        now = time.time_ns() // 1000
        latest = now + int(within * 1e6)
        due = ((row.due, user_id) for user_id, row in self._waiting.items() if row.due <= latest)
        return Agenda(now, [(user_id, at) for at, user_id in heapq.nsmallest(most, due)])

    async def claim(self, user_id: str, seen: int, until: int, counts: int = 1) -> int:
        """Take what a record has to do. See `StateStore.claim`."""
        row = self._waiting.get(user_id)
        if row is None or row.due != seen:
            return 0
        row.due, row.claims = until, row.claims + counts if until else 0
        if not until:
            del self._waiting[user_id]
        return max(row.claims, 1)

    async def reindex(self) -> int:
        """Rebuild what `due` looks at. See `OperatorStore.reindex`."""
        self._waiting = {
            user_id: row for user_id, row in self._rows.items() if row.due and not row.has_expired
        }
        return len(self._waiting)

    async def forget(self, user_id: str) -> bool:
        """Erase a user, leaving a marker. See `StateStore.forget`."""
        row = self._live_row(user_id)
        existed = row is not None and not row.is_marker
        await self.commit(user_id, Changes(forget=True), expect=None)
        return existed

    async def users(self) -> AsyncIterator[str]:
        """The ids of all users. See `StateStore.users`."""
        for user_id, row in list(self._rows.items()):
            if not row.has_expired and not row.is_marker:
                yield user_id

    async def raw(self, user_id: str) -> str:
        """What is stored for a user. See `OperatorStore.raw`."""
        row = self._rows.get(user_id)
        return f"{row!r} files={list(row.files) if row else []}"

    def _live_row(self, user_id: str) -> _Row | None:
        row = self._rows.get(user_id)
        return None if row is None or row.has_expired else row

    def _applied(self, row: _Row, changes: Changes) -> _Row:
        """A new row: the old one with the changes, so that readers never see half a commit."""
        version = next_version(max(row.version, self._newest_version))
        self._newest_version = version
        if changes.forget:
            row = _Row(version, applied=row.applied, forgotten=version, marks=row.marks)
        history = [] if changes.clear_history else row.history
        history = [*history, *changes.messages]
        if changes.keep_history is not None:
            history = history[len(history) - min(len(history), changes.keep_history) :]
        applied = (*row.applied, *changes.applied)[-APPLIED_LIMIT:]
        outbox = _merged(row.outbox, changes.outbox)
        marks = _merged(row.marks, changes.marks)
        outbox = {key: value for key, value in outbox.items() if key in applied or str(key) in marks}
        new = _Row(
            version=version,
            token=changes.token,
            state=_merged(row.state, changes.state),
            fsm=_merged(row.fsm, changes.fsm),
            history=history,
            applied=applied,
            outbox=outbox,
            files={
                key: value
                for key, value in {**row.files, **changes.files}.items()
                if update_of(key) in outbox
            },
            forgotten=row.forgotten,
            marks=marks,
            conversations=_merged(row.conversations, changes.noted),
            others=_with_others(row.others, changes),
            due=row.due if changes.due is None else changes.due,
            claims=row.claims if changes.due is None else 0,
        )
        if new.is_marker:
            new.expires = time.time() + FORGOTTEN_SECONDS
        elif self._ttl is not None:
            new.expires = max(time.time(), new.due / 1e6) + self._ttl
        return new

    def _sweep(self) -> None:
        """Drop what has expired, now and then."""
        now = time.time()
        if now - self._swept < SWEEP_SECONDS:
            return
        self._swept = now
        for user_id in [key for key, row in self._rows.items() if row.has_expired]:
            del self._rows[user_id]
            self._waiting.pop(user_id, None)


def _with_others(before: dict[str, list[Message]], changes: Changes) -> dict[str, list[Message]]:
    dropped = {name for name, change in changes.conversations.items() if change is None}
    others = {name: messages for name, messages in before.items() if name not in dropped}
    for name, change in changes.conversations.items():
        if name and change:
            messages = [*others.get(name, ()), *change.messages]
            others[name] = messages[len(messages) - change.kept :]
    return others


def _merged(old: dict[K, bytes], changes: Mapping[K, bytes | None]) -> dict[K, bytes]:
    merged = {**old, **changes}
    return {key: value for key, value in merged.items() if value is not None}
