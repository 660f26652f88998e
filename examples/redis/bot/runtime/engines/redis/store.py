"""The Redis engine: what is kept about a user is a few keys, written together by one script.

    <namespace>:user:{<id>}:state     hash: JSON of each of the owner's keys
    <namespace>:user:{<id>}:history   list: JSON of each message, oldest first
    <namespace>:user:{<id>}:meta      hash: version and bookkeeping, flows and outbox; see `commit.lua`
    <namespace>:user:{<id>}:applied   string: ids of the updates applied last, each with a comma behind it
    <namespace>:user:{<id>}:talks     hash: messages of each further conversation, if there are any
    <namespace>:user:{<id>}:files     hash: the files of replies, in parts
    <namespace>:user:{<id>}:fence     string, in a Cluster: the newest hint of a commit; for an hour
    <namespace>:{agenda}:waiting      sorted set: records with something to do, by when; see `waiting.lua`
    <namespace>:{agenda}:claims       hash: how often each of them was claimed, if it was
    <namespace>:{agenda}:hints        hash, in a Cluster: hints of commits that may be under way
    <namespace>:bot                   the id of the bot whose records these are

The braces (a hash tag) keep a user's keys in one slot of a cluster. They expire at the same millisecond.
Files are written before the commit that refers to them; each commit deletes those to which nothing refers.

What is to be done stands in one index. On one server a commit changes record and index in one step. In a
Cluster they are in different slots, and a commit that says when its record is due takes three: the index is
always the earlier of the two. It is one key there, too: `due` stays one round trip and its answer in order,
and only commits that have something to do later reach that server. When the index was evicted or deleted,
the next such commit of a record brings it back, and `reindex` those of all.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import structlog

from bot.runtime.config import load
from bot.runtime.engines.redis.connection import RedisConnection, RedisSettings, Script, sections
from bot.runtime.engines.redis.doctor import diagnose
from bot.runtime.errors import StateConflict, StateCorrupt, StateForeign, StateUnavailable
from bot.runtime.state.codec import loads
from bot.runtime.state.record import (
    HOME,
    Limits,
    Message,
    UserRecord,
    decode_conversations,
    decode_record,
)
from bot.runtime.state.store import (
    APPLIED_LIMIT,
    FILE_SECONDS,
    FORGOTTEN_SECONDS,
    NEVER,
    Agenda,
    Changes,
    Finding,
    check_size,
    cut,
    joined,
    parts_of,
)

if TYPE_CHECKING:
    from bot.runtime.config import Settings

DEFAULT_TTL = 86_400
"""Seconds a record is kept after its last change, when `STATE_TTL` does not say otherwise."""

PAGE = 500
"""Keys the server looks through in one step of `users`."""

FSM = "fsm:"
OUTBOX = "outbox:"
MARK = "mark:"
TALK = "talk:"

FOLDER = Path(__file__).parent
LOAD = Script((FOLDER / "load.lua").read_bytes())
COMMIT = Script((FOLDER / "commit.lua").read_bytes())
COMMON, SECTIONS = sections(FOLDER / "waiting.lua")
SCRIPTS = {name: Script(COMMON + text) for name, text in SECTIONS.items()}
DUE, CLAIM, CLAIM_IN_CLUSTER = SCRIPTS["due"], SCRIPTS["claim"], SCRIPTS["claim_in_cluster"]
HINT, SETTLE, WITHDRAW, FENCE = (SCRIPTS[name] for name in ("hint", "settle", "withdraw", "fence"))

FENCE_MS = 3_600_000
"""How long a fence stays, in milliseconds: longer than any commit is under way."""

HINTS = 5
"""How often a commit in a Cluster gives a hint. It takes another one when a claim came between."""

log = structlog.get_logger(__name__)


class OldHint(Exception):
    """A commit was refused because a claim, or another commit, came between its hint and itself.

    Attributes:
        fence: the record takes hints above this one.
    """

    def __init__(self, fence: int) -> None:
        """Make an error."""
        self.fence = fence


class Claim(NamedTuple):
    """What became of a claim.

    Attributes:
        claims: how often the record was claimed; 0 when it is not due then.
        version: the record's version; 0 when it is not here.
        is_known: whether it was known when the record is due.
    """

    claims: int
    version: int
    is_known: bool


class RedisStore:
    """Keeps records in Redis or Valkey, where every process of the bot sees them."""

    name: ClassVar[str] = "redis"
    survives_exit: ClassVar[bool] = True
    due_seconds: ClassVar[float] = 1.0

    def __init__(
        self,
        connection: RedisConnection,
        namespace: str,
        limits: Limits | None = None,
        ttl: float | None = DEFAULT_TTL,
    ) -> None:
        """Make a store that is not connected yet.

        Args:
            connection: connections to the server; the store owns them from now on.
            namespace: keeps several bots apart on one server.
            limits: what one record may hold.
            ttl: seconds after its last commit that a record is kept; `None` for no limit.
        """
        self.limits = limits or Limits()
        self.connection = connection
        self._namespace = namespace
        self._ttl = ttl

    @classmethod
    def from_settings(cls, settings: "Settings") -> Self:
        """Make the store that the settings describe.

        Raises:
            OperatorError: a setting of Redis is missing or cannot be used.
        """
        limits = Limits.from_settings(settings)
        ttl = DEFAULT_TTL if settings.state_ttl is None else settings.state_ttl or None
        return cls(cls.connection_to(load(RedisSettings)), settings.namespace, limits, ttl)

    @classmethod
    def connection_to(cls, settings: RedisSettings) -> RedisConnection:
        """Make the connections that these settings describe.

        Raises:
            OperatorError: there is no address, and no server that could be started here.
        """
        return RedisConnection(settings)

    async def connect(self) -> None:
        """Wait for the server. See `StateStore.connect`."""
        await self.connection.open()
        log.info("connected to redis", namespace=self._namespace, seconds_kept=self._ttl or "no limit")

    async def close(self) -> None:
        """Close every connection."""
        await self.connection.close()

    async def ping(self) -> None:
        """Check that the server answers. See `StateStore.ping`."""
        await self.connection.ask("PING")

    async def migrate(self) -> str:
        """Do nothing: there is no schema."""
        return "redis has no schema: nothing to migrate"

    async def diagnose(self) -> list[Finding]:
        """Look for what could cost records. See `OperatorStore.diagnose`."""
        return await diagnose(self.connection, self._ttl)

    async def bind(self, bot_id: int) -> None:
        """Note whose records these are, or refuse another bot. See `OperatorStore.bind`."""
        key = f"{self._namespace}:bot"
        await self.connection.wait("SET", key, bot_id, "NX")
        owner = await self.connection.wait("GET", key)
        if owner not in (None, str(bot_id).encode()):  # `None`: the server was emptied in between
            other = owner.decode(errors="replace")
            raise StateForeign(
                f"namespace {self._namespace} belongs to bot {other}, not to {bot_id}: set another NAMESPACE"
            )

    async def load(self, user_id: str, conversation: str | None = HOME) -> UserRecord:
        """Read a record. See `StateStore.load`."""
        keys, wanted = self._keys(user_id), [conversation] if conversation else []
        if conversation == HOME:
            keys = keys[:-1]
        reply, _ = await self.connection.evaluate(LOAD, keys, wanted, user_id=user_id)
        return read_record(user_id, conversation, *reply)

    async def commit(self, user_id: str, changes: Changes, *, expect: int | None) -> int:
        """Write changes. See `StateStore.commit`."""
        try:
            version, _ = await self._commit(user_id, changes, expect)
        except StateConflict:
            with suppress(StateUnavailable):  # they expire, too
                await self.drop_files(user_id, changes.files)
            raise
        return version

    async def read_file(self, user_id: str, file: str) -> bytes | None:
        """Read a file of a reply. See `StateStore.read_file`."""
        key = self._key(user_id, "files")
        return joined(file, [await self.connection.ask("HGET", key, part) for part in parts_of(file)])

    async def drop_files(self, user_id: str, files: Iterable[str]) -> None:
        """Delete files of replies. See `StateStore.drop_files`."""
        for file in files:
            # An empty one has no part, and the command wants a field.
            await self.connection.ask("HDEL", self._key(user_id, "files"), file, *parts_of(file))

    async def write_files(self, user_id: str, files: Mapping[str, bytes]) -> None:
        """Keep files of replies, for the commit that refers to them."""
        key = self._key(user_id, "files")
        for file, content in files.items():
            for name, part in cut(file, content):
                await self.connection.ask("HSET", key, name, part)
            await self.connection.ask("EXPIRE", key, FILE_SECONDS)

    async def due(self, within: float, most: int) -> Agenda:
        """Which records have something to do. See `StateStore.due`."""
        (now, listed), _ = await self.connection.evaluate(DUE, self._index, ("", int(within * 1e6), most))
        return Agenda(int(now), [(name, int(float(when))) for name, when in pairs_of(listed)])

    async def claim(self, user_id: str, seen: int, until: int, counts: int = 1) -> int:
        """Take what a record has to do. See `StateStore.claim`."""
        if not self.connection.is_cluster:
            return (await self.claim_here(user_id, seen, until, counts)).claims
        keys, arguments = (*self._index, self._hints), (user_id, seen, until, counts)
        reply, is_repeated = await self.connection.evaluate(CLAIM_IN_CLUSTER, keys, arguments)
        if isinstance(reply, bytes):  # it was not claimed, and a commit may be under way: see `waiting.lua`
            fence = self._key(user_id, "meta"), self._key(user_id, "fence")
            (is_made, due), _ = await self.connection.evaluate(FENCE, fence, (user_id, reply, FENCE_MS))
            if is_made:
                await self.connection.evaluate(SETTLE, keys, (user_id, reply, due))
                return 0
            reply, again = await self.connection.evaluate(CLAIM_IN_CLUSTER, keys, (*arguments, reply))
            is_repeated = is_repeated or again
        return _certain(user_id, 0 if isinstance(reply, bytes) else reply, is_repeated)

    async def claim_here(self, user_id: str, seen: int, until: int, counts: int) -> Claim:
        """Take what a record has to do, where its index is on the same server."""
        keys, arguments = (*self._index, self._key(user_id, "meta")), (user_id, seen, until, counts)
        (claims, version, is_known), is_repeated = await self.connection.evaluate(CLAIM, keys, arguments)
        return Claim(_certain(user_id, claims, is_repeated), int(version or 0), bool(is_known))

    async def reindex(self) -> int:
        """Rebuild the index. See `OperatorStore.reindex`."""
        found = set()
        async for user_id in self.users():
            with suppress(StateCorrupt):
                if due := await self.connection.ask("HGET", self._key(user_id, "meta"), "due"):
                    await self.connection.ask("ZADD", self._index[0], "NX", due, user_id)
                    found.add(user_id)
        return len(found)

    async def forget(self, user_id: str) -> bool:
        """Erase a user, leaving a marker. See `StateStore.forget`."""
        _, existed = await self._commit(user_id, Changes(forget=True), None)
        return existed

    async def users(self) -> AsyncIterator[str]:
        """The ids of all users, some perhaps twice (as SCAN gives them). See `StateStore.users`."""
        pattern = self._key("*", "meta")
        for server in await self.connection.servers():
            cursor = None
            while cursor != 0:
                scan = ("SCAN", cursor or 0, "MATCH", pattern, "COUNT", PAGE)
                cursor, keys = await self.connection.ask(*scan, server=server)
                for user_id in await self._with_content(keys):
                    yield user_id

    async def raw(self, user_id: str) -> str:
        """What is stored for a user: per key its type and its content. See `OperatorStore.raw`."""
        lines = [f"{key} {await self._content(key)}" for key in self._keys(user_id)]
        files, (waiting, _) = self._key(user_id, "files"), self._index
        lines.append(f"{files} {await self.connection.ask('HKEYS', files)!r}")
        if (due := await self.connection.ask("ZSCORE", waiting, user_id)) is not None:
            lines.append(f"{waiting} {int(due)}")
        return "\n".join(lines)

    def _key(self, user_id: str, part: str) -> str:
        return f"{self._namespace}:user:{{{user_id}}}:{part}"

    def _keys(self, user_id: str) -> list[str]:
        return [self._key(user_id, part) for part in ("state", "history", "meta", "applied", "talks")]

    @property
    def _index(self) -> tuple[str, str]:
        tag = f"{self._namespace}:{{agenda}}"
        return f"{tag}:waiting", f"{tag}:claims"

    @property
    def _hints(self) -> str:
        return f"{self._namespace}:{{agenda}}:hints"

    async def _commit(self, user_id: str, changes: Changes, expect: int | None) -> tuple[int, bool]:
        check_size(user_id, changes, self.limits)
        await self.write_files(user_id, changes.files)
        due = due_after(changes)
        if due is None:
            return await self._apply(user_id, changes, expect, ())
        if not self.connection.is_cluster:
            return await self._apply(user_id, changes, expect, self._index)
        return await self._commit_in_cluster(user_id, changes, expect, due)

    async def _commit_in_cluster(
        self, user_id: str, changes: Changes, expect: int | None, due: int
    ) -> tuple[int, bool]:
        """Commit to a record that is in another slot than the index: see `waiting.lua`."""
        keys, least = (*self._index, self._hints), 0
        for _ in range(HINTS):
            hint, _ = await self.connection.evaluate(HINT, keys, (user_id, due, least))
            if not hint:
                return await self._apply(user_id, changes, expect, ())
            try:
                done = await self._apply(
                    user_id, changes, expect, (self._key(user_id, "fence"),), hint[0].split()[1]
                )
            except OldHint as error:
                least = error.fence + 1
                continue
            except StateConflict:
                with suppress(StateUnavailable):  # then whoever claims it finds that there is nothing
                    await self.connection.evaluate(WITHDRAW, keys, (user_id, due, *hint))
                raise
            with suppress(StateUnavailable):  # then whoever claims it settles it
                await self.connection.evaluate(SETTLE, keys, (user_id, hint[0], due))
            return done
        raise StateUnavailable("others look at what it has to do faster than that can be noted", user_id)

    async def _apply(
        self, user_id: str, changes: Changes, expect: int | None, more: tuple[str, ...], hint: bytes = b""
    ) -> tuple[int, bool]:
        arguments = self._arguments(user_id, changes, expect, hint)
        keys = [*self._keys(user_id), self._key(user_id, "files"), *more]
        reply, is_repeated = await self.connection.evaluate(COMMIT, keys, arguments, user_id)
        match reply:
            case [b"done", version, existed]:
                return int(version), bool(existed)
            case [b"hint", fence]:
                raise OldHint(int(fence))
            case [b"conflict"] if is_repeated:
                # The first attempt may have been applied, and then overtaken.
                raise StateUnavailable("the answer was lost, and somebody else has committed since", user_id)
            case [b"conflict"]:
                raise StateConflict("another commit was first", user_id)
        raise StateCorrupt("what is stored is no record of this bot", user_id)

    def _arguments(self, user_id: str, changes: Changes, expect: int | None, hint: bytes = b"") -> list[Any]:
        """A commit as `commit.lua` takes it."""
        due = due_after(changes)
        agenda = [] if due is None else [due, user_id, *((hint, FENCE_MS) if hint else ())]
        lists = *_lists(changes), agenda
        numbers = (
            -1 if expect is None else expect,
            int((self._ttl or 0) * 1000),
            FORGOTTEN_SECONDS * 1000,
            APPLIED_LIMIT,
            int(changes.forget),
            int(changes.clear_history),
            -1 if changes.keep_history is None else changes.keep_history,
            *map(len, lists),
        )
        return [changes.token, " ".join(map(str, numbers)), *chain.from_iterable(lists)]

    async def _with_content(self, keys: Sequence[bytes]) -> list[str]:
        """Of a page of meta keys, the users of whom more is kept than that they were forgotten."""

        async def ask() -> list[Any]:
            pipeline = self.connection.client.pipeline(transaction=False)
            for key in keys:
                pipeline.execute_command("HMGET", key, "version", "forgotten", "parts")
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception) and "WRONGTYPE" not in str(answer):
                    raise answer
            return answers

        answers = await self.connection.call(ask) if keys else []
        before, after = (len(part.encode()) for part in self._key("*", "meta").split("*"))
        return [
            key[before:-after].decode(errors="replace")
            for key, answer in zip(keys, answers, strict=True)
            # One that is not ours is listed, too: `load` says what is wrong with it.
            if isinstance(answer, Exception) or not (_is_gone(*answer) or _is_marker(*answer))
        ]

    async def _content(self, key: str) -> str:
        kind = (await self.connection.ask("TYPE", key)).decode()
        readers: dict[str, tuple[Any, ...]] = {
            "hash": ("HGETALL", key),
            "list": ("LRANGE", key, 0, -1),
            "string": ("GET", key),
            "set": ("SMEMBERS", key),
            "zset": ("ZRANGE", key, 0, -1),
        }
        return f"{kind} {await self.connection.ask(*readers[kind])!r}" if kind in readers else kind


def read_record(
    user_id: str,
    conversation: str | None,
    state: list[bytes],
    history: list[bytes],
    meta: list[bytes],
    applied: bytes | None,
    others: list[bytes],
) -> UserRecord:
    """Make a record of what the keys hold, as far as they were read for a conversation.

    Raises:
        StateCorrupt: that is no record, or not the whole of one.
    """
    if not (state or history or meta or applied):
        return UserRecord(user_id, conversation=conversation or HOME)
    try:
        fields = dict(pairs_of(meta))
        parts = {"state": state, "history": history, "applied": applied}
        missing = [part for part in fields["parts"].decode().split() if part in parts and not parts[part]]
        if conversation and "history" in missing:
            missing.remove("history")  # it was not read
        if missing:
            raise StateCorrupt(f"its {' and '.join(missing)} is gone, evicted or deleted", user_id)
        said = {name: lines.splitlines() for name, lines in pairs_of(others)}
        notes = with_prefix(TALK, fields)
        conversations = decode_conversations({name: loads(note) for name, note in notes.items()})
        for name, (first, following, *_) in conversations.items():
            if name and (conversation in (name, None)) and len(said.get(name, ())) != following - first:
                raise StateCorrupt("a conversation is gone, evicted or deleted", user_id)
        messages = said[conversation] if conversation else history
        ids = tuple(loads(b"[" + (applied or b"")[:-1] + b"]")[-APPLIED_LIMIT:])
        if not {int}.issuperset(map(type, ids)):
            raise TypeError("not ids")
        marks = with_prefix(MARK, fields)
        outbox = {int(key): value for key, value in with_prefix(OUTBOX, fields).items()}
        return decode_record(
            user_id,
            version=int(fields["version"]),
            token=fields["token"].decode(),
            state=dict(pairs_of(state)),
            fsm=with_prefix(FSM, fields),
            unread=loads(b"[" + b",".join(messages) + b"]"),
            applied=ids,
            outbox={key: value for key, value in outbox.items() if key in ids or str(key) in marks},
            forgotten=int(fields["forgotten"]),
            marks=marks,
            conversation=conversation or HOME,
            conversations=notes,
            others={} if conversation else {name: _messages(lines) for name, lines in said.items()},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StateCorrupt(f"its record cannot be read ({type(error).__name__})", user_id) from None


def _certain(user_id: str, claims: int, is_repeated: bool) -> int:
    """How often a record was claimed.

    Raises:
        StateUnavailable: the first attempt may have claimed it, its answer lost.
    """
    if is_repeated and not claims:
        raise StateUnavailable("nobody knows whether it was claimed", user_id)
    return claims


def due_after(changes: Changes) -> int | None:
    """When a record is due after a commit; `None` where that leaves it as it is."""
    return NEVER if changes.forget and changes.due is None else changes.due


def _lists(changes: Changes) -> tuple[Sequence[Any], ...]:
    """The changes as `commit.lua` takes them."""
    flows = {FSM + key: value for key, value in changes.fsm.items()}
    flows |= {MARK + key: value for key, value in changes.marks.items()}
    dropped = [f"{OUTBOX}{key}" for key, value in changes.outbox.items() if value is None]
    return (
        _flat(changes.state),
        _deleted(changes.state),
        _flat(flows),
        [*_deleted(flows), *dropped],
        [message.encode() for message in changes.messages],
        changes.applied,
        _flat(changes.outbox),
        _talks(changes),
    )


def _talks(changes: Changes) -> list[Any]:
    """The further conversations as `commit.lua` takes them."""
    items: list[Any] = []
    for name, change in changes.conversations.items():
        if change is None:
            items += (name, "", 0, "")
        else:
            said = b"".join(message.encode() + b"\n" for message in change.messages)
            items += (name, changes.noted[name], change.kept, said)
    return items


def _messages(said: Sequence[bytes]) -> list[Message]:
    return [Message.from_json(each) for each in loads(b"[" + b",".join(said) + b"]")]


def _flat(changed: Mapping[Any, bytes | None]) -> list[Any]:
    return [item for pair in changed.items() if pair[1] is not None for item in pair]


def _deleted(changed: Mapping[str, bytes | None]) -> list[str]:
    return [key for key, value in changed.items() if value is None]


def pairs_of(flat: Sequence[bytes]) -> Iterable[tuple[str, bytes]]:
    """The fields and values of a hash as HGETALL answers it."""
    return zip(map(bytes.decode, flat[::2]), flat[1::2], strict=True)


def with_prefix(prefix: str, fields: Mapping[str, bytes]) -> dict[str, bytes]:
    """Pick the fields whose names begin with `prefix`, without it."""
    return {name[len(prefix) :]: value for name, value in fields.items() if name.startswith(prefix)}


def _is_gone(*answer: bytes | None) -> bool:
    return not any(answer)


def _is_marker(_: bytes | None, forgotten: bytes | None, parts: bytes | None) -> bool:
    return forgotten not in (None, b"0") and parts in (b"", b"applied")
