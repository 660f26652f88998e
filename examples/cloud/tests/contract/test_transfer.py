"""Export and import: what was kept on one engine is kept on the next.

Every engine is given the same records and gives back the same lines (but for the order of keys, which JSON
leaves open). So a record may go from any engine to any other, and on, and is what it was.
"""

from collections.abc import Iterable

import orjson

from bot.state.store import (
    APPLIED_LIMIT,
    Changes,
    Message,
    Outgoing,
    StateStore,
    UserRecord,
    encode_outgoing,
)
from bot.state.transfer import export_lines, import_lines
from tests.contract.test_json import VALUES

REPLY = {"method": "sendMessage", "params": {"chat_id": "1", "text": "I <b>know</b>, ünd 👋"}, "files": {}}
STEP = {"state": "Steps:name", "data": {"tries": [1, 2.0, None], "nested": {"": {}}}, "at": 1_790_000_000.25}

EXACT = [value for value in VALUES if str(value) != "-0.0"]
"""What comes back as it was written. Of -0.0, PostgreSQL's jsonb gives back the equal 0.0."""

RECORDS = [
    UserRecord("1", state={"last_message": "hi", "message_count": 1}, applied=(4,)),
    UserRecord("22", state={str(number): value for number, value in enumerate(EXACT)}),
    UserRecord(
        "333",
        state={"": [], " ": {}, "a.b:c/d\\e'\"$": "\u2028\x7f\t\n", "ключ 🔑": {"b": 1, "a": {"c": [[[]]]}}},
        history=[
            Message("user" if number % 2 else "assistant", f"{number} {'äöü👋' * number}", 1e9 + number / 8)
            for number in range(50)
        ],
    ),
    UserRecord("4444", fsm={"0:4444:4444": STEP, "0:-100:4444:7": {"state": None, "data": {}, "at": 1.5}}),
    UserRecord("-1005", fsm={"0:-1005:-1005": {"data": {"a": 1}}}),
    UserRecord(
        "666666666666",
        state={"asked": True},
        history=[Message("user", "\n", 0.0)],
        applied=tuple(range(999_999_000, 999_999_000 + APPLIED_LIMIT)),
        outbox={999_999_003: Outgoing([REPLY, REPLY], 1_790_000_000.0), 999_999_255: Outgoing([REPLY], None)},
    ),
    UserRecord("7", applied=(2**31 - 1, 5, 6)),
]  # fmt: skip


def written(records: Iterable[UserRecord]) -> list[bytes]:
    """The lines of an export of these."""
    return sorted(orjson.dumps(record.to_json(), option=orjson.OPT_SORT_KEYS) for record in records)


async def exported(store: StateStore) -> list[bytes]:
    """The lines of an export, each with its keys in order."""
    return sorted(
        [orjson.dumps(orjson.loads(line), option=orjson.OPT_SORT_KEYS) async for line in export_lines(store)]
    )


async def import_all(store: StateStore, lines: Iterable[bytes]) -> None:
    async for _ in import_lines(store, lines):
        pass


async def test_what_goes_in_comes_out(store: StateStore) -> None:
    """State, history, steps, applied ids and undelivered replies; imported again, the same once more."""
    for _ in range(2):
        await import_all(store, written(RECORDS))
        assert await exported(store) == written(RECORDS)


async def test_who_is_there_already_is_replaced(store: StateStore) -> None:
    """But for the ids of updates that were applied here: they stay applied. Others stay as they are."""
    other = UserRecord("8", state={"of": "another"}, history=[Message("user", "here", 1.0)], applied=(1,))
    await import_all(store, written([other]))
    before = Changes(
        state={"last_message": b'"bye"', "old": b"[1]"},
        fsm={"0:1:1": b'{"state":"gone"}'},
        messages=(Message("user", "bye", 2.0),),
        applied=(3, 4),
        outbox={3: encode_outgoing(Outgoing([REPLY], None))},
    )
    await store.commit("1", before, expect=0)
    expected = UserRecord("1", state=RECORDS[0].state, applied=(3, 4))
    for _ in range(2):
        await import_all(store, written(RECORDS[:1]))
        assert await exported(store) == written([expected, other])
