"""Commands and the message handler. Add your own handlers to a router and include it in `routers`.

Handlers return their replies un-awaited: they are sent once the turn is committed, at least once and in
order. An awaited `message.answer()` goes out at once and outside that guarantee.
"""

from datetime import UTC, datetime
from typing import Any

import orjson
from aiogram import Bot, Router
from aiogram.enums import ChatType
from aiogram.filters import Command, CommandStart
from aiogram.filters.callback_data import CallbackData
from aiogram.methods import TelegramMethod
from aiogram.types import (
    BotCommand,
    BufferedInputFile,
    CallbackQuery,
    InaccessibleMessage,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    Message,
)

from bot.agent_adapter import TelegramAgentAdapter
from bot.state.engine import flows
from bot.state.turn import Turn, any_turn
from bot.telegram.meanwhile import TYPING_PATIENCE, meanwhile, show_typing

COMMANDS = [
    BotCommand(command="start", description="Say hello"),
    BotCommand(command="help", description="What I can do"),
    *(command for flow in flows() for command in flow.COMMANDS),
    BotCommand(command="reset", description="Start afresh: clear state and conversation"),
]
PRIVATE_COMMANDS = [
    *COMMANDS,
    BotCommand(command="export", description="Get a copy of what I keep about you"),
    BotCommand(command="forget", description="Erase everything I keep about you"),
]

SENT_BY_PEOPLE = {
    "animation", "audio", "contact", "dice", "document", "location", "photo", "poll", "sticker",
    "story", "venue", "video", "video_note", "voice",
}  # fmt: skip

HELLO = "Hello! Write to me. I remember what you tell me; /help says what else I can do."
ONLY_IN_PRIVATE = "That is between you and me: please send it to me in a private chat."
ONLY_TEXT = "I can read text only, so far."


class Forget(CallbackData, prefix="forget"):
    """What the buttons of `/forget` say."""

    user_id: int
    yes: bool


def routers() -> list[Router]:
    """Every router of the bot, asked in this order. Put yours before the last one, which takes all text."""
    return [_commands(), *(flow.router() for flow in flows()), _conversation()]


def _commands() -> Router:
    router = Router(name="commands")
    router.message.filter(is_command)
    router.message(CommandStart())(start)
    router.message(Command("help"))(help_)
    router.message(Command("reset"))(reset)
    router.message(Command("export"), is_private)(export)
    router.message(Command("forget"), is_private)(forget)
    router.message(Command("export", "forget"))(only_in_private)
    router.callback_query(Forget.filter())(forget_pressed)
    return router


def _conversation() -> Router:
    router = Router(name="conversation")
    router.message(has_text)(converse)
    router.message(is_by_a_person)(only_text)
    return router


# Filters are coroutines, though nothing is awaited: aiogram runs any other callable, and the expressions of
# its `F`, in a thread, which takes longer than all the rest of the dispatcher.


async def is_command(message: Message) -> bool:
    """Whether it is worth while to compare with each command."""
    return (message.text or "").startswith("/")


async def is_private(message: Message) -> bool:
    """Whether nobody but the sender reads along."""
    return message.chat.type == ChatType.PRIVATE


async def has_text(message: Message) -> bool:
    """Whether there is something to read."""
    return bool(message.text or message.caption)


async def is_by_a_person(message: Message) -> bool:
    """Whether somebody sent this, as opposed to Telegram telling about a new title, member or pin."""
    return message.content_type in SENT_BY_PEOPLE


async def start(message: Message) -> TelegramMethod[Any]:
    """Say hello."""
    return message.answer(HELLO)


async def help_(message: Message) -> TelegramMethod[Any]:
    """List the commands that work here."""
    commands = PRIVATE_COMMANDS if await is_private(message) else COMMANDS
    return message.answer("\n".join(f"/{command.command} - {command.description}" for command in commands))


async def reset(message: Message) -> TelegramMethod[Any]:
    """Clear state, conversation and flows."""
    _turn().reset()
    return message.answer("Done. We start afresh.")


async def export(message: Message) -> TelegramMethod[Any]:
    """Send the user everything kept about them."""
    data = orjson.dumps(_turn().personal_data(), option=orjson.OPT_INDENT_2)
    name = f"my-data-{datetime.now(UTC):%Y-%m-%d}.json"
    return message.answer_document(BufferedInputFile(data, name), caption="Everything I keep about you.")


async def forget(message: Message) -> TelegramMethod[Any]:
    """Ask whether everything shall be erased."""
    user_id = int(_turn().user_id)
    yes = Forget(user_id=user_id, yes=True).pack()
    no = Forget(user_id=user_id, yes=False).pack()
    return message.answer(
        "Shall I erase everything I keep about you? This cannot be undone.",
        reply_markup=InlineKeyboardMarkup(
            inline_keyboard=[
                [
                    InlineKeyboardButton(text="Erase everything", callback_data=yes),
                    InlineKeyboardButton(text="Keep it", callback_data=no),
                ]
            ]
        ),
    )


async def forget_pressed(
    query: CallbackQuery, callback_data: Forget
) -> list[TelegramMethod[Any]] | TelegramMethod[Any]:
    """Erase everything, or leave it, if it is the person who was asked that pressed the button."""
    if query.from_user.id != callback_data.user_id:
        return query.answer("This button is not for you.", show_alert=True)
    text = "Nothing was erased."
    if callback_data.yes:
        _turn().forget()
        text = "Done. I have forgotten everything about you."
    if query.message is None or isinstance(query.message, InaccessibleMessage):
        return query.answer(text, show_alert=True)
    return [query.message.edit_text(text), query.answer()]


async def only_in_private(message: Message) -> TelegramMethod[Any]:
    """Keep personal matters out of groups."""
    return message.answer(ONLY_IN_PRIVATE)


async def converse(message: Message, bot: Bot, agent: TelegramAgentAdapter) -> TelegramMethod[Any] | None:
    """Have the agent answer."""
    text = message.text or message.caption or ""
    with meanwhile(TYPING_PATIENCE, lambda: show_typing(bot, message)):
        reply = await agent.handle_message(_turn().user_id, text)
    return message.answer(reply) if reply and reply.strip() else None


async def only_text(message: Message) -> TelegramMethod[Any]:
    """Say that there was nothing to read."""
    return message.answer(ONLY_TEXT)


def _turn() -> Turn:
    turn = any_turn()
    assert turn, "handlers run inside a turn"
    return turn
