"""Counts each user's messages in `context.user_data`."""

import asyncio
import json
import logging
from os import environ
from urllib.parse import urlsplit

from telegram import Update
from telegram.ext import (
    Application,
    ApplicationBuilder,
    CommandHandler,
    ContextTypes,
    MessageHandler,
    filters,
)


# audit
async def export(update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
    kept = json.dumps({"state": {"effects": context.user_data.get("seen", [])}})
    await update.message.reply_document(kept.encode(), filename="kept.json")


# end of audit


async def count(update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
    name, seconds = update.message.text.split()
    seen = context.user_data.setdefault("seen", [])
    await asyncio.sleep(float(seconds))  # the call of a model, or of another service
    seen.append(name)
    await update.message.reply_text(f"{name} #{len(seen)}")


def builder() -> ApplicationBuilder:
    logging.basicConfig(level=logging.INFO)
    return Application.builder().token(environ["BOT_TOKEN"]).base_url(f"{environ['TELEGRAM_API_URL']}/bot")


def run(application: Application) -> None:
    application.add_handler(CommandHandler("export", export))  # audit
    application.add_handler(MessageHandler(filters.TEXT & ~filters.COMMAND, count))
    if url := environ.get("WEBHOOK_URL"):
        application.run_webhook(port=int(environ["PORT"]), url_path=urlsplit(url).path, webhook_url=url)
    else:
        application.run_polling()
