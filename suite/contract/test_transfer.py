"""Export and import: what was kept on one engine is kept on the next.

Every engine is given the same records and gives back the same lines (but for the order of keys, which JSON
leaves open). So a record may go from any engine to any other, and on, and is what it was.
"""

import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import orjson
import pytest

from bot.runtime.errors import StateCorrupt
from bot.runtime.state.jobs import Job, jobs_in
from bot.runtime.state.record import (
    FORGETTING,
    Limits,
    Message,
    OutboxEntry,
    Place,
    UserRecord,
    encode_entry,
)
from bot.runtime.state.store import APPLIED_LIMIT, Changes, OperatorStore
from bot.runtime.state.transfer import UnusableLine, export_lines, import_lines
from suite.contract.harness import Harness
from suite.contract.test_json import VALUES

pytestmark = pytest.mark.clause("transfer.complete")

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
    UserRecord("-1005", fsm={"0:-1005:-1005": {"data": {"a": 1}, "at": 2}}),
    UserRecord(
        "666666666666",
        state={"asked": True},
        history=[Message("user", "\n", 0.0)],
        applied=tuple(range(999_999_000, 999_999_000 + APPLIED_LIMIT)),
        outbox={
            999_999_003: OutboxEntry([REPLY, REPLY], 1_790_000_000.0),
            999_999_255: OutboxEntry([REPLY], None),
        },
    ),
    UserRecord("7", applied=(2**31 - 1, 5, 6)),
    UserRecord("88", applied=(3, 4), marks={"4": [1_790_000_000, 2**32], "flood": [1_790_000_060, 3]}),
]  # fmt: skip


MANY, FEW = 150, 50
"""Users, and how many of them may be in memory at a time."""


def written(records: Iterable[UserRecord]) -> list[bytes]:
    """The lines of an export of these."""
    return sorted(orjson.dumps(record.to_json(), option=orjson.OPT_SORT_KEYS) for record in records)


async def exported(store: OperatorStore) -> list[bytes]:
    """The lines of an export, each with its keys in order."""
    return sorted(
        [orjson.dumps(orjson.loads(line), option=orjson.OPT_SORT_KEYS) async for line in export_lines(store)]
    )


async def import_all(
    store: OperatorStore, lines: Iterable[bytes], *, with_forgotten: bool = False, merge: bool = False
) -> tuple[int, int]:
    """Import to the end; how many users are imported, and left out."""
    steps = import_lines(store, lines, with_forgotten=with_forgotten, merge=merge)
    return [done async for done in steps][-1]


def line(**parts: Any) -> bytes:
    """A line about user 1 with these parts."""
    return orjson.dumps(UserRecord("1").to_json() | parts)


UNUSABLE = {
    "no JSON": b'{"user_id": "1", ',
    "no object": b"[]",
    "empty": b"",
    "no number": line(state={"a": 1}).replace(b"1}", b"NaN}"),
    "larger than 64 bits": line(state={"a": 1}).replace(b"1}", b"18446744073709551616}"),
    "a part missing": b'{"user_id": "1", "state": {}}',
    "a part too many": line(stat={}),
    "user_id a number": line(user_id=1),
    "user_id empty": line(user_id=""),
    "user_id with NUL": line(user_id="1\0"),
    "state a list": line(state=[]),
    "state with NUL": line(state={"a": "\0"}),
    "history an object": line(history={}),
    "role unknown": line(history=[{"role": "system", "text": "", "at": 1.0}]),
    "text a number": line(history=[{"role": "user", "text": 1, "at": 1.0}]),
    "time a text": line(history=[{"role": "user", "text": "", "at": "1"}]),
    "time missing": line(history=[{"role": "user", "text": ""}]),
    "fsm null": line(fsm=None),
    "flow a number": line(fsm={"k": 5}),
    "flow without a time": line(fsm={"k": {"state": "s", "data": {}}}),
    "a job that is none": line(fsm={"job:1": {"state": "s", "data": {}, "at": 1.0}}),
    "a job without a place": line(fsm={"job:1": {"data": {"name": "a", "at": 1}}}),
    "a job in no time": line(
        fsm={"job:1": {"data": {"name": "a", "at": 10**18, "place": [1, None, None, 1]}}}
    ),
    "a job by no clock": line(
        fsm={"job:1": {"data": {"name": "a", "at": 1, "place": [1, None, None, 1], "zone": "Here"}}}
    ),
    "a group that became something": line(fsm={"upgraded_to": {"data": {}}}),
    "an update that is none": line(fsm={"update:1": {"data": {"at": 1}}}),
    "step a number": line(fsm={"k": {"state": 5, "at": 1.0}}),
    "data a list": line(fsm={"k": {"data": [], "at": 1.0}}),
    "applied a text": line(applied="12"),
    "applied of texts": line(applied=["x"]),
    "applied of booleans": line(applied=[True]),
    "applied below zero": line(applied=[-1]),
    "applied beyond a bigint": line(applied=[2**63]),
    "marks a list": line(marks=[]),
    "a mark of no name": line(marks={"A": [1, 2]}),
    "a mark of texts": line(marks={"5": ["1", "2"]}),
    "half a mark": line(marks={"5": [1]}),
    "outbox a list": line(outbox=[]),
    "outbox of no id": line(applied=[5], outbox={"x": {"replies": [], "at": None}}),
    "replies a number": line(applied=[5], outbox={"5": {"replies": 5, "at": None}}),
    "reply a text": line(applied=[5], outbox={"5": {"replies": ["hi"], "at": None}}),
    "reply without method": line(applied=[5], outbox={"5": {"replies": [{"params": {}}], "at": None}}),
    "outbox with a time as text": line(applied=[5], outbox={"5": {"replies": [REPLY], "at": "1"}}),
}


