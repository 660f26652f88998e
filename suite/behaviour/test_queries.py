"""Queries with a deadline: answered while the same person's agent thinks, with the record as it is."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from aiogram import Router
from aiogram.fsm.context import FSMContext
from aiogram.fsm.state import State, StatesGroup
from aiogram.methods import TelegramMethod
from aiogram.types import InlineQuery, PreCheckoutQuery, ShippingQuery

from bot.agent_adapter import Message, StateError, TelegramAgentAdapter, Texts, Turn
from bot.runtime.app import Owner
from bot.runtime.config import Settings
from bot.runtime.errors import StateUnavailable
from bot.runtime.logs import configure_logs
from bot.runtime.telegram import processor, transaction
from suite.agents import CountingAgent, Gate
from suite.bot_api import FakeTelegram
from suite.bot_api.call import Call, Json
from suite.support.runtime import MakeRuntime, Mode, Runtime

pytestmark = pytest.mark.clause("queries")

PERSON = {"id": 1, "is_bot": False, "first_name": "Ann"}
SUM = {"currency": "XTR", "total_amount": 5, "invoice_payload": "tea"}
ADDRESS = dict.fromkeys(("country_code", "state", "city", "street_line1", "street_line2", "post_code"), "x")
QUERIES: dict[str, Json] = {
    "pre_checkout_query": SUM,
    "shipping_query": {"invoice_payload": "tea", "shipping_address": ADDRESS},
    "inline_query": {"query": "tea", "offset": ""},
}
METHODS = {
    "pre_checkout_query": "answerPreCheckoutQuery",
    "shipping_query": "answerShippingQuery",
    "inline_query": "answerInlineQuery",
}


Do = Callable[[TelegramAgentAdapter, FSMContext], Any]


class Steps(StatesGroup):
    one = State()


def ask(telegram: FakeTelegram, kind: str) -> int:
    update_id = telegram.push({kind: {"id": "q1", "from": PERSON, **QUERIES[kind]}})
    assert update_id, "the bot asked for them"
    return update_id


def answers(telegram: FakeTelegram) -> list[Call]:
    return [call for call in telegram.calls if call.method in METHODS.values()]


def has_answered(telegram: FakeTelegram, times: int) -> bool:
    return len(answers(telegram)) == times


@pytest.fixture(autouse=True)
def taught(telegram: FakeTelegram) -> None:
    for method in METHODS.values():

        @telegram.method(method)
        async def answer(call: Call) -> bool:
            return True


@pytest.fixture
def shop(make_runtime: MakeRuntime) -> Callable[..., Runtime]:
    """A bot whose handlers do as the test says, and answer."""

    def make(mode: Mode = "webhook", do: Do | None = None, **settings: Any) -> Runtime:
        before = Router()

        async def act(agent: TelegramAgentAdapter, state: FSMContext) -> str:
            if do and (result := do(agent, state)) is not None:
                await result
            return str(agent.turn.state.get("message_count"))

        @before.pre_checkout_query()
        async def check(query: PreCheckoutQuery, agent: Any, state: FSMContext) -> TelegramMethod[Any]:
            await act(agent, state)
            return query.answer(ok=True)

        @before.shipping_query()
        async def ship(query: ShippingQuery, agent: Any, state: FSMContext) -> TelegramMethod[Any]:
            return query.answer(ok=False, error_message=await act(agent, state))

        @before.inline_query()
        async def find(query: InlineQuery, agent: Any, state: FSMContext) -> TelegramMethod[Any]:
            return query.answer([], next_offset=await act(agent, state))

        bot = make_runtime(mode, **settings)
        bot.owner = Owner(agent=CountingAgent, before=[before])
        return bot

    return make


@pytest.mark.parametrize("kind", QUERIES)
async def test_it_is_answered_while_the_agent_thinks(
    shop: Any, telegram: FakeTelegram, mode: Mode, gate: Gate, kind: str
) -> None:
    async with shop(mode, max_concurrent_updates=1) as bot:
        telegram.message("hi", user_id=1)
        await telegram.settled()
        telegram.message("hold", user_id=1)
        await gate.reached.wait()
        took = []
        for number in range(1, 4):  # the first has aiogram build its models, and the machine may be busy
            began = time.monotonic()
            query = ask(telegram, kind)
            await telegram.wait_for(partial(has_answered, telegram, number))
            took.append(time.monotonic() - began)
        assert min(took) < 1
        (*_, call) = answers(telegram)
        assert call.method == METHODS[kind]
        assert "1" in call.params.values() or kind == "pre_checkout_query", "it read the record"
        if mode == "webhook":
            await telegram.wait_for(lambda: query in telegram.acknowledged)
        gate.opened.set()
        await telegram.settled()
        assert telegram.texts(1) == ["Processed: hi (#1)", "Processed: hold (#2)"]
        record = await bot.record(1)
        assert record.state["message_count"] == 2
        assert query not in record.applied


async def mutate(agent: TelegramAgentAdapter) -> None:
    async def change(turn: Turn) -> None:
        turn.state["x"] = 1

    await agent.mutate("1", change)


CHANGES: dict[str, Do] = {
    "a key": lambda agent, _: agent.turn.state.__setitem__("x", 1),
    "update": lambda agent, _: agent.turn.state.update(x=1),
    "or": lambda agent, _: agent.turn.state.__ior__({"x": 1}),
    "setdefault": lambda agent, _: agent.turn.state.setdefault("x", []) and None,
    "pop": lambda agent, _: agent.turn.state.pop("message_count") and None,
    "clear": lambda agent, _: agent.turn.state.clear(),
    "inside": lambda agent, _: agent.turn.state["list"].append(1),
    "remember": lambda agent, _: agent.turn.remember("user", "x"),
    "history": lambda agent, _: agent.turn.history.append(Message("user", "x", 0)),
    "reset": lambda agent, _: agent.turn.reset(),
    "forget": lambda agent, _: agent.turn.forget(),
    "flow": lambda _, state: state.set_state(Steps.one),
    "flow's data": lambda _, state: state.update_data(x=1),
    "update_user_state": lambda agent, _: agent.update_user_state("1", "x", 1),
    "mutate": lambda agent, _: mutate(agent),
    "handle_message": lambda agent, _: agent.handle_message(user_id="1", message="x"),
}


@pytest.mark.parametrize("do", CHANGES.values(), ids=CHANGES)
async def test_changing_anything_raises(
    shop: Any, telegram: FakeTelegram, do: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    errors: list[Exception] = []

    class Agent(CountingAgent):
        async def on_error(self, error: Exception) -> str | None:
            errors.append(error)
            return None

    bot = shop(do=do)
    bot.agent_class = Agent
    async with bot:
        await bot.agent.update_user_state("1", "list", [])
        telegram.message("hi", user_id=1)
        await telegram.settled()
        before = await bot.record(1)
        ask(telegram, "pre_checkout_query")
        await telegram.settled()
        assert await bot.record(1) == before
    (error,) = errors
    assert isinstance(error, StateError)
    assert "that has to wait for the message that follows, such as successful_payment" in str(error)
    (call,) = answers(telegram)
    assert call.params == {"pre_checkout_query_id": "q1", "ok": "false", "error_message": Texts().sorry}


async def test_reading_is_no_change(shop: Any, telegram: FakeTelegram) -> None:
    async def read(agent: TelegramAgentAdapter, state: FSMContext) -> None:
        assert agent.turn.state.setdefault("message_count", 7) == 1
        assert agent.turn.state | {"x": 1} == {"last_message": "hi", "message_count": 1, "x": 1}
        assert await state.get_state() is None
        assert await agent.get_user_state("1") == agent.turn.state
        assert agent.turn.user
        assert agent.turn.user.id == 1

    async with shop(do=read):
        telegram.message("hi", user_id=1)
        await telegram.settled()
        ask(telegram, "shipping_query")
        await telegram.settled()
    (call,) = answers(telegram)
    assert call.params["error_message"] == "1"


async def test_one_that_takes_too_long_is_refused_in_time(
    shop: Any, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    monkeypatch.setattr(transaction, "QUERY_SECONDS", 0.2)
    async with shop(do=lambda *_: gate.wait()):
        ask(telegram, "pre_checkout_query")
        await telegram.settled()
    assert answers(telegram)[0].params["ok"] == "false"


async def test_one_that_is_too_late_is_given_up(
    shop: Any, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is away for longer than Telegram waits: no update waits behind it for ever."""
    monkeypatch.setattr(processor, "QUERY_LIFE", 0.3)
    async with shop("polling") as bot:

        async def away(*_: Any) -> Any:
            raise StateUnavailable("away")

        with pytest.MonkeyPatch.context() as outage:
            outage.setattr(bot.store, "load", away)
            ask(telegram, "pre_checkout_query")
            await telegram.settled(10)
    assert answers(telegram) == []


