"""The PostgreSQL half of the hybrid engine: the PostgreSQL engine, and whole records."""

from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg

from bot.runtime.engines.hybrid.snapshot import Snapshot, Waiting, whole_conversations
from bot.runtime.engines.postgres.connection import Connection
from bot.runtime.engines.postgres.store import FILE_TIMEOUT, PostgresStore, columns_of, decode_row, merge_of
from bot.runtime.errors import StateCorrupt, StateValueError
from bot.runtime.state.codec import dumps, loads
from bot.runtime.state.record import HOME, UserRecord, encode_entry
from bot.runtime.state.store import NEVER, Changes

READ = """
    SELECT held.*, u.next_message, u.due,
        coalesce((extract(epoch FROM u.expires_at) * 1000)::bigint, 0) AS expires
    FROM ({load}) AS held, {schema}.user_state AS u WHERE u.user_id = $1
"""

WRITE = """
    WITH written AS (
        INSERT INTO {schema}.user_state AS u (
            user_id, version, token, state, fsm, applied, outbox, forgotten,
            next_message, first_message, expires_at, marks, conversations, due
        )
        VALUES (
            $1::text, $2, $3, $4, $5, $6, $7, $8, $9::bigint, $10::bigint,
            to_timestamp(nullif($18::float8, 0) / 1000), $20, $21, $22
        )
        ON CONFLICT (user_id) DO UPDATE SET
            version = excluded.version, token = excluded.token, state = excluded.state, fsm = excluded.fsm,
            applied = excluded.applied, outbox = excluded.outbox, forgotten = excluded.forgotten,
            next_message = excluded.next_message, first_message = excluded.first_message,
            expires_at = excluded.expires_at, marks = excluded.marks, updated_at = now(),
            conversations = excluded.conversations, due = excluded.due, claims = 0,
            created_at = CASE WHEN excluded.forgotten > u.forgotten THEN now() ELSE u.created_at END
        WHERE u.version < excluded.version AND (u.version <= $19 OR u.expires_at <= now())
        RETURNING u.version, u.first_message, u.next_message, u.conversations, u.outbox
    ),
    history AS (
        SELECT m.* FROM written, unnest(
            $11::text[], $12::bigint[], $13::text[], $14::text[], $15::float8[], $16::jsonb[], $17::json[]
        ) AS m (conversation, number, role, text, at, author, data)
    ),
    said AS (
        INSERT INTO {schema}.user_message (user_id, number, role, text, at, author, data)
        SELECT $1, number, role, text, at, author, data FROM history WHERE conversation = '' AND NOT EXISTS (
            SELECT FROM {schema}.user_message AS m
            WHERE m.user_id = $1 AND m.number = history.number
                AND (m.role, m.text, m.at) = (history.role, history.text, history.at)
                AND m.author IS NOT DISTINCT FROM history.author
                AND m.data::text IS NOT DISTINCT FROM history.data::text
        )
        ON CONFLICT (user_id, number) DO UPDATE
            SET role = excluded.role, text = excluded.text, at = excluded.at, author = excluded.author,
                data = excluded.data
    ),
    talked AS (
        INSERT INTO {schema}.user_talk (user_id, conversation, number, role, text, at, author, data)
        SELECT $1, history.* FROM history WHERE conversation <> '' AND NOT EXISTS (
            SELECT FROM {schema}.user_talk AS m
            WHERE m.user_id = $1 AND m.conversation = history.conversation AND m.number = history.number
                AND (m.role, m.text, m.at) = (history.role, history.text, history.at)
                AND m.author IS NOT DISTINCT FROM history.author
                AND m.data::text IS NOT DISTINCT FROM history.data::text
        )
        ON CONFLICT (user_id, conversation, number) DO UPDATE
            SET role = excluded.role, text = excluded.text, at = excluded.at, author = excluded.author,
                data = excluded.data
    ),
    dropped AS (
        DELETE FROM {schema}.user_message AS m USING written
        WHERE m.user_id = $1 AND NOT (m.number >= first_message AND m.number < next_message)
    ),
    ended AS (
        DELETE FROM {schema}.user_talk AS m USING written
        WHERE m.user_id = $1 AND NOT coalesce(
            m.number >= (conversations -> m.conversation ->> 0)::bigint
                AND m.number < (conversations -> m.conversation ->> 1)::bigint, false
        )
    ),
    sent AS (
        DELETE FROM {schema}.user_file AS f USING written
        WHERE f.user_id = $1 AND NOT outbox ? split_part(f.name, '/', 1)
    )
    SELECT version FROM written
"""
"""Puts a whole record in the place of an older one, touching only messages that are not there yet.

No row: what is there is not older, or not what the record was made of."""

