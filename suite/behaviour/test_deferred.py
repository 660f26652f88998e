"""An agent that takes longer than Telegram waits: what came in is kept, and handled when its turn comes."""

import asyncio
from functools import partial
from typing import Any, ClassVar

import pytest

from bot.agent_adapter import JobStopped, Texts
from bot.runtime.state import jobs as state_jobs
from bot.runtime.state.record import waiting_for
from bot.runtime.telegram import inbox, processor
from suite.agents import CountingAgent, Gate
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Mode, Runtime

pytestmark = pytest.mark.clause("deferred.once")


class Slow(CountingAgent):
    """Takes its time."""

    deferred = True
    begun: ClassVar[list[str]] = []
    errors: ClassVar[list[BaseException]] = []

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        self.begun.append(message)
        return await super().agent_logic(message, state)

    async def on_error(self, error: Exception) -> str | None:
        self.errors.append(error)
        return None


@pytest.fixture(autouse=True)
def begins_anew() -> None:
    Slow.begun, Slow.errors = [], []


def slow(make_runtime: MakeRuntime, mode: Mode = "webhook", **settings: Any) -> Runtime:
    bot = make_runtime(mode, **{"jobs_seconds": 0.2, **settings})
    bot.agent_class = Slow
    bot.owner = type(bot.owner)(agent=Slow)
    return bot


def has_begun(count: int) -> bool:
    return len(Slow.begun) == count


async def said(telegram: FakeTelegram, user_id: int, *texts: str) -> None:
    await telegram.wait_for(lambda: len(telegram.texts(user_id)) >= len(texts), 20)
    assert telegram.texts(user_id) == list(texts)


async def nothing_waits(bot: Runtime) -> None:
    for _ in range(300):
        if not (await bot.store.due(10**9, 9)).due:
            break
        await asyncio.sleep(0.02)
    assert (await bot.store.due(10**9, 9)).due == []
    assert not (await bot.store.load(waiting_for("1"))).fsm


async def test_telegram_need_not_wait(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, gate: Gate
) -> None:
    async with slow(make_runtime, mode) as bot:
        telegram.message("hold", user_id=1)
        await gate.reached.wait()
        for number in range(3):
            telegram.message(f"m{number}", user_id=1)
        if mode == "webhook":
            await telegram.settled(5)
        else:
            await telegram.wait_for(lambda: not bot.agent.lanes.is_held("nobody"), 1)
        telegram.message("hi", user_id=2)
        await said(telegram, 2, "Processed: hi (#1)")
        assert telegram.texts(1) == []
        gate.opened.set()
        await said(
            telegram,
            1,
            *(f"Processed: {text} (#{n})" for n, text in enumerate(("hold", "m0", "m1", "m2"), 1)),
        )
        await nothing_waits(bot)
        assert Slow.begun == ["hold", "hi", "m0", "m1", "m2"], "nobody made the agent run again"


