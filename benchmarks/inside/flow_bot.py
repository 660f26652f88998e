"""A bot with a flow of three steps, on a storage of aiogram's or on the project's: the same handlers.

Usage: flow_bot.py ours | memory | redis | isolated
"""

import asyncio
import os
import sys

if sys.argv[1] == "ours":  # as `bot run` does
    from bot.runtime.telegram.fast_import import import_aiogram

    import_aiogram()

from aiogram import Bot, Dispatcher, Router
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.fsm.context import FSMContext
from aiogram.fsm.state import State, StatesGroup
from aiogram.fsm.storage.base import BaseEventIsolation, BaseStorage
from aiogram.fsm.storage.memory import DisabledEventIsolation, MemoryStorage
from aiogram.fsm.storage.redis import RedisStorage
from aiogram.methods import SendMessage
from aiogram.types import Message

router = Router()


class Steps(StatesGroup):
    """The steps."""

    one = State()
    two = State()
    three = State()


@router.message(Steps.one)
async def one(message: Message, state: FSMContext) -> SendMessage:
    """Take the first answer."""
    await state.update_data(one=message.text)
    await state.set_state(Steps.two)
    return message.answer("two?")


@router.message(Steps.two)
async def two(message: Message, state: FSMContext) -> SendMessage:
    """Take the second answer."""
    await state.update_data(two=message.text)
    await state.set_state(Steps.three)
    return message.answer("three?")


@router.message(Steps.three)
async def three(message: Message, state: FSMContext) -> SendMessage:
    """Take the third answer and say them all."""
    data = await state.update_data(three=message.text)
    await state.clear()
    return message.answer(f"done: {data.get('one')} {data.get('two')} {data['three']}")


@router.message()
async def begin(message: Message, state: FSMContext) -> SendMessage:
    """Begin."""
    await state.set_state(Steps.one)
    return message.answer("one?")


async def with_aiogram(kind: str) -> None:
    """Poll as aiogram does, until killed."""
    storage: BaseStorage = MemoryStorage()
    isolation: BaseEventIsolation = DisabledEventIsolation()
    if kind != "memory":
        storage = redis = RedisStorage.from_url(os.environ["REDIS_URL"])
        if kind == "isolated":
            isolation = redis.create_isolation()
    dispatcher = Dispatcher(storage=storage, events_isolation=isolation)
    dispatcher.include_router(router)
    session = AiohttpSession(api=TelegramAPIServer.from_base(os.environ["TELEGRAM_API_URL"]))
    await dispatcher.start_polling(Bot(os.environ["BOT_TOKEN"], session=session))


def with_records() -> None:
    """Run the project's own bot with these handlers."""
    from bot.agent import Agent
    from bot.runtime import app
    from bot.runtime.cli import main

    app.load_owner = lambda: app.Owner(agent=Agent, before=[router])
    sys.argv[1:] = ["run"]
    main()


if sys.argv[1] == "ours":
    with_records()
else:
    asyncio.run(with_aiogram(sys.argv[1]))
