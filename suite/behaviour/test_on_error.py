"""`on_error`: the owner learns of an error, and cannot make it worse."""

import asyncio
from typing import Any

import pytest

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
