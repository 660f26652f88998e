"""The bot one writes without thinking about processes that die: the test of the torture suite.

Plain aiogram with its defaults, and each user's state kept as one value that is read, changed and written
back: in a dict, in Redis, or in PostgreSQL, by whichever address the environment names. It runs under the
driver of a rendered project, in the place of that project's own bot, and has to fail there.
"""

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.filters import Command
from aiogram.types import BufferedInputFile, CallbackQuery, Message
from aiogram.webhook.aiohttp_server import SimpleRequestHandler, setup_application
from aiohttp import web

State = dict[str, Any]


class InMemory:
    """A dict: it dies with the process."""

    def __init__(self) -> None:
        self._states: dict[str, State] = {}

    async def connect(self) -> None:
        """There is nothing to connect to."""

    async def get(self, user_id: str) -> State:
        return dict(self._states.get(user_id, {}))

    async def put(self, user_id: str, state: State) -> None:
        self._states[user_id] = state


class InRedis:
    """One JSON value per user."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def connect(self) -> None:
        from redis import asyncio as redis

        self._redis = redis.from_url(self._url)

    async def get(self, user_id: str) -> State:
        value = await self._redis.get(f"user:{user_id}:state")
        return json.loads(value) if value else {}

    async def put(self, user_id: str, state: State) -> None:
        await self._redis.set(f"user:{user_id}:state", json.dumps(state), ex=86_400)


class InPostgres:
    """One JSONB value per user."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def connect(self) -> None:
        import asyncpg

        self._pool = await asyncpg.create_pool(self._url)
        table = "CREATE TABLE IF NOT EXISTS naive_state (user_id TEXT PRIMARY KEY, state JSONB NOT NULL)"
        with suppress(asyncpg.PostgresError):  # another process was faster
            await self._pool.execute(table)

    async def get(self, user_id: str) -> State:
        value = await self._pool.fetchval("SELECT state FROM naive_state WHERE user_id = $1", user_id)
        return json.loads(value) if value else {}

    async def put(self, user_id: str, state: State) -> None:
        upsert = "INSERT INTO naive_state VALUES ($1, $2) ON CONFLICT (user_id) DO UPDATE SET state = $2"
        await self._pool.execute(upsert, user_id, json.dumps(state))


def make_store() -> InMemory | InRedis | InPostgres:
    if url := os.environ.get("REDIS_URL"):
        return InRedis(url)
    if url := os.environ.get("DATABASE_URL"):
        return InPostgres(url)
    return InMemory()


store = make_store()
dispatcher = Dispatcher()


@dispatcher.startup()
async def connect() -> None:
    await store.connect()


@dispatcher.message(Command("export"))
async def export(message: Message) -> None:
    """Tell what is kept, as the torture suite asks in the end."""
    assert message.from_user
    state = await store.get(str(message.from_user.id))
    await message.answer_document(BufferedInputFile(json.dumps({"state": state}).encode(), "state.json"))


@dispatcher.callback_query()
async def forget(press: CallbackQuery) -> None:
    """Erase what is kept, which is all that anybody asks for by a button."""
    await store.put(str(press.from_user.id), {})
    await press.answer()


@dispatcher.message()
async def converse(message: Message) -> None:
    """Read, think, write."""
    assert message.text
    assert message.from_user
    name, seconds = message.text.split()
    user_id = str(message.from_user.id)
    state = await store.get(user_id)
    await asyncio.sleep(float(seconds))
    state.setdefault("effects", []).append(name)
    await store.put(user_id, state)
    await message.answer(f"{name} #{len(state['effects'])}")


async def poll(bot: Bot) -> None:
    print("listening port=0", file=sys.stderr, flush=True)
    await dispatcher.start_polling(bot)


async def serve(bot: Bot, webhook_url: str) -> None:
    app = web.Application()
    SimpleRequestHandler(dispatcher, bot).register(app, path=urlsplit(webhook_url).path)
    setup_application(app, dispatcher)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await bot.set_webhook(webhook_url)
    print(f"listening port={runner.addresses[0][1]}", file=sys.stderr, flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()


async def main() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # its clock is always right
    session = AiohttpSession(api=TelegramAPIServer.from_base(os.environ["TELEGRAM_API_URL"]))
    async with Bot(os.environ["BOT_TOKEN"], session=session) as bot:
        if webhook_url := os.environ.get("WEBHOOK_URL"):
            await serve(bot, webhook_url)
        else:
            await poll(bot)


if __name__ == "__main__":
    asyncio.run(main())
