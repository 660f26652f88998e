"""The Firestore engine: one document per user, one write with a precondition per commit.

A record's version is the time, in microseconds, at which Firestore says it last wrote the document. It grows
with each write, and a write may demand it: so of several commits on one version one wins, with no
transaction and no lock. What a commit needs to know of the document, the load before it has brought.
"""

import asyncio
import random
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Self

import structlog
from google.api_core.exceptions import GoogleAPICallError
from google.cloud.firestore_v1.services.firestore import FirestoreAsyncClient
from google.cloud.firestore_v1.types import (
    BatchGetDocumentsRequest,
    BatchGetDocumentsResponse,
    CommitRequest,
    CommitResponse,
    RunAggregationQueryRequest,
    RunAggregationQueryResponse,
    RunQueryRequest,
    RunQueryResponse,
    Write,
)
from google.protobuf.json_format import MessageToJson
from grpc import StatusCode

from bot.runtime.config import load
from bot.runtime.engines.firestore import document as documents
from bot.runtime.engines.firestore.connection import (
    CALL_SECONDS,
    FIRST_DELAY,
    LONGEST_DELAY,
    PASSING,
    REFUSED,
    START_SECONDS,
    FirestoreClient,
    FirestoreSettings,
    code_of,
)
from bot.runtime.engines.firestore.doctor import diagnose
from bot.runtime.engines.firestore.document import Document, Fields, Value
from bot.runtime.errors import (
    StateConflict,
    StateCorrupt,
    StateForeign,
    StateTooLarge,
    StateUnavailable,
)
from bot.runtime.state.record import HOME, Limits, UserRecord
from bot.runtime.state.store import (
    FILE_SECONDS,
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

PAGE = 500
"""Users listed by one query."""

FILE_BYTES = 1024 * 1024
"""What `REPLY_FILE_BYTES` is unless it is set: each 256 KB of it is a paid write of its own."""

_EPOCH, _MICROSECOND = datetime.fromtimestamp(0, UTC), timedelta(microseconds=1)

OWNER = "_bot"
"""The document that says whose the others are."""

REFUSAL = "Firestore refuses it: too large, or too many index entries (deploy firestore.indexes.json)"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A document as it was read.

    Attributes:
        written: when it was last written, in microseconds since 1970; 0 when there was none.
        read_at: when it was read, by the server's clock.
        since: the same by this process' monotonic clock.
        expires: when its record is over.
        document: its content; empty when there is none, or one that had expired.
        files: ids of the files of its replies, expired or not.
    """

    written: int
    read_at: datetime
    since: float = field(default_factory=time.monotonic)
    expires: datetime | None = None
    document: Document = field(default_factory=Document)
    files: frozenset[str] = frozenset()

    @property
    def now(self) -> datetime:
        """The time by the server's clock: ours may be wrong by days."""
        return self.read_at + timedelta(seconds=time.monotonic() - self.since)

    def version(self) -> int:
        """The record's version now; 0 when there is none, or none any more."""
        return 0 if self.expires is not None and self.expires <= self.now else self.written


class FirestoreStore:
    """Keeps records in Google's Firestore, without a time limit by default."""

    name: ClassVar[str] = "firestore"
    survives_exit: ClassVar[bool] = True
    due_seconds: ClassVar[float] = 5.0

    def __init__(
        self,
        client: FirestoreClient,
        namespace: str,
        limits: Limits | None = None,
        ttl: float | None = None,
        turns: int = 256,
    ) -> None:
        """Make a store; `connect` opens it.

        Args:
            client: connections to Firestore; the store owns them from now on.
            namespace: the name of the collection; keeps several bots apart in one database.
            limits: what one record may hold.
            ttl: seconds after its last commit that a record is kept; `None` for no limit.
            turns: how many records may be loaded and not yet committed to at the same time. For one more, a
                commit takes a round trip more.
        """
        self.limits = limits or Limits()
        self._client = client
        self._namespace = namespace
        self._ttl = None if ttl is None else timedelta(seconds=ttl)
        self._turns = turns
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._clock = _Loaded(0, datetime.now(UTC))  # until Firestore has told the time

    @classmethod
    def from_settings(cls, settings: "Settings") -> Self:
        """Make the store that the settings describe.

        Raises:
            OperatorError: a setting of Firestore has a value that cannot be used.
        """
        return cls(
            FirestoreClient(load(FirestoreSettings)),
            settings.namespace,
            Limits.from_settings(settings, FILE_BYTES),
            settings.state_ttl or None,
            settings.max_concurrent_updates,
        )

    async def connect(self) -> None:
        """Wait for Firestore. See `StateStore.connect`.

        Raises:
            StateUnavailable: it does not answer, or refuses us; the text says what to do.
            OperatorError: there are no credentials, or no emulator can be started.
        """
        try:
            await self._client.open()
            await self._read_fields(OWNER, seconds=START_SECONDS)
        except BaseException:
            await self.close()
            raise
        log.info("connected to firestore", database=self._client.database, collection=self._namespace)

    async def close(self) -> None:
        """Close the channel, and leave the emulator."""
        await self._client.close()

    async def ping(self) -> None:
        """Check that Firestore answers. See `StateStore.ping`."""
        await self._get(OWNER, seconds=2)

    async def migrate(self) -> str:
        """Do nothing: there is no schema. See `OperatorStore.migrate`."""
        return (
            "firestore has no schema: nothing to migrate (`firebase deploy --only firestore` deploys rules, "
            "index exemptions and TTL policy)"
        )

    async def diagnose(self) -> list[Finding]:
        """Look for what could cost records, or money. See `OperatorStore.diagnose`."""
        return await diagnose(self._client, self._namespace, self.limits)

    async def bind(self, bot_id: int) -> None:
        """Note whose records these are, or refuse another bot. See `OperatorStore.bind`."""
        fields, loaded = await self._read_fields(OWNER, seconds=START_SECONDS)
        if not loaded.written:
            try:
                await self._write(OWNER, {("bot",): bot_id}, 0, seconds=START_SECONDS)
            except (StateConflict, StateUnavailable):  # somebody else just did, or the answer was lost
                fields, loaded = await self._read_fields(OWNER, seconds=START_SECONDS)
                if not loaded.written:
                    raise
            else:
                return
        owner = fields["bot"].integer_value if "bot" in fields else "unknown"
        if owner != bot_id:
            raise StateForeign(
                f"the collection {self._namespace} belongs to bot {owner}, not to {bot_id}: "
                "set another NAMESPACE"
            )

    async def load(self, user_id: str, conversation: str | None = HOME) -> UserRecord:
        """Read a record: Firestore reads a document as a whole, and it is paid for. See `StateStore.load`."""
        loaded = await self._read(user_id)
        record = loaded.document.record(user_id, loaded.version(), conversation)
        self._loaded[user_id] = loaded
        self._loaded.move_to_end(user_id)
        while len(self._loaded) > self._turns:
            self._loaded.popitem(last=False)
        return record

    async def commit(self, user_id: str, changes: Changes, *, expect: int | None) -> int:
        """Write changes. See `StateStore.commit`.

        When the answer is lost, the same write is tried again; the token in the document tells whether the
        first was applied.
        """
        check_size(user_id, changes, self.limits)
        if expect is None:
            version, _ = await self._merge(user_id, changes)
            return version
        before = self._loaded.pop(user_id, None)
        if before is None or before.written != expect:
            before = await self._read(user_id)
        await self._keep_files(user_id, changes.files, before.now)
        try:
            return await self._commit(user_id, before, changes, expect)
        except (StateConflict, StateTooLarge):
            await self._drop_soon(user_id, changes.files)
            raise

    async def read_file(self, user_id: str, file: str) -> bytes | None:
        """Read a file of a reply. See `StateStore.read_file`."""
        parts: list[bytes | None] = []
        for name in parts_of(file):
            fields, _ = await self._read_fields(documents.part_id(user_id, name), user_id)
            parts.append(fields["content"].bytes_value if "content" in fields else None)
        return joined(file, parts)

    async def drop_files(self, user_id: str, files: Iterable[str]) -> None:
        """Delete files of replies. See `StateStore.drop_files`."""
        names = [name for file in files for name in parts_of(file)]
        if names:
            paths = [self._path(documents.part_id(user_id, name)) for name in names]
            await self._write_parts(user_id, [Write.pb(Write(delete=path)) for path in paths])

    async def _drop_soon(self, user_id: str, files: Iterable[str]) -> None:
        """Delete files to which nothing refers; if Firestore does not answer, when they expire."""
        with suppress(StateUnavailable):
            await self.drop_files(user_id, files)

    async def _keep_files(self, user_id: str, files: Mapping[str, bytes], now: datetime) -> None:
        """Keep files of replies, for the commit that refers to them."""
        expires = now + timedelta(seconds=FILE_SECONDS)
        for file, content in files.items():
            for name, part in cut(file, content):
                message = Write.pb(Write())
                message.update.name = self._path(documents.part_id(user_id, name))
                message.update.fields["content"].bytes_value = bytes(part)
                message.update.fields["expires_at"].timestamp_value.FromDatetime(expires)
                await self._write_parts(user_id, [message])

    async def _write_parts(self, user_id: str, writes: list[Any]) -> None:
        """Write or delete parts of files, which may be repeated."""
        client = self._client
        request = CommitRequest(database=client.database, writes=writes)

        async def work(api: FirestoreAsyncClient, seconds: float) -> None:
            await api.commit(request, retry=None, timeout=seconds, metadata=client.metadata)

        await client.call(work, user_id=user_id)

    async def due(self, within: float, most: int) -> Agenda:
        """Which records have something to do. See `StateStore.due`.

        One query, of what is due alone: each document that it finds is paid for.
        """
        latest = round((self._clock.now - _EPOCH) / _MICROSECOND) + int(within * 1e6)
        query = {
            **self._waiting("LESS_THAN_OR_EQUAL", latest),
            "order_by": [{"field": {"field_path": "due"}, "direction": "ASCENDING"}],
            "limit": most,
        }
        answers = await self._query(query)
        read_at = answers[-1].read_time.ToDatetime(tzinfo=UTC)
        self._clock = _Loaded(0, read_at)
        found = [each.document for each in answers if each.HasField("document")]
        return Agenda(
            round((read_at - _EPOCH) / _MICROSECOND),
            [
                (documents.user_due(each.name.rpartition("/")[2]), documents.due_in(each.fields))
                for each in found
            ],
        )

    async def claim(self, user_id: str, seen: int, until: int, counts: int = 1) -> int:
        """Take what a record has to do: a get, and a write with a precondition. See `StateStore.claim`."""
        name, token = documents.due_id(user_id), secrets.token_hex(8)
        fields, loaded = await self._read_fields(name, user_id)
        if not seen or documents.due_in(fields) != seen:
            return 0
        claims = (int(fields["claims"].integer_value) if "claims" in fields else 0) + counts
        new: Fields | None = {("due",): until, ("claims",): claims, ("token",): token} if until else None
        try:
            await self._write(name, new, loaded.written, user_id=user_id, token=token)
        except StateConflict:
            return 0
        return max(claims, 1)

    async def reindex(self) -> int:
        """Count who has something to do: the index is Firestore's own. See `OperatorStore.reindex`."""
        client = self._client
        count = {"structured_query": self._waiting("GREATER_THAN", 0), "aggregations": [{"count": {}}]}
        request = RunAggregationQueryRequest(
            parent=f"{client.database}/documents", structured_aggregation_query=count
        )

        async def work(api: FirestoreAsyncClient, seconds: float) -> int:
            answers = await api.run_aggregation_query(
                request, retry=None, timeout=seconds, metadata=client.metadata
            )
            (answer,) = [RunAggregationQueryResponse.pb(each) async for each in answers]
            (value,) = answer.result.aggregate_fields.values()
            return int(value.integer_value)

        return await client.call(work)

    def _waiting(self, operator: str, due: int) -> dict[str, Any]:
        """A query for the documents of what is due then."""
        field_filter = {"field": {"field_path": "due"}, "op": operator, "value": {"integer_value": due}}
        return {"from_": [{"collection_id": self._namespace}], "where": {"field_filter": field_filter}}

    async def forget(self, user_id: str) -> bool:
        """Erase a user, leaving a marker. See `StateStore.forget`."""
        _, existed = await self._merge(user_id, Changes(forget=True))
        return existed

    async def users(self) -> AsyncIterator[str]:
        """The ids of all users. See `StateStore.users`."""
        last = ""
        while page := await self._page(last):
            for each in page:
                last, fields = each.document.name.rpartition("/")[2], each.document.fields
                user_id = documents.user_of(last)
                is_over = _is_over(fields, each.read_time.ToDatetime(tzinfo=UTC))
                if user_id is not None and "marker" not in fields and not is_over:
                    yield user_id

    async def raw(self, user_id: str) -> str:
        """What is stored for a user: Firestore's own message, as JSON. See `OperatorStore.raw`."""
        answer = await self._get(documents.document_id(user_id), user_id=user_id)
        return MessageToJson(answer.found, ensure_ascii=False) if answer.HasField("found") else "null"

    async def _read(self, user_id: str, *, to_forget: bool = False) -> _Loaded:
        """Read a user's document; `to_forget`: also one that is no record."""
        fields, loaded = await self._read_fields(documents.document_id(user_id), user_id)
        loaded = replace(loaded, files=documents.files_in(fields))
        if not loaded.version():
            return loaded
        try:
            document = documents.read(user_id, fields)
        except StateCorrupt:
            if not to_forget:
                raise
            document = documents.read_remains(fields)
        return replace(loaded, document=document)

    async def _read_fields(
        self, name: str, user_id: str | None = None, *, seconds: float | None = None
    ) -> tuple[Mapping[str, Any], _Loaded]:
        """A document's fields, as Firestore's own message has them, and when they were written and read."""
        answer = await self._get(name, user_id=user_id, seconds=seconds)
        read_at = answer.read_time.ToDatetime(tzinfo=UTC)
        self._clock = _Loaded(0, read_at)
        if not answer.HasField("found"):
            return {}, _Loaded(0, read_at)
        fields = answer.found.fields
        written = answer.found.update_time.ToMicroseconds()
        return fields, _Loaded(written, read_at, expires=_expiry(fields))

    async def _get(self, name: str, *, user_id: str | None = None, seconds: float | None = None) -> Any:
        """Firestore's own answer to the question for a document."""
        client = self._client
        request = BatchGetDocumentsRequest(database=client.database, documents=[self._path(name)])

        async def work(api: FirestoreAsyncClient, seconds: float) -> Any:
            answers = await api.batch_get_documents(
                request, retry=None, timeout=seconds, metadata=client.metadata
            )
            (answer,) = [BatchGetDocumentsResponse.pb(each) async for each in answers]
            return answer

        return await client.call(work, user_id=user_id, seconds=seconds)

    async def _merge(self, user_id: str, changes: Changes) -> tuple[int, bool]:
        """Commit to whatever is there: the new version, and whether there was anything."""
        give_up = time.monotonic() + CALL_SECONDS
        delay = FIRST_DELAY
        while True:
            before = await self._read(user_id, to_forget=changes.forget)
            version = before.version()
            with suppress(StateConflict):
                existed = version > 0 and not before.document.is_marker
                return await self._commit(user_id, before, changes, version), existed
            if time.monotonic() > give_up:
                raise StateUnavailable("others committed first, again and again", user_id)
            await asyncio.sleep(delay * random.uniform(0.5, 1))
            delay = min(2 * delay, LONGEST_DELAY)

    async def _commit(self, user_id: str, before: _Loaded, changes: Changes, expect: int) -> int:
        """Write what the changes make of a document, if nobody has written it since; its new version."""
        if before.document.token == changes.token:
            return before.written
        if before.version() != expect:
            raise StateConflict("another commit was first", user_id)
        old = before.document if expect else Document()
        new = old.after(changes, version=expect, now=before.now, ttl=self._ttl)
        name, fields = documents.document_id(user_id), new.fields()
        documents.check_document(user_id, f"{self._namespace}/{name}", fields)
        mask = None
        if expect and not changes.forget:
            fields, mask = documents.difference(old.fields(), fields)
        version = await self._write(
            name,
            fields,
            before.written,
            mask,
            self._due_after(user_id, before, old, changes),
            user_id=user_id,
            token=changes.token,
        )
        await self._drop_soon(user_id, before.files - documents.kept_files(new.outbox))
        if changes.forget:
            with suppress(StateUnavailable):  # they expire, too
                await self._drop_older_parts(user_id, version)
        return version

    def _due_after(self, user_id: str, before: _Loaded, old: Document, changes: Changes) -> list[Any]:
        """What a commit writes besides where it says when the record is due, or ends what said so."""
        name = documents.due_id(user_id)
        if changes.due:
            return [self._write_message(name, {("due",): changes.due}, None)]
        has_expired = before.written > 0 and not before.version()
        if changes.forget or has_expired or (changes.due == NEVER and old.later):
            return [self._write_message(name, None, None)]
        return []

    async def _drop_older_parts(self, user_id: str, version: int) -> None:
        """Delete all parts of a user's files from before this commit, also such of commits never made."""
        last, end = documents.part_id(user_id, ""), documents.part_id(user_id, "~")
        while page := await self._page(last, end):
            last = page[-1].document.name.rpartition("/")[2]
            old = [each.document for each in page if each.document.create_time.ToMicroseconds() < version]
            await self._write_parts(user_id, [Write.pb(Write(delete=document.name)) for document in old])

    async def _write(
        self,
        name: str,
        fields: Fields | None,
        written: int,
        mask: list[str] | None = None,
        more: Iterable[Any] = (),
        *,
        user_id: str | None = None,
        token: str = "",
        seconds: float | None = None,
    ) -> int:
        """Write a document.

        Args:
            name: its id.
            fields: its content, which replaces all there was, unless there is a mask; `None` deletes it.
            written: when it was last written, which must still be so; 0: there must be none.
            mask: the paths of what to write; what is not among `fields` is deleted.
            more: what to write at the same moment, or not at all.
            user_id: for the error.
            token: stands in the document once this write is applied.
            seconds: how long all attempts may take together; `None` for the usual time.

        Returns:
            When it was written.
        """
        client = self._client
        write = self._write_message(name, fields, written, mask)
        request = CommitRequest(database=client.database, writes=[write, *more])
        is_lost = False  # whether an earlier attempt may have been applied without our knowing

        async def work(api: FirestoreAsyncClient, allowed: float) -> int:
            nonlocal is_lost
            was_lost, is_lost = is_lost, True
            try:
                done = await api.commit(request, retry=None, timeout=allowed, metadata=client.metadata)
            except GoogleAPICallError as error:
                code = code_of(error)
                is_lost = was_lost or (code in PASSING and code != StatusCode.ABORTED)
                if code == StatusCode.INVALID_ARGUMENT:
                    raise StateTooLarge(REFUSAL, user_id) from None
                if code not in REFUSED:
                    raise
            else:
                at: int = CommitResponse.pb(done).write_results[0].update_time.ToMicroseconds()
                return at
            now, loaded = await self._read_fields(name, user_id)
            if token and "token" in now and now["token"].string_value == token:
                return loaded.written
            if is_lost:
                raise StateUnavailable("nobody knows whether it was committed: others came after", user_id)
            raise StateConflict("another commit was first", user_id)

        return await client.call(work, user_id=user_id, seconds=seconds)

    def _write_message(
        self, name: str, fields: Fields | None, written: int | None, mask: list[str] | None = None
    ) -> Any:
        """Firestore's own message for a write; `written` is `None` where anything may have been written."""
        message = Write.pb(Write())
        if fields is None:
            message.delete = self._path(name)
        else:
            message.update.name = self._path(name)
        for path, value in (fields or {}).items():
            into = message.update.fields
            for part in path[:-1]:
                into = into[part].map_value.fields
            _set(into[path[-1]], value)
        if mask is not None:
            message.update_mask.field_paths.extend(mask)
        if written:
            message.current_document.update_time.FromMicroseconds(written)
        elif written is not None:
            message.current_document.exists = False
        return message

    async def _page(self, last: str, end: str = "") -> list[Any]:
        """Firestore's answers for documents between two ids, with the fields that tell whether they count."""
        query: dict[str, Any] = {
            "from_": [{"collection_id": self._namespace}],
            "select": {"fields": [{"field_path": "marker"}, {"field_path": "expires_at"}]},
            "order_by": [{"field": {"field_path": "__name__"}, "direction": "ASCENDING"}],
            "limit": PAGE,
        }
        if last:
            query["start_at"] = {"values": [{"reference_value": self._path(last)}], "before": False}
        if end:
            query["end_at"] = {"values": [{"reference_value": self._path(end)}], "before": True}
        return [each for each in await self._query(query) if each.HasField("document")]

    async def _query(self, query: Mapping[str, Any]) -> list[Any]:
        """Firestore's own answers to a query: at least one, which has no document when nothing was found."""
        client = self._client
        request = RunQueryRequest(parent=f"{client.database}/documents", structured_query=query)

        async def work(api: FirestoreAsyncClient, seconds: float) -> list[Any]:
            answers = await api.run_query(request, retry=None, timeout=seconds, metadata=client.metadata)
            return [RunQueryResponse.pb(each) async for each in answers]

        return await client.call(work)

    def _path(self, name: str) -> str:
        return f"{self._client.database}/documents/{self._namespace}/{name}"


def _set(message: Any, value: Value) -> None:
    match value:
        case bool():
            message.boolean_value = value
        case int():
            message.integer_value = value
        case str():
            message.string_value = value
        case datetime():
            message.timestamp_value.FromDatetime(value)


def _expiry(fields: Mapping[str, Any]) -> datetime | None:
    """When the record is over; `None` also where that is no time: `load` says what is wrong with it."""
    try:
        return documents.expiry(fields)
    except TypeError:
        return None


def _is_over(fields: Mapping[str, Any], now: datetime) -> bool:
    expires = _expiry(fields)
    return expires is not None and expires <= now
