"""A whole record on its way between Redis and PostgreSQL, and the settings of that way."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pydantic import Field

from bot.runtime.config import Environment, Seconds
from bot.runtime.state.record import UserRecord
from bot.runtime.state.store import Changes, ConversationChange


class HybridSettings(Environment):
    """Hybrid: when commits count, and when they are flushed."""

    hybrid_ack: Literal["redis", "postgres"] = Field(
        "redis",
        description="Acknowledge an update when Redis has it, or when PostgreSQL has it, too.",
    )
    hybrid_flush_interval: Seconds = Field(
        0.5, description="Seconds a record waits in Redis for further changes before it is flushed."
    )
    hybrid_flush_batch: int = Field(200, ge=1, le=10_000, description="Users one replica flushes at a time.")
    hybrid_cache_ttl: int = Field(
        3600, ge=1, description="Seconds a record that PostgreSQL holds stays in Redis unused."
    )

    @property
    def waits(self) -> bool:
        """Whether a commit counts only when PostgreSQL has it."""
        return self.hybrid_ack == "postgres"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything about one version of a record.

    Attributes:
        user_id: whose it is.
        version: 0 when there is none.
        forgotten: the version at which the user was last forgotten; 0 for never.
        next_message: number of the message that comes next; the last one of the history has one less.
        expires: milliseconds since 1970 at which it is to be forgotten; 0 for never.
        content: all of it, as a commit to an empty record, with the token of the commit that wrote it.
        replaces: the newest version in PostgreSQL whose place it may take.
        lineage: where it comes from in Redis; see `scripts.lua`.
        is_dirty: whether PostgreSQL may lack it.
        files: what reads each part of the files of its replies, by name.
    """

    user_id: str
    version: int
    forgotten: int
    next_message: int
    expires: int
    content: Changes
    replaces: int
    lineage: str = ""
    is_dirty: bool = False
    files: Mapping[str, Callable[[], Awaitable[bytes | None]]] = field(default_factory=dict)

    def has(self, commit: "Commit") -> bool:
        """Whether it is what a commit made, or was made of it."""
        return self.lineage == commit.lineage and self.version >= commit.version

    @property
    def is_marker(self) -> bool:
        """Whether all that is left is that the user was forgotten."""
        content = self.content
        parts = content.state or content.fsm or content.messages or content.conversations
        return self.forgotten > 0 and not parts


def whole_conversations(record: UserRecord) -> dict[str, ConversationChange]:
    """The further conversations of a record, as a commit to an empty one."""
    return {
        name: ConversationChange(noted, tuple(record.others.get(name, ())))
        for name, noted in record.conversations.items()
    }


class Waiting(NamedTuple):
    """A record of which PostgreSQL says that there is something to do.

    Attributes:
        user_id: whose it is.
        due: when, in microseconds since 1970.
        version: the record's there.
    """

    user_id: str
    due: int
    version: int


class Commit(NamedTuple):
    """A commit in Redis.

    Attributes:
        version: the record's after it.
        lineage: see `scripts.lua`.
    """

    version: int
    lineage: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """What Redis has and PostgreSQL may lack.

    Attributes:
        users: how many users' records.
        seconds: age of the oldest commit among them.
    """

    users: int
    seconds: float
