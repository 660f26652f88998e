"""Jobs in their records: where they answer, what they outlive, and what becomes of those that fail."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from aiogram.fsm.storage.base import StorageKey
from prometheus_client import REGISTRY

from bot.agent_adapter import Place, RecordId, TelegramAgentAdapter, chat, job
from bot.runtime import chat as console
from bot.runtime.app import Owner
from bot.runtime.config import Settings
from bot.runtime.errors import StateCorrupt
from bot.runtime.state.fsm import RecordStorage, upgrade_group
from bot.runtime.state.jobs import Job, Timetable, jobs_in
from bot.runtime.state.record import Limits
from bot.runtime.state.store import OperatorStore
from bot.runtime.state.turn import Turn, mutate
from suite.bot_api import FakeTelegram
from suite.bot_api.people import person
from suite.contract.harness import Harness
from suite.support.runtime import MakeRuntime, Runtime

pytestmark = pytest.mark.clause("jobs.kept")

OLD, NEW = -5001, -1005001
NOW, SOON, FAR = timedelta(0), timedelta(milliseconds=200), timedelta(days=1)


class Later(TelegramAgentAdapter):
    """Does what it is told a little later."""

    accepts = frozenset({"text", "business"})
    running = most = 0

    def wants(self, update: Any) -> bool:
        return True

    def record_of(self, place: Place) -> RecordId | None:
        return chat(place.chat) if place.chat in (OLD, NEW) else super().record_of(place)

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        match message:
            case "far":
                self.turn.later(FAR, self.remind, text="tea")
            case "self":
                self.turn.tell(RecordId(self.turn.user_id), self.remind, text="self")
            case "steps":
                self.turn.later(NOW, self.step, left=5)
            case _:
                self.turn.later(SOON, self.remind, text=message)
        return "ok"

    @job
    async def remind(self, text: str) -> str:
        said = " ".join(said.text for said in self.turn.history if said.role == "user")
        return f"{text} after {said}"

    @job
    async def step(self, left: int) -> str | None:
        if not left:
            return "there"
        self.turn.later(NOW, self.step, left=left - 1)
        return None

    @job
    async def hoard(self) -> str:
        self.turn.state["much"] = "x" * 2_000
        return "kept"

    @job
    async def fail(self, text: str) -> str:
        raise ValueError(text)

    @job
    async def take_time(self) -> None:
        Later.running += 1
        Later.most = max(Later.most, Later.running)
        await asyncio.sleep(0.05)
        Later.running -= 1


@asynccontextmanager
async def running(make_runtime: MakeRuntime, **settings: Any) -> AsyncIterator[Runtime]:
    bot = make_runtime("webhook", **settings)
    bot.agent_class = Later
    async with bot:
        yield bot


async def said(telegram: FakeTelegram, chat_id: int, count: int) -> list[str]:
    await telegram.wait_for(lambda: len(telegram.texts(chat_id)) >= count, 20)
    return telegram.texts(chat_id)


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Wait until that is so."""
    for _ in range(1_000):
        if await is_so():
            return
        await asyncio.sleep(0.02)
    raise TimeoutError("within 20 s")


async def put(store: OperatorStore, user_id: str, *jobs: Job) -> None:
    """Note jobs in a record, as they are."""

    async def change(turn: Turn) -> None:
        for each in jobs:
            turn.fsm[f"job:{each.id}"] = each.to_json()

    await mutate(store, user_id, change, timetable=Timetable())


async def jobs(store: OperatorStore, user_id: str) -> list[Job]:
    return jobs_in((await store.load(user_id)).fsm)


@pytest.mark.parametrize(
    ("fields", "params"),
    [
        ({"message_thread_id": 77, "is_topic_message": True}, {"message_thread_id": "77"}),
        ({"message_thread_id": 77, "is_topic_message": True, "chat_id": OLD}, {"message_thread_id": "77"}),
        ({}, {}),
    ],
    ids=["topic", "topic of a group with a record", "group"],
)
async def test_it_answers_where_it_was_made(
    make_runtime: MakeRuntime, telegram: FakeTelegram, fields: Any, params: dict[str, str]
) -> None:
    """And has the conversation there."""
    fields = {"chat_id": -1009, **fields}
    async with running(make_runtime):
        telegram.message("private", user_id=1)
        telegram.message("tea", user_id=1, **fields)
        assert (await said(telegram, fields["chat_id"], 2))[1] == "tea after tea"
        sent = [each for each in telegram.sent if each.chat_id == fields["chat_id"]]
        assert all(params.items() <= each.params.items() for each in sent)
        assert (await said(telegram, 1, 2))[1] == "private after private"


