"""Jobs: what an agent does later, whatever happens meanwhile."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar, cast
from zoneinfo import ZoneInfo

import pytest

from bot.agent_adapter import JobStopped, TelegramAgentAdapter, job, person
from bot.runtime.errors import LeaseLost, OperatorError, StateError, StateUnavailable, StateValueError
from bot.runtime.state import jobs as state_jobs
from bot.runtime.state import turn
from bot.runtime.state.jobs import MOST_JOBS, MOST_STOPPED, Claim, Job, Timetable, jobs_in
from bot.runtime.state.record import Place
from bot.runtime.state.store import Changes, OperatorStore
from bot.runtime.telegram import jobs as runner
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Mode, Runtime

pytestmark = pytest.mark.clause("jobs.once")

SECOND = timedelta(seconds=1)
SOON = timedelta(milliseconds=300)


class Forgetful(TelegramAgentAdapter):
    """An agent that does what it is told later."""

    errors: ClassVar[list[BaseException]] = []

    def wants(self, update: Any) -> bool:
        return True

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        word, _, rest = message.partition(" ")
        match word:
            case "later":
                return f"noted {self.turn.later(SOON, self.remind, text=rest)}"
            case "now":
                self.turn.later(timedelta(0), self.remind, text=rest)
            case "tomorrow":
                self.turn.later(timedelta(days=1), self.remind, text=rest)
            case "every":
                self.turn.every(SECOND, self.tick)
            case "digest":
                self.turn.every(timedelta(days=1), self.remind, datetime.fromisoformat(rest), text="digest")
            case "cancel":
                return str(self.turn.cancel(rest))
            case "jobs":
                return " ".join(f"{each.name}:{each.stopped}" for each in self.turn.jobs) or "none"
            case "tell":
                self.turn.tell(person(int(rest)), self.hear, text=f"from {self.turn.user_id}")
            case "fail":
                self.turn.later(timedelta(0), self.fail)
            case "again":
                self.turn.later(timedelta(0), self.fail_twice)
            case "slow":
                self.turn.later(timedelta(0), self.take_long)
            case "late":
                self.turn.later(timedelta(0), self.expiring)
            case "raise":
                self.turn.later(timedelta(0), self.remind, text=rest)
                raise ValueError(rest)
        return f"ok {state.get('runs', 0)}"

    def _count(self) -> int:
        runs: int = self.turn.state.get("runs", 0) + 1
        self.turn.state["runs"] = runs
        return runs

    @job
    async def remind(self, text: str) -> str:
        return f"{text} #{self._count()}"

    @job(name="clock")
    async def tick(self) -> str:
        return f"tick {self._count()}"

    @job
    async def hear(self, text: str) -> None:
        self._count()
        await self.send(self.turn.user_id, text)

    @job
    async def fail(self) -> str:
        self._count()
        raise ValueError("my secret")

    @job(retries=2)
    async def fail_twice(self) -> str:
        self._count()
        if self.turn.job and self.turn.job.tries < 2:
            raise ValueError("not yet")
        return f"at last {self._count()}"

    @job
    async def take_long(self) -> str:
        self._count()
        await asyncio.sleep(60)
        return "too late"

    @job(expires=timedelta(hours=1))
    async def expiring(self) -> str:
        return f"in time {self._count()}"

    async def on_error(self, error: Exception) -> str | None:
        self.errors.append(error)
        return None


@pytest.fixture(autouse=True)
def forgetful() -> None:
    Forgetful.errors = []


@pytest.fixture
def bot(make_runtime: MakeRuntime) -> Runtime:
    bot = make_runtime("webhook")
    bot.agent_class = Forgetful
    return bot


async def stopped_job(bot: Runtime) -> Job:
    """The only job, once it is given up."""

    async def is_so() -> bool:
        return [bool(each.stopped) for each in await jobs(bot)] == [True]

    await until(is_so)
    return (await jobs(bot))[0]


async def no_jobs(bot: Runtime, user_id: int) -> bool:
    return not await jobs(bot, user_id)


@asynccontextmanager
async def running(
    make_runtime: MakeRuntime, mode: Mode = "webhook", **settings: Any
) -> AsyncIterator[Runtime]:
    bot = make_runtime(mode, **settings)
    bot.agent_class = Forgetful
    async with bot:
        yield bot


async def said(telegram: FakeTelegram, user_id: int, count: int, seconds: float = 10) -> list[str]:
    """What the bot has said to somebody, once it is so much."""
    await telegram.wait_for(lambda: len(telegram.texts(user_id)) >= count, seconds)
    return telegram.texts(user_id)


async def until(what: Callable[[], Any]) -> None:
    """Wait until that is so."""
    async with asyncio.timeout(20):
        while True:
            answer = what()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await asyncio.sleep(0.02)


async def idle(bot: Runtime, user_id: int = 1) -> None:
    """Wait until nothing is owed."""

    async def is_so() -> bool:
        return not (await bot.record(user_id)).outbox

    await until(is_so)


async def jobs(bot: Runtime, user_id: int = 1) -> list[Job]:
    return jobs_in((await bot.record(user_id)).fsm)


async def test_a_job_runs_when_it_is_due(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    async with running(make_runtime, mode) as bot:
        began = time.monotonic()
        telegram.message("later tea", user_id=1)
        assert len(await said(telegram, 1, 1)) == 1
        assert [each.name for each in await jobs(bot)] == ["remind"]
        assert (await said(telegram, 1, 2))[1] == "tea #1"
        assert telegram.sent[-1].at - began >= SOON.total_seconds(), "not early"
        record = await bot.record(1)
        assert record.state == {"runs": 1}
        assert [each.text for each in record.history][2:] == ["tea #1"]
        assert await jobs(bot) == []
        await idle(bot)
        assert (await bot.record(1)).outbox == {}
        assert (await bot.store.due(10**9, 9)).due == []


async def test_one_that_is_far_away_waits(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with running(make_runtime) as bot:
        telegram.message("tomorrow tea", user_id=1)
        await said(telegram, 1, 1)
        [waits] = await jobs(bot)
        assert timedelta(hours=23) < waits.when - datetime.now(UTC) < timedelta(hours=25)
        bot.agent.timetable.shift += 25 * 3600 * 10**6
        bot.agent.timetable.noted()
        assert (await said(telegram, 1, 2))[1] == "tea #1"


async def test_what_was_due_meanwhile_is_done_after_a_restart(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with running(make_runtime):
        telegram.message("later tea", user_id=1)
        await said(telegram, 1, 1)
    await asyncio.sleep(0.5)
    assert len(telegram.texts(1)) == 1
    async with running(make_runtime):
        assert (await said(telegram, 1, 2))[1] == "tea #1"


async def test_a_reply_of_a_job_survives_a_kill(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.runtime.state.jobs.OWED_SECONDS", 1)
    monkeypatch.setattr("bot.runtime.state.jobs.OWN_SECONDS", 0)
    monkeypatch.setattr(state_jobs, "CLAIM_SECONDS", 1.0)
    bot = make_runtime("webhook")
    bot.agent_class = Forgetful
    await bot.start()
    telegram.message("hi", user_id=1)
    await said(telegram, 1, 1)
    failing = telegram.fail("sendMessage", times=10**6)
    await bot.agent.later("1", timedelta(0), cast(Forgetful, bot.agent).remind, text="tea")
    await telegram.wait_for(lambda: failing.felt)
    await bot.cut_off()
    failing.times = 0
    async with running(make_runtime) as bot:
        assert (await said(telegram, 1, 2))[1] == "tea #1"
        await idle(bot)
        assert (await bot.record(1)).state == {"runs": 1}


async def test_killed_while_it_runs(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time it is tried again, at most three times; then somebody has to look at it."""
    monkeypatch.setattr(state_jobs, "CLAIM_SECONDS", 0.3)

    async def leave(*_: object) -> None:
        """Killed, it gives nothing back."""

    monkeypatch.setattr(state_jobs.Claim, "leave", leave)
    started = 0

    def has_started(times: int) -> bool:
        return started >= times

    async def take_long(self: Any) -> None:
        nonlocal started
        started += 1
        await asyncio.sleep(60)

    monkeypatch.setattr(Forgetful, "take_long", job(take_long))
    for number in range(1, 4):
        bot = make_runtime("webhook")
        bot.agent_class = Forgetful
        await bot.start()
        if number == 1:
            telegram.message("slow", user_id=1)
        await until(partial(has_started, number))
        await bot.cut_off()
    async with running(make_runtime) as bot:
        stopped = await stopped_job(bot)
        assert "3 times" in stopped.stopped
        assert isinstance(Forgetful.errors[0], JobStopped)
        assert started == 3
        assert (await bot.store.due(10**9, 9)).due == []


