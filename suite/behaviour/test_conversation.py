"""What people can do to a bot, in both modes and with agents of both styles."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiogram.fsm.storage.base import StorageKey
from aiogram.methods import SendMessage

from bot.agent_adapter import TelegramAgentAdapter
from bot.runtime.config import Settings
from bot.runtime.errors import TurnGivenUp
from bot.runtime.logs import configure_logs
from bot.runtime.state.fsm import RecordStorage
from bot.runtime.state.turn import Turn
from bot.runtime.telegram import processor, transaction
from bot.runtime.telegram.texts import Texts
from suite.agents import CountingAgent, Gate
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Mode, Runtime

pytestmark = pytest.mark.clause("conversation")


@pytest.fixture
async def bot(make_runtime: MakeRuntime, mode: Mode, agent_class: type[TelegramAgentAdapter]) -> Any:
    async with make_runtime(mode, agent_class=agent_class) as bot:
        yield bot


async def test_fifty_quick_messages(bot: Runtime, telegram: FakeTelegram) -> None:
    for n in range(1, 51):
        telegram.message(f"m{n}", user_id=1)
    await telegram.settled()
    assert telegram.texts(1) == [f"Processed: m{n} (#{n})" for n in range(1, 51)]
    record = await bot.record(1)
    assert record.state == {"last_message": "m50", "message_count": 50}
    assert [message.text for message in record.history][-2:] == ["m50", "Processed: m50 (#50)"]
    assert len(record.history) == 50


async def test_two_hundred_users_at_once(bot: Runtime, telegram: FakeTelegram) -> None:
    users = range(1, 201)
    for n, user in itertools.product((1, 2), users):
        telegram.message(f"m{n}", user_id=user)
    await telegram.settled()
    for user in users:
        assert telegram.texts(user) == ["Processed: m1 (#1)", "Processed: m2 (#2)"]


@pytest.mark.clause("update.once")
async def test_duplicates_change_nothing(bot: Runtime, telegram: FakeTelegram) -> None:
    ids = [telegram.message(f"m{n}", user_id=1) for n in range(5)]
    await telegram.settled()
    for update_id in ids:
        telegram.repeat(update_id)
    await telegram.settled()
    assert (await bot.record(1)).state["message_count"] == 5
    assert len(telegram.texts(1)) == 5


@pytest.mark.clause("agent.errors")
async def test_an_agent_that_raises(bot: Runtime, telegram: FakeTelegram) -> None:
    telegram.message("before", user_id=1)
    failed = telegram.message("raise", user_id=1)
    telegram.message("after", user_id=1)
    await telegram.settled()
    assert telegram.texts(1) == ["Processed: before (#1)", Texts().sorry, "Processed: after (#2)"]
    record = await bot.record(1)
    assert failed in record.applied
    assert "raise" not in [message.text for message in record.history]
    telegram.repeat(failed)
    await telegram.settled()
    assert len(telegram.texts(1)) == 3, "it is not run again"


@pytest.mark.clause("agent.errors")
async def test_an_agent_that_is_too_slow(
    make_runtime: MakeRuntime,
    telegram: FakeTelegram,
    mode: Mode,
    agent_class: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with make_runtime(mode, agent_class=agent_class, agent_timeout=0.2) as bot:
        configure_logs(Settings())  # to where capfd looks
        telegram.message("sleep 5", user_id=1)
        telegram.message("hi", user_id=1)
        await telegram.settled()
        assert telegram.texts(1) == [Texts().sorry, "Processed: hi (#1)"]
        assert "in misbehave" in capfd.readouterr().err, "where it was when its time was over"
        assert (await bot.record(1)).state["message_count"] == 1


class Clinging(CountingAgent):
    """Lets nothing stop it, and then does all that it can to its turn and beside it."""

    def __init__(self, bot_token: str) -> None:
        super().__init__(bot_token)
        self.begun, self.gate, self.written = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.caught: list[BaseException] = []
        self.beside: asyncio.Task[None] | None = None

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        self.begun.set()
        match message:
            case "loop":
                while not self.gate.is_set():
                    try:
                        await self.gate.wait()
                    except BaseException as error:
                        self.caught.append(error)
            case "answer":
                try:
                    await asyncio.Event().wait()
                except:  # noqa: E722 - it is a bad agent
                    return "too late"
            case "shield":
                self.beside = asyncio.create_task(self._beside(state))
                await asyncio.shield(self.beside)
            case _:
                return await super().agent_logic(message, state)
        await self._write(state)
        return "much too late"

    async def _beside(self, state: dict[str, Any]) -> None:
        await self.gate.wait()
        await self._write(state)

    async def _write(self, state: dict[str, Any]) -> None:
        user_id, turn = self.turn.user_id, self.turn
        state["late"] = turn.state["late"] = 1
        turn.reply(SendMessage(chat_id=1, text="late"))
        turn.remember("assistant", "late")

        async def change(turn: Turn) -> None:
            turn.state["late"] = 1

        async def begin() -> None:
            self.background(self.send, user_id, "late")

        storage = RecordStorage(self.store)
        writes: list[Callable[[], Awaitable[Any]]] = [
            lambda: self.update_user_state(user_id, "late", 1),
            lambda: self.update_user_state("2", "late", 1),
            lambda: self.clear_user_state(user_id),
            lambda: self.mutate(user_id, change),
            lambda: self.handle_message(user_id=user_id, message="late"),
            lambda: self.process_agent_request("late", user_id),
            lambda: self.send(user_id, "late"),
            lambda: self.send("2", "late"),
            begin,
            lambda: storage.set_state(StorageKey(self.bot.id, 1, 1), "late"),
        ]
        for write in writes:
            try:
                await write()
            except TurnGivenUp as error:
                self.caught.append(error)
        self.written.set()


@pytest.mark.clause("agent.errors")
@pytest.mark.parametrize("way", ["loop", "answer", "shield"])
async def test_an_agent_that_does_not_let_itself_be_stopped(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "LAST_WORDS", 0.1)
    async with make_runtime(mode, agent_class=Clinging, agent_timeout=0.2) as bot:
        assert isinstance(bot.agent, Clinging)
        telegram.message(way, user_id=1)
        telegram.message("hi", user_id=1)
        await telegram.settled()
        assert telegram.texts(1) == [Texts().sorry, "Processed: hi (#1)"]
        before = await bot.record(1)
        bot.agent.gate.set()
        if way != "answer":
            await asyncio.wait_for(bot.agent.written.wait(), 10)
            assert len([error for error in bot.agent.caught if isinstance(error, TurnGivenUp)]) == 10
        assert await bot.record(1) == before
        assert (await bot.record(2)).version == 0
    assert telegram.texts(1) == [Texts().sorry, "Processed: hi (#1)"]
    assert not transaction.left_behind


@pytest.mark.clause("shutdown.graceful")
async def test_a_bot_stops_though_its_agent_does_not(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "LAST_WORDS", 0.1)
    bot = await make_runtime(mode, agent_class=Clinging).start()
    assert isinstance(bot.agent, Clinging)
    telegram.message("loop", user_id=1)
    await asyncio.wait_for(bot.agent.begun.wait(), 10)
    await asyncio.wait_for(bot.cut_off(), 10)
    bot.agent.gate.set()
    await asyncio.wait_for(bot.agent.written.wait(), 10)
    assert (await bot.record(1)).version == 0


async def test_a_slow_agent_shows_that_it_types_and_holds_up_nobody_else(
    bot: Runtime, telegram: FakeTelegram, gate: Gate
) -> None:
    telegram.message("hold", user_id=1)
    telegram.message("hi", user_id=2)
    await telegram.wait_for(lambda: telegram.texts(2))
    await telegram.wait_for(lambda: any(call.method == "sendChatAction" for call in telegram.calls))
    gate.opened.set()
    await telegram.settled()
    assert telegram.texts(1) == ["Processed: hold (#1)"]
    typing = {call.params["chat_id"] for call in telegram.calls if call.method == "sendChatAction"}
    assert "1" in typing


class VerboseAgent(TelegramAgentAdapter):
    """Says more than fits into one message."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        return message * 4_000


