"""The contract that every engine keeps, clause by clause."""

import asyncio
import json

import orjson
import pytest

from bot.runtime.errors import (
    StateConflict,
    StateCorrupt,
    StateForeign,
    StateForgotten,
    StateTooLarge,
    StateValueError,
)
from bot.runtime.state.record import Limits, Message, OutboxEntry, encode_entry
from bot.runtime.state.store import APPLIED_LIMIT, Changes, OperatorStore
from bot.runtime.state.transfer import export_lines, import_record, read_line
from bot.runtime.state.turn import Turn, mutate
from suite.contract.harness import Harness


async def put(store: OperatorStore, user_id: str, **state: object) -> int:
    """Set keys of a user's state."""

    async def change(turn: Turn) -> None:
        turn.state.update(state)

    await mutate(store, user_id, change)
    return (await store.load(user_id)).version


async def say(store: OperatorStore, user_id: str, *texts: str) -> None:
    """Append messages to a user's history."""

    async def change(turn: Turn) -> None:
        for text in texts:
            turn.remember("user", text)

    await mutate(store, user_id, change)


@pytest.mark.clause("store.apart")
async def test_an_unknown_user_is_empty(store: OperatorStore) -> None:
    record = await store.load("1")
    assert record.is_empty
    assert record.version == 0
    assert record.applied == ()


@pytest.mark.clause("commit.only-changes")
async def test_a_commit_writes_only_what_it_names(store: OperatorStore) -> None:
    version = await store.commit("1", Changes(state={"a": b"1", "b": b"2"}), expect=0)
    await store.commit("1", Changes(state={"b": b"3", "a": None}), expect=version)
    assert (await store.load("1")).state == {"b": 3}


@pytest.mark.clause("commit.stale")
async def test_a_stale_commit_changes_nothing(store: OperatorStore) -> None:
    first = await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    second = await store.commit("1", Changes(state={"a": b"2"}), expect=first)
    message = Message("user", "stale", 1.0)
    stale = Changes(state={"a": b"3"}, messages=(message,), applied=(7,), outbox={7: b"[]"})
    with pytest.raises(StateConflict):
        await store.commit("1", stale, expect=first)
    record = await store.load("1")
    assert record.version == second
    assert record.state == {"a": 2}
    assert record.history == []
    assert record.applied == ()
    assert record.outbox == {}


@pytest.mark.clause("commit.stale")
async def test_inserting_over_a_record_conflicts(store: OperatorStore) -> None:
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    with pytest.raises(StateConflict):
        await store.commit("1", Changes(state={"a": b"2"}), expect=0)
    assert (await store.load("1")).state == {"a": 1}


@pytest.mark.clause("commit.stale")
async def test_updating_a_record_that_never_was_conflicts(store: OperatorStore) -> None:
    with pytest.raises(StateConflict):
        await store.commit("1", Changes(state={"a": b"1"}), expect=12345)
    assert (await store.load("1")).is_empty


@pytest.mark.clause("commit.stale")
async def test_a_commit_on_a_forgotten_record_conflicts(store: OperatorStore) -> None:
    version = await put(store, "1", a=1)
    await store.forget("1")
    with pytest.raises(StateConflict):
        await store.commit("1", Changes(state={"a": b"2"}), expect=version)
    assert (await store.load("1")).is_empty


@pytest.mark.clause("commit.stale")
async def test_of_many_commits_on_one_version_one_wins(store: OperatorStore) -> None:
    version = await put(store, "1", winner=None)

    async def compete(number: int) -> bool:
        try:
            changes = Changes(state={"winner": str(number).encode()})
            await store.commit("1", changes, expect=version)
        except StateConflict:
            return False
        return True

    outcomes = await asyncio.gather(*(compete(number) for number in range(20)))
    assert outcomes.count(True) == 1
    assert (await store.load("1")).state == {"winner": outcomes.index(True)}


@pytest.mark.clause("commit.no-lost-update")
async def test_no_concurrent_change_is_lost(store: OperatorStore) -> None:
    async def add(turn: Turn) -> None:
        turn.state["count"] = turn.state.get("count", 0) + 1

    async def naive() -> None:
        state = (await store.load("2")).state
        await asyncio.sleep(0)
        count = str(state.get("count", 0) + 1).encode()
        await store.commit("2", Changes(state={"count": count}), expect=None)

    await asyncio.gather(*(mutate(store, "1", add) for _ in range(8)))
    await asyncio.gather(*(naive() for _ in range(8)))
    assert (await store.load("1")).state["count"] == 8
    assert (await store.load("2")).state["count"] < 8, "this test would not notice a lost change"