HELD = "SELECT version, token FROM {schema}.user_state WHERE user_id = $1"

PARTS = "SELECT name FROM {schema}.user_file WHERE user_id = $1"

WAITING = """
    SELECT user_id, due, version FROM {schema}.user_state
    WHERE due > 0 AND due <= $1 AND (due, user_id) > ($2, $3) AND (expires_at IS NULL OR expires_at > now())
    ORDER BY due, user_id LIMIT $4
"""

WAITS = "SELECT user_id, due, version FROM {schema}.user_state WHERE user_id = $1 AND due > 0"

DONE = "UPDATE {schema}.user_state SET due = 0 WHERE user_id = $1 AND version = $2"

PAGE = 500
"""How many records that have something to do are read at a time."""

HOLD = """
    INSERT INTO {schema}.user_state AS u (user_id, state, version) VALUES ($1, '{}', 0)
    ON CONFLICT (user_id) DO UPDATE SET version = u.version
    RETURNING applied, marks
"""
"""Keeps everybody else from the user's row, also from one that is just being inserted."""

_REFUSED = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.RaiseError,
)
"""What PostgreSQL says of this record, not of itself."""


class HybridPostgres(PostgresStore):
    """Reads and writes whole records."""

    async def read(self, user_id: str) -> tuple[UserRecord, Snapshot]:
        """The record as PostgreSQL holds it; an empty one when it holds none that is alive.

        Raises:
            StateUnavailable: it does not answer.
            StateCorrupt: what it holds is no record.
        """
        statement = self._fill(READ.replace("{load}", self._sql.load_all))
        row = await self.database.run(
            lambda connection: connection.fetchrow(statement, user_id), user_id=user_id
        )
        if row is None:
            return UserRecord(user_id), Snapshot(user_id, 0, 0, 1, 0, Changes(token=""), replaces=-1)
        record = decode_row(user_id, row, None)
        try:
            return record, _snapshot(record, row["next_message"], row["expires"], row["due"])
        except StateValueError as error:
            raise StateCorrupt(f"its record cannot be kept in Redis ({error.outline})", user_id) from None

    async def write(self, snapshot: Snapshot) -> bool:
        """Replace an older record.

        Returns:
            Whether this very commit is there now; `False` when PostgreSQL holds one that it does not replace.

        Raises:
            StateUnavailable: it does not answer.
            StateCorrupt: it refuses this record.
        """
        if snapshot.is_marker:

            async def the_marker(_: Changes) -> Snapshot:
                return snapshot

            return await self.erase(snapshot.user_id, the_marker)
        if not snapshot.files:
            return await self.database.run(
                lambda connection: self._replace(connection, snapshot), user_id=snapshot.user_id
            )

        async def work(connection: Connection) -> bool:
            async with connection.transaction():
                return await self._replace(connection, snapshot)

        return await self.database.run(work, user_id=snapshot.user_id, seconds=FILE_TIMEOUT)

    async def erase(self, user_id: str, decide: Callable[[Changes], Awaitable[Snapshot]]) -> bool:
        """Have `decide` forget a user elsewhere, and then do so here, or do neither.

        The user's row is held meanwhile: so it is known that PostgreSQL is there, and no flush that is under
        way can add messages after the statement that deletes them has looked.

        Args:
            user_id: whom.
            decide: is given the applied ids and marks that stand here, and returns what is to stand here; it
                may be called again.

        Returns:
            As `write`.

        Raises:
            StateUnavailable: PostgreSQL does not answer; `decide` has run only if it went away in between.
        """
        hold = self._fill(HOLD)

        async def work(connection: Connection) -> bool:
            async with connection.transaction():
                row = await connection.fetchrow(hold, user_id)
                marks = {key: dumps(value, "marks") for key, value in loads(row["marks"]).items()}
                held = Changes(applied=tuple(row["applied"]), marks=marks)
                return await self._replace(connection, await decide(held))

        return await self.database.run(work, user_id=user_id)

    async def waiting(self, latest: int) -> AsyncIterator[list[Waiting]]:
        """Records that have something to do up to a time, in pages, those that are due first."""
        last, statement = Waiting("", 0, 0), self._fill(WAITING)
        while True:
            arguments = latest, last.due, last.user_id, PAGE
            page = await self._waiting(statement, *arguments)
            if page:
                yield page
            if len(page) < PAGE:
                return
            last = page[-1]

    async def waits(self, user_id: str) -> list[Waiting]:
        """The record, if it has something to do."""
        return await self._waiting(self._fill(WAITS), user_id)

    async def _waiting(self, statement: str, *arguments: object) -> list[Waiting]:
        rows = await self.database.run(lambda connection: connection.fetch(statement, *arguments))
        return [Waiting(*row) for row in rows]

    async def done(self, user_id: str, version: int) -> None:
        """Note that a record has nothing to do, if it has still that version."""
        statement = self._fill(DONE)
        await self.database.run(
            lambda connection: connection.execute(statement, user_id, version), user_id=user_id
        )

    async def held(self, user_id: str) -> int:
        """The version that stands here, alive or not; 0 when there is none."""
        statement = self._fill(HELD)
        row = await self.database.run(
            lambda connection: connection.fetchrow(statement, user_id), user_id=user_id
        )
        return 0 if row is None else int(row["version"])

    async def _replace(self, connection: Connection, snapshot: Snapshot) -> bool:
        content = snapshot.content
        first = snapshot.next_message - len(content.messages)
        rows = [(HOME, number, message) for number, message in enumerate(content.messages, first)]
        for name, change in content.conversations.items():
            if change and name:
                rows += [
                    (name, number, said) for number, said in enumerate(change.messages, change.now.first)
                ]
        try:
            version = await connection.fetchval(
                self._fill(WRITE),
                snapshot.user_id,
                snapshot.version,
                content.token,
                merge_of(content.state)[0],
                merge_of(content.fsm)[0],
                content.applied,
                merge_of({str(key): value for key, value in content.outbox.items()})[0],
                snapshot.forgotten,
                snapshot.next_message,
                first,
                *columns_of(rows),
                snapshot.expires,
                snapshot.replaces,
                merge_of(content.marks)[0],
                merge_of(content.noted)[0],
                content.due or NEVER,
            )
            if version is not None:
                await self._bring_files(connection, snapshot)
                return True
            row = await connection.fetchrow(self._fill(HELD), snapshot.user_id)
        except _REFUSED as error:
            reason = f"PostgreSQL refuses its record ({type(error).__name__})"
            raise StateCorrupt(reason, snapshot.user_id) from None
        return row is not None and row["token"] == content.token

    async def _bring_files(self, connection: Connection, snapshot: Snapshot) -> None:
        """Copy what is not there yet of the files of its replies, in the transaction that wrote it."""
        if not snapshot.files:
            return
        held = await connection.fetch(self._fill(PARTS), snapshot.user_id)
        for name in snapshot.files.keys() - {row["name"] for row in held}:
            if (part := await snapshot.files[name]()) is not None:
                await connection.execute(self._sql.keep_part, snapshot.user_id, name, part)

    def _fill(self, statement: str) -> str:
        return statement.replace("{schema}", f'"{self._schema}"')


def _snapshot(record: UserRecord, next_message: int, expires: int, due: int) -> Snapshot:
    content = Changes(
        state={key: dumps(value, f"state[{key!r}]") for key, value in record.state.items()},
        fsm={key: dumps(value, f"fsm[{key!r}]") for key, value in record.fsm.items()},
        messages=tuple(record.history),
        conversations=whole_conversations(record),
        applied=record.acknowledged,
        outbox={key: encode_entry(entry) for key, entry in record.outbox.items()},
        marks={key: dumps(value, "marks") for key, value in record.marks.items()},
        due=due,
        token=record.token,
    )
    return Snapshot(
        record.user_id,
        record.version,
        record.forgotten,
        next_message,
        expires,
        content,
        replaces=record.version - 1,
    )
