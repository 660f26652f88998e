"""Updates as Telegram sends them, and as aiogram reads them."""

from typing import Any

import structlog
from aiogram import Bot
from aiogram.types import Update
from pydantic import ValidationError

log = structlog.get_logger()


def parse_update(bot: Bot, raw: dict[str, Any]) -> Update | None:
    """Read an update, bound to the bot.

    Returns:
        `None`, after logging where it differs from what aiogram knows, when it cannot be read. Telegram would
        only deliver the same again, so such an update counts as done.
    """
    try:
        return Update.model_validate(raw, context={"bot": bot})
    except ValidationError as error:
        places = [".".join(map(str, fault["loc"])) for fault in error.errors(include_input=False)]
        log.error("update not understood, skipped", update_id=raw["update_id"], places=places[:5])
        return None


def date_of(update: Update) -> float | None:
    """When an update came, in seconds since 1970 by Telegram's clock; `None` when it does not say."""
    edited_at: int | None = getattr(update.event, "edit_date", None)
    date = getattr(update.event, "date", None)
    return edited_at or (date.timestamp() if date else None)
