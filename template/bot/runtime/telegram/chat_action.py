"""What a chat shows while its update is waiting or running."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import structlog
from aiogram import Bot
from aiogram.exceptions import TelegramAPIError
from aiogram.methods import SendChatAction
from aiogram.types import Message

TYPING_DELAY = 1.0
"""Seconds an agent may think before the chat shows that the bot is typing."""

TYPING_LASTS = 5.0
"""Seconds for which Telegram shows it: https://core.telegram.org/bots/api#sendchataction"""

log = structlog.get_logger()


@contextmanager
def run_alongside(delay: float, work: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """Run `work` alongside the block once it has lasted for `delay` seconds; cancel it when the block ends.

    What Telegram says to it is ignored.
    """
    tasks: list[asyncio.Task[None]] = []
    timer = asyncio.get_running_loop().call_later(
        delay, lambda: tasks.append(asyncio.create_task(_ignoring_refusals(work)))
    )
    try:
        yield
    finally:
        timer.cancel()
        for task in tasks:
            task.cancel()


async def show_typing(bot: Bot, message: Message) -> None:
    """Show in the message's chat that the bot is typing, for as long as this runs."""
    thread_id = message.message_thread_id if message.is_topic_message else None
    action = SendChatAction(chat_id=message.chat.id, action="typing", message_thread_id=thread_id)
    while True:
        await bot(action)
        await asyncio.sleep(TYPING_LASTS - 0.5)


async def _ignoring_refusals(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except TelegramAPIError as error:
        log.debug("side work refused", reason=error.message)