async def test_what_comes_again_counts_once(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with slow(make_runtime) as bot:
        first = telegram.message("m1", user_id=1)
        await said(telegram, 1, "Processed: m1 (#1)")
        telegram.repeat(first)
        telegram.message("m2", user_id=1)
        await said(telegram, 1, "Processed: m1 (#1)", "Processed: m2 (#2)")
        await nothing_waits(bot)
    async with slow(make_runtime) as bot:
        telegram.repeat(first)
        telegram.message("m3", user_id=1)
        await telegram.wait_for(lambda: "Processed: m3 (#3)" in telegram.texts(1))
        await nothing_waits(bot)
        assert (await bot.record(1)).state["message_count"] == 3


async def test_a_kill_costs_nothing(
    make_runtime: MakeRuntime, telegram: FakeTelegram, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_jobs, "CLAIM_SECONDS", 0.3)
    bot = await slow(make_runtime).start()
    telegram.message("hold", user_id=1)
    await gate.reached.wait()
    telegram.message("m1", user_id=1)
    telegram.message("m2", user_id=1)
    await telegram.settled()
    await bot.cut_off()
    gate.opened.set()
    async with slow(make_runtime) as bot:
        await said(telegram, 1, "Processed: hold (#1)", "Processed: m1 (#2)", "Processed: m2 (#3)")
        await nothing_waits(bot)


async def test_a_reply_that_telegram_does_not_cause_comes_after_a_kill(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_jobs, "CLAIM_SECONDS", 0.3)
    monkeypatch.setattr(state_jobs, "OWED_SECONDS", 1)
    monkeypatch.setattr(state_jobs, "OWN_SECONDS", 0)
    bot = await slow(make_runtime).start()
    failing = telegram.fail("sendMessage", times=10**6)
    telegram.message("m1", user_id=1)
    telegram.message("m2", user_id=1)
    await telegram.wait_for(lambda: failing.felt)
    await bot.cut_off()
    failing.times = 0
    async with slow(make_runtime) as bot:
        await said(telegram, 1, "Processed: m1 (#1)", "Processed: m2 (#2)")
        await nothing_waits(bot)


async def test_one_that_ends_the_process_is_given_up(
    make_runtime: MakeRuntime, telegram: FakeTelegram, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_jobs, "CLAIM_SECONDS", 0.3)

    async def leave(*_: object) -> None:
        """Killed, it gives nothing back."""

    monkeypatch.setattr(state_jobs.Claim, "leave", leave)
    bot = await slow(make_runtime).start()
    telegram.message("hold", user_id=1)
    telegram.message("m2", user_id=1)
    for number in range(1, state_jobs.MOST_CLAIMS + 1):
        await telegram.wait_for(partial(has_begun, number))
        await bot.cut_off()
        bot = await slow(make_runtime).start()
    await said(telegram, 1, Texts().sorry, "Processed: m2 (#1)")
    assert isinstance(Slow.errors[0], JobStopped)
    await bot.stop()


async def test_two_processes_share_it_in_order(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with slow(make_runtime) as bot, slow(make_runtime):
        for number in range(1, 21):
            telegram.message(f"m{number}", user_id=1)
            if number % 5 == 0:
                await asyncio.sleep(0.05)
        await said(telegram, 1, *(f"Processed: m{n} (#{n})" for n in range(1, 21)))
        await nothing_waits(bot)


async def test_the_order_is_no_matter_of_clocks(
    make_runtime: MakeRuntime, telegram: FakeTelegram, gate: Gate
) -> None:
    """Processes know the store's time more or less well."""
    async with slow(make_runtime) as one, slow(make_runtime) as other:
        telegram.message("hold", user_id=1)
        await gate.reached.wait()
        one.agent.timetable.shift = 5_000_000
        for number, bot in enumerate((one, other, one, other), start=1):
            telegram.webhook_address = f"http://127.0.0.1:{bot.port}"
            telegram.message(f"m{number}", user_id=1)
            await telegram.settled()
        one.agent.timetable.shift = 0
        gate.opened.set()
        texts = ("hold", "m1", "m2", "m3", "m4")
        await said(telegram, 1, *(f"Processed: {text} (#{n})" for n, text in enumerate(texts, 1)))
        await nothing_waits(one)


async def test_forgetting_stops_what_runs_and_empties_what_waits(
    make_runtime: MakeRuntime, telegram: FakeTelegram, gate: Gate
) -> None:
    async with slow(make_runtime) as bot:
        telegram.message("hold", user_id=1)
        await gate.reached.wait()
        telegram.message("my secret", user_id=1)
        await telegram.settled()
        telegram.message("/forget", user_id=1)
        await telegram.settled()
        assert telegram.texts(1) == [Texts().forget], "it is asked at once"
        telegram.callback("forget:1:1", user_id=1)
        await telegram.settled()
        await nothing_waits(bot)
        record = await bot.record(1)
        assert record.is_empty
        assert "secret" not in await bot.store.raw("1") + await bot.store.raw(waiting_for("1"))
        telegram.message("me again", user_id=1)
        await telegram.wait_for(lambda: "Processed: me again (#1)" in telegram.texts(1))
        assert Slow.begun == ["hold", "me again"]


async def test_pressing_another_persons_button_drops_nothing(
    make_runtime: MakeRuntime, telegram: FakeTelegram, gate: Gate
) -> None:
    async with slow(make_runtime) as bot:
        telegram.message("hold", user_id=1)
        await gate.reached.wait()
        telegram.message("m2", user_id=1)
        await telegram.settled()
        telegram.callback("forget:2:1", user_id=1, chat_id=-100)
        await telegram.settled()
        gate.opened.set()
        await said(telegram, 1, "Processed: hold (#1)", "Processed: m2 (#2)")
        await nothing_waits(bot)


async def test_too_much_is_told_once(
    make_runtime: MakeRuntime, telegram: FakeTelegram, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MOST_UPDATES", 3)
    async with slow(make_runtime) as bot:
        telegram.message("hold", user_id=1)
        await gate.reached.wait()
        for number in range(1, 7):
            telegram.message(f"m{number}", user_id=1)
        await telegram.settled()
        assert telegram.texts(1) == [Texts().inbox_full]
        gate.opened.set()
        await said(
            telegram,
            1,
            Texts().inbox_full,
            "Processed: hold (#1)",
            "Processed: m1 (#2)",
            "Processed: m2 (#3)",
        )
        await nothing_waits(bot)


async def test_an_agent_that_raises_holds_up_nobody(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with slow(make_runtime) as bot:
        telegram.message("raise", user_id=1)
        telegram.message("m2", user_id=1)
        await telegram.wait_for(lambda: len(telegram.texts(1)) == 2)
        await nothing_waits(bot)


async def test_a_button_that_waits_does_not_spin(
    make_runtime: MakeRuntime, telegram: FakeTelegram, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "CALLBACK_DELAY", 0.2)
    async with slow(make_runtime) as bot:
        telegram.message("hold", user_id=1)
        await gate.reached.wait()
        telegram.callback("forget:1:0", user_id=1)
        await telegram.wait_for(
            lambda: [each.method for each in telegram.calls].count("answerCallbackQuery"), 2
        )
        assert telegram.texts(1) == []
        gate.opened.set()
        await telegram.wait_for(lambda: len(telegram.texts(1)) == 1)
        await nothing_waits(bot)