async def test_what_goes_in_comes_out(store: OperatorStore) -> None:
    """State, history, steps, applied ids and undelivered replies; imported again, the same once more."""
    for _ in range(2):
        await import_all(store, written(RECORDS))
        assert await exported(store) == written(RECORDS)


async def test_who_is_there_already_is_replaced(store: OperatorStore) -> None:
    """But for the ids of updates that were applied here: they stay applied. Others stay as they are."""
    other = UserRecord("8", state={"of": "another"}, history=[Message("user", "here", 1.0)], applied=(1,))
    await import_all(store, written([other]))
    before = Changes(
        state={"last_message": b'"bye"', "old": b"[1]"},
        fsm={"0:1:1": b'{"state":"gone"}'},
        messages=(Message("user", "bye", 2.0),),
        applied=(3, 4),
        outbox={3: encode_entry(OutboxEntry([REPLY], None))},
    )
    await store.commit("1", before, expect=0)
    expected = UserRecord("1", state=RECORDS[0].state, applied=(3, 4))
    for _ in range(2):
        await import_all(store, written(RECORDS[:1]))
        assert await exported(store) == written([expected, other])


@pytest.mark.parametrize("unusable", UNUSABLE.values(), ids=UNUSABLE)
async def test_what_is_no_record_takes_nobodys_place(store: OperatorStore, unusable: bytes) -> None:
    """It is named by its line and in one line; what is kept stays, and can be read and written to."""
    await import_all(store, written(RECORDS))
    with pytest.raises(UnusableLine, match=r"^line 2: [^\n]+ \(1 user is imported[^\n]+$"):
        await import_all(store, [line(user_id="2"), unusable])
    assert await exported(store) == written([*RECORDS, UserRecord("2")])
    await store.commit("1", Changes(applied=(9,)), expect=(await store.load("1")).version)


def later(name: str, seconds: float, **more: Any) -> Job:
    """A job that is due in so many seconds, or was some time ago."""
    at = int((time.time() + seconds) * 1e6)
    return Job(id=name, name="remind", arguments={"text": ["tea", 1]}, at=at, place=Place(1, 5), **more)


def with_jobs(user_id: str, *jobs: Job, **more: Any) -> bytes:
    """The line of a record with these jobs."""
    flows = {f"job:{job.id}": job.to_json() for job in jobs}
    return orjson.dumps(UserRecord(user_id, fsm=flows, **more).to_json())


