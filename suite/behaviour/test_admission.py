"""Which updates are handled at all: what groups say among themselves is not, nor who may not use the bot."""

import time
from typing import Any

import pytest
from aiogram import Router
from aiogram.filters import Command
from aiogram.methods import TelegramMethod
from aiogram.types import Message, Update

from bot.agent_adapter import TelegramAgentAdapter, Texts, is_admin
from bot.runtime.app import Owner
from bot.runtime.config import Settings
from bot.runtime.state.record import UserRecord
from bot.runtime.state.store import OperatorStore
from suite.agents import CountingAgent, Gate
from suite.bot_api import FakeTelegram
from suite.support.command_line import run
from suite.support.runtime import MakeRuntime, Mode

pytestmark = pytest.mark.clause("admission")

GROUP = -1_005
NOT_ALLOWED = Texts().not_allowed


class Agent(CountingAgent):
    """Wants what every agent wants."""

    wants = TelegramAgentAdapter.wants


@pytest.fixture
def loads(store: OperatorStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whose records were loaded, on the real store."""
    loaded: list[str] = []
    load = store.load

    async def counted(user_id: str, conversation: str | None = "") -> UserRecord:
        loaded.append(user_id)
        return await load(user_id, conversation)

    monkeypatch.setattr(store, "load", counted)
    return loaded


def from_bot(telegram: FakeTelegram, **fields: Any) -> dict[str, Any]:
    chat = telegram.chat(GROUP)
    return {"message_id": 1, "date": 1, "chat": chat, "from": telegram.me(), "text": "?", **fields}


ADDRESSED: dict[str, Any] = {
    "a name": {"text": "so, @Test_Bot, what now?"},
    "a mention": {
        "text": "Robot, hi",
        "entities": [
            {
                "type": "text_mention",
                "offset": 0,
                "length": 5,
                "user": {"id": 42, "is_bot": True, "first_name": "Robot"},
            }
        ],
    },
    "a command": {"text": "/ask"},
    "its command": {"text": "/ask@test_bot me"},
    "a reply": {"text": "yes", "reply_to_message": {}},
}

UNADDRESSED: dict[str, Any] = {
    "chatter": {"text": "hi all"},
    "another's name": {"text": "@other_bot hi"},
    "more than its name": {"text": "@test_bot2 hi"},
    "another's command": {"text": "/ask@other_bot"},
    "an address": {"text": "mail me at a@test_bots.example"},
    "in its topic": {
        "text": "hi all",
        "is_topic_message": True,
        "message_thread_id": 1,
        "reply_to_message": {"text": None, "forum_topic_created": {"name": "T", "icon_color": 1}},
    },
}


def say(telegram: FakeTelegram, fields: dict[str, Any], **more: Any) -> int:
    fields = dict(fields)
    if "reply_to_message" in fields:
        replied = from_bot(telegram, **fields["reply_to_message"])
        fields["reply_to_message"] = {key: value for key, value in replied.items() if value is not None}
    return telegram.message(fields.pop("text"), user_id=1, chat_id=GROUP, **fields, **more)


@pytest.mark.parametrize("fields", ADDRESSED.values(), ids=ADDRESSED)
async def test_what_is_addressed_to_the_bot(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, fields: dict[str, Any]
) -> None:
    async with make_runtime(mode, agent_class=Agent):
        say(telegram, fields)
        await telegram.settled()
    assert len(telegram.texts(GROUP)) == 1


async def test_what_is_not(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, loads: list[str]
) -> None:
    async with make_runtime(mode, agent_class=Agent):
        for fields in UNADDRESSED.values():
            say(telegram, fields)
        photo = telegram.attachment("photo", user_id=1, chat_id=GROUP, caption="look")
        await telegram.settled()
        assert telegram.texts(GROUP) == []
        assert loads == []
        telegram.edit(photo, "looks")
        telegram.attachment("photo", user_id=1, chat_id=GROUP, caption="look, @test_bot")
        await telegram.settled()
    assert telegram.texts(GROUP) == [Texts().only_text]


async def test_ten_thousand_messages_of_a_group_cost_no_load_and_delay_nobody(
    make_runtime: MakeRuntime, telegram: FakeTelegram, loads: list[str]
) -> None:
    for number in range(10_000):
        telegram.message(f"m{number}", user_id=1 + number % 100, chat_id=GROUP)
    async with make_runtime("polling", agent_class=Agent):
        await telegram.wait_for(lambda: len(telegram.acknowledged) > 500)
        assert len(telegram.acknowledged) < 9_000
        # Theirs comes behind all of those, and is answered as soon as Telegram brings it.
        for user_id in (1, 200):
            telegram.message("hi", user_id=user_id)
        await telegram.settled(120)
        began = time.monotonic()
        telegram.message("hi", user_id=300)
        await telegram.settled()
        assert time.monotonic() - began < 5
    assert sorted(loads) == ["1", "200", "300"]
    assert telegram.texts(GROUP) == []


async def test_chatter_waits_for_nobody(
    make_runtime: MakeRuntime, telegram: FakeTelegram, gate: Gate
) -> None:
    """What somebody says to others is dealt with while the agent thinks about what they said to it."""
    async with make_runtime("webhook", agent_class=Agent):
        telegram.message("hold", user_id=1)
        await gate.reached.wait()
        chatter = [telegram.message("hi all", user_id=1, chat_id=GROUP) for _ in range(20)]
        await telegram.wait_for(lambda: set(chatter) <= set(telegram.acknowledged), 10)
        gate.opened.set()
        await telegram.settled()


async def test_an_owner_wants_more(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    class Curious(Agent):
        def wants(self, update: Update) -> bool:
            if update.message and update.message.text == "raise":
                raise LookupError
            return super().wants(update) or bool(update.message and "tea" in (update.message.text or ""))

    async with make_runtime("webhook", agent_class=Curious):
        for text in ("hi", "tea?", "raise"):
            telegram.message(text, user_id=1, chat_id=GROUP)
        await telegram.settled()
    assert telegram.texts(GROUP) == ["Processed: tea? (#1)", Texts().sorry]


@pytest.mark.parametrize("mode", ["polling"])
async def test_a_name_that_telegram_does_not_tell_may_be_the_bots(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    telegram.fail("getMe", times=100)
    async with make_runtime(mode, agent_class=Agent):
        telegram.message("@test_bot hi", user_id=1, chat_id=GROUP)
        telegram.message("hi", user_id=1, chat_id=GROUP)
        await telegram.settled()
    assert telegram.texts(GROUP) == ["Processed: @test_bot hi (#1)"]


class TestAllowedUsers:
    """ALLOWED_USERS: nobody else is served, and nothing is kept of them."""

    async def test_strangers_are_told_once(
        self, make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, loads: list[str]
    ) -> None:
        async with make_runtime(mode, allowed_users="1, @Friend", admins="7", flood_limit=1) as bot:
            telegram.message("/start", user_id=2, chat_id=GROUP)
            await telegram.settled()
            for _ in range(3):
                telegram.message("let me in", user_id=2)
            telegram.callback("tea", user_id=2)
            await telegram.settled()
            assert telegram.texts(2) == [NOT_ALLOWED]
            assert telegram.texts(GROUP) == []
            answers = [sent.text for sent in telegram.sent if sent.method == "answerCallbackQuery"]
            assert answers == [NOT_ALLOWED]
            assert loads == []
            friend: Any = {"id": 3, "is_bot": False, "first_name": "F", "username": "fRIEND"}
            telegram.message("hi", user_id=1)
            telegram.push({"message": telegram.new_message(3, {"from": friend, "text": "hi"})})
            telegram.message("hi", user_id=7)
            await telegram.settled()
            assert [user async for user in bot.store.users()] != []
            assert (await bot.record(2)).version == 0
        for user_id in (1, 3, 7):
            assert telegram.texts(user_id) == ["Processed: hi (#1)"]

    async def test_a_group_can_be_named(self, make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
        anonymous = {"id": 1087968824, "is_bot": True, "first_name": "Group"}
        async with make_runtime("webhook", allowed_users="1,-1006"):
            for chat_id in (GROUP, -1006):
                chat = {"id": chat_id, "type": "supergroup", "title": "Group"}
                telegram.message("/ask", user_id=1, chat_id=chat_id, sender_chat=chat, **{"from": anonymous})
            telegram.message("/ask", user_id=9, chat_id=-1006)
            telegram.message("/ask", user_id=9, chat_id=GROUP)
            await telegram.settled()
        assert telegram.texts(GROUP) == []
        assert telegram.texts(-1006) == ["Processed: /ask (#1)"] * 2, (
            "who writes in its name, and its members"
        )

    async def test_a_payment_is_booked_whoever_made_it(
        self, make_runtime: MakeRuntime, telegram: FakeTelegram
    ) -> None:
        before = Router()

        @before.message()
        async def paid(message: Message) -> TelegramMethod[Any]:
            return message.answer("booked")

        bot = make_runtime("webhook", allowed_users="1")
        bot.owner = Owner(agent=CountingAgent, before=[before])
        payment = {
            "currency": "XTR",
            "total_amount": 1,
            "invoice_payload": "x",
            "telegram_payment_charge_id": "c",
            "provider_payment_charge_id": "",
        }
        async with bot:
            telegram.message(None, user_id=2, successful_payment=payment)
            await telegram.settled()
        assert telegram.texts(2) == ["booked"]

    async def test_admins(self, make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
        before = Router()

        @before.message(Command("stats"), is_admin)
        async def stats(message: Message, agent: TelegramAgentAdapter) -> TelegramMethod[Any]:
            return message.answer(f"stats: {agent.turn.is_admin}")

        bot = make_runtime("webhook", admins="7")
        bot.owner = Owner(agent=CountingAgent, before=[before])
        async with bot:
            for user_id in (1, 7):
                telegram.message("/stats", user_id=user_id)
            await telegram.settled()
        assert telegram.texts(7) == ["stats: True"]
        assert telegram.texts(1) == ["Processed: /stats (#1)"]

    @pytest.mark.parametrize("value", ["ann", "@ab", "0", "1;2", "12x", "@a-bcd", ",", " , "])
    def test_what_names_nobody(self, value: str) -> None:
        with pytest.raises(ValueError, match="must be ids like"):
            Settings(admins=value)

    def test_it_is_said_in_a_line(self, tmp_path: Any) -> None:
        value = "1, ann"
        done = run(tmp_path, "run", BOT_TOKEN="42:TEST", ALLOWED_USERS=value, ADMINS="1")
        assert (done.returncode, done.stdout) == (1, "")
        expected = "ALLOWED_USERS: must be ids like 123456789 and names like @somebody, separated by commas"
        assert done.stderr.strip() == f"error: bad settings: {expected}"
        shown = run(tmp_path, "settings", ALLOWED_USERS=value).stdout
        assert any("ALLOWED_USERS" in line and "wrong" in line for line in shown.splitlines())


async def test_the_decision_keeps_the_order(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    """Also while Telegram takes its time to tell the bot's name."""
    telegram.delay("getMe", 0.3)
    async with make_runtime("polling", agent_class=Agent):
        for number in range(30):
            telegram.message(f"@test_bot {number}", user_id=1, chat_id=GROUP)
        await telegram.settled()
    assert [text.split()[2] for text in telegram.texts(GROUP)] == [str(number) for number in range(30)]
