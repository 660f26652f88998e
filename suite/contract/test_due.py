"""When a record has something to do, and who does it: the contract that every engine keeps."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import pytest

from bot.runtime.engines.memory.store import MemoryStore
from bot.runtime.state.codec import dumps
from bot.runtime.state.jobs import Job, Timetable, put_job, reindex
from bot.runtime.state.record import OutboxEntry, encode_entry
from bot.runtime.state.store import NEVER, Changes, OperatorStore
from bot.runtime.state.turn import Turn, mutate
from suite.contract.harness import Harness

pytestmark = pytest.mark.clause("store.due")

SECOND = 1_000_000
HOUR = 3_600 * SECOND


async def now(store: OperatorStore) -> int:
    """The store's time."""
    return (await store.due(0, 1)).now


async def listed(store: OperatorStore, within: float = 0, most: int = 100) -> Sequence[str]:
    """The records that have something to do."""
    return [user_id for user_id, _ in (await store.due(within, most)).due]


async def put_due(store: OperatorStore, user_id: str, due: int | None, **more: bytes) -> int:
    """Commit when a record is due, whatever it holds."""
    return await store.commit(user_id, Changes(state={"a": b"1", **more}, due=due), expect=None)


async def test_what_one_process_makes_due_is_early_for_no_other(store: OperatorStore) -> None:
    """Whenever they asked what time it is: an engine may know that to the second only."""
    tellers, askers = [Timetable() for _ in range(15)], [Timetable() for _ in range(15)]
    for timetable in [each for pair in zip(tellers, askers, strict=True) for each in pair]:
        await timetable.ask(store)
        await asyncio.sleep(0.03)
    assert max(each._clock.least for each in askers) <= min(each._clock.most for each in tellers)
    now, soon = askers[0].now(), tellers[0].at(timedelta(0))
    assert now <= soon < now + 60 * SECOND


async def test_nothing_is_due_at_first(store: OperatorStore) -> None:
    await put_due(store, "1", None)
    await put_due(store, "2", NEVER)
    assert await listed(store, within=10**9) == []


async def test_what_is_due_is_listed_earliest_first(store: OperatorStore) -> None:
    start = await now(store)
    for user_id, ago in (("1", 1), ("2", 3), ("chat:-3", 2), ("4", -3_600)):
        await put_due(store, user_id, start - ago * SECOND)
    agenda = await store.due(0, 100)
    assert agenda.due == [
        ("2", start - 3 * SECOND), ("chat:-3", start - 2 * SECOND), ("1", start - SECOND)
    ]  # fmt: skip
    assert await listed(store, most=2) == ["2", "chat:-3"]
    assert await listed(store, within=7_200) == ["2", "chat:-3", "1", "4"]


async def test_its_time_is_that_of_versions(store: OperatorStore) -> None:
    first = await put_due(store, "1", None)
    between = await now(store)
    second = await put_due(store, "1", None)
    assert first - SECOND < between < second + SECOND
    start = await now(store)
    await asyncio.sleep(0.2)
    assert 0.1 * SECOND < await now(store) - start < 60 * SECOND


async def test_a_commit_that_does_not_say_leaves_it(store: OperatorStore) -> None:
    due = await now(store) - SECOND
    version = await put_due(store, "1", due)
    version = await store.commit("1", Changes(state={"b": b"2"}), expect=version)
    await store.commit("1", Changes(state={"b": b"3"}), expect=None)
    assert (await store.due(0, 9)).due == [("1", due)]
    await put_due(store, "1", due - SECOND)
    assert (await store.due(0, 9)).due == [("1", due - SECOND)]
    await put_due(store, "1", NEVER)
    assert await listed(store, within=10**9) == []


async def test_one_commit_says_it_with_all_else(store: OperatorStore) -> None:
    """It takes effect when the commit does, and not at all when that does not."""
    due = await now(store) - SECOND
    version = await put_due(store, "1", NEVER)
    await store.commit("1", Changes(state={"b": b"2"}), expect=version)
    with pytest.raises(Exception, match="first"):
        await store.commit("1", Changes(state={"b": b"3"}, due=due), expect=version)
    assert await listed(store) == []


async def test_who_is_forgotten_has_nothing_to_do(store: OperatorStore) -> None:
    due = await now(store) - SECOND
    for user_id in ("1", "2"):
        await put_due(store, user_id, due)
    await store.forget("1")
    await store.commit("2", Changes(forget=True), expect=None)
    assert await listed(store) == []


async def test_one_claims_it(store: OperatorStore) -> None:
    seen = await now(store) - SECOND
    await put_due(store, "1", seen)
    untils = [seen + HOUR + number for number in range(8)]
    claims = await asyncio.gather(*(store.claim("1", seen, until) for until in untils))
    assert sorted(claims) == [0] * 7 + [1]
    until = untils[claims.index(1)]
    assert await listed(store) == []
    assert (await store.due(7_200, 9)).due == [("1", until)], "again, when the claim ends"
    assert await store.claim("1", seen, until + 1) == 0
    assert await store.claim("1", until, until + 1) == 2, "taken over when it ended"
    assert await store.claim("1", until + 1, until + 2, 0) == 2, "prolonged"
    assert await store.claim("1", until + 2, until + 3, -1) == 1
    assert await store.claim("1", until + 3, seen, -1) == 1, (
        "given back: at least 1, to tell it from a failure"
    )
    assert await listed(store) == ["1"]