@pytest.mark.clause("commit.only-changes")
async def test_a_merge_leaves_other_keys(store: OperatorStore) -> None:
    await put(store, "1", a=1)
    await store.commit("1", Changes(state={"b": b"2"}), expect=None)
    assert (await store.load("1")).state == {"a": 1, "b": 2}


@pytest.mark.clause("store.versions")
async def test_versions_grow_and_are_never_used_twice(harness: Harness) -> None:
    store = await harness.open(ttl=3600)
    versions = [await put(store, "1", n=n) for n in range(3)]
    await store.forget("1")
    versions.append((await store.load("1")).version)
    versions.append(await put(store, "1", n=4))
    await harness.expire("1")
    versions.append(await put(store, "1", n=5))
    assert versions == sorted(set(versions))


@pytest.mark.clause("record.expires")
async def test_an_expired_record_reads_as_empty_and_can_be_written(harness: Harness) -> None:
    store = await harness.open(ttl=3600)
    await put(store, "1", a=1)
    await say(store, "1", "hello")
    await harness.expire("1")
    record = await store.load("1")
    assert record.is_empty
    assert record.version == 0
    assert [user async for user in store.users()] == []
    await store.commit("1", Changes(state={"b": b"2"}), expect=0)
    record = await store.load("1")
    assert record.state == {"b": 2}
    assert record.history == []


@pytest.mark.clause("record.expires")
async def test_a_turn_begun_before_the_record_expired_does_not_write_half_of_it(harness: Harness) -> None:
    store = await harness.open(ttl=3600)
    await put(store, "1", a=1, b=1)
    before = (await store.load("1")).version
    await harness.expire("1")
    with pytest.raises(StateConflict):
        await store.commit("1", Changes(state={"a": b"2"}), expect=before)
    assert (await store.load("1")).is_empty


@pytest.mark.clause("record.expires")
async def test_every_commit_gives_a_record_its_whole_life_again(harness: Harness) -> None:
    store = await harness.open(ttl=2)
    for n in range(4):
        await store.commit("1", Changes(state={f"{n}": b"1"}), expect=None)
        await asyncio.sleep(0.8)
    assert len((await store.load("1")).state) == 4


@pytest.mark.clause("commit.stale")
async def test_a_commit_goes_by_what_it_expects_and_not_by_what_its_store_knows(harness: Harness) -> None:
    ours, theirs = await harness.open(), await harness.open()
    version = await theirs.commit("1", Changes(state={"a": b"1"}), expect=0)
    assert (await ours.load("1")).version == version
    version = await theirs.commit("1", Changes(state={"b": b"2"}), expect=version)
    await ours.commit("1", Changes(state={"c": b"3"}), expect=version)
    assert (await ours.load("1")).state == {"a": 1, "b": 2, "c": 3}


@pytest.mark.clause("wire.lost-answer")
async def test_a_commit_repeated_after_a_lost_answer_knows_itself(store: OperatorStore) -> None:
    base = await put(store, "1", count=1)
    message = Message("user", "once", 1.0)
    changes = Changes(state={"count": b"2"}, messages=(message,), applied=(5,))
    version = await store.commit("1", changes, expect=base)
    assert await store.commit("1", changes, expect=base) == version
    record = await store.load("1")
    assert record.version == version
    assert record.token == changes.token
    assert record.history == [message]
    assert record.applied == (5,)


@pytest.mark.clause("wire.lost-answer")
async def test_a_first_commit_repeated_after_a_lost_answer_knows_itself(store: OperatorStore) -> None:
    changes = Changes(state={"a": b"1"})
    version = await store.commit("1", changes, expect=0)
    assert await store.commit("1", changes, expect=0) == version


@pytest.mark.clause("commit.whole")
async def test_a_cancelled_commit_is_whole_or_absent(store: OperatorStore) -> None:
    for step in range(12):
        user_id = f"{step}"
        base = await put(store, user_id, a=0, b=0)
        message = Message("user", "x", 1.0)
        changes = Changes(state={"a": b"1", "b": b"1"}, messages=(message,), applied=(1,))
        task = asyncio.create_task(store.commit(user_id, changes, expect=base))
        for _ in range(step):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        record = await store.load(user_id)
        is_whole = (record.state, record.history, record.applied) == (
            {"a": 1, "b": 1},
            [message],
            (1,),
        )
        is_absent = (record.state, record.history, record.applied) == ({"a": 0, "b": 0}, [], ())
        assert is_whole or is_absent
        await store.commit(user_id, changes, expect=base)
        assert (await store.load(user_id)).history == [message]


