"""The OpenAI Agents SDK over the record: what its runs add is committed with the turn, or not at all."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from agents.memory import Session
from hypothesis import given
from hypothesis import strategies as st

from bot.agent_adapter import Texts
from bot.runtime.frameworks.openai_agents import RecordSession
from bot.runtime.state.record import Author, Limits, Message, UserRecord
from bot.runtime.state.turn import Turn
from suite.bot_api import FakeTelegram
from suite.contract.harness import Harness
from suite.model_bot import OpenAIAgent, calls_in
from suite.support.model import Call, ModelServer, Step, text_of
from suite.support.runtime import MakeRuntime, Runtime

pytestmark = pytest.mark.clause("frameworks")

NOTE = Step(calls=[Call("note", {"fact": "tea"})])
MAIL = Step("One moment.", calls=[Call("send_mail", {"to": "ann"}), Call("note", {"fact": "ann"})])


@pytest.fixture
async def model(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ModelServer]:
    """A model that refuses whatever a provider would."""
    async with ModelServer() as model:
        monkeypatch.setenv("MODEL_URL", model.url)
        yield model
        assert model.orphans == []


@pytest.fixture
def make_bot(make_runtime: MakeRuntime) -> MakeRuntime:
    return lambda: make_runtime("webhook", agent_class=OpenAIAgent)


async def say(telegram: FakeTelegram, text: str, **where: Any) -> str:
    """What the bot answers."""
    telegram.message(text, user_id=1, **where)
    await telegram.settled()
    return telegram.texts(where.get("chat_id", 1))[-1]


def said(request: dict[str, Any]) -> list[str]:
    """The texts of a conversation, of tools, too."""
    return [text for text in map(text_of, request["messages"]) if text]


async def test_the_next_run_knows_what_the_ones_before_did(
    make_bot: MakeRuntime, telegram: FakeTelegram, model: ModelServer
) -> None:
    async with make_bot() as bot:
        model.then(NOTE, "Noted.", "You like tea.")
        assert await say(telegram, "I like tea") == "Noted."
    async with bot:
        assert await say(telegram, "What do I like?") == "You like tea."
        last = model.requests[-1]
        assert said(last) == ["I like tea", "noted tea", "Noted.", "What do I like?"]
        assert calls_in(last["messages"]) == [("note", {"fact": "tea"})]
        record = await bot.record(1)
        assert record.state == {"asked": 2, "notes": ["tea"]}
        assert [each.text for each in record.history] == [
            "I like tea",
            "Noted.",
            "What do I like?",
            "You like tea.",
        ]


@pytest.mark.parametrize("failure", [Step(status=500), Step(status=429), Step("half", cut=0)])
async def test_a_run_that_fails_after_a_call_leaves_nothing(
    make_bot: MakeRuntime, telegram: FakeTelegram, model: ModelServer, failure: Step
) -> None:
    async with make_bot() as bot:
        model.then("Hello.", NOTE, failure)
        await say(telegram, "hi")
        before = await bot.record(1)
        assert await say(telegram, "I like tea") == Texts().sorry
        after = await bot.record(1)
        assert (after.state, after.history) == (before.state, before.history)
        await say(telegram, "still there?")
        assert said(model.requests[-1]) == ["hi", "Hello.", "still there?"]


async def test_what_was_said_before_is_given_as_text(
    make_bot: MakeRuntime, telegram: FakeTelegram, model: ModelServer
) -> None:
    async with make_bot() as bot:
        await bot.agent.handle_message(user_id="1", message="hi")
        record = await bot.record(1)
        plain = [Message(each.role, each.text, each.at) for each in record.history]

        async def forget_data(turn: Turn) -> None:
            turn.history[:] = plain

        await bot.agent.mutate("1", forget_data)
        await say(telegram, "and now?")
        assert said(model.requests[-1]) == ["hi", "You said: hi", "and now?"]


@pytest.mark.parametrize("limits", [Limits(history=6), Limits(max_bytes=4_000)], ids=["messages", "bytes"])
async def test_when_the_record_is_full_no_half_run_is_left(
    harness: Harness, telegram: FakeTelegram, model: ModelServer, limits: Limits
) -> None:
    """The model would refuse it."""
    model.script = lambda request: (
        Step("ok") if request["messages"][-1]["role"] == "tool" else Step(calls=[Call("note", {"fact": "a"})])
    )
    async with Runtime(telegram, await harness.open(limits), "webhook", OpenAIAgent) as bot:
        for number in range(12):
            assert await say(telegram, f"m{number}") == "ok"
        assert (await bot.record(1)).state["asked"] == 12
        assert 1 <= len(calls_in(model.requests[-1]["messages"])) < 12


@pytest.mark.parametrize("answer", ["yes", "no"])
@pytest.mark.parametrize("is_talked", [False, True], ids=["at once", "after some talk"])
async def test_a_call_that_waited_for_consent_is_beside_what_came_of_it(
    make_bot: MakeRuntime, telegram: FakeTelegram, model: ModelServer, answer: str, is_talked: bool
) -> None:
    async with make_bot() as bot:
        model.then(MAIL)
        assert await say(telegram, "Mail Ann") == 'send_mail {"to": "ann"}?'
        question = telegram.sent[-1]
        assert (await bot.record(1)).state == {"asked": 1, "notes": ["ann"]}
    async with bot:
        if is_talked:
            assert await say(telegram, "Wait.") == "You said: Wait."
            assert said(model.requests[-1])[-2:] == ['send_mail {"to": "ann"}?', "Wait."]
        model.then("Done.")
        telegram.press(question, ["yes", "no"].index(answer), 0, user_id=1)
        await telegram.wait_for(lambda: telegram.texts(1)[-1] == "Done.")
        assert (await bot.record(1)).state.get("mails", []) == (["ann"] if answer == "yes" else [])
        await say(telegram, "Thanks.")
        names = [name for name, _ in calls_in(model.requests[-1]["messages"])]
        assert sorted(names) == ["note", "send_mail"], "each once"
        result = "mail to ann is sent" if answer == "yes" else "Tool execution was not approved."
        texts = said(model.requests[-1])
        assert texts[-3:] == [result, "Done.", "Thanks."]
        assert texts[0] == "Mail Ann"
        assert ("Wait." in texts) == is_talked


# --- The session by itself ---


def session_of(*history: Message, limits: Limits | None = None) -> tuple[RecordSession, Turn]:
    turn = Turn(UserRecord("1", history=list(history)), limits or Limits())
    session = RecordSession(turn)
    as_the_sdk_sees_it: Session = session
    assert as_the_sdk_sees_it.session_id == "1/"
    return session, turn


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def call(number: int) -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"c{number}", "name": "x", "arguments": "{}"}


def result(number: int) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"c{number}", "output": "y"}


def thought(number: int) -> dict[str, Any]:
    return {"type": "reasoning", "id": f"r{number}", "summary": []}


def message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


async def test_items_are_popped_from_the_newest_on() -> None:
    session, turn = session_of(Message("user", "a", 1.0), Message("assistant", "b", 2.0))
    await session.add_items([user("c"), call(1), result(1), message("d")])
    turn.remember("user", "c")
    turn.remember("assistant", "d")
    popped = [await session.pop_item() for _ in range(7)]
    assert popped[:4] == [message("d"), result(1), call(1), user("c")]
    assert [text_of(each) for each in popped[4:6] if each] == ["b", "a"]
    assert popped[6] is None
    assert turn.history == []


async def test_popping_leaves_the_rest_as_it_was() -> None:
    session, turn = session_of()
    turn.remember("user", "a")
    await session.add_items([user("a"), message("b")])
    assert await session.pop_item() == message("b")
    assert await session.get_items() == [user("a")]
    await session.add_items([message("c")])
    turn.remember("assistant", "c")
    assert await session.pop_item() == message("c")
    assert await session.get_items() == [user("a")]
    turn.remember("user", "d")
    assert await session.get_items() == [user("a")]


async def test_clearing_leaves_the_message_that_is_answered() -> None:
    session, turn = session_of(Message("user", "a", 1.0), Message("assistant", "b", 2.0))
    turn.remember("user", "c")
    await session.add_items([user("c")])
    await session.clear_session()
    assert await session.get_items() == []
    assert [each.text for each in turn.history] == ["c"]
    turn.remember("assistant", "d")
    assert turn.history[-1].data is None


async def test_authors_and_files_are_words() -> None:
    picture = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    session, turn = session_of(Message("user", "a", 1.0, Author(7, "Ann")))
    turn.remember("assistant", "b")
    turn.remember("user", "c")
    await session.add_items([{"role": "user", "content": [{"type": "input_text", "text": "c"}, picture]}])
    turn.remember("assistant", "d")
    first, _, files, _ = await session.get_items()
    assert first == user("Ann: a")
    assert files["content"] == [{"type": "input_text", "text": t} for t in ("c", "[input_image]")]


NUMBERS = st.integers(0, 4)
ITEMS = st.lists(
    st.one_of(
        st.builds(call, NUMBERS), st.builds(result, NUMBERS), st.builds(thought, NUMBERS), st.just(user("u"))
    ),
    max_size=14,
)


@given(runs=st.lists(ITEMS, max_size=4), limit=st.none() | st.integers(0, 8))
async def test_whatever_a_run_adds_no_call_is_without_its_result(
    runs: list[list[dict[str, Any]]], limit: int | None
) -> None:
    session, turn = session_of()
    for items in runs:
        await session.add_items(items)
        turn.remember("assistant", "said")
    given_back = await session.get_items(limit)
    assert limit is None or len(given_back) <= limit
    waiting: set[str] = set()
    for number, item in enumerate(given_back):
        kind = item.get("type")
        if kind == "reasoning":
            following = [each.get("type") for each in given_back[number:] if each.get("type") != "reasoning"]
            assert following[:1] != [], "no thought is left alone"
        elif kind == "function_call":
            waiting.add(item["call_id"])
        elif kind == "function_call_output":
            assert item["call_id"] in waiting
            waiting.discard(item["call_id"])
        else:
            assert not waiting, "nothing is said between a call and its result"
    assert not waiting
