"""The Redis half of the hybrid engine: the Redis engine, and the list of what PostgreSQL may lack."""

import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import structlog

from bot.runtime.engines.hybrid.snapshot import Backlog, Commit, Snapshot, Waiting, whole_conversations
from bot.runtime.engines.redis.connection import RedisConnection, Script, sections
from bot.runtime.engines.redis.store import (
    COMMIT,
    FSM,
    LOAD,
    MARK,
    OUTBOX,
    PAGE,
    RedisStore,
    pairs_of,
    read_record,
    with_prefix,
)
from bot.runtime.errors import StateConflict, StateCorrupt, StateUnavailable
from bot.runtime.state.record import HOME, Limits, UserRecord
from bot.runtime.state.store import NEVER, Agenda, Changes, parts_of, update_of

LEASE_SECONDS = 30.0
"""How long a flusher, or whoever brings a missing record, has it alone: three times what PostgreSQL gets to
answer. Whoever takes longer finds that others have done it."""


FOLDER = Path(__file__).parent
COMMON, SECTIONS = sections(FOLDER / "scripts.lua")


def _script(name: str, **functions: Script) -> Script:
    """One of `scripts.lua`; the Redis engine's scripts that it calls are functions in it."""
    wrapped = [
        b"local function %s(KEYS, ARGV)\n%s\nend\n" % (function.encode(), script.text)
        for function, script in functions.items()
    ]
    return Script(b"\n".join([*wrapped, COMMON, SECTIONS[name]]))


LOAD_OR_LEASE = _script("load", load=LOAD)
COMMIT_AND_MARK = _script("commit", commit=COMMIT)
FILL = _script("fill", commit=COMMIT)
VERIFY = _script("verify")
SNAPSHOT = _script("snapshot", load=LOAD)
MARK_CLEAN = _script("mark_clean")
MARK_DIRTY = _script("mark_dirty")
POSTPONE = _script("postpone")
RAISE_VERSION = _script("raise_version")
AGENDA, AGENDA_SECTIONS = sections(FOLDER / "waiting.lua")
DUE, ADOPT = (Script(AGENDA + AGENDA_SECTIONS[name]) for name in ("due", "adopt"))
LEASE_DIRTY = Script((FOLDER / "lease.lua").read_bytes())

VANISHED = "a record was gone from Redis that PostgreSQL may lack: was it evicted, or deleted by hand?"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Warm:
    """A record that is here.

    Attributes:
        record: what it holds; an empty one when it has expired.
        is_dirty: whether PostgreSQL may lack it.
        is_verified: whether this run of the server wrote it, or found it to be what PostgreSQL holds.
        lineage: see `scripts.lua`.
    """

    record: UserRecord
    lineage: str
    is_dirty: bool
    is_verified: bool


@dataclass(frozen=True, slots=True)
class Cold:
    """A record that is not here.

    Attributes:
        lease: proves that the caller may fill in the record.
    """

    lease: str


class NotReady(Exception):
    """A commit met no record, or one from before this run of the server. It was not applied to that.

    Attributes:
        maybe_applied: whether an earlier attempt may have been, its answer lost.
    """

    def __init__(self, maybe_applied: bool) -> None:
        """Make an error."""
        self.maybe_applied = maybe_applied


