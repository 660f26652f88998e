"""The SQLite engine: one file, one row per key and message, one flush for the turns that are ready."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import apsw
import orjson
import structlog

from bot.runtime.config import load
from bot.runtime.engines.sqlite.connection import Database, FileSettings, diagnose
from bot.runtime.errors import StateConflict, StateCorrupt, StateForeign, StateUnavailable
from bot.runtime.state.codec import loads
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
    next_version,
    parts_of,
    update_of,
)

if TYPE_CHECKING:
    from bot.runtime.config import Settings

log = structlog.get_logger(__name__)

SCHEMA = (
    """
    CREATE TABLE record (
        id INTEGER PRIMARY KEY,
        user TEXT NOT NULL UNIQUE,
        version INTEGER NOT NULL,
        token TEXT NOT NULL,
        applied TEXT NOT NULL DEFAULT '[]',
        forgotten INTEGER NOT NULL DEFAULT 0,
        first_message INTEGER NOT NULL DEFAULT 1,
        next_message INTEGER NOT NULL DEFAULT 1,
        due INTEGER NOT NULL DEFAULT 0,
        claims INTEGER NOT NULL DEFAULT 0,
        expires_at REAL
    ) STRICT;
    CREATE INDEX record_due ON record (due) WHERE due > 0;
    CREATE INDEX record_expires_at ON record (expires_at) WHERE expires_at IS NOT NULL;
    CREATE TABLE part (
        record INTEGER NOT NULL,
        kind TEXT NOT NULL,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (record, kind, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE message (
        record INTEGER NOT NULL,
        conversation TEXT NOT NULL,
        number INTEGER NOT NULL,
        message TEXT NOT NULL,
        PRIMARY KEY (record, conversation, number)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE file (
        record INTEGER NOT NULL,
        name TEXT NOT NULL,
        update_id INTEGER NOT NULL,
        at REAL NOT NULL,
        content BLOB NOT NULL,
        PRIMARY KEY (record, name)
    ) STRICT;
    CREATE INDEX file_at ON file (at);
    CREATE TABLE erasing (only INTEGER PRIMARY KEY CHECK (only = 1), page INTEGER NOT NULL) STRICT;
    CREATE TABLE owner (only INTEGER PRIMARY KEY CHECK (only = 1), bot INTEGER NOT NULL) STRICT;
    """,
)
"""By version, the SQL that makes it of the one before.

A record has a row in `record`, and in `part` one for each key of its state, for each flow, each entry of its
outbox, each mark, and what is noted of each conversation where there are several (`kind`). The messages of
each conversation are numbered; that of the record's own place has no name. Files of replies are cut.
`erasing` says from which page on traces of what was deleted are still to be looked for."""

PAGE = 1_000
"""Users listed by one statement."""

SWEEP_SECONDS = 3600.0

SWEEP_PAGE = 50
"""Expired records deleted in one transaction: nobody waits long for it."""

FILE_SECONDS_ALLOWED = 60.0
"""Seconds beyond the time-out that reading or writing the files of a reply may take."""


class SqliteStore:
    """Keeps records in a file, without a time limit by default."""

    name: ClassVar[str] = "sqlite"
    survives_exit: ClassVar[bool] = True
    due_seconds: ClassVar[float] = 1.0

    def __init__(self, database: Database, *, limits: Limits | None = None, ttl: float | None = None) -> None:
        """Make a store; `connect` opens it.

        Args:
            database: the file.
            limits: what one record may hold.
            ttl: seconds after its last commit that a record is kept; `None` for no limit.
        """
        self.limits = limits or Limits()
        self.database = database
        self.ttl = ttl
        self._sweeper: asyncio.Task[None] | None = None

    @classmethod
    def from_settings(cls, settings: "Settings") -> Self:
        """Make the store that the settings describe.

        Raises:
            OperatorError: a setting of the file has a value that cannot be used.
        """
        database = load(FileSettings).database(SCHEMA)
        return cls(database, limits=Limits.from_settings(settings), ttl=settings.state_ttl or None)

    async def connect(self) -> None:
        """Open the file; create it, or bring it up to date, where that is due. See `StateStore.connect`.

        Raises:
            StateUnavailable: it cannot be opened.
            StateError: it is no file for this code; the text says what to do.
        """
        if self._sweeper:
            return
        await self.database.open()
        self._sweeper = asyncio.create_task(self._sweep_now_and_then())

    async def close(self) -> None:
        """Close the file."""
        sweeper, self._sweeper = self._sweeper, None
        if sweeper:
            sweeper.cancel()
            await asyncio.gather(sweeper, return_exceptions=True)
        await self.database.close()

    async def ping(self) -> None:
        """Check that the file can be read and, where writing failed, written again. See `StateStore.ping`."""
        await self.database.read(_owner)
        if self.database.is_failing:
            await self.database.write(_try_out)

    async def migrate(self) -> str:
        """Bring the file to what this code needs. See `OperatorStore.migrate`."""
        is_connected = self._sweeper is not None
        try:
            return await self.database.open()
        finally:
            if not is_connected:
                await self.database.close()

    async def diagnose(self) -> list[Finding]:
        """Look for what could cost records or keep the bot from running. See `OperatorStore.diagnose`."""
        return await diagnose(self.database)

    async def bind(self, bot_id: int) -> None:
        """Note whose records these are, or refuse another bot. See `OperatorStore.bind`."""

        def work(connection: apsw.Connection) -> int | None:
            connection.execute("INSERT INTO owner VALUES (1, ?) ON CONFLICT DO NOTHING", (bot_id,))
            return _owner(connection)

        owner = await self.database.read(_owner) or await self.database.write(work)
        if owner != bot_id:
            raise StateForeign(
                f"{self.database.path} belongs to bot {owner}, not to {bot_id}: set another SQLITE_PATH"
            )

    async def load(self, user_id: str, conversation: str | None = HOME) -> UserRecord:
        """Read a record. See `StateStore.load`."""
        statement = _LOAD_ALL if conversation is None else _LOAD
        conversation = conversation or HOME
        arguments = user_id, time.time(), conversation
        row = await self.database.read(
            lambda connection: connection.execute(statement, arguments).fetchone(), user_id=user_id
        )
        if row is None:
            return UserRecord(user_id, conversation=conversation)
        return _decoded(user_id, row, conversation)

    async def commit(self, user_id: str, changes: Changes, *, expect: int | None) -> int:
        """Write changes. See `StateStore.commit`."""
        check_size(user_id, changes, self.limits)
        return await self.database.write(
            lambda connection: _commit(connection, user_id, changes, expect, self.ttl),
            user_id=user_id,
            seconds=FILE_SECONDS_ALLOWED if changes.files else 0,
            erases=changes.forget,
        )

    async def due(self, within: float, most: int) -> Agenda:
        """Which records have something to do. See `StateStore.due`."""
        now = time.time_ns() // 1000
        arguments = now + int(within * 1e6), most
        return Agenda(now, await self.database.read(partial(_rows, _DUE, arguments)))

    async def claim(self, user_id: str, seen: int, until: int, counts: int = 1) -> int:
        """Take what a record has to do. See `StateStore.claim`."""
        return await self.database.write(
            lambda connection: connection.execute(_CLAIM, (until, user_id, seen, counts)).get or 0,
            user_id=user_id,
        )

    async def reindex(self) -> int:
        """Rebuild the index of what is due. See `OperatorStore.reindex`."""
        return await self.database.write(
            lambda connection: connection.execute(_REINDEX).execute(_WAITING).get
        )

    async def forget(self, user_id: str) -> bool:
        """Erase a user, leaving a marker. See `StateStore.forget`."""

        def work(connection: apsw.Connection) -> bool:
            existed = connection.execute(_EXISTS, (user_id, time.time())).get is not None
            _commit(connection, user_id, Changes(forget=True), None, self.ttl)
            return existed

        return await self.database.write(work, user_id=user_id, erases=True)

    async def read_file(self, user_id: str, file: str) -> bytes | None:
        """Read a file of a reply. See `StateStore.read_file`."""
        names = parts_of(file)

        def work(connection: apsw.Connection) -> bytes | None:
            parts = (
                connection.execute(_FILE_PART, (user_id, time.time(), name)).fetchone() for name in names
            )
            return joined(file, (part and part[0] for part in parts))

        return await self.database.read(work, user_id=user_id, seconds=FILE_SECONDS_ALLOWED)

    async def drop_files(self, user_id: str, files: Iterable[str]) -> None:
        """Delete files of replies. See `StateStore.drop_files`."""
        names = [(user_id, name) for file in files for name in parts_of(file)]
        await self.database.write(
            lambda connection: connection.executemany(_DROP_PART, names).fetchall(), user_id=user_id
        )

    async def users(self) -> AsyncIterator[str]:
        """The ids of all users. See `StateStore.users`."""
        last = ""
        while True:
            arguments = last, time.time(), PAGE
            page = await self.database.read(partial(_rows, _USERS, arguments))
            for (user_id,) in page:
                yield user_id
            if len(page) < PAGE:
                return
            last = page[-1][0]

    async def raw(self, user_id: str) -> str:
        """What is stored for a user. See `OperatorStore.raw`."""
        text: str | None = await self.database.read(
            lambda connection: connection.execute(_RAW, (user_id,)).get, user_id=user_id
        )
        return text or "null"

    async def sweep(self) -> int:
        """Delete files of old replies, and expired records, a few at a time.

        Returns:
            How many records.
        """
        await self.database.write(_sweep_files)
        swept = 0
        while deleted := await self.database.write(_sweep):
            swept += deleted
        if swept:
            await self.database.write(lambda connection: None, erases=True)
        return swept

    async def _sweep_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS * random.uniform(0.1, 1))
            with suppress(StateUnavailable):
                if swept := await self.sweep():
                    log.info("expired records deleted", records=swept)


_IS_LIVE = "(r.expires_at IS NULL OR r.expires_at > ?)"


def _object_of(kind: str) -> str:
    """SQL that makes a JSON object of the parts of a kind, without looking into them."""
    return f"""(
        SELECT '{{' || coalesce(group_concat(json_quote(key) || ':' || value, ','), '') || '}}'
        FROM part WHERE record = r.id AND kind = '{kind}'
    )"""


_LOAD = f"""
    SELECT r.version, r.token, r.forgotten, r.applied, {_object_of("state")}, {_object_of("fsm")}, (
            SELECT '[' || coalesce(group_concat(message, ','), '') || ']'
            FROM (SELECT message FROM message WHERE record = r.id AND conversation = ?3 ORDER BY number)
        ), {_object_of("outbox")}, {_object_of("marks")}, {_object_of("talks")}, '[]'
    FROM record AS r WHERE r.user = ?1 AND {_IS_LIVE.replace("?", "?2")}
"""

_LOAD_ALL = _LOAD.replace(
    "'[]'",
    """(
        SELECT '[' || coalesce(group_concat('[' || json_quote(name) || ',' || message || ']', ','), '') || ']'
        FROM (
            SELECT conversation AS name, message FROM message
            WHERE record = r.id AND conversation <> '' ORDER BY conversation, number
        )
    )""",
)

_IS_ABOUT_SOMEBODY = """(r.forgotten = 0 OR r.first_message < r.next_message OR EXISTS (
    SELECT 1 FROM part WHERE record = r.id AND kind IN ('state', 'fsm', 'talks')
))"""

_EXISTS = f"SELECT 1 FROM record AS r WHERE r.user = ? AND {_IS_LIVE} AND {_IS_ABOUT_SOMEBODY}"

_USERS = f"""
    SELECT r.user FROM record AS r
    WHERE r.user > ? AND {_IS_LIVE} AND {_IS_ABOUT_SOMEBODY} ORDER BY r.user LIMIT ?
"""

_DUE = "SELECT user, due FROM record WHERE due > 0 AND due <= ? ORDER BY due LIMIT ?"

_REINDEX = """
DROP INDEX IF EXISTS record_due;
CREATE INDEX record_due ON record (due) WHERE due > 0
"""

_WAITING = "SELECT count(*) FROM record WHERE due > 0"

_CLAIM = """
    UPDATE record SET due = ?1, claims = iif(?1 > 0, claims + ?4, 0) WHERE user = ?2 AND due = ?3 AND due > 0
    RETURNING max(claims, 1)
"""

_RAW = """
    SELECT json_pretty(json_object(
        'record', json_object('id', id, 'user', user, 'version', version, 'token', token, 'applied', applied,
            'forgotten', forgotten, 'first_message', first_message, 'next_message', next_message,
            'due', due, 'claims', claims, 'expires_at', expires_at),
        'parts', json((SELECT json_group_array(json_array(kind, key, value)) FROM part WHERE record = r.id)),
        'messages', json((SELECT json_group_array(message) FROM message WHERE record = r.id)),
        'files', json((SELECT json_group_array(name) FROM file WHERE record = r.id))
    ))
    FROM record AS r WHERE user = ?
"""

_FILE_PART = f"""
    SELECT f.content FROM record AS r JOIN file AS f ON f.record = r.id
    WHERE r.user = ? AND {_IS_LIVE} AND f.name = ?
"""

_DROP_PART = "DELETE FROM file WHERE record = (SELECT id FROM record WHERE user = ?) AND name = ?"

_BEFORE = """
    SELECT id, version, token, applied, forgotten, first_message, next_message, due, claims, expires_at,
        (SELECT json_group_array(key) FROM part WHERE record = r.id AND kind = 'outbox'),
        EXISTS (SELECT 1 FROM file WHERE record = r.id)
    FROM record AS r WHERE user = ?
"""

_AFTER = """
    UPDATE record SET version = ?, token = ?, applied = ?, forgotten = ?, first_message = ?, next_message = ?,
        due = ?, claims = ?, expires_at = ?
    WHERE id = ?
"""


class _Row(NamedTuple):
    """A record as a commit finds it; without an id it is not there."""

    id: int = 0
    version: int = 0
    token: str = ""
    applied: str = "[]"
    forgotten: int = 0
    first_message: int = 1
    next_message: int = 1
    due: int = NEVER
    claims: int = 0
    expires_at: float | None = None
    outbox: str = "[]"
    has_files: int = 0


def _commit(
    connection: apsw.Connection, user_id: str, changes: Changes, expect: int | None, ttl: float | None
) -> int:
    """Write changes, inside of a transaction; nothing is written yet when this raises `StateError`."""
    now = time.time()
    found = connection.execute(_BEFORE, (user_id,)).fetchone()
    row = _Row(*found) if found else _Row()
    has_expired = row.expires_at is not None and row.expires_at <= now
    is_live = row.id > 0 and not has_expired
    if is_live and row.token == changes.token:
        return row.version
    if expect is not None and expect != (row.version if is_live else 0):
        raise StateConflict("another commit was first", user_id)
    version = next_version(row.version)
    applied, outbox = _kept(user_id, row, changes) if is_live else ([], set())

    if not row.id:
        connection.execute("INSERT INTO record (user, version, token) VALUES (?, 0, '')", (user_id,))
        row = row._replace(id=connection.last_insert_rowid())
    first, forgotten = row.first_message, row.forgotten if is_live else 0
    if has_expired or changes.forget:
        _erase(connection, row.id, but="" if has_expired else "marks")
        first, outbox = row.next_message, set()
        forgotten = version if changes.forget else 0

    applied = [*applied, *changes.applied][-APPLIED_LIMIT:]
    following = row.next_message + len(changes.messages)
    if changes.clear_history:
        first = row.next_message
    if changes.keep_history is not None:
        first = max(first, following - changes.keep_history)
    if changes.messages:
        _append(connection, row.id, HOME, changes.messages, row.next_message, first)
    if first > row.first_message:
        connection.execute(_DROP_MESSAGES, (row.id, HOME, first))
    for name, change in changes.conversations.items():
        if change and name:
            next_number = change.now.next - len(change.messages)
            _append(connection, row.id, name, change.messages, next_number, change.now.first)
            connection.execute(_DROP_MESSAGES, (row.id, name, change.now.first))
        elif name:
            connection.execute("DELETE FROM message WHERE record = ? AND conversation = ?", (row.id, name))

    _write_parts(connection, row.id, changes)
    outbox -= {key for key, value in changes.outbox.items() if value is None}
    outbox |= {key for key, value in changes.outbox.items() if value is not None}
    gone = [key for key in outbox.difference(applied) if not _is_marked(connection, row.id, key, changes)]
    if gone:
        _drop_parts(connection, [(row.id, "outbox", str(key)) for key in gone])
    if row.has_files or changes.files:
        _write_files(connection, row.id, changes, outbox.difference(gone), now)

    due, claims = (row.due, row.claims) if is_live and not changes.forget else (NEVER, 0)
    if changes.due is not None:
        due, claims = changes.due, 0
    expires_at = None if ttl is None else max(now, due / 1e6) + ttl
    if forgotten and not connection.execute(_IS_SOMEBODY, (row.id, first, following)).get:
        expires_at = now + FORGOTTEN_SECONDS
    ids = orjson.dumps(applied).decode()
    after = version, changes.token, ids, forgotten, first, following, due, claims, expires_at, row.id
    connection.execute(_AFTER, after)
    return version


_IS_SOMEBODY = """
    SELECT EXISTS (SELECT 1 FROM part WHERE record = ?1 AND kind IN ('state', 'fsm', 'talks')) OR ?2 < ?3
"""

_DROP_MESSAGES = "DELETE FROM message WHERE record = ? AND conversation = ? AND number < ?"


def _append(
    connection: apsw.Connection,
    record: int,
    conversation: str,
    messages: Sequence[Message],
    next_number: int,
    first: int,
) -> None:
    """Add those messages to a conversation that are to stay: from the number `first` on."""
    connection.executemany(
        "INSERT INTO message VALUES (?, ?, ?, ?)",
        [
            (record, conversation, number, message.encode().decode())
            for number, message in enumerate(messages, next_number)
            if number >= first
        ],
    )


def _kept(user_id: str, row: _Row, changes: Changes) -> tuple[list[int], set[int]]:
    """The ids applied, and the keys of the outbox, of a record that is there.

    Raises:
        StateCorrupt: they are none. One that is forgotten begins anew.
    """
    try:
        applied, outbox = loads(row.applied), loads(row.outbox)
        return [int(each) for each in applied], {int(key) for key in outbox}
    except (ValueError, TypeError):
        if changes.forget:
            return [], set()
        raise StateCorrupt("its record cannot be read", user_id) from None


def _write_parts(connection: apsw.Connection, record: int, changes: Changes) -> None:
    set_, dropped = [], []
    for kind, part in (
        ("state", changes.state),
        ("fsm", changes.fsm),
        ("outbox", changes.outbox),
        ("marks", changes.marks),
        ("talks", changes.noted),
    ):
        for key, value in part.items():
            if value is None:
                dropped.append((record, kind, str(key)))
            else:
                set_.append((record, kind, str(key), value.decode()))
    if set_:
        connection.executemany("INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?)", set_)
    if dropped:
        _drop_parts(connection, dropped)


def _drop_parts(connection: apsw.Connection, names: list[tuple[int, str, str]]) -> None:
    connection.executemany("DELETE FROM part WHERE record = ? AND kind = ? AND key = ?", names)


def _is_marked(connection: apsw.Connection, record: int, update_id: int, changes: Changes) -> bool:
    """Whether a mark names the update, after the changes."""
    key = str(update_id)
    if key in changes.marks:
        return changes.marks[key] is not None
    query = "SELECT 1 FROM part WHERE record = ? AND kind = 'marks' AND key = ?"
    return connection.execute(query, (record, key)).get is not None


def _write_files(
    connection: apsw.Connection, record: int, changes: Changes, outbox: set[int], now: float
) -> None:
    """Keep the files whose replies wait, and no others."""
    for file, content in changes.files.items():
        connection.executemany(
            "INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?)",
            ((record, name, update_of(file), now, part) for name, part in cut(file, content)),
        )
    kept = orjson.dumps(sorted(outbox)).decode()
    connection.execute(
        "DELETE FROM file WHERE record = ? AND update_id NOT IN (SELECT value FROM json_each(?))",
        (record, kept),
    )


def _erase(connection: apsw.Connection, record: int, but: str = "") -> None:
    """Delete what a record consists of, but for parts of one kind."""
    connection.execute("DELETE FROM part WHERE record = ? AND kind <> ?", (record, but))
    connection.execute("DELETE FROM message WHERE record = ?", (record,))
    connection.execute("DELETE FROM file WHERE record = ?", (record,))


def _sweep(connection: apsw.Connection) -> int:
    query = "SELECT id FROM record WHERE expires_at <= ? LIMIT ?"
    expired = _rows(query, (time.time(), SWEEP_PAGE), connection)
    for (record,) in expired:
        _erase(connection, record)
        connection.execute("DELETE FROM record WHERE id = ?", (record,))
    return len(expired)


def _sweep_files(connection: apsw.Connection) -> None:
    connection.execute("DELETE FROM file WHERE at < ?", (time.time() - FILE_SECONDS,))


def _owner(connection: apsw.Connection) -> int | None:
    """The bot whose records these are; `None` as long as there was none."""
    owner: int | None = connection.execute("SELECT bot FROM owner").get
    return owner


def _try_out(connection: apsw.Connection) -> None:
    """Write something, and take it away again."""
    connection.execute("INSERT INTO part VALUES (0, '', '', ''); DELETE FROM part WHERE record = 0")


def _rows(query: str, arguments: tuple[Any, ...], connection: apsw.Connection) -> list[Any]:
    return connection.execute(query, arguments).fetchall()


def _decoded(user_id: str, row: tuple[Any, ...], conversation: str) -> UserRecord:
    """Make a record of a row.

    Raises:
        StateCorrupt: it is not what a commit writes.
    """
    version, token, forgotten, *texts = row
    try:
        applied, state, fsm, history, outbox, marks, talks, said = map(loads, texts)
        others: dict[str, list[Message]] = {}
        for name, message in said:
            others.setdefault(name, []).append(Message.from_json(message))
        record = UserRecord(
            user_id=user_id,
            version=version,
            token=token,
            state=state,
            fsm=fsm,
            applied=with_marked(applied, marks),
            outbox={int(key): OutboxEntry.from_json(entry) for key, entry in outbox.items()},
            forgotten=forgotten,
            marks=marks,
            conversation=conversation,
            conversations=decode_conversations(talks) if talks else {},
            others=others,
        )
        if history:
            record.read_later(history)
        return record
    except (ValueError, KeyError, TypeError) as error:
        raise StateCorrupt(f"its record cannot be read ({type(error).__name__})", user_id) from None