class Mortal:
    """A store that nothing of a process reaches after its end."""

    def __init__(self, store: OperatorStore) -> None:
        self._store = store
        self.is_over = False

    def __getattr__(self, name: str) -> Any:
        if self.is_over and name != "close":
            raise StateUnavailable("killed")
        return getattr(self._store, name)


INNOCENT, POISON = 5, 6


@pytest.mark.parametrize("deferred", [False, True], ids=["jobs", "deferred"])
async def test_only_what_ends_the_process_is_given_up(
    make_runtime: MakeRuntime,
    telegram: FakeTelegram,
    store: OperatorStore,
    monkeypatch: pytest.MonkeyPatch,
    deferred: bool,
) -> None:
    """And nothing that was only under way each time."""
    monkeypatch.setattr(state_jobs, "CLAIM_SECONDS", 0.5)
    monkeypatch.setattr(Forgetful, "deferred", deferred)
    lives: list[Mortal] = []

    async def work(user_id: str) -> str:
        await asyncio.sleep(0.2)
        if user_id == str(POISON):
            lives[-1].is_over = True
        await asyncio.sleep(0.2)
        return "done"

    async def in_a_job(self: Any) -> str:
        return await work(self.turn.user_id)

    async def at_once(self: Any, message: str, state: dict[str, Any]) -> str:
        return await work(self.turn.user_id)

    monkeypatch.setattr(Forgetful, "take_long", job(in_a_job))
    if deferred:
        monkeypatch.setattr(Forgetful, "agent_logic", at_once)

    def are_done() -> bool:
        return all("done" in telegram.texts(user) for user in range(1, INNOCENT + 1))

    for number in range(6):
        bot = make_runtime("webhook", jobs_seconds=0.1)
        lives.append(Mortal(store))
        bot.store, bot.agent_class = cast(OperatorStore, lives[-1]), Forgetful
        await bot.start()
        for user in range(1, POISON + 1):
            if number == 0 and deferred:
                telegram.message("hi", user_id=user)
            elif number == 0:
                await bot.agent.later(str(user), timedelta(0), cast(Forgetful, bot.agent).take_long)
        await until(lambda: lives[-1].is_over or (are_done() and Forgetful.errors))
        await bot.cut_off()
        if not lives[-1].is_over:
            break
        await store.connect()
    assert number == 3, "three tries, and one that told so"
    assert are_done()
    assert "done" not in telegram.texts(POISON)
    assert [type(each) for each in Forgetful.errors] == [JobStopped]


