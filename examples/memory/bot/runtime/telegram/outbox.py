"""The outbox: replies are committed together with what their update changed, and sent after that.

Killed in between, the bot finds them in the user's record when Telegram delivers the update again.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog
from aiogram import Bot
from aiogram.exceptions import (
    ClientDecodeError,
    TelegramAPIError,
    TelegramBadRequest,
    TelegramMigrateToChat,
    TelegramNetworkError,
    TelegramRetryAfter,
    TelegramServerError,
    TelegramUnauthorizedError,
)
from aiogram.methods import AnswerCallbackQuery, TelegramMethod
from aiogram.types import Update

from bot.runtime.state.record import OutboxEntry, UserRecord, encode_entry
from bot.runtime.telegram.calls import Reply, StoredCall, prepare, split_reply
from bot.runtime.telegram.updates import LruDict, date_of

OUTBOX_SECONDS = 25 * 3600
"""Age at which an undelivered reply is dropped: Telegram keeps an update for 24 hours, and no longer delivers
this one again."""

ATTEMPTS = 5
FIRST_DELAY = 0.5
"""Seconds before the second attempt to send; each further delay is twice as long."""

log = structlog.get_logger()


class DeliveryFailed(Exception):
    """Telegram could not be reached; the reply stays in the outbox and the update unacknowledged."""


class Outbox:
    """The replies of updates, on their way from the transaction to Telegram."""

    def __init__(self, bot: Bot) -> None:
        """Make an outbox from which nothing was sent yet."""
        self._bot = bot
        self._sent: LruDict[int] = LruDict()

    async def prepare(self, update: Update, methods: Sequence[TelegramMethod[Any]]) -> list[Reply]:
        """Turn methods into replies; a pressed button is answered in any case."""
        query = update.callback_query
        if query and not any(isinstance(method, AnswerCallbackQuery) for method in methods):
            methods = [*methods, AnswerCallbackQuery(callback_query_id=query.id)]
        return [reply for method in methods for reply in await prepare(self._bot, method)]

    async def deliver(self, update_id: int, replies: Sequence[Reply]) -> None:
        """Send what this process has not sent yet of an update's replies, in order.

        Raises:
            DeliveryFailed: Telegram could not be reached.
        """
        already = self._sent.get(update_id, 0)
        for number, reply in enumerate(replies[already:], start=already + 1):
            await send(self._bot, reply)
            self._sent.set(update_id, number)


def stored_replies(record: UserRecord, update_id: int) -> list[Reply]:
    """The replies of an update that was applied, as they wait in the record."""
    entry = record.outbox.get(update_id)
    return [Reply.from_json(reply) for reply in entry.replies] if entry else []


def outbox_changes(
    record: UserRecord, update: Update, replies: Sequence[Reply], is_done: Callable[[int], bool]
) -> Mapping[int, bytes | None]:
    """What the record's outbox gains and loses with an update.

    Args:
        record: as it was loaded.
        update: the update.
        replies: its replies.
        is_done: tells of an update whether this process delivered its replies.
    """
    # Telegram's clock. One of our own may be wrong by days, and what is dropped by it could be the only copy
    # of a reply that another process was killed over.
    now = date_of(update)
    changes: dict[int, bytes | None] = {
        key: None for key, entry in record.outbox.items() if is_done(key) or _is_over(entry, now)
    }
    if replies:
        stored = [reply.to_json() for reply in replies]
        changes[update.update_id] = encode_entry(OutboxEntry(stored, now))
    return changes


async def send(bot: Bot, reply: Reply) -> None:
    """Send a reply, waiting as long as Telegram asks.

    What Telegram refuses for good (the bot is blocked, the message is gone) is logged and counts as sent.

    Raises:
        DeliveryFailed: Telegram could not be reached.
    """
    failures = 0
    while True:
        try:
            await bot(StoredCall(reply=reply))
            return
        except TelegramRetryAfter as error:
            log.info("Telegram asks to slow down", seconds=error.retry_after)
            await asyncio.sleep(error.retry_after)
        except TelegramMigrateToChat as error:
            reply = replace(reply, params={**reply.params, "chat_id": str(error.migrate_to_chat_id)})
        except (
            TelegramNetworkError,
            TelegramServerError,
            TelegramUnauthorizedError,
            ClientDecodeError,
        ) as error:
            failures += 1
            if failures == ATTEMPTS:
                raise DeliveryFailed(f"{reply.method}: {_reason(error)}") from error
            await asyncio.sleep(FIRST_DELAY * 2 ** (failures - 1))
        except TelegramBadRequest as error:
            if "parse_mode" not in reply.params or not _is_about_markup(error):
                log.warning("reply refused", method=reply.method, reason=error)
                return
            log.warning("markup refused, sent as plain text", reason=error)
            plain = {key: value for key, value in reply.params.items() if key != "parse_mode"}
            for part in split_reply(replace(reply, params=plain)):
                await send(bot, part)
            return
        except TelegramAPIError as error:
            log.warning("reply refused", method=reply.method, reason=error)
            return


def _is_over(entry: OutboxEntry, now: float | None) -> bool:
    """Whether Telegram can no longer deliver the update again. `now` is by Telegram's clock, too."""
    return entry.at is not None and now is not None and now - entry.at > OUTBOX_SECONDS


def _is_about_markup(error: TelegramBadRequest) -> bool:
    return "can't parse entities" in error.message or "too long" in error.message


def _reason(error: Exception) -> str:
    return type(error).__name__
