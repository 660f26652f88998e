"""Counts each user's messages in the data of pyTelegramBotAPI's states."""

import io
import json
import time
from os import environ
from urllib.parse import urlsplit

from telebot import TeleBot, apihelper, logger
from telebot.states import State, StatesGroup
from telebot.states.sync import StateContext, StateMiddleware
from telebot.storage import StateStorageBase
from telebot.types import Message


class Counter(StatesGroup):
    counting = State()


def run(storage: StateStorageBase) -> None:
    logger.setLevel("INFO")
    apihelper.API_URL = environ["TELEGRAM_API_URL"] + "/bot{0}/{1}"
    bot = TeleBot(environ["BOT_TOKEN"], state_storage=storage, use_class_middlewares=True)
    bot.setup_middleware(StateMiddleware(bot))

    # audit
    @bot.message_handler(commands=["export"])
    def export(message: Message, state: StateContext) -> None:
        with state.data() as data:
            kept = json.dumps({"state": {"effects": data.get("seen", []) if data else []}})
        bot.send_document(message.chat.id, io.StringIO(kept), visible_file_name="kept.json")

    # end of audit

    @bot.message_handler()
    def count(message: Message, state: StateContext) -> None:
        name, seconds = message.text.split()
        if state.get() is None:
            state.set(Counter.counting)
        with state.data() as data:
            seen = data.get("seen", [])
        time.sleep(float(seconds))  # the call of a model, or of another service
        seen = [*seen, name]
        state.add_data(seen=seen)
        bot.send_message(message.chat.id, f"{name} #{len(seen)}")

    if url := environ.get("WEBHOOK_URL"):
        path = urlsplit(url).path.strip("/")
        bot.run_webhooks(port=int(environ["PORT"]), url_path=path, webhook_url=f"{url}/")
    else:
        bot.infinity_polling()
