"""Where replies go, what is answered at all, and what counts as a command."""

from typing import Any

import pytest
from aiogram import Router
from aiogram.enums import ContentType
from aiogram.methods import TelegramMethod
from aiogram.types import ChatJoinRequest, Message

from bot.runtime.app import Owner
from bot.runtime.logs import configure_logs
from bot.runtime.telegram.updates import SENT_BY_PEOPLE
from suite.agents import CountingAgent
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime

pytestmark = pytest.mark.clause("habits")

GROUP = -1_005
OTHER_BOT = {"id": 99, "is_bot": True, "first_name": "Other", "username": "other_bot"}
CHANNEL = {"id": -1_007, "type": "channel", "title": "News"}
ORIGIN = {"type": "user", "date": 1, "sender_user": {"id": 5, "is_bot": False, "first_name": "B"}}


def sent(telegram: FakeTelegram) -> list[dict[str, Any]]:
    """The parameters of every message that was sent."""
    return [call.params for call in telegram.calls if call.method == "sendMessage"]


@pytest.mark.parametrize("text", ["hi", "raise", "/help"])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"message_thread_id": 7, "is_topic_message": True}, {"message_thread_id": 7}),
        ({"direct_messages_topic": {"topic_id": 3}}, {"direct_messages_topic_id": 3}),
    ],
    ids=["topic", "direct messages"],
)
async def test_replies_and_apologies_go_where_the_message_came_from(
    make_runtime: MakeRuntime,
    telegram: FakeTelegram,
    text: str,
    fields: dict[str, Any],
    expected: dict[str, int],
) -> None:
    async with make_runtime("webhook"):
        telegram.message(text, user_id=1, chat_id=GROUP, **fields)
        await telegram.settled()
    (params,) = sent(telegram)
    assert {key: int(params[key]) for key in expected} == expected


async def test_a_text_that_a_handler_returns_is_not_dropped_in_silence(
    make_runtime: MakeRuntime, telegram: FakeTelegram, capfd: pytest.CaptureFixture[str]
) -> None:
    router = Router()

    @router.message()
    async def say(_: Message) -> str:
        return "hello"

    bot = make_runtime("webhook")
    bot.owner = Owner(agent=CountingAgent, before=[router])
    async with bot:
        configure_logs(bot.settings)
        telegram.message("hi", user_id=1)
        await telegram.settled()
    assert "which is not sent: return message.answer(...)" in capfd.readouterr().err


async def test_a_failure_is_told_to_nobody_who_said_nothing(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    """A request to join fails: the group that it is about hears nothing of it."""
    router = Router()

    @router.chat_join_request()
    async def fail(_: ChatJoinRequest) -> None:
        raise RuntimeError

    bot = make_runtime("webhook")
    bot.owner = Owner(agent=CountingAgent, before=[router])
    async with bot:
        chat = {"id": GROUP, "type": "supergroup", "title": "Group"}
        person = {"id": 1, "is_bot": False, "first_name": "A"}
        telegram.push(
            {"chat_join_request": {"chat": chat, "from": person, "user_chat_id": 1, "date": 1_700_000_000}}
        )
        await telegram.settled()
    assert sent(telegram) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"from": OTHER_BOT},
        {"via_bot": "itself"},
        {"sender_chat": CHANNEL, "is_automatic_forward": True},
        {"text": "/help@other_bot"},
    ],
    ids=["another bot", "sent by way of the bot", "a channel's post", "another bot's command"],
)
async def test_what_is_not_for_the_bot_is_not_answered(
    make_runtime: MakeRuntime, telegram: FakeTelegram, fields: dict[str, Any]
) -> None:
    """Nor does it count as something that was said."""
    if "via_bot" in fields:
        fields = {"via_bot": telegram.me()}
    async with make_runtime("webhook") as bot:
        telegram.message(**{"text": "hi", **fields}, user_id=1, chat_id=GROUP)
        await telegram.settled()
        assert (await bot.record(1)).state == {}
    assert sent(telegram) == []


@pytest.mark.parametrize("text", ["/HELP", "/Help@Test_Bot", "/help@test_bot please"])
async def test_commands_as_people_write_them(
    make_runtime: MakeRuntime, telegram: FakeTelegram, text: str
) -> None:
    async with make_runtime("webhook") as bot:
        telegram.message(text, user_id=1)
        await telegram.settled()
        assert (await bot.record(1)).state == {}
    (params,) = sent(telegram)
    assert "/help - " in params["text"]


async def test_a_command_with_the_bots_name_while_telegram_does_not_say_it(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with make_runtime("polling"):
        telegram.fail("getMe", status=500, times=3)
        telegram.message("/help@test_bot", user_id=1)
        await telegram.settled()
    (params,) = sent(telegram)
    assert "/help - " in params["text"]


async def test_what_comes_with_start_reaches_the_agent(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with make_runtime("webhook") as bot:
        telegram.message("/start", user_id=1)
        telegram.message("/start invited-by-7", user_id=1)
        await telegram.settled()
        assert [said.text for said in (await bot.record(1)).history if said.role == "user"] == [
            "/start invited-by-7"
        ]


async def test_a_command_that_was_handed_on_is_a_text(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    """A forwarded `/forget` asks nobody whether to erase everything."""
    async with make_runtime("webhook") as bot:
        telegram.message("/forget", user_id=1, forward_origin=ORIGIN)
        await telegram.settled()
        assert (await bot.record(1)).state["message_count"] == 1


@pytest.mark.parametrize(
    "kind", ["checklist", "game", "paid_media", "web_app_data", "rich_message", "live_photo"]
)
def test_new_kinds_of_messages_are_a_persons(kind: str) -> None:
    assert kind in SENT_BY_PEOPLE
    assert kind in {each.value for each in ContentType}


async def test_a_reply_to_a_message_that_is_gone_arrives_whole(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    """All parts of it, without the quote."""
    router = Router()

    @router.message()
    async def quote(message: Message) -> TelegramMethod[Any]:
        return message.reply("x" * 4_000 + " " + "y" * 4_000)

    bot = make_runtime("webhook")
    bot.owner = Owner(agent=CountingAgent, before=[router])
    async with bot:
        telegram.fail(
            "sendMessage", status=400, times=1, description="Bad Request: message to be replied not found"
        )
        telegram.message("hi", user_id=1)
        await telegram.settled()
    assert [text[0] + text[-1] for text in telegram.texts(1)] == ["xx", "yy"]