@pytest.mark.clause("store.apart")
async def test_users_do_not_see_each_other(store: OperatorStore) -> None:
    ids = ["1", "11", "1:2", "-100", "*", "1%", "1_", "a b", "ü"]
    for user_id in ids:
        await put(store, user_id, me=user_id)
        await say(store, user_id, user_id)
    await store.forget("1")
    for user_id in ids[1:]:
        record = await store.load(user_id)
        assert record.state == {"me": user_id}
        assert [message.text for message in record.history] == [user_id]
    assert sorted([user async for user in store.users()]) == sorted(ids[1:])


@pytest.mark.clause("forget.erases")
async def test_forgetting_erases_everything_and_is_idempotent(store: OperatorStore) -> None:
    await say(store, "1", "hello")
    changes = Changes(
        state={"a": b"1"},
        fsm={"f": b'{"state":"s"}'},
        applied=(1, 2),
        outbox={2: encode_entry(OutboxEntry([{"method": "sendMessage"}], 1.0))},
    )
    await store.commit("1", changes, expect=None)
    assert await store.forget("1") is True
    record = await store.load("1")
    assert record.is_empty
    assert record.outbox == {}
    assert record.applied == (1, 2), "or a redelivered update would bring the user back"
    assert record.forgotten == record.version
    assert await store.forget("1") is False
    assert await store.forget("unknown") is False
    assert [user async for user in store.users()] == []


@pytest.mark.clause("forget.erases")
async def test_forgetting_within_a_commit_keeps_what_the_commit_adds(store: OperatorStore) -> None:
    base = await put(store, "1", a=1)
    bye = OutboxEntry([{"method": "sendMessage", "params": {"text": "bye"}}], 1.0)
    changes = Changes(forget=True, applied=(9,), outbox={9: encode_entry(bye)})
    await store.commit("1", changes, expect=base)
    record = await store.load("1")
    assert record.is_empty
    assert record.applied == (9,)
    assert record.outbox == {9: bye}


@pytest.mark.clause("forget.erases")
async def test_work_that_began_before_forgetting_does_not_bring_the_user_back(
    store: OperatorStore,
) -> None:
    began = await put(store, "1", a=1)
    is_first = True

    async def slow_change(turn: Turn) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            await store.forget("1")
        turn.state["late"] = True

    with pytest.raises(StateForgotten):
        await mutate(store, "1", slow_change)
    with pytest.raises(StateForgotten):
        await mutate(store, "1", slow_change, since=began)
    assert (await store.load("1")).is_empty
    await put(store, "1", fresh=True)
    with pytest.raises(StateForgotten):
        await mutate(store, "1", slow_change, since=began)
    assert (await store.load("1")).state == {"fresh": True}


@pytest.mark.clause("history.newest")
async def test_history_keeps_the_newest_messages(harness: Harness) -> None:
    store = await harness.open(Limits(history=3))
    for n in range(5):
        await say(store, "1", f"{n}")
    assert [message.text for message in (await store.load("1")).history] == ["2", "3", "4"]
    await say(store, "1", *"abcdef")
    assert [message.text for message in (await store.load("1")).history] == ["d", "e", "f"]

    async def rewrite(turn: Turn) -> None:
        turn.history[:] = [turn.history[1]]

    await mutate(store, "1", rewrite)
    assert [message.text for message in (await store.load("1")).history] == ["e"]


@pytest.mark.clause("history.newest")
async def test_history_gives_way_to_state(harness: Harness) -> None:
    store = await harness.open(Limits(max_bytes=1_000))
    await say(store, "1", "old" * 100, "new" * 100)
    await put(store, "1", blob="x" * 500)
    record = await store.load("1")
    assert [message.text for message in record.history] == ["new" * 100]
    assert record.state == {"blob": "x" * 500}


@pytest.mark.clause("history.newest")
async def test_history_counts_as_what_is_stored_of_it(harness: Harness) -> None:
    """Engines that hold a record in one piece have no room for more: quotes are escaped, roles have names."""
    store = await harness.open(Limits(max_bytes=3_000, history=200))
    await say(store, "1", *['"' * 400] * 10)
    assert len((await store.load("1")).history) == 3
    await say(store, "2", *["x"] * 100)
    record = await store.load("2")
    stored = len(orjson.dumps([message.to_json() for message in record.history]))
    assert 2_500 < stored <= 3_000


