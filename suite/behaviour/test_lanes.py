"""Whatever changes a record in one process takes its turn: nothing makes a running agent run again."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from aiogram.fsm.storage.base import StorageKey

from bot.runtime.logs import configure_logs
from bot.runtime.state.fsm import RecordStorage
from bot.runtime.state.turn import Turn
from suite.agents import CountingAgent, Gate
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Mode, Runtime

pytestmark = pytest.mark.clause("agent.interface")


class Costly(CountingAgent):
    """Notes each run: with a model, each is paid for."""

    def __init__(self, bot_token: str) -> None:
        super().__init__(bot_token)
        self.runs: list[str] = []

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        self.runs.append(message)
        match message.split():
            case ["tell", user_id]:
                await self.update_user_state(user_id, "told", True)
            case ["ask", user_id]:
                await self.handle_message(user_id=user_id, message="hi")
            case ["look", user_id]:
                self.background(self.update_user_state, user_id, "seen", True)
        return await super().agent_logic(message, state)


def runs_of(bot: Runtime) -> list[str]:
    assert isinstance(bot.agent, Costly)
    return bot.agent.runs


async def set_key(bot: Runtime) -> None:
    await bot.agent.update_user_state("1", "outside", True)


async def change(bot: Runtime) -> None:
    async def apply(turn: Turn) -> None:
        turn.state["outside"] = True

    await bot.agent.mutate("1", apply)


async def look(bot: Runtime) -> None:
    """From the background of another user's turn."""
    bot.telegram.message("look 1", user_id=2)


async def step(bot: Runtime) -> None:
    storage = RecordStorage(bot.store, lanes=bot.agent.lanes)
    await storage.set_state(StorageKey(bot_id=1, chat_id=1, user_id=1), "outside")


@pytest.mark.parametrize("outside", [set_key, change, look, step])
async def test_a_change_from_outside_waits_for_the_turn_under_way(
    make_runtime: MakeRuntime,
    telegram: FakeTelegram,
    mode: Mode,
    gate: Gate,
    outside: Callable[[Runtime], Coroutine[Any, Any, None]],
) -> None:
    async with make_runtime(mode, agent_class=Costly) as bot:
        telegram.message("hold", user_id=1)
        await gate.reached.wait()
        work = asyncio.create_task(outside(bot))
        await asyncio.sleep(0.1)
        assert (await bot.record(1)).version == 0
        gate.opened.set()
        await work
        await telegram.settled()
        await bot.agent.drain(10)
        record = await bot.record(1)
        assert record.state["message_count"] == 1
        assert "outside" in str((record.state, record.fsm)) or record.state["seen"]
        assert runs_of(bot).count("hold") == 1


async def test_a_message_from_outside_runs_the_agent_once_after_the_turn_under_way(
    make_runtime: MakeRuntime, telegram: FakeTelegram, gate: Gate
) -> None:
    async with make_runtime("webhook", agent_class=Costly) as bot:
        telegram.message("hold", user_id=1)
        await gate.reached.wait()
        work = asyncio.create_task(bot.agent.handle_message(user_id="1", message="hi"))
        await asyncio.sleep(0.1)
        assert runs_of(bot) == ["hold"]
        gate.opened.set()
        assert await work == "Processed: hi (#2)"
        assert runs_of(bot) == ["hold", "hi"]


@pytest.mark.parametrize("verb", ["tell", "ask"])
async def test_a_turn_changes_no_other_record_and_says_whose(
    make_runtime: MakeRuntime, telegram: FakeTelegram, capfd: pytest.CaptureFixture[str], verb: str
) -> None:
    """Two turns that changed each other's would wait for ever."""
    async with make_runtime("webhook", agent_class=Costly) as bot:
        configure_logs(bot.settings)
        telegram.message(f"{verb} 2", user_id=1)
        telegram.message(f"{verb} 1", user_id=2)
        await telegram.settled()
        assert sorted(runs_of(bot)) == [f"{verb} 1", f"{verb} 2"]
        assert (await bot.record(1)).state == (await bot.record(2)).state == {}
        telegram.message(f"{verb} 1", user_id=1)
        await telegram.settled()
        assert (await bot.record(1)).state["message_count"] >= 1, "its own is no other"
    logged = capfd.readouterr().err
    assert "user 2: its record cannot be changed in a turn of user 1: use `background` for that" in logged
