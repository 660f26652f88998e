"""aiogram's flows over the record: inside an update, outside one, and under every strategy."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from aiogram import Bot, Dispatcher, F, Router
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import DataNotDictLikeError
from aiogram.filters import Command
from aiogram.fsm.context import FSMContext
from aiogram.fsm.scene import Scene, SceneRegistry, on
from aiogram.fsm.state import State, StatesGroup
from aiogram.fsm.storage.base import StorageKey
from aiogram.fsm.strategy import FSMStrategy
from aiogram.methods import SendMessage
from aiogram.types import CallbackQuery, Message

from bot.runtime.app import Owner
from bot.runtime.config import Settings
from bot.runtime.errors import StateForgotten
from bot.runtime.state import fsm
from bot.runtime.state.fsm import RecordStorage
from bot.runtime.state.record import UserRecord
from bot.runtime.state.store import Changes, OperatorStore
from bot.runtime.state.turn import KeyedLock, Turn, current_turn, mutate
from bot.runtime.telegram.calls import Session
from bot.runtime.telegram.processor import Admission, Processor
from bot.runtime.telegram.receiver import Poller
from bot.runtime.telegram.texts import TextTable
from bot.runtime.telegram.transaction import Transaction
from suite.agents import CountingAgent
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Mode, Runtime

pytestmark = pytest.mark.clause("fsm.storage")

KEY = StorageKey(bot_id=42, chat_id=-100, user_id=1)


class Steps(StatesGroup):
    """A flow of two steps."""

    name = State()
    age = State()


@pytest.fixture
def storage(store: OperatorStore) -> RecordStorage:
    return RecordStorage(store)


async def test_steps_and_data(storage: RecordStorage, store: OperatorStore) -> None:
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


async def test_a_context_is_cleared_without_touching_others(storage: RecordStorage) -> None:
    here, there = (FSMContext(storage, replace(KEY, chat_id=chat_id)) for chat_id in (-100, 1))
    for context in (here, there):
        await context.set_state(Steps.name)
        await context.update_data({"a": 1}, b=2)
    await here.clear()
    assert (await here.get_state(), await here.get_data()) == (None, {})
    assert (await there.get_state(), await there.get_data()) == ("Steps:name", {"a": 1, "b": 2})


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


async def test_inside_a_turn_a_flow_is_part_of_it(storage: RecordStorage, store: OperatorStore) -> None:
    async def change(turn: Turn) -> None:
        await storage.set_state(KEY, Steps.age)
        assert turn.fsm
        assert (await store.load("1")).fsm == {}, "not before the turn is committed"
        turn.state["with"] = "it"

    await mutate(store, "1", change)
    assert await storage.get_state(KEY) == "Steps:age"
    await store.forget("1")
    assert await storage.get_state(KEY) is None


async def test_work_that_outlives_its_turn_does_not_bring_back_who_was_forgotten(
    storage: RecordStorage, store: OperatorStore
) -> None:
    await storage.set_state(KEY, Steps.name)
    turn = Turn(await store.load("1"), store.limits)
    with turn.active():
        pass
    await store.forget("1")

    async def late() -> None:
        with turn.active():
            turn.is_open = False
            await storage.set_state(KEY, Steps.age)

    with pytest.raises(StateForgotten):
        await late()
    assert (await store.load("1")).is_empty


class Clock:
    """The time as `bot.runtime.state.fsm` sees it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(fsm, "time", clock)
    return clock


async def test_step_and_data_expire_together(store: OperatorStore, clock: Clock) -> None:
    storage = RecordStorage(store, ttl=10)
    other = replace(KEY, chat_id=1)
    await storage.set_state(KEY, Steps.name)
    clock.now += 9
    await storage.update_data(KEY, {"a": 1})
    clock.now += 9
    await storage.set_state(other, Steps.name)
    assert await storage.get_state(KEY) == "Steps:name", "data that came later put the step off, too"
    clock.now += 1
    assert await storage.get_state(KEY) is None
    assert await storage.get_data(KEY) == {}
    assert await storage.update_data(KEY, {"b": 2}) == {"b": 2}
    assert await storage.get_state(KEY) is None
    assert await storage.get_state(other) == "Steps:name"


