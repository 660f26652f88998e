"""Export and import: JSON Lines, one user a line, the same on every engine."""

from collections.abc import AsyncIterator
from dataclasses import replace

import orjson

from bot.state.codec import loads
from bot.state.store import Changes, StateConflict, StateStore, UserRecord, encode_outgoing
from bot.state.turn import COMMIT_ATTEMPTS, Turn


async def export_lines(store: StateStore) -> AsyncIterator[bytes]:
    """Every user's record as a line of JSON.

    Raises:
        StateError: a record could not be read.
    """
    async for user_id in store.users():
        yield orjson.dumps((await store.load(user_id)).to_json()) + b"\n"


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
