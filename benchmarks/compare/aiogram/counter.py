"""Counts each user's messages in the data of aiogram's FSM, as its documentation keeps what a user said."""

import asyncio
import json
import logging
from os import environ
from urllib.parse import urlsplit

from aiogram import Bot, Dispatcher, F, Router
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.filters import Command
from aiogram.fsm.context import FSMContext
from aiogram.types import BufferedInputFile, Message
from aiogram.webhook.aiohttp_server import SimpleRequestHandler, setup_application
from aiohttp import web

router = Router()


# audit
@router.message(Command("export"))
async def export(message: Message, state: FSMContext) -> None:
    kept = json.dumps({"state": {"effects": await state.get_value("seen", [])}})
    await message.answer_document(BufferedInputFile(kept.encode(), "kept.json"))


# end of audit


@router.message(F.text)
async def count(message: Message, state: FSMContext) -> None:
    name, seconds = message.text.split()
    seen = await state.get_value("seen", [])
    await asyncio.sleep(float(seconds))  # the call of a model, or of another service
    seen = [*seen, name]
    await state.update_data(seen=seen)
    await message.answer(f"{name} #{len(seen)}")


async def on_startup(bot: Bot) -> None:
    await bot.set_webhook(environ["WEBHOOK_URL"])


def run(dispatcher: Dispatcher) -> None:
    logging.basicConfig(level=logging.INFO)
    dispatcher.include_router(router)
    session = AiohttpSession(api=TelegramAPIServer.from_base(environ["TELEGRAM_API_URL"]))
    bot = Bot(environ["BOT_TOKEN"], session=session)
    if url := environ.get("WEBHOOK_URL"):
        dispatcher.startup.register(on_startup)
        app = web.Application()
        SimpleRequestHandler(dispatcher, bot).register(app, path=urlsplit(url).path)
        setup_application(app, dispatcher, bot=bot)
        web.run_app(app, host="127.0.0.1", port=int(environ["PORT"]))
    else:
        asyncio.run(dispatcher.start_polling(bot))
