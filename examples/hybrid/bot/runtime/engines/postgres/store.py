"""The PostgreSQL engine: one row per user, one row per message, one statement per commit."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, ClassVar, Self

import asyncpg
import structlog

from bot.runtime.config import load
from bot.runtime.engines.postgres import schema as schema
from bot.runtime.engines.postgres.connection import Connection, Database, DatabaseSettings, delays
from bot.runtime.engines.postgres.dev_server import PostgresDevServer
from bot.runtime.engines.postgres.statements import Statements
from bot.runtime.errors import StateConflict, StateCorrupt, StateForeign, StateUnavailable
from bot.runtime.state.codec import dumps, loads
from bot.runtime.state.record import (
    HOME,
    Limits,
    Message,
    OutboxEntry,
    UserRecord,
    decode_conversations,
    with_marked,
)
from bot.runtime.state.store import (
    Agenda,
    Changes,
    Finding,
    check_size,
    cut,
    joined,
    parts_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bot.runtime.config import Settings

log = structlog.get_logger(__name__)

PAGE = 1_000
"""Users listed, or expired records deleted, by one statement."""

SWEEP_SECONDS = 3600.0

FILE_TIMEOUT = 60.0
"""Seconds that reading or writing the files of a reply may take."""


class PostgresStore:
    """Keeps records in PostgreSQL, without a time limit by default."""

    name: ClassVar[str] = "postgres"
    survives_exit: ClassVar[bool] = True
    due_seconds: ClassVar[float] = 1.0
    after_migrations: ClassVar[str] = ""
    """SQL that ends every migration, in its transaction."""

    def __init__(
        self,
        database: Database | PostgresDevServer,
        *,
        schema: str = "public",
        limits: Limits | None = None,
        ttl: float | None = None,
    ) -> None:
        """Make a store; `connect` opens it.

        Args:
            database: where the tables are, or a development server, which is then started and migrated.
            schema: the tables' schema.
            limits: what one record may hold.
            ttl: seconds after its last commit that a record is kept; `None` for no limit.
        """
        self.limits = limits or Limits()
        self._embedded = database if isinstance(database, PostgresDevServer) else None
        self._database = database if isinstance(database, Database) else None
        self._schema = schema
        self._sql = Statements(schema)
        self._ttl = None if ttl is None else timedelta(seconds=ttl)
        self._sweeper: asyncio.Task[None] | None = None

    @classmethod
    def from_settings(cls, settings: "Settings") -> Self:
        """Make the store that the settings describe.

        Raises:
            OperatorError: a setting of the database has a value that cannot be used.
        """
        own = load(DatabaseSettings)
        return cls(
            cls.database_of(own) or PostgresDevServer(),
            schema=own.database_schema,
            limits=Limits.from_settings(settings),
            ttl=settings.state_ttl or None,
        )

    @classmethod
    def database_of(cls, settings: DatabaseSettings) -> Database | None:
        """Make the database that these settings describe; `None` when they name none.

        Raises:
            OperatorError: they do not fit together.
        """
        return settings.database()

    async def connect(self) -> None:
        """Wait for the server and see that the tables are what this code needs. See `StateStore.connect`.

        Raises:
            StateUnavailable: the server does not answer, or refuses us.
            StateError: the tables are behind or ahead of this code; the text says what to do.
        """
        if self._sweeper:
            return
        try:
            database = await self.open_database()
            revision = await database.wait(lambda connection: schema.applied(connection, self._schema))
            if self._embedded and revision != schema.REVISION:
                await self._migrate(database)
                revision = await database.run(lambda connection: schema.applied(connection, self._schema))
            schema.check(revision)
        except BaseException:
            await self.close()
            raise
        self._sweeper = asyncio.create_task(self._sweep_now_and_then())

    async def close(self) -> None:
        """Close every connection, and leave the development server."""
        sweeper, self._sweeper = self._sweeper, None
        if sweeper:
            sweeper.cancel()
            await asyncio.gather(sweeper, return_exceptions=True)
        if self._database:
            await self._database.close()
        if self._embedded:
            self._database = None
            await self._embedded.stop()

    async def ping(self) -> None:
        """Check that the server answers. See `StateStore.ping`."""
        await self.database.run(lambda connection: connection.fetchval("SELECT 1"), seconds=2)

    async def migrate(self) -> str:
        """Bring the tables to what this code needs. See `OperatorStore.migrate`."""
        is_connected = self._sweeper is not None
        try:
            return await self._migrate(await self.open_database())
        finally:
            if not is_connected:
                await self.close()

    async def _migrate(self, database: Database) -> str:
        return await schema.migrate(database, self._schema, lastly=self.after_migrations)

    async def bind(self, bot_id: int) -> None:
        """Note whose records these are, or refuse another bot. See `OperatorStore.bind`."""

        async def work(connection: Connection) -> int:
            await connection.execute(self._sql.bind, bot_id)
            owner: int = await connection.fetchval(self._sql.owner)
            return owner

        owner = await self.database.wait(work)
        if owner != bot_id:
            raise StateForeign(
                f"the tables in schema {self._schema} belong to bot {owner}, not to {bot_id}: "
                "set another DATABASE_SCHEMA"
            )

    async def load(self, user_id: str, conversation: str | None = HOME) -> UserRecord:
        """Read a record. See `StateStore.load`."""
        arguments = (user_id, conversation) if conversation else (user_id,)
        statement = self._sql.load_other if conversation else self._sql.load
        if conversation is None:
            statement = self._sql.load_all
        row = await self.database.run(
            lambda connection: connection.fetchrow(statement, *arguments), user_id=user_id
        )
        if row is None:
            return UserRecord(user_id, conversation=conversation or HOME)
        return decode_row(user_id, row, conversation)

    async def commit(self, user_id: str, changes: Changes, *, expect: int | None) -> int:
        """Write changes. See `StateStore.commit`.

        When the answer is lost, the same commit is tried again: its token tells whether it was applied.
        """
        check_size(user_id, changes, self.limits)
        if expect is not None:
            return await self._commit(user_id, changes, expect)
        for delay in delays():
            with suppress(StateConflict):
                return await self._commit(user_id, changes, await self._version(user_id))
            await asyncio.sleep(delay)
        raise AssertionError("delays have no end")

    async def _commit(self, user_id: str, changes: Changes, expect: int) -> int:
        statement = self._sql.update if expect else self._sql.insert
        arguments = (user_id, expect, *_encode(changes, self._ttl))
        if changes.conversations or changes.forget or not expect:
            statement = self._sql.update_conversations if expect else self._sql.insert
            arguments += _encode_conversations(changes)
        is_lost = False  # whether an earlier attempt may have been applied without our knowing

        async def work(connection: Connection) -> int:
            nonlocal is_lost
            was_lost, is_lost = is_lost, True
            try:
                version = await self._write(connection, statement, arguments, changes)
            except _NOT_OURS:
                raise StateCorrupt("what is stored is no record of ours", user_id) from None
            except asyncpg.PostgresError as error:
                is_lost = was_lost or isinstance(error, _UNCERTAIN)
                raise
            if version is None:
                is_lost = was_lost
                version = await connection.fetchval(self._sql.written, user_id, changes.token)
            if version is not None:
                return version
            if is_lost:
                raise StateUnavailable("nobody knows whether it was committed: others came after", user_id)
            raise StateConflict("another commit was first", user_id)

        return await self.database.run(work, user_id=user_id, seconds=FILE_TIMEOUT if changes.files else None)

    async def _write(
        self, connection: Connection, statement: str, arguments: tuple[Any, ...], changes: Changes
    ) -> int | None:
        """Commit in one statement or, with files, in one transaction; the new version, if there is one."""
        if not changes.files:
            version: int | None = await connection.fetchval(statement, *arguments)
            return version
        async with connection.transaction():
            version = await connection.fetchval(statement, *arguments)
            if version is not None:
                for file, content in changes.files.items():
                    for name, part in cut(file, content):
                        await connection.execute(self._sql.keep_part, arguments[0], name, part)
            return version

    async def read_file(self, user_id: str, file: str) -> bytes | None:
        """Read a file of a reply. See `StateStore.read_file`."""
        names = parts_of(file)
        rows = await self.database.run(
            lambda connection: connection.fetch(self._sql.parts, user_id, names),
            user_id=user_id,
            seconds=FILE_TIMEOUT,
        )
        parts = {row["name"]: row["content"] for row in rows}
        return joined(file, map(parts.get, names))

    async def drop_files(self, user_id: str, files: Iterable[str]) -> None:
        """Delete files of replies. See `StateStore.drop_files`."""
        names = [name for file in files for name in parts_of(file)]
        await self.database.run(
            lambda connection: connection.execute(self._sql.drop_parts, user_id, names), user_id=user_id
        )

    async def due(self, within: float, most: int) -> Agenda:
        """Which records have something to do. See `StateStore.due`."""
        rows = await self.database.run(
            lambda connection: connection.fetch(self._sql.due, int(within * 1e6), most)
        )
        return Agenda(rows[0]["now"], [(row["user_id"], row["due"]) for row in rows if row["due"]])

    async def claim(self, user_id: str, seen: int, until: int, counts: int = 1) -> int:
        """Take what a record has to do. See `StateStore.claim`."""
        is_lost = False  # whether an earlier attempt may have claimed it without our knowing

        async def work(connection: Connection) -> int:
            nonlocal is_lost
            was_lost, is_lost = is_lost, True
            try:
                claims: int | None = await connection.fetchval(self._sql.claim, user_id, seen, until, counts)
            except asyncpg.PostgresError as error:
                is_lost = was_lost or isinstance(error, _UNCERTAIN)
                raise
            if claims is None and was_lost:
                raise StateUnavailable("nobody knows whether it was claimed", user_id)
            return claims or 0

        return await self.database.run(work, user_id=user_id)

    async def _version(self, user_id: str) -> int:
        """The version to expect, also of a record that is corrupt."""
        version: int | None = await self.database.run(
            lambda connection: connection.fetchval(self._sql.version, user_id), user_id=user_id
        )
        return version or 0

    async def forget(self, user_id: str) -> bool:
        """Erase a user, leaving a marker. See `StateStore.forget`."""
        existed = bool(
            await self.database.run(
                lambda connection: connection.fetchval(self._sql.exists, user_id), user_id=user_id
            )
        )
        await self.commit(user_id, Changes(forget=True), expect=None)
        return existed

    async def users(self) -> AsyncIterator[str]:
        """The ids of all users. See `StateStore.users`."""
        last = ""
        while True:
            page = await self.database.run(partial(self._page_of_users, last))
            for user_id in page:
                yield user_id
            if len(page) < PAGE:
                return
            last = page[-1]

    async def _page_of_users(self, last: str, connection: Connection) -> list[str]:
        return [row["user_id"] for row in await connection.fetch(self._sql.users, last, PAGE)]

    async def reindex(self) -> int:
        """Count who has something to do: the index is PostgreSQL's own. See `OperatorStore.reindex`."""
        waiting: int = await self.database.run(lambda connection: connection.fetchval(self._sql.waiting))
        return waiting

    async def raw(self, user_id: str) -> str:
        """What is stored for a user. See `OperatorStore.raw`."""
        text: str | None = await self.database.run(
            lambda connection: connection.fetchval(self._sql.raw, user_id), user_id=user_id
        )
        return text or "null"

    async def sweep(self) -> int:
        """Delete files of old replies, and expired records, a page at a time, waiting for nobody.

        Returns:
            How many records.
        """
        await self.database.run(lambda connection: connection.execute(self._sql.sweep_files))
        swept = 0
        while True:
            status: str = await self.database.run(
                lambda connection: connection.execute(self._sql.sweep, PAGE)
            )
            deleted = int(status.split()[-1])
            swept += deleted
            if deleted < PAGE:
                return swept

    async def _sweep_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS * random.uniform(0.1, 1))
            with suppress(StateUnavailable):
                if swept := await self.sweep():
                    log.info("expired records deleted", records=swept)

    async def diagnose(self) -> list[Finding]:
        """Look for what could cost records or keep the bot from running. See `OperatorStore.diagnose`."""
        tables = Finding("ok", f"the tables in schema {self._schema} are at {schema.REVISION}")
        return [*await self.database.diagnose(), tables]

    @property
    def database(self) -> Database:
        """The database.

        Raises:
            StateUnavailable: the store is not connected.
        """
        if self._database is None:
            raise StateUnavailable("the store is not connected")
        return self._database

    async def open_database(self) -> Database:
        """Open the database, and start the development server first if it is that one's."""
        if self._database is None:
            assert self._embedded
            self._database = Database(await self._embedded.start())
        if not self._database.is_open:
            await self._database.open()
        return self._database


