"""Reminders, while the processes that give them are killed."""

import asyncio
import os
import time
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from bot.runtime.state.jobs import Timetable, jobs_in
from bot.runtime.state.store import OperatorStore
from bot.runtime.state.turn import Turn, mutate
from suite.bot_api import FakeTelegram
from suite.reminding_bot import MOMENTS, RemindingAgent
from suite.support.replicas import Replica

pytestmark = pytest.mark.clause("jobs.once")

SECONDS = 1.0
"""From one reminder to the next."""

TICK = 0.05
"""Seconds by which clocks may differ that are read in different processes."""


async def test_each_reminder_is_given_once_though_its_process_is_killed(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    """Two processes share the work. Each kill is the processes' own, at the moment that is meant."""
    agent, timetable = RemindingAgent(""), Timetable()

    def replica() -> Replica:
        settings = {"WEBHOOK_URL": "https://bot.example/hook", "JOBS_SECONDS": "0.2"}
        return Replica(tmp_path, telegram, "suite.reminding_bot", **settings)

    async with AsyncExitStack() as stack:
        two = [replica(), replica()]
        for each in two:
            stack.push_async_callback(each.kill)
        await asyncio.gather(*(each.start() for each in two))
        await timetable.ask(store)
        began, due = time.time(), {}
        for number, dies in enumerate((*MOMENTS, ""), start=1):
            due[str(number)] = began + number * SECONDS

            async def note(turn: Turn, number: int = number, dies: str = dies) -> None:
                when = timedelta(seconds=began + number * SECONDS - time.time())
                turn.later(when, agent.remind, text="tea", dies=dies)

            await mutate(store, str(number), note, timetable=timetable)
        for _ in range(600):
            for place, each in enumerate(two):
                if each.is_over:
                    await each.kill()
                    two[place] = replica()
                    stack.push_async_callback(two[place].kill)
                    await two[place].start()
            if all(telegram.texts(int(user_id)) for user_id in due):
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
    died = [name for name in os.listdir(tmp_path) if name.startswith("died ")]
    assert len(died) == len(MOMENTS), "this test would not notice"
    for user_id, at in due.items():
        record = await store.load(user_id)
        [(text, when)] = record.state["reminded"]
        assert text == "tea"
        assert when >= at - TICK, "early"
        assert set(telegram.texts(int(user_id))) == {"tea!"}
        assert jobs_in(record.fsm) == []
    assert telegram.texts(4) == ["tea!"]
