"""Many at once: a plain read, change and write loses updates; commits do not."""

import asyncio
from typing import Any

from bot.runtime.engines.dynamodb.item import KEY
from bot.runtime.engines.dynamodb.store import DynamodbStore
from bot.runtime.errors import StateConflict
from bot.runtime.state.store import Changes
from bot.runtime.state.turn import Turn, mutate
from suite.contract.harness import Harness

COUNT = 20


async def naively(store: DynamodbStore) -> int:
    """Many times at once, read the item, add one to a number in it, and put it back; what comes of it."""
    key = {KEY: {"S": f"{store._namespace}:naive"}}

    async def add() -> None:
        item = (await store.client.call("get_item", Key=key, ConsistentRead=True)).get("Item", key)
        count = int(item.get("count", {"N": "0"})["N"]) + 1
        await store.client.call("put_item", Item={**item, "count": {"N": str(count)}})

    await asyncio.gather(*(add() for _ in range(COUNT)))
    return int((await store.client.call("get_item", Key=key))["Item"]["count"]["N"])


async def test_a_naive_bot_loses_updates_and_this_one_none(harness: Harness) -> None:
    one, other = await harness.open(), await harness.open()
    assert isinstance(one, DynamodbStore)
    assert await naively(one) < COUNT / 2, "this test would not notice"

    async def add(turn: Turn) -> None:
        turn.state["count"] = turn.state.get("count", 0) + 1

    async def persist(store: Any) -> None:
        while True:
            try:
                return await mutate(store, "1", add)
            except StateConflict:
                continue

    await asyncio.gather(*(persist(store) for store in [one, other] * (COUNT // 2)))
    assert (await one.load("1")).state == {"count": COUNT}


async def test_merges_of_many_at_once(harness: Harness) -> None:
    one, other = await harness.open(), await harness.open()
    await asyncio.gather(
        *(
            store.commit("1", Changes(state={str(n): b"1"}, applied=(n,)), expect=None)
            for n, store in enumerate([one, other] * 5)
        )
    )
    record = await one.load("1")
    assert len(record.state) == len(record.applied) == 10


async def test_two_first_commits(harness: Harness) -> None:
    stores = [await harness.open() for _ in range(2)]
    outcomes = await asyncio.gather(
        *(store.commit("1", Changes(state={"a": b"1"}), expect=0) for store in stores), return_exceptions=True
    )
    assert sorted(isinstance(each, StateConflict) for each in outcomes) == [False, True]


async def test_what_was_loaded_long_ago_is_not_written_over_what_came_since(harness: Harness) -> None:
    """The store remembers what it loaded; it never trusts that to be the newest."""
    one, other = await harness.open(), await harness.open()
    version = await one.commit("1", Changes(state={"a": b"1"}), expect=0)
    await one.load("1")
    newer = await other.commit("1", Changes(state={"b": b"1"}, applied=(1,)), expect=version)
    assert await one.commit("1", Changes(state={"c": b"1"}, applied=(2,)), expect=newer) > newer
    record = await other.load("1")
    assert (record.state, record.applied) == ({"a": 1, "b": 1, "c": 1}, (1, 2))
