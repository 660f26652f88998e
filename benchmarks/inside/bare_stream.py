"""The least aiogram bot that shows by hand what a model writes, by webhook: one draft, twice a second."""

import os
import time

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.methods import SendMessageDraft
from aiogram.types import Message
from aiogram.webhook.aiohttp_server import SimpleRequestHandler
from aiohttp import web
from model import written

GAP = 0.5


async def stream(message: Message, bot: Bot) -> None:
    """Show what there is so far, and send it in the end."""
    text, shown_at = "", 0.0
    async for piece in written(message.text or ""):
        text += piece
        if time.monotonic() > shown_at + GAP:
            shown_at = time.monotonic()
            await bot(SendMessageDraft(chat_id=message.chat.id, draft_id=message.message_id, text=text))
    await message.answer(text)


async def healthz(_: web.Request) -> web.Response:
    """Tell that it listens."""
    return web.Response()


def main() -> None:
    """Serve until killed."""
    dispatcher = Dispatcher()
    dispatcher.message.register(stream)
    session = AiohttpSession(api=TelegramAPIServer.from_base(os.environ["TELEGRAM_API_URL"]), limit=500)
    bot = Bot(os.environ["BOT_TOKEN"], session=session)
    app = web.Application()
    app.router.add_get("/healthz", healthz)
    SimpleRequestHandler(
        dispatcher, bot, handle_in_background=True, secret_token=os.environ["WEBHOOK_SECRET"]
    ).register(app, path="/webhook")
    web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), print=None)


main()