async def test_a_bot_that_stops_gives_it_back(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(make_runtime, shutdown_timeout=0.3):
        telegram.message("slow", user_id=1)
        await said(telegram, 1, 1)
        await asyncio.sleep(0.5)

    async def take_long(self: Any) -> str:
        return f"quick {self._count()}"

    monkeypatch.setattr(Forgetful, "take_long", job(take_long))
    async with running(make_runtime) as bot:
        assert (await said(telegram, 1, 2))[1] == "quick 1", "at once, not when the claim ends"
        assert (await bot.record(1)).state == {"runs": 1}


async def test_many_processes_run_it_once(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with running(make_runtime, jobs_seconds=0.1) as one, running(make_runtime, jobs_seconds=0.1):
        for number in range(20):
            await one.agent.later(str(number + 1), SOON, cast(Forgetful, one.agent).remind, text="tea")
        for number in range(20):
            assert await said(telegram, number + 1, 1) == ["tea #1"]
        await asyncio.sleep(0.5)
        assert all(telegram.texts(number + 1) == ["tea #1"] for number in range(20))


async def test_a_turn_that_fails_leaves_no_job(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with running(make_runtime) as bot:
        telegram.message("raise tea", user_id=1)
        await said(telegram, 1, 1)
        assert await jobs(bot) == []
        assert (await bot.store.due(10**9, 9)).due == []


async def test_it_can_be_cancelled(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with running(make_runtime) as bot:
        telegram.message("tomorrow tea", user_id=1)
        await said(telegram, 1, 1)
        [waits] = await jobs(bot)
        telegram.message(f"cancel {waits.id}", user_id=1)
        telegram.message(f"cancel {waits.id}", user_id=1)
        assert (await said(telegram, 1, 3))[1:] == ["True", "False"]
        assert (await bot.store.due(10**9, 9)).due == []


async def test_forgetting_cancels_it_and_resetting_does_not(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with running(make_runtime) as bot:
        telegram.message("tomorrow tea", user_id=1)
        telegram.message("/reset", user_id=1)
        telegram.message("jobs", user_id=1)
        assert (await said(telegram, 1, 3))[2] == "remind:"
        telegram.callback("forget:1:1", user_id=1)
        await telegram.settled()
        await idle(bot)
        assert await jobs(bot) == []
        assert (await bot.store.due(10**9, 9)).due == []


async def test_one_that_repeats_goes_on_until_it_is_cancelled(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with running(make_runtime) as bot:
        telegram.message("every", user_id=1)
        assert (await said(telegram, 1, 3))[1:] == ["tick 1", "tick 2"]
        [waits] = await jobs(bot)
        telegram.message(f"cancel {waits.id}", user_id=1)
        await telegram.settled()
        said_then = len(telegram.texts(1))
        await asyncio.sleep(1.5)
        assert len(telegram.texts(1)) == said_then


async def test_telling_another_record(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with running(make_runtime) as bot:
        telegram.message("tell 2", user_id=1)
        assert await said(telegram, 2, 1) == ["from 1"]
        await idle(bot, 2)
        await until(lambda: no_jobs(bot, 1))
        assert await jobs(bot, 1) == await jobs(bot, 2) == []
        assert (await bot.record(2)).state == {"runs": 1}


async def test_two_who_tell_each_other_wait_for_nobody(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with running(make_runtime):
        for _ in range(10):
            telegram.message("tell 2", user_id=1)
            telegram.message("tell 1", user_id=2)
        await telegram.wait_for(lambda: telegram.texts(1).count("from 2") == 10, 20)
        await telegram.wait_for(lambda: telegram.texts(2).count("from 1") == 10, 20)


async def test_what_is_told_twice_is_heard_once(
    make_runtime: MakeRuntime, telegram: FakeTelegram, store: OperatorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the other record has it, and before the teller's is told so."""
    monkeypatch.setattr(state_jobs, "CLAIM_SECONDS", 0.3)
    dropped, mutate = 0, turn.mutate

    async def lossy(store: OperatorStore, record: str, change: Any, **more: Any) -> Any:
        nonlocal dropped
        if record == "1" and dropped < 2:
            dropped += 1
            raise RuntimeError("killed")
        return await mutate(store, record, change, **more)

    monkeypatch.setattr(runner, "mutate", lossy)
    async with running(make_runtime, jobs_seconds=0.1) as bot:
        telegram.message("tell 2", user_id=1)
        await until(lambda: dropped == 2)
        await until(lambda: no_jobs(bot, 1))
        await asyncio.sleep(0.5)
        assert telegram.texts(2) == ["from 1"]
        assert (await bot.record(2)).state == {"runs": 1}


async def test_one_that_raises_is_kept_to_be_looked_at(
    make_runtime: MakeRuntime, telegram: FakeTelegram, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running(make_runtime) as bot:
        telegram.message("fail", user_id=1)
        stopped = await stopped_job(bot)
        assert stopped.stopped == "ValueError"
        assert (await bot.record(1)).state == {}, "it changed nothing"
        assert telegram.texts(1) == ["ok 0"]
    assert "my secret" not in capfd.readouterr().err


async def test_one_that_raises_is_tried_again(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "FIRST_RETRY", 0.1)
    async with running(make_runtime) as bot:
        telegram.message("again", user_id=1)
        telegram.message("hi", user_id=1)
        assert (await said(telegram, 1, 3))[:2] == ["ok 0", "ok 0"], "nobody waits for it"
        assert telegram.texts(1)[2] == "at last 2"
        assert await jobs(bot) == []


async def test_one_that_takes_too_long_ends(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with running(make_runtime, agent_timeout=0.3) as bot:
        telegram.message("slow", user_id=1)
        stopped = await stopped_job(bot)
        assert stopped.stopped == "TimeoutError"


async def test_one_whose_method_is_gone_is_kept(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(make_runtime) as bot:
        await bot.agent.later("1", 3 * SECOND, cast(Forgetful, bot.agent).remind, text="tea")
        await bot.agent.later("2", 3 * SECOND, cast(Forgetful, bot.agent).tick)

    class Renamed(TelegramAgentAdapter):
        @job(name="remind")
        async def other(self, words: str) -> str:
            return words

    bot = make_runtime("webhook")
    bot.agent_class = Renamed
    async with bot:

        async def have_stopped() -> bool:
            found = [*await jobs(bot, 1), *await jobs(bot, 2)]
            return all(each.stopped for each in found)

        await until(have_stopped)
        assert "arguments" in (await jobs(bot, 1))[0].stopped
        assert "clock" in (await jobs(bot, 2))[0].stopped
        assert (await bot.store.due(10**9, 9)).due == []


async def test_one_that_has_expired_is_dropped(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with running(make_runtime) as bot:
        await bot.agent.later("1", timedelta(minutes=-50), cast(Forgetful, bot.agent).expiring)
        await bot.agent.later("2", timedelta(minutes=-70), cast(Forgetful, bot.agent).expiring)
        assert await said(telegram, 1, 1) == ["in time 1"]
        await until(lambda: no_jobs(bot, 2))
        assert telegram.texts(2) == []


@pytest.mark.parametrize("attribute", ["agent_logic", "on_error"])
async def test_only_marked_methods_run(bot: Runtime, attribute: str) -> None:
    async with bot:
        with pytest.raises(TypeError, match="@job"):
            await bot.agent.later("1", SOON, getattr(bot.agent, attribute))


async def test_arguments_are_checked_at_once(bot: Runtime) -> None:
    async with bot:
        agent: Any = bot.agent
        with pytest.raises(TypeError):
            await agent.later("1", SOON, agent.remind, words="tea")
        with pytest.raises(StateValueError, match=r"remind\(text=\)"):
            await agent.later("1", SOON, agent.remind, text=object())
        with pytest.raises(ValueError, match="time zone"):
            await agent.later("1", datetime(2030, 1, 1), agent.remind, text="tea")
        assert (await bot.record(1)).version == 0


async def test_there_is_an_end_to_how_many_wait(bot: Runtime, telegram: FakeTelegram) -> None:
    async with bot:
        agent: Any = bot.agent

        async def fill(turn: Any) -> None:
            for _ in range(MOST_JOBS):
                turn.later(timedelta(days=1), agent.remind, text="tea")

        await agent.mutate("1", fill)
        with pytest.raises(StateError, match="100 jobs"):
            await agent.later("1", SOON, agent.remind, text="tea")
        for _ in range(MOST_STOPPED + 2):
            await agent.later("2", timedelta(0), agent.fail)
        await until(lambda: len(Forgetful.errors) == MOST_STOPPED + 2)

        async def are_all_stopped() -> bool:
            return all(each.stopped for each in await jobs(bot, 2))

        await until(are_all_stopped)
        assert len(await jobs(bot, 2)) == MOST_STOPPED


async def test_two_jobs_of_one_name_are_refused(make_runtime: MakeRuntime) -> None:
    class Twice(Forgetful):
        @job(name="remind")
        async def other(self) -> None: ...

    bot = make_runtime("webhook")
    bot.agent_class = Twice
    with pytest.raises(OperatorError, match="remind"):
        await bot.start()


async def test_a_press_is_answered_though_its_person_never_writes_again(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Telegram has dropped it; nothing but the record tells of the reply."""
    monkeypatch.setattr("bot.runtime.state.jobs.OWED_SECONDS", 1)
    monkeypatch.setattr("bot.runtime.state.jobs.OWN_SECONDS", 0)
    bot = make_runtime("webhook")
    bot.agent_class = Forgetful
    await bot.start()
    telegram.message("hi", user_id=1)
    await said(telegram, 1, 1)
    failing = telegram.fail("editMessageText", times=10**6)
    pressed = telegram.callback("forget:1:0", user_id=1)
    await telegram.wait_for(lambda: failing.felt)
    await bot.cut_off()
    telegram.expire(pressed)
    failing.times = 0
    async with running(make_runtime) as bot:
        await telegram.wait_for(lambda: any(each.method == "editMessageText" for each in telegram.sent), 10)
        await idle(bot)
        assert (await bot.record(1)).outbox == {}
        assert (await bot.store.due(10**9, 9)).due == []


@pytest.mark.parametrize(
    ("start", "hours"),
    [
        (datetime(2026, 3, 28, 9, tzinfo=ZoneInfo("Europe/Vienna")), [23, 24]),
        (datetime(2026, 10, 24, 9, tzinfo=ZoneInfo("Europe/Vienna")), [25, 24]),
        (datetime(2026, 3, 28, 9, tzinfo=UTC), [24, 24]),
    ],
)
def test_a_time_of_day_stays(start: datetime, hours: list[int]) -> None:
    """Across the changes of summer time."""
    zone = start.tzinfo.key if isinstance(start.tzinfo, ZoneInfo) else ""
    at = int(start.timestamp() * 10**6)
    first = Job(id="1", name="digest", at=at, every=86_400, zone=zone)
    second = first.next(first.at)
    third = second.next(second.at)
    assert [(b.at - a.at) / 3600e6 for a, b in ((first, second), (second, third))] == hours


def test_what_was_missed_is_left_out() -> None:
    first = Job(id="1", name="tick", at=1_000_000, every=10, place=Place(1))
    assert first.next(1_000_000).at == 11_000_000
    assert first.next(95_500_000).at == 101_000_000
    assert first.next(101_000_000).at == 111_000_000
    assert Job.from_json("1", first.to_json()) == first


def test_of_what_was_missed_the_newest_is_done() -> None:
    """So it is late by as little as that."""
    first = Job(id="1", name="tick", at=1_000_000, every=10)
    assert [first.newest(at).at for at in (0, 1_000_000, 10_999_999, 95_500_000)] == [
        *(1_000_000,) * 3, 91_000_000
    ]  # fmt: skip
    vienna = datetime(2026, 3, 28, 9, tzinfo=ZoneInfo("Europe/Vienna"))
    daily = Job(id="1", name="digest", at=int(vienna.timestamp() * 10**6), every=86_400, zone="Europe/Vienna")
    now = datetime(2026, 3, 30, 9, 5, tzinfo=ZoneInfo("Europe/Vienna"))
    assert daily.newest(int(now.timestamp() * 10**6)).when.astimezone(now.tzinfo) == now.replace(minute=0)
    assert daily.next(int(now.timestamp() * 10**6)).when.astimezone(now.tzinfo).day == 31


async def test_a_slow_answer_makes_nothing_early(store: OperatorStore) -> None:
    """What the store's clock said was true when it said it, and not when the answer came."""
    waiting = 0.0

    class Slow:
        async def due(self, within: float, most: int) -> Any:
            await asyncio.sleep(waiting)
            agenda = await store.due(within, most)
            await asyncio.sleep(waiting)
            return agenda

    slow: Any = Slow()
    for waiting in (0.2, 0, 0.3):
        timetable = Timetable()
        for _ in range(2):
            await timetable.ask(slow)
            before = (await store.due(0, 1)).now
            at, now = timetable.at(timedelta(0)), timetable.now()
            assert now <= (await store.due(0, 1)).now
            assert at >= before
            waiting = 0.2
        assert at - now < 500_000 + 10**6 * waiting


async def test_looking_after_owed_replies_is_no_attempt_at_a_job(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often a record was looked at before its job is due."""
    monkeypatch.setattr(state_jobs, "OWED_SECONDS", 0.2)
    monkeypatch.setattr(state_jobs, "OWN_SECONDS", 0)
    async with running(make_runtime, jobs_seconds=0.1) as bot:
        await bot.agent.later("1", timedelta(seconds=3), cast(Forgetful, bot.agent).remind, text="tea")
        failing = telegram.fail("editMessageText", status=429, retry_after=600, times=10**6)
        telegram.callback("forget:1:0", user_id=1)
        await telegram.wait_for(lambda: failing.felt)
        await until(lambda: no_jobs(bot, 1))
        assert (await bot.record(1)).state == {"runs": 1}


class Spending(Forgetful):
    """One that counts what its jobs cost, and makes them where it is asked."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        if message == "spend":
            self.turn.later(timedelta(0), self.spend)
        return f"re {message}"

    @job
    async def spend(self) -> str:
        self.turn.count("tokens", 50)
        raise ValueError("the model is down")


async def test_one_that_fails_leaves_the_conversation_that_it_was_made_in(
    make_runtime: MakeRuntime, telegram: FakeTelegram, store: OperatorStore
) -> None:
    """And what it cost is counted."""
    bot = make_runtime("webhook", agent_class=Spending)
    bot.store = store
    async with bot:
        for text in ("hi", "spend"):
            telegram.message(text, user_id=1, chat_id=-5)
            await telegram.settled()
        assert (await stopped_job(bot)).stopped == "ValueError"
        record = await bot.store.load("1", "-5::")
        assert [each.text for each in record.history] == ["hi", "re hi", "spend", "re spend"]
        assert record.marks["count:tokens"][1] == 50


async def test_a_lease_that_somebody_else_has_is_not_taken_back(store: OperatorStore) -> None:
    """By a process that slept past its end and goes on with what it read before."""
    await store.commit("1", Changes(state={"a": b"1"}, due=1), expect=0)
    timetable = Timetable()
    await timetable.ask(store, within=0, most=9)
    first = Claim(store, timetable.now, "1", 1)
    assert await first.take(1)
    slept = first.until + 1
    first._now = lambda: slept
    other = Claim(store, lambda: slept, "1", first.until)
    assert await other.take(1)

    async def commit(due: int) -> None:
        await store.commit("1", Changes(due=due), expect=None)

    with pytest.raises(LeaseLost):
        await first.renew(commit)
    assert await other.take(0), "it is still the other's"
