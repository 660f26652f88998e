"""What stands in the table, for those who look."""

import asyncio
import json
import time
from typing import Any

import pytest

from bot.runtime.engines.dynamodb import item as dynamodb_item
from bot.runtime.engines.dynamodb.item import AT_ONCE, ITEM_LIMIT, size_of
from bot.runtime.engines.dynamodb.store import DynamodbStore
from bot.runtime.errors import StateConflict, StateCorrupt, StateTooLarge
from bot.runtime.state.record import Message, OutboxEntry, encode_entry
from bot.runtime.state.store import FORGOTTEN_SECONDS, Changes
from bot.runtime.state.turn import Turn, mutate
from suite.contract.harness import Harness
from suite.engines.dynamodb.harness import DynamodbHarness

MESSAGE = Message("user", "hello", 1.5)


@pytest.fixture
async def store(harness: Harness) -> DynamodbStore:
    store = await harness.open()
    assert isinstance(store, DynamodbStore)
    return store


async def item_of(store: DynamodbStore, user_id: str = "1") -> dict[str, Any]:
    item: dict[str, Any] = json.loads(await store.raw(user_id))
    return item


async def all_keys(store: DynamodbStore) -> list[str]:
    page = await store.client.call("scan")
    return [item["id"]["S"] for item in page["Items"] if item["id"]["S"].startswith(f"{store._namespace}:")]


async def test_one_item_per_user(store: DynamodbStore) -> None:
    reply = encode_entry(OutboxEntry([], 1.0))
    changes = Changes(
        state={"a b.c#:": b'{"x":[1.0]}', "": b"2"},
        fsm={"f": b"{}"},
        messages=(MESSAGE,),
        applied=(7,),
        outbox={7: reply},
    )
    version = await store.commit("1", changes, expect=0)
    assert await item_of(store) == {
        "id": {"S": f"{store._namespace}:user:1"},
        "state:a b.c#:": {"S": '{"x":[1.0]}'},
        "state:": {"S": "2"},
        "fsm:f": {"S": "{}"},
        "history": {"S": '[{"role":"user","text":"hello","at":1.5}]'},
        "applied": {"S": "[7]"},
        "outbox:7": {"S": reply.decode()},
        "version": {"N": str(version)},
        "token": {"S": changes.token},
    }
    assert await all_keys(store) == [f"{store._namespace}:user:1"]


async def test_a_forgotten_user_leaves_an_item_without_content(store: DynamodbStore) -> None:
    changes = Changes(state={"secret": b'"hunter2"'}, fsm={"f": b"{}"}, messages=(MESSAGE,), applied=(7,))
    await store.commit("1", changes, expect=0)
    await store.forget("1")
    item = await item_of(store)
    assert sorted(item) == ["applied", "expires", "forgotten", "id", "marker", "token", "version"]
    assert float(item["expires"]["N"]) == pytest.approx(time.time() + FORGOTTEN_SECONDS, abs=30)


