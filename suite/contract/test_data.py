"""JSON beside the text of messages: kept as it is, and dropped together with what it belongs to."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orjson import dumps, loads

from bot.runtime.errors import StateValueError
from bot.runtime.state.record import HOME, Author, Limits, Message, UserRecord, carries_data, exchanges
from bot.runtime.state.store import OperatorStore
from bot.runtime.state.transfer import UnusableLine, export_lines, import_lines
from bot.runtime.state.turn import Turn, mutate
from suite.contract.harness import Harness
from suite.contract.test_json import VALUES, same

GROUP = "-100::"
CALL = {"tool": "weather", "args": {"zone": "Oslo", "days": 2}}

Said = tuple[str, str, Any]
"""Role, text and data of a message."""


async def say(store: OperatorStore, *said: Said, conversation: str = HOME, user_id: str = "1") -> None:
    """Append messages to a conversation, in one turn."""

    async def change(turn: Turn) -> None:
        for role, text, data in said:
            turn.remember("user" if role == "user" else "assistant", text, data)

    await mutate(store, user_id, change, conversation=conversation)


async def kept(store: OperatorStore, conversation: str = HOME, user_id: str = "1") -> list[Said]:
    """What stands in a conversation."""
    history = (await store.load(user_id, conversation)).history
    return [(message.role, message.text, message.data) for message in history]


@pytest.mark.clause("history.data")
async def test_data_comes_back_as_it_was(store: OperatorStore) -> None:
    values = [value for value in VALUES if value is not None]
    for conversation in (HOME, GROUP):
        await say(store, *(("assistant", "", value) for value in values), conversation=conversation)
        said = await kept(store, conversation)
        for (_, _, read), value in zip(said, values, strict=True):
            assert same(read, value)
            assert dumps(read) == dumps(value), "keys are in their order"


@pytest.mark.clause("history.data")
async def test_data_and_author_go_with_one_message(store: OperatorStore) -> None:
    messages = [
        Message("user", "a", 1.0, Author(7, "Ann"), dumps(CALL)),
        Message("user", "b", 2.0, Author(7, "Ann")),
        Message("assistant", "c", 3.0, json=dumps([1])),
        Message("assistant", "d", 4.0),
    ]

    async def change(turn: Turn) -> None:
        turn.history += messages

    for conversation in (HOME, GROUP):
        await mutate(store, "-100", change, conversation=conversation)
        assert (await store.load("-100", conversation)).history == messages
    assert (await store.load("-100", None)).others == {GROUP: messages}


@pytest.mark.clause("history.data")
async def test_nobody_changes_what_is_kept_by_changing_what_they_were_given(store: OperatorStore) -> None:
    data = {"list": [1]}
    await say(store, ("assistant", "", data))
    data["list"].append(2)

    async def change(turn: Turn) -> None:
        turn.history[0].data["list"].append(3)
        turn.state["changed"] = True

    await mutate(store, "1", change)
    assert await kept(store) == [("assistant", "", {"list": [1]})]


@pytest.mark.clause("history.data")
@pytest.mark.parametrize(
    ("data", "where"),
    [
        ({"call": {"secret"}}, "data['call'] is a set"),
        ({"call": [1, float("nan")]}, "data['call'][1] is NaN"),
        (("secret",), "data is a tuple"),
        ({"call": "secret\0"}, "data['call'] holds a NUL"),
    ],
)
async def test_data_that_would_change_is_refused_at_once(store: OperatorStore, data: Any, where: str) -> None:
    async def change(turn: Turn) -> None:
        with pytest.raises(StateValueError) as caught:
            turn.remember("assistant", "", data)
        assert str(caught.value).startswith(where)
        assert "secret" not in str(caught.value)

    await mutate(store, "1", change)
    assert await kept(store) == []


@pytest.mark.clause("history.data")
async def test_an_exchange_with_data_is_dropped_whole(harness: Harness) -> None:
    store = await harness.open(Limits(history=4))
    exchange = (("user", "Oslo?", None), ("assistant", "", CALL), ("assistant", "Snow.", None))
    for conversation in (HOME, GROUP):
        await say(store, ("user", "hi", None), *exchange, conversation=conversation)
        assert await kept(store, conversation) == [("user", "hi", None), *exchange]
        await say(store, ("user", "bye", None), conversation=conversation)
        assert await kept(store, conversation) == [*exchange, ("user", "bye", None)]
        await say(store, ("assistant", "bye", None), conversation=conversation)
        assert await kept(store, conversation) == [("user", "bye", None), ("assistant", "bye", None)]


@pytest.mark.clause("history.data")
async def test_an_exchange_that_is_too_long_keeps_its_text(harness: Harness) -> None:
    store = await harness.open(Limits(history=3))
    for conversation in (HOME, GROUP):
        await say(store, ("user", "0", CALL), ("assistant", "1", CALL), conversation=conversation)
        await say(store, ("assistant", "2", CALL), conversation=conversation)
        before = [("user", "0", CALL), ("assistant", "1", CALL), ("assistant", "2", CALL)]
        assert await kept(store, conversation) == before
        await say(store, ("assistant", "3", CALL), conversation=conversation)
        texts = [(role, text) for role, text, data in await kept(store, conversation) if data is None]
        assert texts == [("assistant", "1"), ("assistant", "2"), ("assistant", "3")]


@pytest.mark.clause("history.data")
async def test_an_exchange_that_is_too_large_keeps_its_text(harness: Harness) -> None:
    store = await harness.open(Limits(max_bytes=1_000))
    for conversation in (HOME, GROUP):
        await say(store, ("user", "a", None), ("assistant", "b", None), conversation=conversation)
        await say(store, ("user", "c", "x" * 1_000), ("assistant", "d", 1), conversation=conversation)
        said = await kept(store, conversation)
        assert said[-4:] == [
            ("user", "a", None), ("assistant", "b", None), ("user", "c", None), ("assistant", "d", None),
        ]  # fmt: skip


@pytest.mark.clause("history.data")
async def test_of_another_conversation_no_half_exchange_is_left(harness: Harness) -> None:
    store = await harness.open(Limits(max_bytes=2_500))
    for number in range(4):
        exchange = [("user", f"{number}", None), ("assistant", "", "x" * 200), ("assistant", "", "y" * 100)]
        await say(store, *exchange, conversation=GROUP)
    whole = await kept(store, GROUP)
    assert len(whole) == 12
    lengths = set()
    for _ in range(20):
        await say(store, ("user", "z" * 100, None))
        left = await kept(store, GROUP)
        assert left == whole[len(whole) - len(left) :]
        lengths.add(len(left))
    assert lengths == {0, 3, 6, 9} | lengths & {12}


@pytest.mark.clause("history.data")
async def test_a_reset_leaves_nothing_of_an_exchange(store: OperatorStore) -> None:
    async def reset(turn: Turn) -> None:
        turn.remember("user", "again", CALL)
        turn.reset()

    await say(store, ("user", "hi", CALL), ("assistant", "", CALL))
    await mutate(store, "1", reset)
    assert (await store.load("1")).is_empty


TEXTS = itertools.count()
TURNS = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["user", "assistant"]), st.integers(0, 60), st.none() | st.integers(0, 200)
        ),
        min_size=1,
        max_size=4,
    ),
    max_size=8,
)
"""Per turn and message who said it, how long its text is, and its data."""


@pytest.mark.clause("history.data")
@given(turns=TURNS, limits=st.builds(Limits, st.integers(600, 1_500), st.integers(1, 6)))
def test_whatever_is_dropped_no_half_exchange_is_left(turns: list[Any], limits: Limits) -> None:
    """What a commit writes is decided before any engine sees it."""
    history: list[Message] = []
    for turn_ in turns:
        turn = Turn(UserRecord("1", version=1, history=list(history)), limits)
        turn.state["counted"] = True
        for role, length, data in turn_:
            turn.remember(role, f"{next(TEXTS):08}{'x' * length}", None if data is None else "d" * data)
        before = list(turn.history)
        changes = turn.changes()
        assert changes is not None
        assert changes.keep_history is not None
        assert changes.size <= limits.max_bytes
        history = [*([] if changes.clear_history else history), *changes.messages]
        history = history[len(history) - min(len(history), changes.keep_history) :]
        assert len(history) <= limits.history
        dropped = len(before) - len(history)
        assert [each.text for each in history] == [each.text for each in before[dropped:]], "the newest stay"
        *older, newest = exchanges(before)
        place = 0
        for exchange in older:
            left = history[max(0, place - dropped) : max(0, place + len(exchange) - dropped)]
            place += len(exchange)
            if carries_data(exchange):
                assert left in ([], list(exchange)), "whole or not at all"
        left = history[max(0, place - dropped) :]
        if carries_data(newest) and carries_data(left):
            assert left == list(newest), "whole, with its data"
        elif carries_data(newest):
            alone = Turn(UserRecord("1", version=1), limits)
            alone.state["counted"] = True
            alone.history = list(newest)
            changes = alone.changes()
            assert changes is not None
            assert not carries_data(changes.messages), "it did not fit"


@pytest.mark.clause("transfer.complete")
async def test_an_export_carries_data(store: OperatorStore) -> None:
    await say(store, ("user", "hi", CALL), ("assistant", "", [1e22, -0.0, {"z": 1, "a": 2}]))
    await say(store, ("user", "hi all", CALL), conversation=GROUP)
    lines = [line async for line in export_lines(store)]
    assert loads(lines[0])["history"][0]["data"] == CALL
    await store.forget("1")
    for _ in range(2):
        steps = import_lines(store, lines, with_forgotten=True)
        assert [done async for done in steps] == [(1, 0)]
        assert [line async for line in export_lines(store)] == lines


@pytest.mark.clause("transfer.complete")
async def test_an_import_refuses_data_that_cannot_be_kept(store: OperatorStore) -> None:
    line = dumps(
        UserRecord("1", history=[Message("user", "hi", 1.0, json=b'{"secret":"\\u0000"}')]).to_json()
    )
    with pytest.raises(UnusableLine, match=r"line 1: history.* data.* holds a NUL") as caught:
        assert [done async for done in import_lines(store, [line])]
    assert "secret" not in str(caught.value)


@pytest.mark.clause("transfer.complete")
async def test_a_merge_keeps_exchanges_with_data_in_one_piece(store: OperatorStore) -> None:
    def exchange(name: str, begin: float) -> list[Message]:
        return [
            Message("user", name, begin),
            Message("assistant", f"{name} call", begin + 2, json=dumps(CALL)),
            Message("assistant", f"{name} return", begin + 4, json=dumps(CALL)),
        ]

    async def change(turn: Turn) -> None:
        turn.history += exchange("ours", 1.0)

    await mutate(store, "1", change)
    theirs = UserRecord("1", history=[*exchange("ours", 1.0)[:1], *exchange("theirs", 2.0)])
    for _ in range(2):
        steps = import_lines(store, [dumps(theirs.to_json())], merge=True)
        assert [done async for done in steps] == [(1, 0)]
        texts = [text for _, text, _ in await kept(store)]
        assert texts == ["ours", "ours call", "ours return", "theirs", "theirs call", "theirs return"]