@pytest.mark.parametrize("word", ["word ", "x", "👩‍👩‍👧", "line\n"], ids=ascii)
async def test_an_answer_of_20000_characters(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, word: str
) -> None:
    async with make_runtime(mode, agent_class=VerboseAgent):
        word = (word * 5)[:5]
        telegram.message(word, user_id=1)
        await telegram.settled()
        said = telegram.texts(1)
        assert len(said) >= 5
        assert all(len(text.encode("utf-16-le")) // 2 <= 4_096 for text in said)
        whole = (word * 4_000).split()
        assert "".join(said).split() == whole or "".join("".join(said).split()) == "".join(whole)


async def test_a_message_without_text(bot: Runtime, telegram: FakeTelegram) -> None:
    size = {"file_id": "f", "file_unique_id": "u", "width": 1, "height": 1}
    sticker = {**size, "type": "regular", "is_animated": False, "is_video": False}
    telegram.message(None, user_id=1, photo=[size])
    telegram.message(None, user_id=1, sticker=sticker)
    telegram.message(None, user_id=1, photo=[size], caption="look")
    await telegram.settled()
    only_text = "I can read text only, so far."
    assert telegram.texts(1) == [only_text] * 3, "a caption does not swallow its picture"


async def test_one_user_in_a_group_and_in_private(bot: Runtime, telegram: FakeTelegram) -> None:
    for n in range(1, 21):
        telegram.message(f"m{n}", user_id=1, chat_id=-100 if n % 2 else 1)
    await telegram.settled()
    assert (await bot.record(1)).state["message_count"] == 20, "one record, whatever the chat"
    counts = [text.partition("#")[2] for text in telegram.texts(1) + telegram.texts(-100)]
    assert sorted(counts) == sorted(f"{n})" for n in range(1, 21))


async def test_an_edit_does_not_run_the_agent_again(bot: Runtime, telegram: FakeTelegram) -> None:
    update_id = telegram.message("first", user_id=1)
    await telegram.settled()
    telegram.edit(update_id, "second")
    telegram.message("third", user_id=1)
    await telegram.settled()
    assert telegram.texts(1) == ["Processed: first (#1)", "Processed: third (#2)"]


async def test_channel_posts_and_anonymous_admins_leave_no_record(
    bot: Runtime, telegram: FakeTelegram
) -> None:
    anonymous = {"id": 1087968824, "is_bot": True, "first_name": "Group"}
    chat = {"id": -100, "type": "supergroup", "title": "Group"}
    for _ in range(2):
        telegram.message("hi", user_id=1087968824, chat_id=-100, sender_chat=chat, **{"from": anonymous})
    telegram.channel_post("news", chat_id=-200)
    await telegram.settled()
    assert telegram.texts(-100) == ["Processed: hi (#1)", "Processed: hi (#1)"]
    assert [user async for user in bot.store.users()] == []


async def test_a_button_is_released_though_its_user_is_busy(
    bot: Runtime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    monkeypatch.setattr(processor, "CALLBACK_DELAY", 0.3)
    telegram.message("hold", user_id=1)
    await gate.reached.wait()
    telegram.callback("forget:1:0", user_id=1)
    await telegram.wait_for(lambda: any(call.method == "answerCallbackQuery" for call in telegram.calls))
    assert telegram.texts(1) == [], "before the agent was done"
    gate.opened.set()
    await telegram.settled()
    answered = [call.status for call in telegram.calls if call.method == "answerCallbackQuery"]
    assert answered[0] == 200


async def test_a_button_nobody_handles_is_released(bot: Runtime, telegram: FakeTelegram) -> None:
    telegram.callback("unknown", user_id=1)
    await telegram.settled()
    assert [call.status for call in telegram.calls if call.method == "answerCallbackQuery"] == [200]


async def test_pending_updates_are_never_dropped(bot: Runtime, telegram: FakeTelegram) -> None:
    telegram.message("hi", user_id=1)
    await telegram.settled()
    assert telegram.dropped == []
    assert telegram.drop_requests == 0