async def test_a_version_is_the_time_of_the_server(
    store: DynamodbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time()
    monkeypatch.setattr(time, "time", lambda: right + 30 * 86_400)
    version = await store.commit("1", Changes(), expect=0)
    assert version / 1e6 == pytest.approx(right, abs=30)


async def test_a_clock_that_is_wrong_makes_nothing_expire(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await harness.open(ttl=3600)
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    right = time.time()
    monkeypatch.setattr(time, "time", lambda: right + 30 * 86_400)
    assert (await store.load("1")).state == {"a": 1}


async def test_what_has_expired_stays_and_is_not_read(harness: Harness) -> None:
    assert isinstance(harness, DynamodbHarness)
    store = await harness.open(ttl=3600)
    assert isinstance(store, DynamodbStore)
    version = await store.commit("1", Changes(state={"a": b"1"}, messages=(MESSAGE,)), expect=0)
    expires = float((await item_of(store))["expires"]["N"])
    assert expires == pytest.approx(time.time() + 3600, abs=30)
    await harness.expire("1")
    assert "state:a" in await item_of(store), "DynamoDB takes some days"
    assert (await store.load("1")).version == 0
    assert [user async for user in store.users()] == []
    newer = await store.commit("1", Changes(state={"b": b"1"}), expect=0)
    assert newer > version
    assert "state:a" not in await item_of(store)
    assert "history" not in await item_of(store)


async def test_an_expired_version_is_not_used_again(harness: Harness) -> None:
    """Though the clock says what it said when that was written."""
    assert isinstance(harness, DynamodbHarness)
    store = await harness.open(ttl=3600)
    assert isinstance(store, DynamodbStore)
    future = int((time.time() + 3600) * 1e6)
    await store.commit("1", Changes(), expect=0)
    await harness._set("1", "version", {"N": str(future)})
    await harness.expire("1")
    assert await store.commit("1", Changes(), expect=0) == future + 1


async def test_a_record_that_expires_between_load_and_commit_is_not_revived(harness: Harness) -> None:
    store = await harness.open(ttl=3600)
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    version = (await store.load("1")).version
    await harness.expire("1")
    with pytest.raises(StateConflict):
        await store.commit("1", Changes(state={"b": b"1"}), expect=version)


@pytest.mark.parametrize("count", [AT_ONCE - 10, AT_ONCE + 10, 1_000])
async def test_many_keys_in_one_commit(store: DynamodbStore, count: int) -> None:
    """An expression has at most 4 KB, so beyond some the whole item is put; on the same condition."""
    old = await store.commit("1", Changes(state={"keep": b"1"}, messages=(MESSAGE,), applied=(1,)), expect=0)
    values = {f"key {n}": str(n).encode() for n in range(count)}
    version = await store.commit("1", Changes(state=values), expect=old)
    with pytest.raises(StateConflict):
        await store.commit("1", Changes(state=dict.fromkeys(values)), expect=old)
    record = await store.load("1")
    assert record.state == {"keep": 1, **{f"key {n}": n for n in range(count)}}
    assert (record.history, record.applied) == ([MESSAGE], (1,))
    await store.commit("1", Changes(state=dict.fromkeys(values)), expect=version)
    assert (await store.load("1")).state == {"keep": 1}


async def test_an_expression_is_within_4_kb(store: DynamodbStore) -> None:
    old = {"version": {"N": "1"}, "expires": {"N": "1"}, **{f"state:{n}": {"S": "1"} for n in range(AT_ONCE)}}
    _, request = dynamodb_item.write("k", old, {"version": {"N": "1"}, "expires": {"N": "1"}})
    assert len(request["UpdateExpression"]) < 4_096
    new = {f"state:{n}": {"S": "1"} for n in range(AT_ONCE)}
    operation, request = dynamodb_item.write("k", {}, new)
    assert operation == "update_item"
    assert len(request["UpdateExpression"]) < 4_096


async def test_a_commit_sends_what_changed_and_no_more(store: DynamodbStore) -> None:
    await store.commit("1", Changes(state={str(n): b'"x"' for n in range(50)}), expect=0)
    old = await item_of(store)
    new = dynamodb_item.changed(
        old, Changes(state={"7": b"1", "8": None}), namespace="test", version=5, now=0, ttl=None
    )
    _, request = dynamodb_item.write("k", old, new)
    assert sorted(request["ExpressionAttributeNames"].values()) == [
        "state:7",
        "state:8",
        "token",
        "version",
        "version",
    ]


async def test_what_does_not_fit_into_an_item_is_refused_before_it_is_sent(harness: Harness) -> None:
    """Bookkeeping does not count towards STATE_MAX_BYTES, but DynamoDB has no more than 400 KB for all."""
    store = await harness.open()
    version = await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    reply = encode_entry(OutboxEntry([{"text": "r" * 250_000}], 1.0))
    version = await store.commit("1", Changes(applied=(1,), outbox={1: reply}), expect=version)
    with pytest.raises(
        StateTooLarge, match=r"^user 1: \d+ bytes with bookkeeping are more than DynamoDB's 409600"
    ):
        await store.commit("1", Changes(applied=(2,), outbox={2: reply}), expect=version)
    assert (await store.load("1")).applied == (1,)


def test_sizes_are_dynamodbs() -> None:
    assert size_of({"ключ": {"S": "ж"}, "n": {"N": "12"}}) == 8 + 2 + 1 + 21
    assert ITEM_LIMIT == 409_600


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", {"S": "x"}), ("version", {"N": "1.5"}), ("history", {"N": "1"}),
        ("history", {"S": "{}}"}), ("history", {"S": '["x"]'}), ("applied", {"S": '["x"]'}),
        ("outbox:x", {"S": "{}"}), ("token", {"N": "1"}), ("state:a", {"N": "1"}), ("fsm:a", {"M": {}}),
        ("forgotten", {"S": "x"}), ("outbox:7", {"S": "[]"}),
    ],
)  # fmt: skip
async def test_what_others_put_there_is_no_new_user(
    harness: Harness, name: str, value: dict[str, Any]
) -> None:
    assert isinstance(harness, DynamodbHarness)
    store = await harness.open()
    await store.commit("1", Changes(state={"a": b"1"}, messages=(MESSAGE,), applied=(7,)), expect=0)
    await harness._set("1", name, value)
    with pytest.raises(StateCorrupt, match=r"^user 1: "):
        await store.load("1")
    assert name in await store.raw("1")
    assert [user async for user in store.users()] == ["1"]
    assert await store.forget("1") is True
    assert (await store.load("1")).is_empty


async def test_users_come_page_by_page(store: DynamodbStore) -> None:
    blob = b'"' + b"x" * 200_000 + b'"'
    ids = [str(n) for n in range(12)]  # more than the megabyte of a page
    await asyncio.gather(*(store.commit(each, Changes(state={"a": blob}), expect=0) for each in ids))
    assert sorted([user async for user in store.users()]) == sorted(ids)


async def test_namespaces_share_a_table(store: DynamodbStore, harness: Harness) -> None:
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    await store.bind(42)
    other = DynamodbHarness()
    stranger = await other.open()
    await stranger.bind(43)
    assert (await stranger.load("1")).version == 0
    assert [user async for user in stranger.users()] == []
    await other.close()


@pytest.mark.clause("engine.layout")
async def test_the_first_layout_holds_the_private_conversation(store: DynamodbStore) -> None:
    item = {
        "id": {"S": store._user("1")},
        "state:a": {"S": "1"},
        "history": {"S": '[{"role":"user","text":"my PIN is 1234","at":1.5}]'},
        "version": {"N": "1700000000000000"},
        "token": {"S": "abc"},
    }
    await store.client.call("put_item", "1", Item=item)
    record = await store.load("1", None)
    assert [message.text for message in record.history] == ["my PIN is 1234"]
    assert (record.state, record.conversations, record.others) == ({"a": 1}, {}, {})
    assert (await store.load("1", "-100::")).history == []

    async def change(turn: Turn) -> None:
        turn.remember("user", "hello")

    for conversation in ("", "-100::"):
        await mutate(store, "1", change, conversation=conversation)
    record = await store.load("1", None)
    assert [message.text for message in record.history] == ["my PIN is 1234", "hello"]
    assert [message.text for message in record.others["-100::"]] == ["hello"]