class HybridRedis(RedisStore):
    """Where turns commit, and the list of what PostgreSQL may lack."""

    def __init__(
        self,
        connection: RedisConnection,
        namespace: str,
        limits: Limits | None = None,
        ttl: float | None = None,
        *,
        cache_ttl: float,
        delay: float,
        waits: bool,
    ) -> None:
        """Make it, not connected yet.

        Args:
            connection: connections to the server.
            namespace: keeps several bots apart on one server.
            limits: what one record may hold.
            ttl: seconds after its last commit that a record is kept; `None` for no limit.
            cache_ttl: seconds that a record stays once PostgreSQL has it.
            delay: seconds that a record waits for further changes before a flusher may take it.
            waits: whether only what PostgreSQL has counts.
        """
        super().__init__(connection, namespace, limits, ttl)
        self._cache = int(cache_ttl * 1000)
        self._delay = int(delay * 1000)
        self._waits = waits
        # Longer than any record waits for further changes: so `lease` can tell who waits from who is leased.
        self._lease = int((LEASE_SECONDS + delay) * 1000)

    async def seconds_ahead(self) -> float:
        """By how much the server's clock is ahead of this machine's."""
        seconds, _ = await self.connection.ask("TIME")
        return float(seconds) - time.time()

    async def is_bound(self) -> bool:
        """Whether a bot has been here before."""
        return bool(await self.connection.wait("EXISTS", f"{self._namespace}:bot"))

    async def look(self, user_id: str, conversation: str | None = HOME) -> Warm | Cold:
        """Read a record with one conversation or all, or get the lease to load it from PostgreSQL.

        Raises:
            StateUnavailable: the server does not answer.
            StateCorrupt: what is here is no record.
        """
        wanted = 0 if conversation is None else 1 if conversation else -1
        arguments = int(LEASE_SECONDS * 1000), wanted, conversation or ""
        reply, _ = await self._evaluate(LOAD_OR_LEASE, user_id, *arguments)
        match reply:
            case [b"cold", lease]:
                return Cold(lease.decode())
            case [b"expired", lineage, is_dirty]:
                record = UserRecord(user_id, conversation=conversation or HOME)
                return Warm(record, lineage.decode(), bool(is_dirty), is_verified=True)
        _, lineage, is_dirty, is_verified, parts = reply
        record = read_record(user_id, conversation, *parts)
        return Warm(record, lineage.decode(), bool(is_dirty), bool(is_verified))

    async def write_lost_files(self, user_id: str, files: Mapping[str, bytes]) -> None:
        """Write those files of a commit again that Redis lost before it was made."""
        if files:
            held = {name.decode() for name in await self.connection.ask("HKEYS", self._key(user_id, "files"))}
            lost = {file: files[file] for file in files if not held.issuperset(parts_of(file))}
            await self.write_files(user_id, lost)

    async def commit_warm(
        self,
        user_id: str,
        changes: Changes,
        expect: int | None,
        *,
        lease: bool = False,
        trust: bool = False,
        maybe_applied: bool = False,
    ) -> Commit:
        """Commit to a record that is here; see `StateStore.commit`.

        Args:
            user_id: whose record.
            changes: what to write.
            expect: the version it was computed from.
            lease: whether the caller flushes it, and no other flusher need to.
            trust: whether a record from before this run of the server will do; to forget, also none.
            maybe_applied: whether this commit may have been applied before.

        Raises:
            NotReady: the record has to be loaded from PostgreSQL, or compared with it, first.
            StateError: as `StateStore.commit`.
        """
        delay = self._lease if lease else self._delay
        arguments = (*self._arguments(user_id, changes, expect), delay, int(trust))
        reply, is_repeated = await self._evaluate(COMMIT_AND_MARK, user_id, *arguments)
        maybe_applied = maybe_applied or is_repeated
        match reply:
            case [b"done", version, lineage]:
                return Commit(int(version), lineage.decode())
            case [b"not ready"]:
                raise NotReady(maybe_applied)
            case [b"conflict"] if maybe_applied:
                raise StateUnavailable("the answer was lost, and somebody else has committed since", user_id)
            case [b"conflict"]:
                raise StateConflict("another commit was first", user_id)
        raise StateCorrupt("what is stored is no record of this bot", user_id)

    async def snapshot(self, user_id: str) -> Snapshot | None:
        """All of a record, expired or not, for PostgreSQL; `None` when it is not here.

        Raises:
            StateUnavailable: the server does not answer.
            StateCorrupt: what is here is no record.
        """
        match (await self._evaluate(SNAPSHOT, user_id))[0]:
            case [b"gone"]:
                log.error(VANISHED, user_id=user_id)
                return None
            case [b"cold"]:
                return None
            case [kind, parts, files]:
                record = read_record(user_id, None, *parts)
        state, _, meta, *_ = parts
        fields = dict(pairs_of(meta))
        outbox = {int(key): value for key, value in with_prefix(OUTBOX, fields).items()}
        content = Changes(
            state=dict(pairs_of(state)),
            fsm=with_prefix(FSM, fields),
            messages=tuple(record.history),
            conversations=whole_conversations(record),
            applied=record.acknowledged,
            outbox={key: value for key, value in outbox.items() if key in record.outbox},
            marks=with_prefix(MARK, fields),
            due=int(fields.get("due", NEVER)),
            token=record.token,
        )
        next_message = int(fields.get("next", len(record.history) + 1))
        expires = int(fields.get("expires", 0))
        readers = {
            name: partial(self.connection.ask, "HGET", self._key(user_id, "files"), name)
            for name in map(bytes.decode, files)
            if update_of(name) in content.outbox
        }
        replaces = record.version - 1
        if self._waits and not (record.forgotten and record.is_empty):
            replaces = int(fields.get("base", replaces))
        return Snapshot(
            user_id,
            record.version,
            record.forgotten,
            next_message,
            expires,
            content,
            replaces,
            lineage=fields.get("lineage", b"").decode(),
            is_dirty=kind == b"dirty",
            files=readers,
        )

    async def fill(self, snapshot: Snapshot, lease: str) -> bool:
        """Put a missing record into Redis.

        Returns:
            Whether the lease was still valid.
        """
        return bool(await self._put(snapshot, lease, Commit(0, "")))

    async def replace(self, snapshot: Snapshot, commit: Commit) -> bool:
        """Put a record in the place of what a commit made that does not count.

        Returns:
            Whether that still stood there.
        """
        return bool(await self._put(snapshot, "", commit))

    async def verify(self, user_id: str, version: int, *, is_newer: bool) -> None:
        """Note that PostgreSQL holds this version, or an older one: then it is dirty."""
        await self._evaluate(VERIFY, user_id, version, int(is_newer), 0)

    async def mark_clean(self, snapshot: Snapshot, began: float) -> bool:
        """Mark a record clean that PostgreSQL has.

        Args:
            snapshot: what PostgreSQL has.
            began: when it was read here, in seconds since 1970.

        Returns:
            Whether it is clean; somebody may have committed meanwhile.
        """
        version, lineage, began_at = snapshot.version, snapshot.lineage, int(began * 1000)
        arguments = (version, lineage, self._cache, began_at, self._delay)
        done, _ = await self._evaluate(MARK_CLEAN, snapshot.user_id, *arguments)
        return bool(done)

    async def raise_above(self, snapshot: Snapshot, version: int) -> bool:
        """Raise the version of a record above another.

        Returns:
            `False` when it is from before this run of the server: then the other one is newer.
        """
        reply, _ = await self._evaluate(RAISE_VERSION, snapshot.user_id, snapshot.version, version)
        return bool(reply != b"older")

    async def mark_dirty(self, user_id: str) -> bool:
        """Have PostgreSQL get a record once more.

        Returns:
            Whether it is here.
        """
        return bool((await self._evaluate(MARK_DIRTY, user_id))[0])

    async def lease(self, most: int, ahead: float = 0) -> tuple[list[str], Backlog]:
        """Take users to flush, and leave them to nobody else for `LEASE_SECONDS`.

        Args:
            most: how many to take.
            ahead: seconds of waiting that are spared.

        Returns:
            The users, and all that waits.
        """
        arguments = (most, int(ahead * 1000), self._lease)
        reply, _ = await self.connection.evaluate(LEASE_DIRTY, (self._dirty, self._due), arguments)
        users, count, oldest, now = reply
        age = (now - float(oldest)) / 1000 if oldest else 0.0
        return [user.decode() for user in users], Backlog(count, max(age, 0.0))

    async def due_here(self, within: float, most: int, seconds: float) -> tuple[Agenda, str | None]:
        """Which records have something to do, as far as it is known here.

        Args:
            within: seconds to look ahead.
            most: how many records to list.
            seconds: after how long PostgreSQL is to be asked again.

        Returns:
            Those, and the run of the server if PostgreSQL has to be asked; `None` if that was done lately.
        """
        keys, arguments = (*self._index, self._asked), (int(within * 1e6), most, int(seconds * 1e6))
        (now, listed, run, is_asking), _ = await self.connection.evaluate(DUE, keys, arguments)
        agenda = Agenda(int(now), [(name, int(float(when))) for name, when in pairs_of(listed)])
        return agenda, run.decode() if is_asking else None

    async def adopt(self, records: Sequence[Waiting]) -> int:
        """Take over when PostgreSQL says that records are due.

        Returns:
            How many of them are not here, or older.
        """
        keys = *self._index, *(self._key(record.user_id, "meta") for record in records)
        count, _ = await self.connection.evaluate(ADOPT, keys, chain.from_iterable(records))
        return int(count)

    async def note_asked(self, run: str, latest: int, now: int) -> None:
        """Note up to when PostgreSQL was asked what is due, in this run of the server, and when that was."""
        await self.connection.ask("SET", self._asked, f"{run} {latest} {now}")

    async def postpone(self, user_id: str, seconds: float) -> None:
        """Let a user be taken again, after some time."""
        await self._evaluate(POSTPONE, user_id, int(seconds * 1000))

    async def backlog(self) -> Backlog:
        """What PostgreSQL may lack."""
        _, backlog = await self.lease(0)
        return backlog

    async def is_here(self, user_id: str) -> bool:
        """Whether a record is here, be it empty."""
        return bool(await self.connection.ask("EXISTS", self._key(user_id, "meta")))

    async def dirty_users(self) -> dict[str, bool]:
        """All dirty users, and whether more is kept of each than that they were forgotten."""
        users: dict[str, bool] = {}
        cursor = None
        while cursor != 0:
            cursor, pairs = await self.connection.ask("ZSCAN", self._dirty, cursor or 0, "COUNT", PAGE)
            page = [user.decode() for user, _ in pairs]
            kept = await self._with_content([self._key(user_id, "meta").encode() for user_id in page])
            users |= dict.fromkeys(page, False) | dict.fromkeys(kept, True)
        return users

    async def warm_users(self) -> AsyncIterator[str]:
        """The ids of all users of whom a record is here."""
        async for user_id in super().users():
            yield user_id

    def _all_keys(self, user_id: str) -> list[str]:
        files, lease = self._key(user_id, "files"), self._key(user_id, "lease")
        return [*self._keys(user_id), files, self._dirty, self._due, lease, *self._index]

    @property
    def _asked(self) -> str:
        return f"{self._namespace}:{{agenda}}:asked"

    @property
    def _dirty(self) -> str:
        return f"{self._namespace}:dirty"

    @property
    def _due(self) -> str:
        return f"{self._namespace}:due"

    async def _evaluate(self, script: Script, user_id: str, *arguments: Any) -> tuple[Any, bool]:
        common = (int(self._waits), secrets.token_hex(8), user_id)
        keys = self._all_keys(user_id)
        return await self.connection.evaluate(script, keys, (*arguments, *common), user_id)

    async def _put(self, snapshot: Snapshot, lease: str, replaced: Commit) -> int:
        about = (snapshot.version, snapshot.forgotten, snapshot.next_message, snapshot.expires, self._cache)
        arguments = self._arguments(snapshot.user_id, snapshot.content, 0)
        done, _ = await self._evaluate(FILL, snapshot.user_id, *arguments, *about, lease, *replaced)
        if done == 2:
            log.error(VANISHED, user_id=snapshot.user_id)
        return int(done)