async def test_one_that_nobody_answers_is_in_the_log(
    make_runtime: MakeRuntime, telegram: FakeTelegram, capfd: pytest.CaptureFixture[str]
) -> None:
    before = Router()

    @before.pre_checkout_query(lambda query: query.invoice_payload == "coffee")
    async def check(query: PreCheckoutQuery) -> None: ...

    bot = make_runtime("webhook")
    bot.owner = Owner(agent=CountingAgent, before=[before])
    async with bot:
        configure_logs(Settings())
        ask(telegram, "pre_checkout_query")
        await telegram.settled()
    assert "no handler answered a query" in capfd.readouterr().err


async def test_it_does_not_wait_for_a_reply_that_cannot_be_sent(
    shop: Any, telegram: FakeTelegram, mode: Mode
) -> None:
    telegram.fail("sendMessage", status=429, retry_after=30, times=1)
    async with shop(mode, shutdown_timeout=0.1):
        telegram.message("hi", user_id=1)
        await telegram.wait_for(lambda: any(call.method == "sendMessage" for call in telegram.calls))
        ask(telegram, "pre_checkout_query")
        await telegram.wait_for(lambda: answers(telegram), 1)


async def test_it_may_begin_work_that_keeps_something(shop: Any, telegram: FakeTelegram) -> None:
    def begin(agent: TelegramAgentAdapter, _: FSMContext) -> None:
        agent.background(agent.update_user_state, "1", "asked", True)

    async with shop(do=begin) as bot:
        ask(telegram, "pre_checkout_query")
        await telegram.settled()
        await bot.agent.drain(5)
        assert (await bot.record(1)).state == {"asked": True}