async def test_what_expired_is_gone_from_the_record_with_the_next_turn(
    store: OperatorStore, clock: Clock
) -> None:
    storage = RecordStorage(store, ttl=10)
    await storage.set_state(KEY, Steps.name)
    clock.now += 10

    async def look(turn: Turn) -> None:
        assert await storage.get_state(KEY) is None

    await mutate(store, "1", look)
    assert (await store.load("1")).fsm == {}


async def test_a_flow_expires_by_the_clock_of_telegram(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, clock: Clock
) -> None:
    began = int(time.time())
    bot = make_runtime(mode, fsm_ttl=600)
    bot.owner = Owner(agent=CountingAgent, flows=[flow(), buttons()])
    async with bot:

        async def says(text: str, after: int) -> str:
            telegram.message(text, user_id=1, date=began + after)
            await telegram.settled()
            return telegram.texts(1)[-1]

        async def presses(data: str) -> str:
            telegram.callback(data, user_id=1)
            await telegram.settled()
            return telegram.texts(1)[-1]

        assert await says("hi", 0) == "Your name?"
        clock.now += 10 * 86_400  # this machine's clock is set, or another machine goes on
        await bot.stop()
        await bot.start()
        assert await says("Ann", 599) == "And your age?", "it was no ten minutes"
        clock.now -= 20 * 86_400
        await bot.stop()
        await bot.start()
        assert await says("30", 599 + 601) == "Your name?", "it was ten minutes"
        clock.now += 590
        assert await presses("step") == "Steps:name"
        clock.now += 10
        assert await presses("step") == "None"


@pytest.mark.parametrize("ttl", [None, 0])
async def test_without_a_time_a_flow_stays(store: OperatorStore, clock: Clock, ttl: float | None) -> None:
    storage = RecordStorage(store, ttl)
    await storage.set_state(KEY, Steps.name)
    clock.now += 10 * 365 * 86_400
    assert await storage.get_state(KEY) == "Steps:name"


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


def buttons() -> Router:
    """Says at which step the flow is."""
    router = Router()

    @router.callback_query(F.data == "step")
    async def step(query: CallbackQuery, state: FSMContext) -> SendMessage:
        return SendMessage(chat_id=query.from_user.id, text=str(await state.get_state()))

    return router


class Counting:
    """Stands in front of a store and counts its calls, by user."""

    def __init__(self, store: OperatorStore) -> None:
        self._store = store
        self.calls: Counter[tuple[str, str]] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def load(self, user_id: str, conversation: str | None = "") -> UserRecord:
        self.calls["load", user_id] += 1
        return await self._store.load(user_id, conversation)

    async def commit(self, user_id: str, changes: Changes, *, expect: int | None) -> int:
        self.calls["commit", user_id] += 1
        return await self._store.commit(user_id, changes, expect=expect)


@asynccontextmanager
async def bot_with(
    router: Router, store: OperatorStore, strategy: FSMStrategy = FSMStrategy.USER_IN_CHAT
) -> AsyncIterator[FakeTelegram]:
    """A Telegram, and a bot with this router that polls it."""
    async with FakeTelegram() as telegram:
        session = Session(api=TelegramAPIServer.from_base(telegram.url))
        bot = Bot(telegram.token, session=session)
        dispatcher = Dispatcher(storage=RecordStorage(store), fsm_strategy=strategy)
        dispatcher.include_router(router)
        agent, settings = CountingAgent(""), Settings()
        transaction = Transaction(bot, dispatcher, store, agent, TextTable(), settings)
        processor = Processor(bot, transaction, Admission(bot, agent, settings), max_concurrent=256)
        poller = asyncio.create_task(Poller(bot, processor, ["message", "channel_post"]).run())
        yield telegram
        poller.cancel()
        await bot.session.close()


CHAT_WIDE = (FSMStrategy.CHAT, FSMStrategy.CHAT_TOPIC)


@pytest.mark.parametrize("strategy", FSMStrategy)
async def test_a_flow_over_http(store: OperatorStore, strategy: FSMStrategy) -> None:
    counting: Any = Counting(store)
    async with bot_with(flow(), counting, strategy) as telegram:
        for text in ("hello", "Ann", "33"):
            telegram.message(text, user_id=1, chat_id=-100)
        await telegram.settled()
    assert telegram.texts(-100) == ["Your name?", "And your age?", "Ann is 33"]
    assert (await store.load("1")).fsm == (await store.load("-100")).fsm == {}
    if strategy not in CHAT_WIDE:
        # The first step of an update is to load the record, the last to commit it: nothing comes between.
        assert counting.calls == {("load", "1"): 3, ("commit", "1"): 3}


