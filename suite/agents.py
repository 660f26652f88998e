"""Agents the tests talk to. Yours, in `bot/agent.py`, has its own tests in `test_agent.py`."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from typing import Any

from bot.agent_adapter import TelegramAgentAdapter


class CountingAgent(TelegramAgentAdapter):
    """Counts messages, whoever they are for, and misbehaves when it is asked to."""

    def wants(self, update: Any) -> bool:
        return True

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        state["last_message"] = message
        state["message_count"] = state.get("message_count", 0) + 1
        await misbehave(message, state)
        return f"Processed: {message} (#{state['message_count']})"


class SourceStyleAgent(TelegramAgentAdapter):
    """An agent that loads and updates state itself."""

    def __init__(self, bot_token: str) -> None:
        super().__init__(bot_token)

    def wants(self, update: Any) -> bool:
        return True

    async def process_agent_request(self, message: str, user_id: str) -> str:
        state = await self.get_user_state(user_id)
        count = state.get("message_count", 0) + 1
        await self.update_user_state(user_id, "message_count", count)
        response = await self.agent_logic(message, state)
        await self.update_user_state(user_id, "last_message", message)
        return response

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        await misbehave(message, state)
        return f"Processed: {message} (#{state['message_count']})"


class Gate:
    """Where the agent stops at the message `hold`, until a test lets it pass: no test has to hit a moment.

    Attributes:
        reached: the agent is there.
        opened: it may go on.
    """

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def wait(self) -> None:
        self.reached.set()
        await self.opened.wait()


gates: list[Gate] = []
"""The gate of the test under way is the last one."""


async def cling(seconds: float, state: dict[str, Any]) -> None:
    """Go on for so long, whatever is thrown at it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state["clung"] = state.get("clung", 0) + 1
            await asyncio.sleep(0.02)
        except:  # noqa: E722 - it is a bad agent
            pass


async def misbehave(message: str, state: dict[str, Any]) -> None:
    """Do what the message says: `raise`, `leak`, `hold`, `sleep SECONDS`, `hoard BYTES` and so on."""
    match message.split():
        case ["raise"]:
            raise RuntimeError("the agent raised")
        case ["leak"]:
            names = ("BOT_TOKEN", "WEBHOOK_SECRET", "REDIS_URL", "DATABASE_URL")
            raise RuntimeError(f"the environment is {[os.environ.get(name) for name in names]}")
        case ["hold"]:
            await gates[-1].wait()
        case ["sleep", seconds]:
            await asyncio.sleep(float(seconds))
        case ["cling", seconds]:
            await cling(float(seconds), state)
        case ["block", seconds]:
            time.sleep(float(seconds))  # noqa: ASYNC251 - it is a bad agent
        case ["thread", seconds]:
            await asyncio.to_thread(time.sleep, float(seconds))
        case ["hoard", size]:
            state["hoard"] = "x" * int(size)
        case ["spoil"]:
            state["set"] = {1, 2}


class SpeakingAgent(TelegramAgentAdapter):
    """Says what it is told to, piece by piece.

    Attributes:
        heard: the messages for which it ran, in order.
        ended: those of which it has ended, in whichever way.
    """

    def __init__(self, bot_token: str) -> None:
        super().__init__(bot_token)
        self.heard: list[str] = []
        self.ended: list[str] = []

    def wants(self, update: Any) -> bool:
        return True

    async def agent_logic(self, message: str, state: dict[str, Any]) -> AsyncGenerator[str, None]:
        self.heard.append(message)
        state["count"] = state.get("count", 0) + 1
        try:
            match message.split():
                case ["say", pause, *words]:
                    for number, word in enumerate(words):
                        yield f" {word}" if number else word
                        await asyncio.sleep(float(pause))
                case ["think", pause, *words]:
                    await asyncio.sleep(float(pause))
                    yield " ".join(words)
                case ["count", number]:
                    for each in range(int(number)):
                        yield f"{each:09} "
                        await asyncio.sleep(0.001)
                case ["tiny", number]:
                    for _ in range(int(number)):
                        yield "x"
                case ["ever"]:
                    while True:
                        yield "la "
                        await asyncio.sleep(0.02)
                case ["hold", *pauses]:
                    await asyncio.sleep(sum(map(float, pauses)))
                    yield "held"
                    await gates[-1].wait()
                    yield " and freed"
                case ["raise", pause]:
                    yield "half an "
                    await asyncio.sleep(float(pause))
                    raise RuntimeError("the agent raised")
                case ["number"]:
                    yield 1  # type: ignore[misc]
                case ["cling"]:
                    yield "clings"
                    try:
                        await asyncio.sleep(60)
                    except asyncio.CancelledError:
                        yield " to life"
                        raise ValueError("not like this") from None
                case ["nothing"]:
                    pass
                case _:
                    yield f"{message} #{state['count']}"
        finally:
            self.ended.append(message)


class ShowingAgent(SpeakingAgent):
    """The same, by `turn.show`."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:  # type: ignore[override]
        text = ""
        async for piece in super().agent_logic(message, state):
            text += piece
            self.turn.show(text)
        return text
