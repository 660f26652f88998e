"""Export and import: JSON Lines, one user a line, the same on every engine; few are in memory at a time."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from itertools import islice

import orjson

from bot.state.codec import loads
from bot.state.store import Changes, StateConflict, StateStore, UserRecord, encode_outgoing
from bot.state.turn import COMMIT_ATTEMPTS, Turn

AT_ONCE = 20
"""Records read or written at the same time."""


class UnusableLine(ValueError):
    """A line of an import is no record, or one that cannot be kept. The lines before it are imported."""

    def __init__(self, number: int, reason: Exception) -> None:
        """Name the line, counted from 1."""
        super().__init__(f"line {number}: {reason}; the lines before it are imported")


async def export_lines(store: StateStore) -> AsyncIterator[bytes]:
    """Every user's record as a line of JSON.

    Raises:
        StateError: a record could not be read.
    """
    user_ids: list[str] = []
    async for user_id in store.users():
        user_ids.append(user_id)
        if len(user_ids) == AT_ONCE:
            for line in await _lines(store, user_ids):
                yield line
            user_ids.clear()
    for line in await _lines(store, user_ids):
        yield line


async def import_lines(store: StateStore, lines: Iterable[bytes]) -> AsyncIterator[int]:
    """Put the records of an export into the store, in place of those that are there. Safe to repeat.

    Yields:
        Now and then, how many lines are done.

    Raises:
        UnusableLine: a line is no record, or one that cannot be kept.
        StateError: a record could not be written.
    """
    numbered = enumerate(lines, start=1)
    while batch := list(islice(numbered, AT_ONCE)):
        records: dict[str, tuple[int, UserRecord]] = {}  # of a user who stands there twice, the last
        unusable = None
        for number, line in batch:
            try:
                record = read_line(line)
            except ValueError as error:
                unusable = UnusableLine(number, error)
                break
            records[record.user_id] = number, record
        results = await asyncio.gather(
            *(import_record(store, record) for _, record in records.values()), return_exceptions=True
        )
        for (number, _), result in zip(records.values(), results, strict=True):
            if isinstance(result, ValueError):
                raise UnusableLine(number, result) from None
            if result:
                raise result
        if unusable:
            raise unusable
        yield number


def read_line(line: bytes) -> UserRecord:
    """Read one line of an export.

    Raises:
        ValueError: it is not one.
    """
    value = loads(line)
    if not isinstance(value, dict):
        raise ValueError("not an exported record: not an object")
    return UserRecord.from_json(value)


async def import_record(store: StateStore, record: UserRecord) -> None:
    """Put a record into the store, in place of the one that is there. Safe to repeat.

    Raises:
        StateError: it could not be written.
        StateValueError: it holds a value that cannot be kept.
    """
    for _ in range(COMMIT_ATTEMPTS):
        existing = await store.load(record.user_id)
        turn = Turn(existing, store.limits)
        turn.state, turn.history, turn.fsm = record.state, record.history, record.fsm
        outbox: dict[int, bytes | None] = dict.fromkeys(existing.outbox)
        outbox |= {key: encode_outgoing(entry) for key, entry in record.outbox.items()}
        changes = replace(
            turn.changes() or Changes(),
            applied=tuple(key for key in record.applied if key not in existing.applied),
            outbox=outbox,
        )
        try:
            await store.commit(record.user_id, changes, expect=existing.version)
        except StateConflict:
            continue
        return
    raise StateConflict(f"others came between {COMMIT_ATTEMPTS} times", record.user_id)


async def _lines(store: StateStore, user_ids: Iterable[str]) -> list[bytes]:
    records = await asyncio.gather(*map(store.load, user_ids))
    # One that is empty was forgotten, or has expired, since it was listed.
    return [orjson.dumps(record.to_json()) + b"\n" for record in records if not _is_gone(record)]


def _is_gone(record: UserRecord) -> bool:
    return record.is_empty and (record.version == 0 or record.forgotten > 0)