@pytest.mark.parametrize(
    ("strategy", "same"),
    [
        # Whether user 1 in chat -100 and topic 7 is in the same flow as: topic 9, chat -200, user 2.
        (FSMStrategy.USER_IN_CHAT, (True, False, False)),
        (FSMStrategy.CHAT, (True, False, True)),
        (FSMStrategy.GLOBAL_USER, (True, True, False)),
        (FSMStrategy.USER_IN_TOPIC, (False, False, False)),
        (FSMStrategy.CHAT_TOPIC, (False, False, True)),
    ],
    ids=str,
)
async def test_whose_flow_it_is(
    store: OperatorStore, strategy: FSMStrategy, same: tuple[bool, bool, bool]
) -> None:
    elsewhere: list[dict[str, Any]] = [
        {"user_id": 1, "chat_id": -100, "message_thread_id": 9},
        {"user_id": 1, "chat_id": -200, "message_thread_id": 7},
        {"user_id": 2, "chat_id": -100, "message_thread_id": 7},
    ]
    async with bot_with(flow(), store, strategy) as telegram:
        telegram.message("hello", user_id=1, chat_id=-100, message_thread_id=7, is_topic_message=True)
        await telegram.settled()
        owner = "-100" if strategy in CHAT_WIDE else "1"
        ((begun),) = (await store.load(owner)).fsm.items()
        for place, is_same in zip(elsewhere, same, strict=True):
            telegram.message("Bob", is_topic_message=True, **place)
            await telegram.settled()
            answer = telegram.texts(place["chat_id"])[-1]
            assert answer == ("And your age?" if is_same else "Your name?"), place
            for user_id in ("1", "2", "-100", "-200"):  # as it was before
                await mutate(store, user_id, restored({begun[0]: begun[1]} if user_id == owner else {}))


def restored(flows: dict[str, Any]) -> Any:
    async def change(turn: Turn) -> None:
        turn.fsm.clear()
        turn.fsm.update(flows)

    return change


async def test_what_two_people_do_at_once_to_the_flow_of_their_chat_is_all_kept(store: OperatorStore) -> None:
    router = Router()

    @router.message()
    async def note(message: Message, state: FSMContext) -> None:
        await state.update_data({message.text or "": True})

    async with bot_with(router, store, FSMStrategy.CHAT) as telegram:
        for user_id in range(1, 7):
            telegram.message(f"from {user_id}", user_id=user_id, chat_id=-100)
        await telegram.settled()
    (found,) = (await store.load("-100")).fsm.values()
    assert found["data"] == {f"from {user_id}": True for user_id in range(1, 7)}


@pytest.mark.parametrize("strategy", FSMStrategy)
async def test_when_no_person_is_behind_an_update(store: OperatorStore, strategy: FSMStrategy) -> None:
    """A chat keeps its flow then, too; and what all anonymous admins share is nobody's to keep."""
    router = Router()

    @router.message()
    @router.channel_post()
    async def begin(message: Message, state: FSMContext | None = None) -> None:
        if state:
            await state.set_state(Steps.name)
            assert await state.get_state() == "Steps:name"

    async with bot_with(router, store, strategy) as telegram:
        group = {"id": -100, "type": "supergroup", "title": "G"}
        telegram.message("hi", user_id=1_087_968_824, chat_id=-100, sender_chat=group)
        telegram.channel_post("news", -200)
        await telegram.settled()
    kept = {user_id async for user_id in store.users()}
    assert kept == ({"-100", "-200"} if strategy in CHAT_WIDE else set())


async def test_nor_is_it_kept_by_work_that_outlives_its_turn(
    storage: RecordStorage, store: OperatorStore
) -> None:
    turn = Turn(UserRecord("chat:-100"), store.limits, is_anonymous=True)
    anonymous = replace(KEY, user_id=1_087_968_824)
    with turn.active():
        turn.is_open = False
        await storage.set_state(anonymous, Steps.name)
    assert [user_id async for user_id in store.users()] == []