_NOT_OURS = (
    asyncpg.CheckViolationError,
    asyncpg.InvalidParameterValueError,
    asyncpg.InvalidTextRepresentationError,
)
"""What merging into something that is no record of ours ends in."""

_UNCERTAIN = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)
"""All other errors that the server reports mean that it did not commit."""


def _encode(changes: Changes, ttl: timedelta | None) -> tuple[Any, ...]:
    """The parameters of a commit from the third on; see `statements`."""
    roles, texts, times = [], [], []
    for message in changes.messages:
        roles.append(message.role)
        texts.append(message.text)
        times.append(message.at)
    return (
        changes.token,
        *merge_of(changes.state),
        *merge_of(changes.fsm),
        roles,
        texts,
        times,
        changes.clear_history,
        changes.keep_history,
        changes.applied,
        *merge_of({str(key): value for key, value in changes.outbox.items()}),
        changes.forget,
        ttl,
        *merge_of(changes.marks),
        [_author_of(message) for message in changes.messages],
        changes.due,
        [_data_of(message) for message in changes.messages],
    )


def _encode_conversations(changes: Changes) -> tuple[Any, ...]:
    """The parameters of a commit that changes further conversations from the 23rd on; see `statements`."""
    rows = [
        (name, number, message)
        for name, change in changes.conversations.items()
        if change and name
        for number, message in enumerate(change.messages, change.now.next - len(change.messages))
        if number >= change.now.first
    ]
    return (
        *merge_of(changes.noted),
        *columns_of(rows),
        [*filter(None, changes.conversations)],
    )


