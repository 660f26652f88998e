"""`on_error`: the owner learns of an error, and cannot make it worse."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiogram import Router
from aiogram.dispatcher.event.bases import CancelHandler, SkipHandler
from aiogram.exceptions import TelegramBadRequest
from aiogram.fsm.scene import Scene, SceneRegistry, on
from aiogram.methods import SendMessage, TelegramMethod
from aiogram.types import CallbackQuery, ErrorEvent, Message, TelegramObject

from bot.agent_adapter import current_turn
from bot.runtime.app import Owner
from bot.runtime.errors import StateUnavailable
from bot.runtime.telegram import transaction
from bot.runtime.telegram.texts import Texts
from suite.agents import CountingAgent
from suite.bot_api import FakeTelegram
from suite.contract.harness import Harness
from suite.support.runtime import MakeRuntime, Mode

pytestmark = pytest.mark.clause("agent.errors")


class Reporting(CountingAgent):
    """Keeps the errors it is told of, and the users they happened to."""

    def __init__(self, bot_token: str) -> None:
        super().__init__(bot_token)
        self.errors: list[str] = []

    async def on_error(self, error: Exception) -> str | None:
        self.errors.append(f"{self.turn.user_id} {type(error).__name__}")
        return f"Sorry about the {type(error).__name__}."


async def test_it_learns_of_every_failure_and_chooses_the_words(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, harness: Harness
) -> None:
    async with make_runtime(mode, agent_class=Reporting, agent_timeout=0.3) as bot:
        telegram.message("hi", user_id=1)
        telegram.message("raise", user_id=1)
        telegram.message("sleep 5", user_id=1)
        telegram.message("spoil", user_id=1)
        telegram.message("hoard 1000000", user_id=1)
        telegram.message("hi", user_id=1)
        await telegram.settled()
        assert isinstance(bot.agent, Reporting)
        names = ["RuntimeError", "TimeoutError", "StateValueError", "StateTooLarge"]
        assert bot.agent.errors == [f"1 {name}" for name in names]
        apologies = [f"Sorry about the {name}." for name in names]
        assert telegram.texts(1) == ["Processed: hi (#1)", *apologies, "Processed: hi (#2)"]
        await harness.corrupt("1")
        telegram.message("hi", user_id=1)
        await telegram.settled()
        assert telegram.texts(1)[-1] == "Sorry about the StateCorrupt."


class Clumsy(CountingAgent):
    """Makes everything worse, in the way the class attribute says."""

    way = ""

    async def on_error(self, error: Exception) -> str | None:
        match self.way:
            case "raises":
                raise RuntimeError("and again")
            case "hangs":
                await asyncio.sleep(60)
            case "says what is no text":
                return 5  # type: ignore[return-value]
            case "is cancelled":
                raise asyncio.CancelledError
            case "writes":
                await self.update_user_state(self.turn.user_id, "errors", 1)
                self.turn.state["set"] = {1}
            case "says nothing":
                return ""
        return None


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("raises", [Texts().sorry]),
        ("hangs", [Texts().sorry]),
        ("says what is no text", [Texts().sorry]),
        ("is cancelled", [Texts().sorry]),
        ("writes", [Texts().sorry]),
        ("says nothing", []),
    ],
)
async def test_it_cannot_break_the_guarantee(
    make_runtime: MakeRuntime,
    telegram: FakeTelegram,
    mode: Mode,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    said: list[str],
) -> None:
    monkeypatch.setattr(transaction, "ON_ERROR_SECONDS", 0.2)
    monkeypatch.setattr(Clumsy, "way", way)
    async with make_runtime(mode, agent_class=Clumsy) as bot:
        failed = telegram.message("raise", user_id=1)
        telegram.message("hi", user_id=1)
        await telegram.settled(120)
        assert telegram.texts(1) == [*said, "Processed: hi (#1)"]
        record = await bot.record(1)
        assert record.state == {"last_message": "hi", "message_count": 1}
        assert failed in record.applied
        assert telegram.attempts[failed] == 1 or mode == "polling"


class Impatient(CountingAgent):
    """Waits for work of its own that it has cancelled."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        if message == "cancel":
            work = asyncio.create_task(asyncio.sleep(60))
            work.cancel()
            await work
        return await super().agent_logic(message, state)