async def test_scenes(store: OperatorStore) -> None:
    """Steps, data and the way back of aiogram's scenes; what a scene says goes through `turn.reply`."""

    def say(message: Message, text: str) -> None:
        turn = current_turn()
        assert turn
        turn.reply(message.answer(text))

    class Address(Scene, state="address"):
        @on.message.enter()
        async def enter(self, message: Message) -> None:
            data = await self.wizard.get_data()
            say(message, f"Where do you live, {data.get('name')}?")

        @on.message(Command("back"))
        async def back(self, message: Message) -> None:
            await self.wizard.back()

        @on.message()
        async def answer(self, message: Message) -> None:
            data = await self.wizard.update_data(address=message.text)
            await self.wizard.clear_data()
            await self.wizard.exit()
            say(message, f"{data['name']}, {data['address']}")

    class Name(Scene, state="name"):
        @on.message.enter()
        async def enter(self, message: Message) -> None:
            say(message, "Who are you?")

        @on.message()
        async def answer(self, message: Message) -> None:
            await self.wizard.update_data(name=message.text)
            await self.wizard.goto(Address)

    router = Router()
    router.message.register(Name.as_handler(), Command("go"))
    SceneRegistry(router).add(Name, Address)
    async with bot_with(router, store) as telegram:
        for text in ("/go", "Bob", "/back", "Ann", "Riga"):
            telegram.message(text, user_id=1)
        await telegram.settled()
    questions = ["Who are you?", "Where do you live, Bob?", "Who are you?", "Where do you live, Ann?"]
    assert telegram.texts(1) == [*questions, "Ann, Riga"]
    assert (await store.load("1")).fsm == {}


# --- A group that becomes a supergroup ------------------------------------------------------------

OLD, NEW = -55, -1_000_000_000_055


@pytest.fixture
def conversation(make_runtime: MakeRuntime, mode: Mode, telegram: FakeTelegram) -> Runtime:
    """A bot with the flow, and a group."""
    bot = make_runtime(mode)
    bot.owner = Owner(agent=CountingAgent, before=[flow()])
    telegram.group(OLD)
    return bot


@pytest.mark.parametrize("told", [[0, 1], [1, 0], [0], [1], []], ids=str)
async def test_a_flow_goes_on_in_the_supergroup(
    conversation: Runtime, telegram: FakeTelegram, told: list[int]
) -> None:
    """Whichever message tells of it, or none but a refusal to send; told again, and after a restart."""
    async with conversation as bot:
        telegram.message("hello", user_id=1, chat_id=OLD)
        telegram.message("hello", user_id=1, chat_id=-77)
        await telegram.settled()
        if told:
            messages = telegram.migrate(OLD, NEW, user_id=2, only=told)
        else:  # a reply meets it
            telegram.upgrade(OLD, NEW)
            messages = [telegram.message("hello", user_id=2, chat_id=OLD)]
            await telegram.settled()
        telegram.message("Bob", user_id=1, chat_id=NEW)
        await telegram.settled()
        assert telegram.texts(NEW)[-1] == "And your age?"
        for update_id in messages:
            telegram.repeat(update_id)
        await telegram.settled()
    async with conversation as bot:
        for update_id in messages:
            telegram.repeat(update_id)
        telegram.message("Bo", user_id=3, chat_id=NEW)
        telegram.message("7", user_id=1, chat_id=NEW)
        await telegram.settled()
        assert "Bob is 7" in telegram.texts(NEW)[-2:]
        assert "Your name?" in telegram.texts(NEW)[-2:], "others have their own"
        assert [name.split(":")[1] for name in (await bot.record(1)).fsm] == ["-77"]


async def test_killed_in_the_midst_it_is_noted_again(store: OperatorStore) -> None:
    """The chat's own flows are moved once, and what was said in the new chat since is kept."""
    storage = RecordStorage(store)
    old, new = (replace(KEY, chat_id=chat_id, user_id=chat_id) for chat_id in (OLD, NEW))
    await storage.update_data(old, {"step": 1})
    lanes = KeyedLock()
    async with lanes.hold(str(OLD)):  # it gets no further than the first commit
        with suppress(TimeoutError):
            await asyncio.wait_for(fsm.upgrade_group(store, OLD, NEW, lanes), 0.5)
    assert await storage.update_data(new, {"step": 2}) == {"step": 2}
    for _ in range(2):
        await fsm.upgrade_group(store, OLD, NEW, lanes)
        assert await storage.get_data(new) == {"step": 2}
        assert await storage.get_data(old) == {}
