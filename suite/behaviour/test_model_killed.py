"""Killed while its agent talks to a model: what tools did counts once, and no call is without its result."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from bot.runtime.state.store import OperatorStore
from suite.bot_api import FakeTelegram
from suite.model_bot import calls_in
from suite.support.model import Call, ModelServer, Step, results_in, said_last
from suite.support.process import BotProcess

pytestmark = pytest.mark.clause("frameworks")


def script(request: dict[str, Any]) -> Step:
    """Call the tool that the message names, and say what it returned."""
    if results := results_in(request):
        return Step(f"Well: {results[-1]}")
    match said_last(request).split():
        case ["note", fact]:
            return Step(calls=[Call("note", {"fact": fact})])
        case ["mail", to]:
            return Step(calls=[Call("send_mail", {"to": to})])
    return Step("Nothing.")


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer(script) as model:
        yield model


async def run_until(bot: BotProcess, telegram: FakeTelegram, is_so: Callable[[], bool]) -> None:
    """Have the bot run, and run again when it was killed."""
    while not is_so():
        async with bot:
            ended = asyncio.create_task(bot.process.wait())
            told = asyncio.create_task(telegram.wait_for(is_so, 60))
            await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            if told.done():
                return await told
            told.cancel()


async def test_killed_around_the_calls_of_tools(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore, model: ModelServer
) -> None:
    bot = BotProcess(tmp_path, telegram, "suite.model_bot", MODEL_URL=model.url)
    kills = {
        1,  # before the tool is called
        3,  # after that, and before the commit
    }

    async def kill(number: int) -> None:
        if number in kills:
            bot.process.kill()
            await asyncio.sleep(60)

    model.before = kill
    telegram.message("note tea", user_id=1)
    await run_until(bot, telegram, lambda: telegram.texts(1)[-1:] == ["Well: noted tea"])
    assert len(model.requests) == 5
    assert (await store.load("1")).state == {"asked": 1, "notes": ["tea"]}

    kills = {7}  # after the answer to the question had the tool be called, and before the commit
    telegram.message("mail ann", user_id=1)
    await run_until(bot, telegram, lambda: len(telegram.texts(1)) == 2)
    assert (await store.load("1")).state == {"asked": 2, "notes": ["tea"]}
    telegram.press(telegram.sent[-1], 0, 0, user_id=1)
    await run_until(bot, telegram, lambda: telegram.texts(1)[-1] == "Well: mail to ann is sent")
    assert len(model.requests) == 8
    assert (await store.load("1")).state == {"asked": 2, "notes": ["tea"], "mails": ["ann"]}

    telegram.message("and now?", user_id=1)
    await run_until(bot, telegram, lambda: telegram.texts(1)[-1] == "Nothing.")
    names = [name for name, _ in calls_in(model.requests[-1]["messages"])]
    assert names == ["note", "send_mail"], "each once"
    assert model.orphans == []
