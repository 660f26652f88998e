"""JSON: a value comes back equal and of the same type, or is refused; the same on every engine."""

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.runtime.errors import StateValueError
from bot.runtime.state.codec import MAX_DEPTH, clean, dumps
from bot.runtime.state.record import Message
from bot.runtime.state.store import OperatorStore
from bot.runtime.state.turn import Turn, mutate

pytestmark = pytest.mark.clause("json.round-trip")


async def kept(store: OperatorStore, value: Any) -> Any:
    """Put a value into a store and read it back."""

    async def change(turn: Turn) -> None:
        turn.state["key"] = value

    await mutate(store, "1", change)
    return (await store.load("1")).state["key"]


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types all the way down: in Python, 1 == True == 1.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


VALUES: list[Any] = [
    None, True, False, 0, -1, 1.0, -0.0, 0.1, 1e22, 1e-300, 1.7976931348623157e308, 2**53 + 1, 2**63,
    2**64 - 1, -(2**63), "", "text", "emoji 👩‍👩‍👧‍👦 and ümläut", "\x01\x7f\u2028\ufffd\uffff\U0010ffff",
    "'\"\\ {} $1 %s ' --", [], {}, [[]], [{}], {"": ""}, {"a": [1, {"b": [None, [], {}, ""]}]},
    {"z": 1, "a": 2}, {"1": 1}, "x" * 100_000, [0] * 1_000,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:40])
async def test_a_value_comes_back_as_it_was(store: OperatorStore, value: Any) -> None:
    assert same(await kept(store, value), value)


REFUSED: list[Any] = [
    math.nan, math.inf, -math.inf, 2**64, -(2**63) - 1, 10**400, "\0", "\ud800", "a\udfffb", {"\0": 1},
    {"\ud800": 1}, {1: 1}, {None: 1}, (1, 2), {1, 2}, b"bytes", [math.nan], {"a": {"b": (1,)}},
    type("Text", (str,), {})("x"), type("Number", (int,), {})(1), type("Map", (dict,), {})(),
]  # fmt: skip


@pytest.mark.parametrize(
    "value", [*REFUSED, pytest.param(object(), id="object")], ids=lambda value: ascii(value)[:40]
)
async def test_a_value_that_would_change_is_refused_by_its_key(store: OperatorStore, value: Any) -> None:
    with pytest.raises(StateValueError, match=r"^state\['key'\]"):
        await kept(store, value)
    assert (await store.load("1")).is_empty


async def test_nesting_has_a_limit(store: OperatorStore) -> None:
    value: Any = "core"
    for _ in range(MAX_DEPTH):
        value = [value]
    assert same(await kept(store, value), value)
    with pytest.raises(StateValueError, match="nested"):
        await kept(store, [value])
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(StateValueError, match="nested"):
        await kept(store, loop)


def test_an_error_never_shows_the_value() -> None:
    with pytest.raises(StateValueError) as caught:
        dumps({"password": ["hunter2\0"]}, "state")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain 👋", "plain 👋"),
        ("a\0b", "a\ufffdb"),
        ("a\ud83d", "a\ufffd"),
        ("\udc00\ud800", "\ufffd\ufffd"),
    ],
    ids=ascii,
)
async def test_message_text_is_mended(store: OperatorStore, text: str, cleaned: str) -> None:
    assert clean(text) == cleaned

    async def change(turn: Turn) -> None:
        turn.remember("user", text)
        turn.history.append(Message("assistant", text, 1.5))

    await mutate(store, "1", change)
    history = (await store.load("1")).history
    assert [message.text for message in history] == [cleaned, cleaned]
    assert [message.role for message in history] == ["user", "assistant"]
    assert history[1].at == 1.5


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=20,
)


USERS = itertools.count()


@given(state=st.dictionaries(TEXTS, JSON, max_size=5))
async def test_any_json_comes_back_as_it_was(store: OperatorStore, state: dict[str, Any]) -> None:
    user_id = f"user-{next(USERS)}"  # every example has a record of its own

    async def change(turn: Turn) -> None:
        turn.state.update(state)

    await mutate(store, user_id, change)
    assert same((await store.load(user_id)).state, state)
