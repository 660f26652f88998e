"""The least aiogram bot there is, by webhook: bare_webhook.py echo | count.

`count` counts each user's messages in aiogram's own storage: in the Redis that STORAGE_URL names, or else in
memory. A delivery is answered when its update is handled; with BACKGROUND=1 before that, as aiogram does by
default.
"""

import os
import sys

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.fsm.context import FSMContext
from aiogram.fsm.storage.base import BaseStorage
from aiogram.fsm.storage.memory import MemoryStorage
from aiogram.types import Message
from aiogram.webhook.aiohttp_server import SimpleRequestHandler
from aiohttp import web


async def echo(message: Message) -> None:
    """Say the same, by a call of its own."""
    await message.answer(message.text or "")


async def count(message: Message, state: FSMContext) -> None:
    """Count the message, and say so by a call of its own."""
    data = await state.get_data()
    number = data.get("message_count", 0) + 1
    await state.update_data(message_count=number, last_message=message.text)
    await message.answer(f"Processed: {message.text} (#{number})")


def make_storage() -> BaseStorage:
    """Aiogram's storage for what STORAGE_URL says."""
    if url := os.environ.get("STORAGE_URL"):
        from aiogram.fsm.storage.redis import RedisStorage

        return RedisStorage.from_url(url)
    return MemoryStorage()


async def healthz(_: web.Request) -> web.Response:
    """Tell that it listens."""
    return web.Response()


def main() -> None:
    """Serve until killed."""
    dispatcher = Dispatcher(storage=make_storage())
    dispatcher.message.register({"echo": echo, "count": count}[sys.argv[1]])
    session = AiohttpSession(api=TelegramAPIServer.from_base(os.environ["TELEGRAM_API_URL"]))
    bot = Bot(os.environ["BOT_TOKEN"], session=session)
    app = web.Application()
    app.router.add_get("/healthz", healthz)
    handler = SimpleRequestHandler(
        dispatcher,
        bot,
        handle_in_background=os.environ.get("BACKGROUND") == "1",
        secret_token=os.environ["WEBHOOK_SECRET"],
    )
    handler.register(app, path="/webhook")
    web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), print=None)


main()
