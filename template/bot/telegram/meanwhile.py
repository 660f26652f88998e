"""Side work that goes on only while something else does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
from aiogram import Bot
from aiogram.exceptions import TelegramAPIError
from aiogram.methods import SendChatAction
from aiogram.types import Message

TYPING_PATIENCE = 1.0
"""Seconds an agent may think before the chat shows that the bot is typing."""

TYPING_LASTS = 5.0
"""Seconds for which Telegram shows it: https://core.telegram.org/bots/api#sendchataction"""

log = structlog.get_logger(__name__)


@asynccontextmanager
async def meanwhile(work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run `work` beside the block and stop it at the block's end; what Telegram says to it is ignored."""
    task = asyncio.create_task(_forgiving(work))
    try:
        yield
    finally:
        task.cancel()


async def show_typing(bot: Bot, message: Message) -> None:
    """Show in the message's chat that the bot is typing, for as long as this runs."""
    thread_id = message.message_thread_id if message.is_topic_message else None
    action = SendChatAction(chat_id=message.chat.id, action="typing", message_thread_id=thread_id)
    await asyncio.sleep(TYPING_PATIENCE)
    while True:
        await bot(action)
        await asyncio.sleep(TYPING_LASTS - 0.5)


async def _forgiving(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except TelegramAPIError as error:
        log.debug("side work refused", reason=error.message)