@pytest.mark.clause("record.limit")
async def test_a_record_beyond_the_limit_is_refused(harness: Harness) -> None:
    store = await harness.open(Limits(max_bytes=1_000))
    version = await put(store, "1", a="x" * 500)
    with pytest.raises(StateTooLarge) as caught:
        await put(store, "1", b="y" * 600)
    assert "yyy" not in str(caught.value)
    record = await store.load("1")
    assert record.version == version
    assert list(record.state) == ["a"]


@pytest.mark.clause("record.limit")
async def test_replies_that_wait_count_towards_the_limit_and_ids_do_not(harness: Harness) -> None:
    store = await harness.open(Limits(max_bytes=2_000))
    reply = encode_entry(OutboxEntry([{"method": "sendMessage", "text": "x" * 1_000}], 1.0))
    changes = Changes(applied=tuple(range(10**9, 10**9 + APPLIED_LIMIT)), outbox={10**9: reply})
    await store.commit("1", changes, expect=0)
    await say(store, "1", *(f"{n} {'x' * 90}" for n in range(20)))
    assert 2 < len((await store.load("1")).history) < 9, "the conversation gives way to them"
    await put(store, "1", a="x" * 900)
    with pytest.raises(StateTooLarge):
        await put(store, "1", b="x" * 100)
    version = (await store.load("1")).version
    await store.commit("1", Changes(outbox={10**9: None}), expect=version)
    await put(store, "1", b="x" * 100)


@pytest.mark.clause("update.once")
async def test_the_newest_applied_ids_are_kept(store: OperatorStore) -> None:
    reply = encode_entry(OutboxEntry([], 1.0))
    version = await store.commit("1", Changes(applied=(0,), outbox={0: reply}), expect=0)
    ids = tuple(range(1, APPLIED_LIMIT + 1))
    await store.commit("1", Changes(applied=ids), expect=version)
    record = await store.load("1")
    assert record.applied == ids
    assert record.outbox == {}, "an outbox entry goes with its id"


@pytest.mark.clause("update.once")
async def test_ids_that_marks_name_are_kept_whatever_their_number(store: OperatorStore) -> None:
    reply = encode_entry(OutboxEntry([], 1.0))
    version, at_once = 0, 50
    many = range(1_000_000_000, 1_000_000_000 + 2 * APPLIED_LIMIT)
    for n in range(0, len(many), at_once):
        ids = many[n : n + at_once]
        changes = Changes(marks={str(update_id): b"[1,2]" for update_id in ids}, outbox={ids[0]: reply})
        version = await store.commit("1", changes, expect=version)
    version = await store.commit("1", Changes(applied=tuple(range(APPLIED_LIMIT + 1))), expect=version)
    record = await store.load("1")
    assert set(record.applied) == {*range(1, APPLIED_LIMIT + 1), *many}
    assert len(record.outbox) == len(many[::at_once])
    await store.commit("1", Changes(applied=(many[0],), marks={str(many[0]): None}), expect=version)
    record = await store.load("1")
    assert set(record.applied) == {*range(2, APPLIED_LIMIT + 1), *many}
    assert record.acknowledged[-1] == many[0]
    assert await store.forget("1") is True
    assert set((await store.load("1")).applied) == set(record.applied)


@pytest.mark.clause("forget.erases")
async def test_marks_outlive_forgetting_and_are_nothing_about_the_user(harness: Harness) -> None:
    store = await harness.open(ttl=3600)
    version = await store.commit("1", Changes(state={"a": b"1"}, marks={"flood": b"[9,1]"}), expect=0)
    changes = Changes(
        forget=True, marks={"flood": b"[9,2]", "7": b"[1,0]"}, outbox={7: b'{"replies":[],"at":1}'}
    )
    await store.commit("1", changes, expect=version)
    record = await store.load("1")
    assert record.is_empty
    assert (record.marks, record.applied) == ({"flood": [9, 2], "7": [1, 0]}, (7,))
    assert list(record.outbox) == [7]
    assert await store.forget("1") is False
    assert [user async for user in store.users()] == []
    record = await store.load("1")
    assert (record.marks, record.outbox) == ({"flood": [9, 2], "7": [1, 0]}, {})
    await put(store, "1", fresh=True)
    await store.commit("1", Changes(marks={"flood": None}), expect=None)
    record = await store.load("1")
    assert (record.state, record.marks) == ({"fresh": True}, {"7": [1, 0]})
    await harness.expire("1")
    assert (await store.load("1")).marks == {}


