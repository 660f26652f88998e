"""The least aiogram bot there is: an echo, by webhook. A delivery is answered when its update is handled."""

import os

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.types import Message
from aiogram.webhook.aiohttp_server import SimpleRequestHandler
from aiohttp import web

dispatcher = Dispatcher()


@dispatcher.message()
async def echo(message: Message) -> None:
    """Say the same, by a call of its own."""
    await message.answer(message.text or "")


async def healthz(_: web.Request) -> web.Response:
    """Tell that it listens."""
    return web.Response()


def main() -> None:
    """Serve until killed."""
    session = AiohttpSession(api=TelegramAPIServer.from_base(os.environ["TELEGRAM_API_URL"]))
    bot = Bot(os.environ["BOT_TOKEN"], session=session)
    app = web.Application()
    app.router.add_get("/healthz", healthz)
    handler = SimpleRequestHandler(
        dispatcher, bot, handle_in_background=False, secret_token=os.environ["WEBHOOK_SECRET"]
    )
    handler.register(app, path="/webhook")
    web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), print=None)


main()
