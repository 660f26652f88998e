"""aiogram's flows over the record: inside an update, outside one, and under every strategy."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from aiogram import Bot, Dispatcher, Router
from aiogram.exceptions import DataNotDictLikeError
from aiogram.fsm.context import FSMContext
from aiogram.fsm.state import State, StatesGroup
from aiogram.fsm.storage.base import StorageKey
from aiogram.fsm.strategy import FSMStrategy
from aiogram.methods import SendMessage
from aiogram.types import Message

from bot.agent_adapter import TelegramAgentAdapter
from bot.config import Settings
from bot.state.fsm import RecordStorage
from bot.state.store import StateStore
from bot.state.turn import Turn, mutate
from bot.telegram.polling import Poller
from bot.telegram.replies import Session
from bot.telegram.transaction import Transactions
from tests.fake_telegram import FakeTelegram

KEY = StorageKey(bot_id=42, chat_id=-100, user_id=1)


class Steps(StatesGroup):
    """A flow of two steps."""

    name = State()
    age = State()


@pytest.fixture
def storage(store: StateStore) -> RecordStorage:
    return RecordStorage(store)


async def test_steps_and_data(storage: RecordStorage, store: StateStore) -> None:
    assert await storage.get_state(KEY) is None
    assert await storage.get_data(KEY) == {}
    await storage.set_state(KEY, Steps.name)
    await storage.set_data(KEY, {"a": 1})
    assert await storage.update_data(KEY, {"b": [2]}) == {"a": 1, "b": [2]}
    assert await storage.get_state(KEY) == "Steps:name"
    assert await storage.get_value(KEY, "b") == [2]
    assert await storage.get_value(KEY, "c", "default") == "default"
    (await storage.get_data(KEY))["b"].append(3)
    assert await storage.get_data(KEY) == {"a": 1, "b": [2]}, "a copy is the caller's own"
    await storage.set_state(KEY, None)
    await storage.set_data(KEY, {})
    assert (await store.load("1")).fsm == {}, "nothing is left of a flow that ended"


@pytest.mark.parametrize("data", [None, [], "text"])
async def test_data_is_a_mapping(storage: RecordStorage, data: object) -> None:
    with pytest.raises(DataNotDictLikeError):
        await storage.set_data(KEY, data)  # type: ignore[arg-type]
    with pytest.raises(DataNotDictLikeError):
        await storage.update_data(KEY, data)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [
        {"bot_id": 43},
        {"chat_id": 1},
        {"user_id": 2},
        {"thread_id": 7},
        {"business_connection_id": "b"},
        {"destiny": "second"},
    ],
    ids=str,
)
async def test_every_part_of_the_key_counts(storage: RecordStorage, other: dict[str, Any]) -> None:
    await storage.set_state(KEY, "here")
    elsewhere = replace(KEY, **other)
    assert await storage.get_state(elsewhere) is None
    await storage.set_state(elsewhere, "there")
    assert await storage.get_state(KEY) == "here"


async def test_concurrent_updates_are_all_kept(storage: RecordStorage) -> None:
    await asyncio.gather(*(storage.update_data(KEY, {f"k{n}": n}) for n in range(6)))
    assert await storage.get_data(KEY) == {f"k{n}": n for n in range(6)}


async def test_inside_a_turn_a_flow_is_part_of_it(storage: RecordStorage, store: StateStore) -> None:
    async def change(turn: Turn) -> None:
        await storage.set_state(KEY, Steps.age)
        assert turn.fsm
        assert (await store.load("1")).fsm == {}, "not before the turn is committed"
        turn.state["with"] = "it"

    await mutate(store, "1", change)
    assert await storage.get_state(KEY) == "Steps:age"
    await store.forget("1")
    assert await storage.get_state(KEY) is None


def flow() -> Router:
    """A flow that asks for a name, then for an age."""
    router = Router()

    @router.message(Steps.name)
    async def name(message: Message, state: FSMContext) -> SendMessage:
        await state.update_data(name=message.text)
        await state.set_state(Steps.age)
        return message.answer("And your age?")

    @router.message(Steps.age)
    async def age(message: Message, state: FSMContext) -> SendMessage:
        data = await state.get_data()
        await state.clear()
        return message.answer(f"{data['name']} is {message.text}")

    @router.message()
    async def begin(message: Message, state: FSMContext) -> SendMessage:
        await state.set_state(Steps.name)
        return message.answer("Your name?")

    return router


@pytest.mark.parametrize("strategy", FSMStrategy)
async def test_a_flow_over_http(store: StateStore, strategy: FSMStrategy) -> None:
    async with FakeTelegram() as telegram:
        from aiogram.client.telegram import TelegramAPIServer

        session = Session(api=TelegramAPIServer.from_base(telegram.url))
        bot = Bot(telegram.token, session=session)
        dispatcher = Dispatcher(storage=RecordStorage(store), fsm_strategy=strategy)
        dispatcher.include_router(flow())
        transactions = Transactions(bot, dispatcher, store, Settings(), TelegramAgentAdapter(""))
        poller = asyncio.create_task(Poller(bot, transactions, ["message"]).run())
        for text in ("hello", "Ann", "33"):
            telegram.message(text, user_id=1, chat_id=-100)
        await telegram.settled()
        poller.cancel()
        await bot.session.close()
    assert telegram.texts(-100) == ["Your name?", "And your age?", "Ann is 33"]
    assert (await store.load("1")).fsm == (await store.load("-100")).fsm == {}
