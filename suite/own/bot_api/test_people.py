"""What people do arrives as Telegram would bring it."""

import pytest
from aiogram import Bot
from aiogram.types import (
    InlineKeyboardButton,
    InlineKeyboardMarkup,
)

from suite.bot_api import FakeTelegram
from suite.own.bot_api.client import Call, Json, ids

pytestmark = pytest.mark.clause("kit.telegram")


async def test_aiogram_understands_all_traffic(telegram: FakeTelegram, bot: Bot) -> None:
    first = telegram.message("/start@test_bot deep", user_id=1)
    telegram.message("a /b", user_id=1, chat_id=-100)
    size = {"file_id": "f", "file_unique_id": "u", "width": 1, "height": 1}
    telegram.message(None, user_id=1, photo=[size], caption="c")
    telegram.message(
        "anonymous",
        user_id=1087968824,
        chat_id=-100,
        sender_chat={"id": -100, "type": "supergroup"},
    )
    telegram.message("nobody", user_id=1, chat_id=-100, **{"from": None})
    edited = telegram.edit(first, "fixed")
    telegram.channel_post("news", -200)
    telegram.callback("made up", user_id=1)
    telegram.callback("old", user_id=1, message=10**6)
    last = telegram.push({"hologram": {"id": 1}})
    updates = await bot.get_updates()
    assert [u.update_id for u in updates] == list(range(first, last + 1))
    start, group, photo, anonymous, nobody, fixed, post, made_up, old, unknown = updates
    assert start.message
    assert start.message.entities
    assert start.message.entities[0].type == "bot_command"
    assert start.message.entities[0].length == len("/start@test_bot")
    assert start.message.from_user
    assert (start.message.from_user.id, start.message.chat.type) == (1, "private")
    assert group.message
    assert (group.message.chat.type, group.message.entities) == ("supergroup", None)
    assert photo.message
    assert (photo.message.text, photo.message.caption) == (None, "c")
    assert photo.message.photo
    assert anonymous.message
    assert anonymous.message.sender_chat
    assert nobody.message
    assert nobody.message.from_user is None
    assert (fixed.update_id, fixed.event_type) == (edited, "edited_message")
    assert fixed.edited_message
    assert fixed.edited_message.message_id == start.message.message_id
    assert (fixed.edited_message.text, fixed.edited_message.entities) == ("fixed", None)
    assert post.channel_post
    assert (post.channel_post.from_user, post.channel_post.chat.type) == (None, "channel")
    assert made_up.callback_query
    assert made_up.callback_query.data == "made up"
    assert made_up.callback_query.message
    message_id = made_up.callback_query.message.message_id
    await bot.edit_message_text("done", chat_id=1, message_id=message_id)
    assert old.callback_query
    assert old.callback_query.message
    assert old.callback_query.message.date == 0
    assert unknown.model_extra == {"hologram": {"id": 1}}


async def test_pressing_buttons(telegram: FakeTelegram, bot: Bot) -> None:
    buttons = [InlineKeyboardButton(text=x, callback_data=x) for x in "ab"]
    markup = InlineKeyboardMarkup(inline_keyboard=[buttons])
    await bot.send_message(-5, "Which?", reply_markup=markup)
    telegram.press(telegram.sent[0], 0, 1, user_id=3)
    (update,) = await bot.get_updates()
    query = update.callback_query
    assert query
    assert query.message
    assert (query.data, query.from_user.id, query.message.chat.id) == ("b", 3, -5)
    assert query.message.message_id == telegram.sent[0].message_id
    with pytest.raises(IndexError):
        telegram.press(telegram.sent[0], 1, 0, user_id=3)


async def test_what_was_delivered_does_not_change_later(telegram: FakeTelegram, call: Call) -> None:
    chat = {"id": 1, "type": "private"}
    pushed: Json = {"message": {"message_id": 1, "date": 1, "chat": chat, "text": "a"}}
    update_id = telegram.push(pushed)
    pushed["message"]["text"] = "b"
    assert telegram.updates[update_id]["message"]["text"] == "a"


async def test_update_ids(telegram: FakeTelegram, call: Call) -> None:
    assert FakeTelegram().next_update_id != FakeTelegram().next_update_id
    start = telegram.next_update_id
    assert telegram.message("a", user_id=1) == start
    assert telegram.message("b", user_id=1) == start + 1
    with pytest.raises(RuntimeError):
        telegram.next_update_id = 5
    assert ids(await call("getUpdates", offset=start + 2)) == []
    telegram.next_update_id = 5
    assert telegram.message("c", user_id=1) == 5
    # The bot's offset is from the future now: it gets what there is, and confirms nothing.
    assert ids(await call("getUpdates", offset=start + 2, limit=9)) == [5]
    assert 5 not in telegram.acknowledged
    assert ids(await call("getUpdates", offset=6)) == []
    assert 5 in telegram.acknowledged