async def test_a_claim_is_no_commit(store: OperatorStore) -> None:
    """What runs meanwhile does not have to run again; and it ends no claim, unless it says so."""
    seen = await now(store) - SECOND
    version = await put_due(store, "1", seen)
    before = await store.load("1")
    until = seen + HOUR
    assert await store.claim("1", seen, until) == 1
    assert await store.load("1") == before
    version = await store.commit("1", Changes(state={"b": b"2"}), expect=version)
    assert await listed(store) == []
    version = await store.commit("1", Changes(due=seen + 1), expect=version)
    assert await listed(store) == ["1"]
    assert await store.claim("1", until, until + 1) == 0, "the commit came first"
    assert await store.claim("1", seen + 1, until) == 1, "they are counted from the commit on"


async def test_a_claim_that_finds_nothing_says_so(store: OperatorStore) -> None:
    seen = await now(store) - SECOND
    await put_due(store, "1", seen)
    assert await store.claim("1", seen, NEVER)
    assert await listed(store, within=10**9) == []
    assert await store.claim("1", NEVER, seen) == 0, "nothing is due there"
    assert await store.claim("2", seen, seen + HOUR) == 0, "nobody is there"
    assert (await store.load("2")).version == 0


async def test_a_record_that_expired_is_at_most_a_hint(harness: Harness) -> None:
    store = await harness.open(ttl=3_600)
    seen = await now(store) - SECOND
    await put_due(store, "1", seen)
    await harness.expire("1")
    for user_id, at in (await store.due(10**9, 9)).due:
        assert await store.claim(user_id, at, NEVER)
    assert await listed(store, within=10**9) == []
    await put_due(store, "1", None)
    assert await listed(store, within=10**9) == [], "it is a new one"


async def test_a_record_stays_until_what_it_has_to_do_is_long_over(harness: Harness) -> None:
    store = await harness.open(ttl=1)
    start = await now(store)
    await put_due(store, "1", start + 3 * SECOND)
    await put_due(store, "2", None)
    await put_due(store, "3", start + HOUR)
    await put_due(store, "3", NEVER)
    await store.commit("1", Changes(state={"b": b"2"}), expect=None)
    await asyncio.sleep(2)
    assert (await store.load("1")).state == {"a": 1, "b": 2}
    assert (await store.load("2")).version == 0
    assert (await store.load("3")).version == 0
    assert await listed(store, within=5) == ["1"]


async def test_many_wait(store: OperatorStore) -> None:
    start = await now(store)
    numbers = range(300)
    for some in (numbers[first : first + 20] for first in range(0, 300, 20)):
        await asyncio.gather(*(put_due(store, str(number), start + number * SECOND) for number in some))
    assert await listed(store, within=10**6, most=1_000) == [str(number) for number in numbers]


async def test_its_index_can_be_rebuilt(store: OperatorStore) -> None:
    """From the records, also while processes are at work."""
    seen = await now(store) - SECOND
    for user_id, due in (("1", seen), ("2", seen), ("3", NEVER), ("4", None), ("5", seen)):
        await put_due(store, user_id, due)
    await store.forget("5")
    assert await store.claim("2", seen, seen + HOUR) == 1
    assert await store.reindex() == 2
    assert (await store.due(7_200, 9)).due == [("1", seen), ("2", seen + HOUR)]
    assert await store.claim("2", seen + HOUR, seen + HOUR + 1) == 2


async def test_what_is_lost_of_it_is_found_in_the_records(store: OperatorStore) -> None:
    """Jobs, what waits, and replies that nobody else will send; who is at work is left alone."""
    start = await now(store)

    async def later(turn: Turn, at: int) -> None:
        put_job(turn.fsm, Job(id="1", name="tell", at=at))

    for user_id, at in (("lost", start + HOUR), ("over", start - HOUR), ("known", start + 2 * HOUR)):
        await mutate(store, user_id, partial(later, at=at))
    waits: dict[str, object] = {"raw": {"update_id": 1}, "at": start, "number": 1}
    await store.commit("waiting:1", Changes(fsm={"update:1": dumps({"data": waits}, "")}), expect=0)
    owed = OutboxEntry(replies=[{"method": "sendMessage"}], at=start / SECOND, is_owed=True)
    await store.commit("owes", Changes(applied=(1,), outbox={1: encode_entry(owed)}), expect=0)
    await put_due(store, "nothing", None)
    for user_id in ("lost", "over"):
        await store.commit(user_id, Changes(due=NEVER), expect=None)
    assert await listed(store, within=10**6) == ["known"]
    seen: list[int] = []
    assert await reindex(store, seen.append) == (5, 4)
    due = dict((await store.due(10**6, 9)).due)
    assert (due["lost"], due["over"], due["known"]) == (start + HOUR, start - HOUR, start + 2 * HOUR)
    assert due.keys() == {"lost", "over", "known", "waiting:1", "owes"}
    assert await store.claim("over", start - HOUR, start + 30 * SECOND) == 1
    assert await reindex(store, seen.append) == (5, 0)
    assert dict((await store.due(10**6, 9)).due)["over"] == start + 30 * SECOND
    assert seen


async def test_it_outlives_the_process(harness: Harness) -> None:
    store = await harness.open()
    if isinstance(store, MemoryStore):
        pytest.skip("nothing does, in memory")
    seen = await now(store) - SECOND
    await put_due(store, "1", seen)
    await put_due(store, "2", seen)
    await store.claim("2", seen, seen + HOUR)
    await store.close()
    again = await harness.open()
    assert (await again.due(7_200, 9)).due == [("1", seen), ("2", seen + HOUR)]
