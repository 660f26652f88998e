"""`bot jobs`, and `POST /jobs`: for operators, and for platforms that wake a bot up."""

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bot.runtime.errors import StateUnavailable
from bot.runtime.state.jobs import Job, jobs_in
from bot.runtime.state.record import Place
from bot.runtime.state.store import OperatorStore
from bot.runtime.state.turn import Turn, mutate
from suite.bot_api import FakeTelegram
from suite.reminding_bot import RemindingAgent
from suite.support.command_line import run as run_bot
from suite.support.runtime import MakeRuntime

pytestmark = pytest.mark.clause("jobs.cli")

SECRET = "a-secret-of-16-characters"
DUE, FAR = timedelta(0), timedelta(days=1)
AGENT = RemindingAgent("")
UNUSABLE = Job(id="0", name="gone", place=Place(1))


async def run(folder: Path, *arguments: str, **settings: str) -> tuple[int, str, str]:
    """Run the command; its exit code, and what it wrote."""
    done = await asyncio.to_thread(
        run_bot, folder, *arguments, module="suite.reminding_bot", LOG_LEVEL="ERROR", **settings
    )
    return done.returncode, done.stdout, done.stderr


async def put(store: OperatorStore, user_id: str, when: timedelta, method: Any, **arguments: Any) -> str:
    """Have something done later."""

    async def change(turn: Turn) -> str:
        return turn.later(when, method, **arguments)

    return await mutate(store, user_id, change)


async def jobs(store: OperatorStore, user_id: str) -> list[Job]:
    return jobs_in((await store.load(user_id)).fsm)