async def test_an_agent_cancelled_by_its_own_hand_failed(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    async with make_runtime(mode, agent_class=Impatient):
        telegram.message("cancel", user_id=1)
        telegram.message("hi", user_id=1)
        await telegram.settled(120)
        assert telegram.texts(1) == [Texts().sorry, "Processed: hi (#1)"]


Handler = Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]]


async def swallow(handler: Handler, event: TelegramObject, data: dict[str, Any]) -> Any:
    """A middleware that lets nothing through."""
    try:
        return await handler(event, data)
    except (Exception, asyncio.CancelledError):
        return None


async def time_out(handler: Handler, event: TelegramObject, data: dict[str, Any]) -> Any:
    """A middleware that cancels what takes long."""
    try:
        async with asyncio.timeout(0.05):
            return await handler(event, data)
    except TimeoutError:
        return None


async def stumble(handler: Handler, event: TelegramObject, data: dict[str, Any]) -> Any:
    """A middleware that fails itself."""
    await handler(event, data)
    raise LookupError("after the handler")


async def change(message: Message) -> None:
    turn = current_turn()
    assert turn
    turn.state["half"] = True
    turn.reply(message.answer("half"))


async def fail(message: Message) -> None:
    await change(message)
    match message.text:
        case "telegram":
            raise TelegramBadRequest(SendMessage(chat_id=1, text="x"), "Bad Request: message is not modified")
        case "cancel":
            raise asyncio.CancelledError
        case "hang":
            await asyncio.sleep(60)
        case "skip":
            raise SkipHandler
        case "end":
            raise CancelHandler
        case "middleware":
            return
    raise LookupError("the handler")


async def spoiling_filter(message: Message) -> bool:
    await fail(message)
    return True


class Failing(Scene, state="failing"):
    @on.message.enter()
    async def enter(self, message: Message) -> None:
        await fail(message)


def routed(*, text: str = "fail") -> tuple[Router, Router]:
    """A router, and one inside of it whose handler fails."""
    outer, inner = Router(), Router()
    outer.include_router(inner)
    inner.message(is_text(text))(fail)
    return outer, inner


def is_text(text: str) -> Callable[[Message], Awaitable[bool]]:
    async def check(message: Message) -> bool:
        return message.text == text

    return check


def swallowed_outside() -> Router:
    outer, _ = routed()
    outer.message.outer_middleware(swallow)
    return outer


def swallowed_inside() -> Router:
    outer, inner = routed()
    inner.message.middleware(swallow)
    inner.message.middleware(stumble)
    return outer


def swallowed_above() -> Router:
    outer, _ = routed()
    outer.message.middleware(swallow)
    return outer


def swallowed_errors() -> Router:
    outer, _ = routed()

    @outer.errors()
    async def note(event: ErrorEvent) -> None:
        """As one that only writes a line to the log."""

    return outer


def swallowed_in_filter() -> Router:
    outer, inner = Router(), Router()
    outer.include_router(inner)
    inner.message(is_text("fail"), spoiling_filter)(change)
    inner.message.outer_middleware(swallow)
    return outer


def swallowed_of_middleware() -> Router:
    outer, inner = routed(text="middleware")
    inner.message.middleware(stumble)
    outer.message.outer_middleware(swallow)
    return outer


def swallowed_in_scene() -> Router:
    router = Router()
    SceneRegistry(router).add(Failing)
    router.message(is_text("fail"))(Failing.as_handler())
    router.message.middleware(swallow)
    return router


def swallowed(text: str, *middlewares: Any) -> Callable[[], Router]:
    def make() -> Router:
        outer, _ = routed(text=text)
        for middleware in middlewares:
            outer.message.middleware(middleware)
        return outer

    return make


SWALLOWED = {
    "an outer middleware": (swallowed_outside, "fail", "LookupError"),
    "an inner middleware": (swallowed_inside, "fail", "LookupError"),
    "an inner middleware above": (swallowed_above, "fail", "LookupError"),
    "a handler of errors": (swallowed_errors, "fail", "LookupError"),
    "out of a filter": (swallowed_in_filter, "fail", "LookupError"),
    "out of a middleware": (swallowed_of_middleware, "middleware", "LookupError"),
    "out of a scene": (swallowed_in_scene, "fail", "LookupError"),
    "of Telegram": (swallowed("telegram", swallow), "telegram", "TelegramBadRequest"),
    "a cancellation": (swallowed("cancel", swallow), "cancel", "RuntimeError"),
    "a time limit": (swallowed("hang", time_out), "hang", "RuntimeError"),
    "AGENT_TIMEOUT": (swallowed("hang", swallow), "hang", "TimeoutError"),
}