async def test_it_answers_for_a_business(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with running(make_runtime):
        connection = telegram.connect_business(user_id=9)
        content = {"from": person(1), "text": "tea", "business_connection_id": connection}
        telegram.push({"business_message": telegram.new_message(1, content)})
        await said(telegram, 1, 2)
        sent = [each for each in telegram.sent if each.method == "sendMessage"]
        assert [each.params["business_connection_id"] for each in sent] == [connection] * 2


async def test_a_group_takes_its_jobs_along(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    """Also those that come to the old record afterwards; each once, though told of it again and again."""
    telegram.group(OLD)
    async with running(make_runtime) as bot:
        telegram.message("far", user_id=1, chat_id=OLD)
        await telegram.settled()
        moved = telegram.migrate(OLD, NEW, user_id=1)
        await telegram.settled()
        [waits] = await jobs(bot.store, str(NEW))
        assert waits.place.chat == NEW
        assert await jobs(bot.store, str(OLD)) == []
        await bot.agent.later(chat(OLD), NOW, cast(Later, bot.agent).remind, text="late")
        await telegram.wait_for(lambda: any("late" in text for text in telegram.texts(NEW)), 20)
        for update_id in moved:
            telegram.repeat(update_id)
        await telegram.settled()
        assert await jobs(bot.store, str(NEW)) == [waits]
        assert await jobs(bot.store, str(OLD)) == []
        assert [text for text in telegram.texts(NEW) if "late" in text] == ["late after far"]

        async def is_out() -> bool:
            return not (await bot.store.load(str(NEW))).outbox

        await until(is_out)
        assert (await bot.store.due(10**6, 9)).due == [(str(NEW), waits.at)]


async def test_a_job_that_was_moved_and_done_does_not_come_back(store: OperatorStore) -> None:
    """Killed after the new record has it, and before the old one is emptied."""
    old, new = chat(OLD), chat(NEW)
    await put(store, old, Job(id="1", name="remind", at=5, place=Place(OLD)))
    before = await store.load(old)
    await upgrade_group(store, OLD, NEW)
    [moved] = await jobs(store, new)
    assert moved.place == Place(NEW)

    async def done(turn: Turn) -> None:
        assert turn.cancel("1")

    await mutate(store, new, done)
    await put(store, old, *jobs_in(before.fsm))
    await upgrade_group(store, OLD, NEW)
    assert await jobs(store, new) == await jobs(store, old) == []


async def test_one_who_tells_themself_is_told(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with running(make_runtime) as bot:
        telegram.message("self", user_id=1)
        assert (await said(telegram, 1, 2))[1] == "self after self"
        assert await jobs(bot.store, "1") == []


async def test_steps_follow_one_another_at_once(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    """However seldom the store is looked at."""
    async with running(make_runtime, jobs_seconds=3_600):
        telegram.message("steps", user_id=1)
        assert (await said(telegram, 1, 2))[1] == "there"


async def test_an_export_shows_them_readably(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with running(make_runtime):
        telegram.message("far", user_id=1)
        telegram.message("/export", user_id=1)
        await telegram.settled()
        [document] = [sent for sent in telegram.sent if sent.method == "sendDocument"]
        data = orjson.loads(*document.files.values())
        [shown] = data["jobs"]
        assert (shown["name"], shown["arguments"]) == ("remind", {"text": "tea"})
        assert shown["at"].endswith("+00:00")
        assert data["fsm"] == {}


async def test_who_has_only_jobs_is_somebody(store: OperatorStore) -> None:
    await put(store, "1", Job(id="1", name="remind", at=2**50, place=Place(1)))
    assert not (await store.load("1")).is_empty
    assert [user_id async for user_id in store.users()] == ["1"]


async def test_they_outlive_flows_and_idle_records(harness: Harness) -> None:
    store = await harness.open(ttl=1)
    at = int(time.time() * 1e6) + 3_000_000
    await put(store, "1", Job(id="1", name="remind", at=at, place=Place(1)))
    storage = RecordStorage(store, ttl=0.1)
    key = StorageKey(bot_id=42, chat_id=1, user_id=1)
    await storage.set_data(key, {"a": 1})
    await asyncio.sleep(1.5)
    assert await storage.get_data(key) == {}
    await storage.set_data(key, {"b": 1})
    assert [each.id for each in await jobs(store, "1")] == ["1"]


async def test_administrators_are_told_once(
    make_runtime: MakeRuntime, telegram: FakeTelegram, store: OperatorStore
) -> None:
    """By whichever process, and without a word of what it was about."""
    counted = REGISTRY.get_sample_value("bot_jobs_total", {"outcome": "failed"}) or 0
    gone = [Job(id=each, name="gone", at=1, place=Place(1)) for each in "123"]
    await put(store, "1", *gone)
    fails = Job(id="4", name="fail", at=1, arguments={"text": "my secret"}, place=Place(1))
    wrong = Job(id="5", name="remind", at=1, arguments={"words": "my secret"}, place=Place(1))
    for ids in ("77, 78, @somebody", "77"):
        async with running(make_runtime, admins=ids) as bot:
            await put(bot.store, "2", fails, wrong)
            await telegram.wait_for(lambda: len(telegram.texts(77)) >= 3, 20)

            async def are_given_up(store: OperatorStore = bot.store) -> bool:
                found = [*await jobs(store, "1"), *await jobs(store, "2")]
                return all(each.stopped for each in found)

            await until(are_given_up)
    for admin in (77, 78):
        told = telegram.texts(admin)
        assert sorted(text.split(" was given up")[0] for text in told) == [
            "The job fail", "The job gone", "The job remind"
        ]  # fmt: skip
        assert "secret" not in "".join(told)
    assert REGISTRY.get_sample_value("bot_jobs_total", {"outcome": "failed"}) == counted + 7
    assert (REGISTRY.get_sample_value("bot_job_late_seconds_count") or 0) >= 7


@pytest.mark.parametrize("limit", [1_500, 1_000], ids=["for what it does", "for anything"])
async def test_a_full_record_has_its_job_given_up_once(
    make_runtime: MakeRuntime, telegram: FakeTelegram, harness: Harness, limit: int
) -> None:
    """It is not run again and again, for it would never fit."""
    store = await harness.open(Limits(max_bytes=1_500))
    job = Job(id="1", name="hoard", at=1, place=Place(1))
    repeats = Job(id="2", name="hoard", at=2, every=3_600, place=Place(1))

    async def fill(turn: Turn) -> None:
        turn.state["full"] = "x" * 1_250

    await mutate(store, "1", fill)
    await put(store, "1", job, repeats)
    bot = make_runtime("webhook")
    bot.agent_class, bot.store = Later, await harness.open(Limits(max_bytes=limit))
    async with bot:

        async def are_over() -> bool:
            return all(each.stopped or each.at > 2 for each in await jobs(store, "1"))

        await until(are_over)
        stopped, again = await jobs(store, "1")
        assert (stopped.stopped, again.stopped) == ("StateTooLarge", "")
        assert again.at > 2


async def test_a_record_that_cannot_be_read_is_left_alone(
    make_runtime: MakeRuntime,
    telegram: FakeTelegram,
    harness: Harness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(make_runtime, jobs_seconds=0.05) as bot:
        loads, load = 0, bot.store.load

        async def corrupt(user_id: str, *more: Any) -> Any:
            nonlocal loads
            if user_id != "1":
                return await load(user_id, *more)
            loads += 1
            raise StateCorrupt("its record cannot be read", user_id)

        await put(bot.store, "1", Job(id="1", name="remind", at=1, place=Place(1)))
        monkeypatch.setattr(bot.store, "load", corrupt)
        await asyncio.sleep(1)
        assert loads <= 1
        [(_, at)] = (await bot.store.due(10**6, 9)).due
        assert at / 1e6 - time.time() > 3_000


async def test_no_more_run_at_once_than_may(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    Later.most = 0
    async with running(make_runtime, max_concurrent_updates=3) as bot:
        for number in range(20):
            await bot.agent.later(str(number + 1), NOW, cast(Later, bot.agent).take_time)

        async def are_done() -> bool:
            return not (await bot.store.due(10**6, 9)).due

        await until(are_done)
    assert 0 < Later.most <= 3


async def test_a_chat_runs_nobody_elses(
    store: OperatorStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though what is due of others, and was due before, is more than can be listed at once."""
    remind = {"name": "remind", "place": Place(1), "arguments": {"text": "tea"}}
    for number in range(2, 12):
        await put(store, str(number), Job(id="1", at=number, **remind))  # type: ignore[arg-type]
    await put(store, "1", Job(id="1", at=100, **remind))  # type: ignore[arg-type]
    monkeypatch.setattr("bot.runtime.app.create_store", lambda _: store)
    monkeypatch.setattr("bot.runtime.app.load_owner", lambda: Owner(agent=Later))
    stdin = asyncio.Event()

    class Waiting:
        isatty = staticmethod(lambda: False)
        reconfigure = staticmethod(lambda **_: None)

        @staticmethod
        def readline() -> str:
            asyncio.run_coroutine_threadsafe(stdin.wait(), loop).result()
            return ""

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(sys, "stdin", Waiting)
    chatting = asyncio.create_task(console.chat(Settings(max_concurrent_updates=3), 1))
    while await jobs(store, "1"):
        assert not chatting.done()
        await asyncio.sleep(0.05)
    stdin.set()
    await chatting
    await store.connect()
    assert [len(await jobs(store, str(number))) for number in range(1, 12)] == [0] + [1] * 10
    assert capsys.readouterr().out == "tea after \n"