def columns_of(rows: list[tuple[str, int, Message]]) -> tuple[list[Any], ...]:
    """Messages by conversation and number, as one list for each column."""
    messages = [message for _, _, message in rows]
    return (
        [name for name, _, _ in rows],
        [number for _, number, _ in rows],
        [message.role for message in messages],
        [message.text for message in messages],
        [message.at for message in messages],
        [_author_of(message) for message in messages],
        [_data_of(message) for message in messages],
    )


def _author_of(message: Message) -> str | None:
    return dumps(message.author._asdict(), "author").decode() if message.author else None


def _data_of(message: Message) -> str | None:
    return None if message.json is None else message.json.decode()


def merge_of(changes: "Mapping[str, bytes | None]") -> tuple[str, list[str]]:
    """What to set, as a JSON object, and which keys to remove."""
    pairs = (dumps(key, "key") + b":" + value for key, value in changes.items() if value is not None)
    removed = [key for key, value in changes.items() if value is None]
    return _with_points(b"{" + b",".join(pairs) + b"}").decode(), removed


_HAS_EXPONENT = re.compile(rb"\de\+?\d")
_EXPONENT = re.compile(rb'("(?:[^"\\]|\\.)*")|-?\d+(?:\.\d+)?e\+?\d+')


def _with_points(json: bytes) -> bytes:
    """The same JSON with large floats written out.

    jsonb keeps numbers as decimals: it makes an integer of `1e22`, and none of `10000000000000000000000.0`.
    """
    if not _HAS_EXPONENT.search(json):
        return json

    def write_out(match: re.Match[bytes]) -> bytes:
        if match[1]:
            return match[0]
        digits = format(Decimal(match[0].decode()), "f")
        return (digits if "." in digits else f"{digits}.0").encode()

    return _EXPONENT.sub(write_out, json)