async def test_jobs_come_along(store: OperatorStore) -> None:
    """Those whose time was over wait to be asked for: they may have run where they come from."""
    waits, stopped = later("a1", 3_600, tries=2), later("a2", -50, stopped="ValueError")
    lines = [
        with_jobs("1", waits, stopped, marks={"told:00ff": [2_000_000_000, 1]}),
        with_jobs("2", later("b1", -50), later("b2", 7_200, to="3")),
        with_jobs("-1003", later("c1", -50, every=86_400, zone="Europe/Vienna")),
    ]
    for _ in range(2):
        await import_all(store, lines)
        assert jobs_in((await store.load("1")).fsm) == [stopped, waits]
        assert (await store.load("1")).marks == {"told:00ff": [2_000_000_000, 1]}
        overdue, tells = jobs_in((await store.load("2")).fsm)
        assert (overdue.stopped, tells.to) == ("overdue when it was imported", "3")
        [repeats] = jobs_in((await store.load("-1003")).fsm)
        assert 86_000 < repeats.at / 1e6 - time.time() < 86_400
        due = dict((await store.due(10**6, 9)).due)
        assert due == {"1": waits.at, "2": tells.at, "-1003": repeats.at}
    again = await exported(store)
    assert len(again) == 3
    await import_all(store, again)
    assert await exported(store) == again


async def test_owed_replies_are_due_after_an_import(store: OperatorStore) -> None:
    owed = UserRecord("1", applied=(5,), outbox={5: OutboxEntry([REPLY], None, is_owed=True)})
    await import_all(store, written([owed]))
    assert [user_id for user_id, _ in (await store.due(3_600, 9)).due] == ["1"]


async def test_updates_that_wait_are_due_after_an_import(store: OperatorStore) -> None:
    """Telegram takes them for done."""
    flows: dict[str, dict[str, Any]] = {
        "update:7": {"data": {"raw": {"update_id": 7}, "at": 5, "number": 1}},
        "full": {"data": {}},
    }
    await import_all(store, [orjson.dumps(UserRecord("waiting:1", fsm=flows).to_json())])
    assert (await store.load("waiting:1")).fsm == flows
    assert (await store.due(0, 9)).due == [("waiting:1", 5)]


async def test_what_a_group_became_comes_along(store: OperatorStore) -> None:
    flows = {"upgraded_from": {"data": {"chat_id": -5}}}
    await import_all(store, [orjson.dumps(UserRecord("-1005", fsm=flows).to_json())])
    assert (await store.load("-1005")).fsm == flows


async def test_what_is_too_large_is_named_by_its_line(harness: Harness) -> None:
    store = await harness.open(Limits(max_bytes=100))
    with pytest.raises(UnusableLine, match=r"^line 1: user 1: .*STATE_MAX_BYTES=100 \(0 users are imported"):
        await import_all(store, [line(state={"a": "b" * 100})])
    assert await exported(store) == []


async def test_who_was_forgotten_stays_forgotten(store: OperatorStore) -> None:
    """An export cannot know; neither does it undo what they have said since, if they came back."""
    lines = written(RECORDS[:3])
    await import_all(store, lines)
    await store.forget("1")
    await store.forget("22")
    back = {"number": b"1"}
    await store.commit("22", Changes(state=back), expect=(await store.load("22")).version)
    for _ in range(2):
        assert await import_all(store, lines) == (1, 2)
        assert await exported(store) == written([UserRecord("22", state={"number": 1}), RECORDS[2]])
    assert await import_all(store, lines, with_forgotten=True) == (3, 0)
    assert await exported(store) == lines


async def test_an_import_reads_few_lines_ahead(store: OperatorStore) -> None:
    pulled = 0

    def lines() -> Iterator[bytes]:
        nonlocal pulled
        for pulled in range(1, MANY + 1):
            yield line(user_id=str(pulled), state={"number": pulled})

    steps = import_lines(store, lines())
    assert await anext(steps) == (pulled, 0)
    assert pulled <= FEW
    assert len(await exported(store)) == pulled
    async for _ in steps:
        pass
    assert len(await exported(store)) == MANY


