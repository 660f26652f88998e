"""How late jobs run, and what it costs to keep messages for later, on the project's engine.

Usage: later.py SERVER...   (servers of `storage.py`, those the project's engine works with)

Prints JSON: what is missing here to start a server, or how late each job began, in seconds, and messages per
second of an agent that has them kept and of one that has not, round by round.
"""

import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from storage import SERVERS, MissingError, opened

from bot.runtime.telegram.fast_import import import_aiogram

import_aiogram()
from bot.agent_adapter import TelegramAgentAdapter, job  # noqa: E402
from bot.runtime.app import App, Owner, open_app  # noqa: E402
from bot.runtime.config import Settings  # noqa: E402
from bot.runtime.engines import create_store  # noqa: E402
from bot.runtime.logs import configure_logs  # noqa: E402
from bot.runtime.state.jobs import Timetable  # noqa: E402
from bot.runtime.state.turn import Turn, mutate  # noqa: E402
from bot.runtime.telegram.calls import run_alongside  # noqa: E402
from bot.runtime.telegram.local import TOKEN, LocalTelegram  # noqa: E402

IS_QUICK = "QUICK" in os.environ
PEOPLE, SECONDS = (50, 3.0) if IS_QUICK else (1_000, 60.0)
MESSAGES, WRITERS, ROUNDS = (2, 10, 1) if IS_QUICK else (10, 50, 5)

updates = itertools.count(1)


class Measured(TelegramAgentAdapter):
    """Notes how late its jobs begin, and how many messages it has answered."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.late: list[float] = []
        self.answered = 0
        self.has_answered = asyncio.Event()

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        state["count"] = state.get("count", 0) + 1
        self.answered += 1
        self.has_answered.set()
        return message

    @job
    async def remind(self) -> str:
        assert self.turn.job
        self.late.append((self.turn.now - self.turn.job.at) / 1e6)
        return "Do not forget!"


class Deferred(Measured):
    """Has messages kept."""

    deferred = True


@asynccontextmanager
async def running(kind: type[Measured]) -> AsyncIterator[tuple[App, Measured]]:
    """A bot without Telegram."""
    settings = Settings(_env_file=None)
    opening = open_app(
        settings,
        session=LocalTelegram().session,
        token=TOKEN,
        store=create_store(settings),
        owner=Owner(agent=kind),
    )
    async with opening as app:
        with run_alongside(0, app.jobs.run):
            assert isinstance(app.agent, Measured)
            yield app, app.agent
        await app.drain()


async def lateness() -> list[float]:
    """How late jobs began that another process made: so many people's, spread over a minute."""
    async with running(Measured) as (app, agent):
        elsewhere = Timetable()
        await elsewhere.ask(app.store)
        begin = elsewhere.at(timedelta(seconds=10))

        async def note(number: int) -> None:
            async def change(turn: Turn) -> None:
                when = timedelta(microseconds=begin + int(number * SECONDS / PEOPLE * 1e6) - turn.now)
                turn.later(when, agent.remind)

            await mutate(app.store, str(number + 1), change, timetable=elsewhere)

        for first in range(0, PEOPLE, 50):
            await asyncio.gather(*map(note, range(first, min(first + 50, PEOPLE))))
        while len(agent.late) < PEOPLE:
            await asyncio.sleep(0.1)
        return agent.late


def message(user_id: int, text: str) -> dict[str, Any]:
    """An update, as Telegram sends it."""
    number = next(updates)
    person = {"id": user_id, "is_bot": False, "first_name": "Ann"}
    chat = {"id": user_id, "type": "private", "first_name": "Ann"}
    content = {"message_id": number, "date": int(time.time()), "chat": chat, "from": person, "text": text}
    return {"update_id": number, "message": content}


async def rate(kind: type[Measured]) -> float:
    """Messages per second, until all are answered."""
    async with running(kind) as (app, agent):

        async def write(user_id: int) -> None:
            for number in range(MESSAGES):
                await app.processor.process_raw(message(user_id, str(number)), keep_trying=True)

        began = time.monotonic()
        await asyncio.gather(*(write(1_000_000 + number) for number in range(WRITERS)))
        while agent.answered < MESSAGES * WRITERS:
            agent.has_answered.clear()
            await agent.has_answered.wait()
        return MESSAGES * WRITERS / (time.monotonic() - began)


async def main(names: list[str]) -> None:
    """Start servers and measure."""
    configure_logs(Settings(log_level="ERROR", _env_file=None))
    servers = {name: SERVERS[name]() for name in names}
    with tempfile.TemporaryDirectory(prefix="later-") as folder:
        async with AsyncExitStack() as in_the_end:
            settings: dict[str, str] = {}
            for name, server in servers.items():
                try:
                    await server.start(Path(folder) / name)
                except MissingError as missing:
                    print(json.dumps({"missing": str(missing)}))
                    return
                in_the_end.push_async_callback(server.stop)
                settings |= server.settings()
            async with opened(settings):  # makes what the engine needs
                pass
            found: dict[str, list[float]] = {"late": await lateness(), "deferred": [], "ordinary": []}
            for number in range(ROUNDS + 1):
                kinds = [("deferred", Deferred), ("ordinary", Measured)]
                for name, kind in kinds if number % 2 else reversed(kinds):
                    speed = await rate(kind)
                    if number:  # the first round does not count
                        found[name].append(speed)
            print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