def decode_row(user_id: str, row: Any, conversation: str | None = HOME) -> UserRecord:
    """Make a record of a row, which has the messages of one conversation or of all.

    Raises:
        StateCorrupt: it is not what a commit writes.
    """
    roles, texts, times = (row[name] or () for name in ("roles", "texts", "times"))
    authors, data = row["authors"] or repeat(None), row["data"] or repeat(None)
    names = row["names"] or repeat(conversation or HOME)
    messages: dict[str, list[dict[str, Any]]] = {conversation or HOME: []}
    try:
        for name, role, text, at, author, json in zip(
            names, roles, texts, times, authors, data, strict=False
        ):
            message = {"role": role, "text": text, "at": at}
            if author:
                message["author"] = loads(author)
            if json:
                message["data"] = loads(json)
            messages.setdefault(name, []).append(message)
        history = messages.pop(conversation or HOME)
        state, fsm, outbox, marks = map(loads, (row["state"], row["fsm"], row["outbox"], row["marks"]))
        for part in (state, fsm, outbox, marks):
            if not isinstance(part, dict):
                raise TypeError("not an object")
        record = UserRecord(
            user_id=user_id,
            version=row["version"],
            token=row["token"],
            state=state,
            fsm=fsm,
            applied=with_marked(row["applied"], marks),
            outbox={int(key): OutboxEntry.from_json(entry) for key, entry in outbox.items()},
            forgotten=row["forgotten"],
            marks=marks,
            conversation=conversation or HOME,
            conversations=decode_conversations(loads(row["conversations"])),
            others={name: [Message.from_json(each) for each in said] for name, said in messages.items()},
        )
        if history:
            record.read_later(history)
        return record.without_orphans()
    except (ValueError, KeyError, TypeError) as error:
        raise StateCorrupt(f"its record cannot be read ({type(error).__name__})", user_id) from None