async def test_an_export_asks_for_few_users_ahead(
    store: OperatorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await import_all(store, [line(user_id=str(number), state={"a": number}) for number in range(MANY)])
    listed = 0
    users = store.users

    async def counted() -> AsyncIterator[str]:
        nonlocal listed
        async for user_id in users():
            listed += 1
            yield user_id

    monkeypatch.setattr(store, "users", counted)
    lines = export_lines(store)
    await anext(lines)
    assert listed <= FEW
    assert 1 + len([each async for each in lines]) == MANY


async def test_an_unreadable_record_ends_an_export_or_is_left_out(
    store: OperatorStore, harness: Harness
) -> None:
    await import_all(store, written(RECORDS))
    await harness.corrupt("22")
    with pytest.raises(StateCorrupt, match="user 22"):
        await exported(store)
    unreadable: list[StateCorrupt] = []
    lines = [each async for each in export_lines(store, unreadable.append)]
    assert len(lines) == len(RECORDS) - 1
    assert [error.user_id for error in unreadable] == ["22"]


MERGED = UserRecord(
    "1",
    state={"theirs": {"a": 1}, "both": "imported"},
    history=[
        Message("user", "first", 1.0),
        Message("assistant", "second", 2.0),
        Message("user", "fourth", 4.0),
    ],
    fsm={"0:1:1": STEP, "0:-5:1": STEP},
    applied=(1, 2),
    outbox={2: OutboxEntry([REPLY], None, is_owed=True, failures=3)},
)


async def test_a_merge_keeps_what_only_the_existing_record_has(store: OperatorStore) -> None:
    flow = b'{"state":"Steps:old","data":{},"at":1.0}'
    await store.commit(
        "1",
        Changes(
            state={"ours": b"[1]", "both": b'"existing"'},
            fsm={"0:1:1": flow, "0:-6:1": flow},
            messages=(Message("assistant", "second", 2.0), Message("user", "third", 3.0)),
            applied=(2, 3),
            outbox={3: encode_entry(OutboxEntry([REPLY], 3.0))},
        ),
        expect=0,
    )
    for _ in range(2):  # repeated, it changes nothing more
        steps = import_lines(store, [orjson.dumps(MERGED.to_json())], merge=True)
        assert [done async for done in steps] == [(1, 0)]
        record = await store.load("1")
        assert record.state == {"ours": [1], "both": "imported", "theirs": {"a": 1}}
        assert [message.text for message in record.history] == ["first", "second", "third", "fourth"]
        assert record.fsm == {"0:1:1": STEP, "0:-5:1": STEP, "0:-6:1": orjson.loads(flow)}
        assert sorted(record.applied) == [1, 2, 3]
        assert sorted(record.outbox) == [2, 3]


async def test_a_merge_of_a_new_user_is_an_import(store: OperatorStore) -> None:
    steps = import_lines(store, [orjson.dumps(MERGED.to_json())], merge=True)
    assert [done async for done in steps] == [(1, 0)]
    assert await exported(store) == written([MERGED])


async def test_a_merge_does_not_bring_back_who_was_forgotten(store: OperatorStore) -> None:
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    await store.forget("1")
    steps = import_lines(store, [orjson.dumps(MERGED.to_json())], merge=True)
    assert [done async for done in steps] == [(0, 1)]
    assert (await store.load("1")).is_empty


async def test_counters_and_stops_come_along(store: OperatorStore) -> None:
    marks = {
        "count:tokens used today": [2_000_000_000, 5],
        "shown:77": [2_000_000_000, 12],
        "flood": [2_000_000_000, 1],
    }
    await import_all(store, written([UserRecord("1", state={"a": 1}, marks=marks)]))
    assert (await store.load("1")).marks == marks
    flows: dict[str, dict[str, Any]] = {
        "update:7": {"data": {"raw": {"update_id": 7}, "at": 5, "number": 1}},
        "stop:7": {"data": {}},
    }
    await import_all(store, [orjson.dumps(UserRecord("waiting:1", fsm=flows).to_json())])
    assert (await store.load("waiting:1")).fsm == flows


async def test_no_request_to_be_forgotten_is_lost(store: OperatorStore) -> None:
    """Those of both are kept, and one that is overdue is still to be done."""

    def asked(**people: int) -> UserRecord:
        walk = Job(id="walk", name="forget in shared records", arguments=people, at=5)
        return UserRecord(FORGETTING, fsm={"job:walk": walk.to_json()})

    for merge in (False, True):
        await import_all(store, written([asked(**{"1": 10, "2": 10})]), merge=merge)
        await import_all(store, written([asked(**{"2": 20, "3": 30})]), merge=merge)
        (walk,) = jobs_in((await store.load(FORGETTING)).fsm)
        assert (walk.arguments, walk.stopped) == ({"1": 10, "2": 20, "3": 30}, "")
        assert [user_id for user_id, _ in (await store.due(0, 9)).due] == [FORGETTING]