@pytest.mark.clause("update.once")
async def test_ids_that_restart_low_are_kept_in_order_of_arrival(store: OperatorStore) -> None:
    version = await store.commit("1", Changes(applied=(2_000_000_000,)), expect=0)
    await store.commit("1", Changes(applied=(17,)), expect=version)
    assert (await store.load("1")).applied == (2_000_000_000, 17)


@pytest.mark.clause("reply.at-least-once")
async def test_the_outbox_keeps_what_is_not_dropped(store: OperatorStore) -> None:
    first = OutboxEntry([{"method": "sendMessage", "params": {"text": "1"}}], 1.0)
    second = OutboxEntry([{"method": "sendMessage", "params": {"text": "2"}}], 2.0)
    changes = Changes(applied=(1, 2), outbox={1: encode_entry(first), 2: encode_entry(second)})
    version = await store.commit("1", changes, expect=0)
    await store.commit("1", Changes(outbox={1: None}), expect=version)
    assert (await store.load("1")).outbox == {2: second}


@pytest.mark.clause("record.corrupt")
async def test_a_corrupt_record_is_no_new_user(harness: Harness) -> None:
    store = await harness.open()
    await put(store, "1", secret="hunter2")
    await harness.corrupt("1")
    with pytest.raises(StateCorrupt) as caught:
        await store.load("1")
    assert caught.value.user_id == "1"
    assert "hunter2" not in str(caught.value)
    assert await store.raw("1"), "left as it is, for `bot state show --raw`"
    with pytest.raises(StateCorrupt):
        await store.load("1")


@pytest.mark.clause("record.corrupt")
async def test_a_corrupt_record_can_be_forgotten(harness: Harness) -> None:
    store = await harness.open()
    await put(store, "1", a=1)
    await harness.corrupt("1")
    assert await store.forget("1") is True
    assert (await store.load("1")).is_empty


@pytest.mark.clause("store.apart")
async def test_a_store_belongs_to_one_bot(harness: Harness) -> None:
    store = await harness.open()
    await store.bind(42)
    await store.bind(42)
    with pytest.raises(StateForeign, match="42"):
        await store.bind(43)


@pytest.mark.clause("store.apart")
async def test_what_is_loaded_is_the_callers_own(store: OperatorStore) -> None:
    await put(store, "1", items=[1])
    record = await store.load("1")
    record.state["items"].append(2)
    record.history.append(Message("user", "x", 1.0))
    again = await store.load("1")
    assert again.state == {"items": [1]}
    assert again.history == []


@pytest.mark.clause("engine.connects")
async def test_connect_close_and_ping_can_be_repeated(store: OperatorStore) -> None:
    await store.connect()
    await store.ping()
    await store.migrate()
    assert all(finding.level != "error" for finding in await store.diagnose())
    await store.close()
    await store.close()


@pytest.mark.clause("transfer.complete")
async def test_export_and_import_carry_everything(harness: Harness) -> None:
    store = await harness.open()
    await put(store, "1", a=[1, {"b": None}])
    await say(store, "1", "hello", "there")
    reply = OutboxEntry([{"method": "sendMessage", "params": {"text": "late"}}], 1.0)
    changes = Changes(
        fsm={"f": b'{"state":"s","data":{},"at":1.0}'}, applied=(3, 1), outbox={1: encode_entry(reply)}
    )
    await store.commit("1", changes, expect=None)
    await put(store, "2", only="state")
    before = {user: await store.load(user) for user in ("1", "2")}
    lines = [line async for line in export_lines(store)]
    assert all(line.endswith(b"\n") and json.loads(line) for line in lines)

    await put(store, "1", a="changed", extra=1)
    await say(store, "1", "more")
    await store.forget("2")
    for _ in range(2):
        for line in lines:
            await import_record(store, read_line(line), with_forgotten=True)
    for user, record in before.items():
        assert (await store.load(user)).to_json() == record.to_json()


@pytest.mark.clause("json.round-trip")
async def test_a_value_that_cannot_be_kept_names_its_key_and_writes_nothing(
    store: OperatorStore,
) -> None:
    with pytest.raises(StateValueError, match=r"state\['cart'\]\['when'\]"):
        await put(store, "1", fine=1, cart={"when": {1, 2}})
    assert (await store.load("1")).version == 0
