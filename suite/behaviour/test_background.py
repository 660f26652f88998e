"""Work that an agent begins in a turn and that goes on after it."""

import asyncio
from typing import Any

import pytest

from bot.agent_adapter import TelegramAgentAdapter
from bot.runtime.logs import configure_logs
from bot.runtime.state.store import OperatorStore
from bot.runtime.state.turn import Turn
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Mode, Runtime

pytestmark = pytest.mark.clause("agent.background")


class Researcher(TelegramAgentAdapter):
    """Answers at once, and finds out in the background; does what the message says."""

    def __init__(self, bot_token: str, store: OperatorStore | None = None) -> None:
        super().__init__(bot_token, store)
        self.go_on = asyncio.Event()
        self.begun = 0
        self.finished = 0

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        self.background(self.find_out, self.turn.user_id, message)
        if message == "fail at once":
            raise RuntimeError("the agent raised")
        if message == "wrong arguments":
            self.background(self.find_out)  # type: ignore[call-arg]
        return "I will find out."

    async def find_out(self, user_id: str, message: str) -> None:
        self.begun += 1
        await self.go_on.wait()
        if message == "fail later":
            raise RuntimeError("the work failed")
        found = await self.mutate(user_id, count)
        await self.send(user_id, f"Found {found}.")
        self.finished += 1


async def count(turn: Turn) -> int:
    turn.state["found"] = found = int(turn.state.get("found", 0)) + 1
    return found


def researcher(bot: Runtime) -> Researcher:
    assert isinstance(bot.agent, Researcher)
    return bot.agent


async def test_it_writes_and_sends_later(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    async with make_runtime(mode, agent_class=Researcher) as bot:
        telegram.message("what?", user_id=1)
        telegram.message("and what?", user_id=1)
        await telegram.settled()
        assert telegram.texts(1) == ["I will find out."] * 2
        researcher(bot).go_on.set()
        await telegram.wait_for(lambda: researcher(bot).finished == 2)
        assert sorted(telegram.texts(1)[2:]) == ["Found 1.", "Found 2."]
        assert (await bot.record(1)).state == {"found": 2}


async def test_it_neither_writes_nor_sends_to_whom_it_shall_not_know(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with make_runtime("webhook", agent_class=Researcher) as bot:
        telegram.message("what?", user_id=1)
        await telegram.settled()
        telegram.callback("forget:1:1", user_id=1)
        await telegram.settled()
        said = len(telegram.texts(1))
        researcher(bot).go_on.set()
        await telegram.wait_for(lambda: researcher(bot).finished)
        assert len(telegram.texts(1)) == said
        assert (await bot.record(1)).is_empty


async def test_shutdown_waits_for_it(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    bot = await make_runtime("webhook", agent_class=Researcher).start()
    telegram.message("what?", user_id=1)
    await telegram.settled()
    stopping = asyncio.create_task(bot.stop())
    await asyncio.sleep(0.3)
    assert not stopping.done()
    researcher(bot).go_on.set()
    await stopping
    assert telegram.texts(1) == ["I will find out.", "Found 1."]
    assert (await bot.record(1)).state == {"found": 1}


async def test_shutdown_does_not_wait_for_ever(
    make_runtime: MakeRuntime, telegram: FakeTelegram, capfd: pytest.CaptureFixture[str]
) -> None:
    bot = await make_runtime("webhook", agent_class=Researcher, shutdown_timeout=0.5).start()
    configure_logs(bot.settings)
    telegram.message("what?", user_id=1)
    await telegram.settled()
    await asyncio.wait_for(bot.stop(), timeout=60)
    assert "background work cancelled" in capfd.readouterr().err
    assert (await bot.record(1)).state == {}


async def test_it_begins_once_and_only_if_the_turn_is_committed(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with make_runtime("webhook", agent_class=Researcher) as bot:
        agent = researcher(bot)
        commit, conflicts = bot.store.commit, 3

        async def overtaken(user_id: str, changes: Any, *, expect: int | None) -> int:
            nonlocal conflicts
            if conflicts:
                conflicts -= 1
                await commit(user_id, type(changes)(state={"overtaken": b"true"}), expect=None)
            return await commit(user_id, changes, expect=expect)

        bot.store.commit = overtaken  # type: ignore[method-assign]
        try:
            telegram.message("what?", user_id=1)
            await telegram.settled()
        finally:
            bot.store.commit = commit  # type: ignore[method-assign]
        assert conflicts == 0
        assert agent.begun == 1
        telegram.message("fail at once", user_id=1)
        await telegram.settled()
        assert agent.begun == 1
        agent.go_on.set()


@pytest.mark.parametrize("message", ["fail later", "wrong arguments"])
async def test_its_errors_are_logged_and_change_nothing_else(
    make_runtime: MakeRuntime, telegram: FakeTelegram, capfd: pytest.CaptureFixture[str], message: str
) -> None:
    async with make_runtime("webhook", agent_class=Researcher) as bot:
        configure_logs(bot.settings)
        researcher(bot).go_on.set()
        update_id = telegram.message(message, user_id=1)
        await telegram.settled()
        await asyncio.sleep(0.1)
        assert telegram.texts(1)[0] == "I will find out."
    logged = capfd.readouterr().err
    assert "background work failed" in logged
    assert f"update_id={update_id}" in logged.partition("background work failed")[2]


async def test_without_telegram_it_begins_with_the_commit(store: OperatorStore) -> None:
    agent = Researcher("", store)
    await agent.handle_message(user_id="1", message="what?")
    await asyncio.sleep(0)
    assert agent.begun == 1
    await agent.drain(0)
