"""Handlers of a tea shop: its own greeting and command, a button, photos, texts in two languages."""

from typing import Any

from aiogram import F, Router
from aiogram.filters import Command, CommandStart
from aiogram.methods import TelegramMethod
from aiogram.types import CallbackQuery, InlineKeyboardButton, InlineKeyboardMarkup, Message

from bot.agent_adapter import TelegramAgentAdapter, Texts

before = Router(name="before")
after = Router(name="after")


@before.message(CommandStart())
async def start(message: Message) -> TelegramMethod[Any]:
    """Say hello, in place of the answer that every bot has."""
    return message.answer("Welcome to the tea shop. What would you like?")


@before.message(Command("hours"))
async def hours(message: Message) -> TelegramMethod[Any]:
    """Say when the shop is open, and offer to be reminded."""
    button = InlineKeyboardButton(text="Remind me", callback_data="remind")
    keyboard = InlineKeyboardMarkup(inline_keyboard=[[button]])
    return message.answer("From nine to five.", reply_markup=keyboard)


@before.callback_query(F.data == "remind")
async def remind(query: CallbackQuery, agent: TelegramAgentAdapter) -> TelegramMethod[Any]:
    """Keep that somebody wants to be reminded: the agent finds it in `state`."""
    agent.turn.state["wants_reminder"] = True
    return query.answer("I will.")


@after.message(F.photo)
async def photo(message: Message, agent: TelegramAgentAdapter) -> list[TelegramMethod[Any]]:
    """Count photos, and answer twice."""
    agent.turn.state["photos"] = agent.turn.state.get("photos", 0) + 1
    return [message.answer("A fine picture."), message.answer(f"That makes {agent.turn.state['photos']}.")]


TEXTS = {
    "en": Texts(
        only_text="I can read text and look at photos.",
        menu={
            "start": "Say hello",
            "hours": "When we are open",
            "help": "What I can do",
            "reset": "Start afresh: clear state and conversation",
            "export": "Get a copy of what I keep about you",
            "forget": "Erase everything I keep about you",
        },
    ),
    "de": Texts(
        only_text="Ich kann Text lesen und Fotos ansehen.",
        menu={
            "start": "Sag hallo",
            "hours": "Wann wir offen haben",
            "help": "Was ich kann",
            "reset": "Von vorn: Zustand und Gespräch löschen",
            "export": "Eine Kopie von allem, was ich über dich weiß",
            "forget": "Alles löschen, was ich über dich weiß",
        },
    ),
}
