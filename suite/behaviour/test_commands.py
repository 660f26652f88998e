"""The commands, as people use them."""

import json

import pytest

from bot.runtime.telegram.texts import Texts
from suite.bot_api import FakeTelegram, Sent
from suite.support.runtime import Runtime

pytestmark = pytest.mark.clause("commands")


def last(telegram: FakeTelegram, method: str) -> Sent:
    """What was sent last by a method."""
    return [sent for sent in telegram.sent if sent.method == method][-1]


async def test_start_and_help(bot: Runtime, telegram: FakeTelegram) -> None:
    telegram.message("/start", user_id=1)
    telegram.message("/help", user_id=1)
    telegram.message("/help", user_id=1, chat_id=-100)
    await telegram.settled()
    hello, commands = telegram.texts(1)
    assert hello == Texts().hello
    assert "/forget" in commands
    assert "/forget" not in telegram.texts(-100)[0]
    assert (await bot.record(1)).is_empty


async def test_an_unknown_command_goes_to_the_agent(bot: Runtime, telegram: FakeTelegram) -> None:
    telegram.message("/unknown", user_id=1)
    await telegram.settled()
    assert telegram.texts(1) == ["Processed: /unknown (#1)"]


async def test_reset(bot: Runtime, telegram: FakeTelegram) -> None:
    telegram.message("hi", user_id=1)
    telegram.message("/reset", user_id=1)
    await telegram.settled()
    assert (await bot.record(1)).is_empty
    telegram.message("hi", user_id=1)
    await telegram.settled()
    assert telegram.texts(1)[-1] == "Processed: hi (#1)"


async def test_export(bot: Runtime, telegram: FakeTelegram) -> None:
    telegram.message("hi ünïcode 👋", user_id=1)
    telegram.message("/export", user_id=1)
    await telegram.settled()
    ((name, content),) = last(telegram, "sendDocument").files.items()
    assert name.endswith(".json")
    data = json.loads(content)
    assert data["user_id"] == "1"
    assert data["state"] == {"last_message": "hi ünïcode 👋", "message_count": 1}
    assert [message["text"] for message in data["history"]] == [
        "hi ünïcode 👋",
        "Processed: hi ünïcode 👋 (#1)",
    ]


async def test_personal_commands_stay_private(bot: Runtime, telegram: FakeTelegram) -> None:
    telegram.message("/export", user_id=1, chat_id=-100)
    telegram.message("/forget", user_id=1, chat_id=-100)
    await telegram.settled()
    assert telegram.texts(-100) == [Texts().only_in_private] * 2
    assert not [sent for sent in telegram.sent if sent.method == "sendDocument"]


async def test_forget(bot: Runtime, telegram: FakeTelegram) -> None:
    update_id = telegram.message("hi", user_id=1)
    telegram.message("/forget", user_id=1)
    await telegram.settled()
    assert not (await bot.record(1)).is_empty, "not before it is confirmed"
    question = last(telegram, "sendMessage")
    telegram.press(question, 0, 0, user_id=1)
    await telegram.settled()
    record = await bot.record(1)
    assert record.is_empty
    assert record.forgotten
    assert update_id in record.applied
    assert [user async for user in bot.store.users()] == []
    assert last(telegram, "editMessageText").text.startswith("Done.")
    telegram.message("hi", user_id=1)
    await telegram.settled()
    assert telegram.texts(1)[-1] == "Processed: hi (#1)"


async def test_forget_can_be_called_off(bot: Runtime, telegram: FakeTelegram) -> None:
    telegram.message("hi", user_id=1)
    telegram.message("/forget", user_id=1)
    await telegram.settled()
    telegram.press(last(telegram, "sendMessage"), 0, 1, user_id=1)
    await telegram.settled()
    assert (await bot.record(1)).state["message_count"] == 1
    assert last(telegram, "editMessageText").text == "Nothing was erased."


async def test_a_button_works_only_for_its_person(bot: Runtime, telegram: FakeTelegram) -> None:
    for user in (1, 2):
        telegram.message("hi", user_id=user)
    await telegram.settled()
    telegram.message("/forget", user_id=1)
    await telegram.settled()
    question = last(telegram, "sendMessage")
    telegram.press(question, 0, 0, user_id=2)
    await telegram.settled()
    assert not (await bot.record(1)).is_empty
    assert not (await bot.record(2)).is_empty
    assert last(telegram, "answerCallbackQuery").params["text"] == "This button is not for you."


async def test_a_button_under_a_message_that_is_gone(bot: Runtime, telegram: FakeTelegram) -> None:
    telegram.message("hi", user_id=1)
    await telegram.settled()
    telegram.callback("forget:1:1", user_id=1, message=999)
    await telegram.settled()
    assert (await bot.record(1)).is_empty
    assert last(telegram, "answerCallbackQuery").params["text"].startswith("Done.")


async def test_a_button_pressed_twice(bot: Runtime, telegram: FakeTelegram) -> None:
    telegram.message("/forget", user_id=1)
    await telegram.settled()
    question = last(telegram, "sendMessage")
    first = telegram.press(question, 0, 0, user_id=1)
    telegram.repeat(first)
    await telegram.settled()
    assert len([sent for sent in telegram.sent if sent.method == "editMessageText"]) == 1