async def test_what_is_due_is_done_at_once(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    await put(store, "1", DUE, AGENT.remind, text="tea")
    await put(store, "1", DUE, AGENT.wait)
    await put(store, "2", FAR, AGENT.remind, text="cake")
    settings = {"BOT_TOKEN": telegram.token, "TELEGRAM_API_URL": telegram.url}
    assert await run(tmp_path, "jobs", "run", "--once", **settings) == (0, "ran 2 jobs, 2 done\n", "")
    assert telegram.texts(1) == ["tea!", "waited"]
    assert (await store.load("1")).outbox == {}
    assert await run(tmp_path, "jobs", "run", "--once", **settings) == (0, "ran 0 jobs\n", "")
    await put(store, "3", DUE, AGENT.fail)
    code, said, _ = await run(tmp_path, "jobs", "run", "--once", **settings)
    assert (code, said) == (1, "ran 1 jobs, 1 failed\n")
    assert telegram.texts(2) == []


async def test_what_waits_and_what_was_stopped_is_listed(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    waits = await put(store, "-1005", FAR, AGENT.remind, text="my secret")
    stopped = UNUSABLE.to_json()["data"] | {"stopped": "ValueError", "at": 1_790_000_000_000_000}

    async def stop(turn: Turn) -> None:
        turn.fsm["job:5f"] = {"data": stopped}

    await mutate(store, "2", stop)
    code, said, _ = await run(tmp_path, "jobs", "list")
    assert code == 0
    lines = sorted(said.splitlines())
    assert re.fullmatch(rf"-1005  {waits}  remind  \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", lines[0])
    assert lines[1] == "2  5f  gone  2026-09-21T14:13:20+00:00  stopped=ValueError"
    _, said, _ = await run(tmp_path, "jobs", "list", "--record", "-1005", "--arguments")
    assert said.endswith('arguments={"text":"my secret"}\n')
    assert (await run(tmp_path, "jobs", "failed"))[1] == f"{lines[1]}\n"
    assert (await run(tmp_path, "jobs", "list", "--record", "7")) == (
        1, "", "error: nothing is kept about user 7: `bot state list` shows about whom\n"
    )  # fmt: skip
    _, said, _ = await run(tmp_path, "state", "show", "2")
    assert '"stopped": "ValueError"' in said
    assert '"at": "2026-09-21T14:13:20+00:00"' in said
    _, said, _ = await run(tmp_path, "doctor", BOT_TOKEN=telegram.token, TELEGRAM_API_URL=telegram.url)
    assert "1 records have something to do later, the first at " in said


async def test_one_can_be_cancelled_and_run_again(tmp_path: Path, store: OperatorStore) -> None:
    waits = await put(store, "-1005", FAR, AGENT.remind, text="tea")
    assert await run(tmp_path, "jobs", "cancel", "-1005", waits) == (0, f"job {waits} is cancelled\n", "")
    code, _, error = await run(tmp_path, "jobs", "cancel", "-1005", waits)
    expected = f"error: record -1005 has no job {waits}: `bot jobs list` shows those there are\n"
    assert (code, error) == (1, expected)
    for user_id in ("1", "2", "3"):

        async def stop(turn: Turn, user_id: str = user_id) -> None:
            turn.fsm[f"job:{user_id}"] = {"data": UNUSABLE.to_json()["data"] | {"stopped": "ValueError"}}

        await mutate(store, user_id, stop)
    assert (await store.due(10**6, 9)).due == []
    assert await run(tmp_path, "jobs", "retry", "1", "1") == (0, "job 1 runs again\n", "")
    assert [user_id for user_id, _ in (await store.due(0, 9)).due] == ["1"]
    assert await run(tmp_path, "jobs", "retry", "--all") == (0, "2 jobs run again\n", "")
    assert sorted(user_id for user_id, _ in (await store.due(0, 9)).due) == ["1", "2", "3"]
    code, _, error = await run(tmp_path, "jobs", "retry")
    assert (code, error) == (
        1, "error: give a record and a job of it, or --all: `bot jobs failed` lists them\n"
    )  # fmt: skip


async def test_doctor_says_that_nobody_does_it(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    await put(store, "1", timedelta(hours=-1), AGENT.remind, text="tea")
    settings = {"BOT_TOKEN": telegram.token, "TELEGRAM_API_URL": telegram.url}
    code, said, _ = await run(tmp_path, "doctor", **settings)
    assert code == 0
    assert "warning  1 records have something to do later, one for 1:00:" in said


async def test_a_bot_is_woken_up_by_http(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot = make_runtime("webhook", webhook_secret=SECRET, jobs_seconds=3_600)
    bot.agent_class = RemindingAgent
    async with bot, aiohttp.ClientSession() as http:

        async def post(**headers: str) -> tuple[int, str]:
            async with http.post(f"http://127.0.0.1:{bot.port}/jobs", headers=headers) as response:
                return response.status, await response.text()

        right = {"Authorization": f"Bearer {SECRET}"}
        await asyncio.sleep(0.1)  # it has looked, and will not look again
        await put(bot.store, "1", DUE, AGENT.remind, text="tea")
        for wrong in ({}, {"Authorization": SECRET}, {"Authorization": f"Bearer {SECRET}é"}):
            assert (await post(**wrong))[0] == 401
        assert telegram.texts(1) == []
        assert await post(**right) == (200, '{"jobs": 1}')
        assert telegram.texts(1) == ["tea!"]
        assert await post(**right) == (200, '{"jobs": 0}')

        async def away(*_: object) -> None:
            raise StateUnavailable("connection refused")

        monkeypatch.setattr(bot.store, "due", away)
        assert (await post(**right))[0] == 503


async def test_without_a_secret_there_is_no_such_route(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    for mode in ("polling", "webhook"):
        async with make_runtime(mode) as bot, aiohttp.ClientSession() as http:
            response = await http.post(f"http://127.0.0.1:{bot.port}/jobs")
            assert response.status == 404


def test_help_is_fast_and_names_every_command(tmp_path: Path) -> None:
    done = run_bot(tmp_path, "jobs", "--help")
    for command in ("list", "run", "failed", "retry", "cancel"):
        assert f" {command} " in done.stdout