@pytest.mark.parametrize(("make", "text", "error"), SWALLOWED.values(), ids=SWALLOWED)
async def test_no_half_of_a_turn_is_kept_whoever_catches_the_exception(
    make_runtime: MakeRuntime, telegram: FakeTelegram, make: Callable[[], Router], text: str, error: str
) -> None:
    bot = make_runtime("webhook", agent_class=Reporting, agent_timeout=1)
    bot.owner = Owner(agent=Reporting, before=[make()])
    async with bot:
        update_id = telegram.message(text, user_id=1)
        await telegram.settled()
        assert isinstance(bot.agent, Reporting)
        assert bot.agent.errors == [f"1 {error}"]
        record = await bot.record(1)
        assert (record.state, record.fsm) == ({}, {})
        assert update_id in record.applied
        assert telegram.texts(1) == [f"Sorry about the {error}."]


@pytest.mark.parametrize("keeps", [False, True], ids=["state unchanged", "kept"])
async def test_who_handles_errors_says_what_is_replied_and_whether_it_is_kept(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, keeps: bool
) -> None:
    router, _ = routed()

    @router.errors()
    async def answer(event: ErrorEvent) -> TelegramMethod[Any]:
        assert event.update.message
        turn = current_turn()
        assert turn
        if keeps:
            turn.keep()
        return event.update.message.answer("dealt with")

    bot = make_runtime(mode, agent_class=Reporting)
    bot.owner = Owner(agent=Reporting, before=[router])
    async with bot:
        telegram.message("fail", user_id=1)
        telegram.message("hi", user_id=1)
        await telegram.settled()
        assert isinstance(bot.agent, Reporting)
        assert bot.agent.errors == ([] if keeps else ["1 LookupError"])
        assert telegram.texts(1) == ["half"] * keeps + ["dealt with", "Processed: hi (#1)"]
        assert (await bot.record(1)).state.get("half") is (True if keeps else None)


@pytest.mark.parametrize(("text", "said"), [("skip", ["half", "Processed: skip (#1)"]), ("end", ["half"])])
async def test_a_handler_that_leaves_it_to_others_has_not_failed(
    make_runtime: MakeRuntime, telegram: FakeTelegram, text: str, said: list[str]
) -> None:
    router, _ = routed(text=text)
    bot = make_runtime("webhook", agent_class=Reporting)
    bot.owner = Owner(agent=Reporting, before=[router])
    async with bot:
        telegram.message(text, user_id=1)
        await telegram.settled()
        assert isinstance(bot.agent, Reporting)
        assert bot.agent.errors == []
        assert telegram.texts(1) == said
        assert (await bot.record(1)).state["half"] is True


@pytest.mark.parametrize("is_caught", [False, True])
async def test_a_button_whose_handler_fails_gets_an_apology(
    make_runtime: MakeRuntime, telegram: FakeTelegram, is_caught: bool
) -> None:
    router = Router()

    @router.callback_query()
    async def pressed(query: CallbackQuery) -> None:
        raise LookupError("the handler")

    if is_caught:
        router.callback_query.middleware(swallow)
    bot = make_runtime("webhook")
    bot.owner = Owner(agent=CountingAgent, before=[router])
    async with bot:
        telegram.callback("press", user_id=1)
        await telegram.settled()
        assert telegram.texts(1)[-1:] == [Texts().sorry]


async def test_while_the_store_is_away_nobody_answers_for_it(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    """A handler that meets the outage is run again, although somebody catches its exception."""
    router, inner = Router(), Router()
    router.include_router(inner)
    away = [True, True]

    @inner.message(is_text("ask"))
    async def ask(message: Message) -> TelegramMethod[Any]:
        if away:
            away.pop()
            raise StateUnavailable("it does not answer")
        return message.answer("here")

    @router.errors()
    async def answer(event: ErrorEvent) -> TelegramMethod[Any]:
        assert event.update.message
        return event.update.message.answer("sorry")

    bot = make_runtime("webhook")
    bot.owner = Owner(agent=CountingAgent, before=[router])
    async with bot:
        telegram.message("ask", user_id=1)
        await telegram.settled()
        assert telegram.texts(1) == ["here"]
