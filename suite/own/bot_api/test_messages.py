"""What is accepted of a bot: texts, buttons, files, edits, commands."""

import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest
from aiogram import Bot
from aiogram.exceptions import (
    TelegramBadRequest,
    TelegramForbiddenError,
)
from aiogram.types import (
    BotCommand,
    BotCommandScopeAllPrivateChats,
    BufferedInputFile,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    ReplyKeyboardRemove,
)

from suite.bot_api import FakeTelegram
from suite.bot_api.text import parse_html
from suite.own.bot_api.client import Call, Json, refused

pytestmark = pytest.mark.clause("kit.telegram")


async def test_get_me(bot: Bot) -> None:
    me = await bot.get_me()
    assert (me.id, me.is_bot, me.can_join_groups) == (42, True, False)
    assert me.username


async def test_a_sent_message_is_shaped_as_telegrams(telegram: FakeTelegram, bot: Bot) -> None:
    message = await bot.send_message(7, "  <b>Hi</b> &amp; bye", parse_mode="HTML")
    assert (message.text, message.chat.id, message.chat.type) == ("Hi & bye", 7, "private")
    assert message.from_user
    assert message.from_user.id == 42
    assert message.entities
    assert (message.entities[0].type, message.entities[0].offset) == ("bold", 0)
    group = await bot.send_message(-7, "x")
    assert group.chat.type == "supergroup"
    (first, _) = telegram.sent
    assert (first.method, first.chat_id, first.message_id) == ("sendMessage", 7, message.message_id)
    assert first.params["text"] == "  <b>Hi</b> &amp; bye"
    assert (first.ok, first.text) == (True, "Hi & bye")
    assert 0 <= time.monotonic() - first.at < 5


@pytest.mark.parametrize(
    ("params", "description"),
    [
        ({"text": "x"}, "chat_id is empty"),
        ({"chat_id": "me", "text": "x"}, "chat not found"),
        ({"chat_id": 0, "text": "x"}, "chat not found"),
        ({"chat_id": 1}, "Bad Request: message text is empty"),
        ({"chat_id": 1, "text": " \n\x00 "}, "Bad Request: message text is empty"),
        ({"chat_id": 1, "text": "<b> </b>", "parse_mode": "HTML"}, "message text is empty"),
        ({"chat_id": 1, "text": "x" * 4097}, "Bad Request: message is too long"),
        ({"chat_id": 1, "text": "😀" * 2048 + "x"}, "Bad Request: message is too long"),
        ({"chat_id": 1, "text": "x", "parse_mode": "XML"}, "unsupported parse_mode"),
        ({"chat_id": 1, "text": "x", "entities": "{}"}, "can't parse entities JSON array"),
        ({"chat_id": 1, "text": "x", "entities": "[1]"}, "can't parse MessageEntity"),
        ({"chat_id": 1, "text": "1 < 2", "parse_mode": "HTML"}, "can't parse entities"),
        ({"chat_id": 1, "text": "<p>x</p>", "parse_mode": "HTML"}, "Unsupported start tag"),
        ({"chat_id": 1, "text": "<b>x", "parse_mode": "html"}, "can't parse entities"),
        ({"chat_id": 1, "text": "<b><i>x</b></i>", "parse_mode": "HTML"}, "Unmatched end tag"),
    ],
)
async def test_bad_messages(
    telegram: FakeTelegram,
    call: Call,
    params: Json,
    description: str,
) -> None:
    refused(await call("sendMessage", **params), 400, description)
    assert telegram.sent == []
    assert telegram.calls[0].status == 400


async def test_length_is_counted_after_parsing(call: Call) -> None:
    limits = ["x" * 4096, "😀" * 2048, "<b>" + "&lt;" * 4096 + "</b>", " " * 99 + "x" * 4096]
    for text in limits:
        status, _ = await call("sendMessage", chat_id=1, text=text, parse_mode="HTML")
        assert status == 200


def test_html() -> None:
    text, entities = parse_html('😀<b>a<i>b</i></b> <a href="https://x.y/?a&amp;b">c</a>&nbsp;')
    assert text == "😀ab c&nbsp;"
    assert entities == [
        {"type": "bold", "offset": 2, "length": 2},
        {"type": "italic", "offset": 3, "length": 1},
        {"type": "text_link", "offset": 5, "length": 1, "url": "https://x.y/?a&b"},
    ]


@pytest.mark.parametrize(
    ("markup", "description"),
    [
        ("{", "can't parse reply keyboard markup JSON object"),
        ("[]", "object expected as reply markup"),
        ("{}", "object expected as reply markup"),
        ({"inline_keyboard": [], "force_reply": True}, "object expected as reply markup"),
        ({"inline_keyboard": {}}, "Array of Arrays"),
        ({"inline_keyboard": [{}]}, "Array of Arrays"),
        ({"inline_keyboard": [["x"]]}, "can't parse keyboard button"),
        ({"keyboard": [[{"text": ""}]]}, "can't parse keyboard button"),
        ({"inline_keyboard": [[{"text": "x"}]]}, "Text buttons are unallowed"),
        (
            {"inline_keyboard": [[{"text": "x", "url": "u", "callback_data": "d"}]]},
            "Text buttons are unallowed",
        ),
        ({"inline_keyboard": [[{"text": "x", "callback_data": ""}]]}, "BUTTON_DATA_INVALID"),
        ({"inline_keyboard": [[{"text": "x", "callback_data": "ü" * 33}]]}, "BUTTON_DATA_INVALID"),
    ],
)
async def test_bad_markup(call: Call, markup: Any, description: str) -> None:
    answer = await call("sendMessage", chat_id=1, text="x", reply_markup=markup)
    refused(answer, 400, description)


async def test_good_markup(telegram: FakeTelegram, bot: Bot, call: Call) -> None:
    button = InlineKeyboardButton(text="Yes", callback_data="ü" * 32)
    markup = InlineKeyboardMarkup(inline_keyboard=[[button]])
    message = await bot.send_message(1, "Sure?", reply_markup=markup)
    assert message.reply_markup
    assert message.reply_markup.model_dump() == markup.model_dump()
    removed = await bot.send_message(1, "x", reply_markup=ReplyKeyboardRemove())
    assert removed.reply_markup is None
    keyboard = {"keyboard": [["text", {"text": "object"}]]}
    assert (await call("sendMessage", chat_id=1, text="x", reply_markup=keyboard))[0] == 200


async def test_files(telegram: FakeTelegram, bot: Bot, call: Call) -> None:
    file = BufferedInputFile(b'{"a": 1}', "export.json")
    message = await bot.send_document(1, file, caption="<i>Yours</i>", parse_mode="HTML")
    assert message.document
    assert (message.document.file_name, message.document.file_size) == ("export.json", 8)
    assert (message.caption, telegram.sent[0].text) == ("Yours", "Yours")
    assert telegram.sent[0].files == {"export.json": b'{"a": 1}'}
    photo = await bot.send_photo(1, BufferedInputFile(b"png", "a.png"))
    assert photo.photo
    assert telegram.texts(1) == []
    refused(await call("sendDocument", chat_id=1), 400, "there is no document in the request")
    refused(
        await call("sendDocument", chat_id=1, document="id"), 400, "wrong file identifier/HTTP URL specified"
    )
    with pytest.raises(TelegramBadRequest, match="non-empty"):
        await bot.send_document(1, BufferedInputFile(b"", "export.json"))
    with pytest.raises(TelegramBadRequest, match="caption is too long"):
        await bot.send_photo(1, BufferedInputFile(b"png", "a.png"), caption="x" * 1025)
    form = aiohttp.FormData({"chat_id": "1"})
    form.add_field("document", b"direct", filename="d.txt")
    form.add_field("stray", b"file", filename="e.txt")
    url = f"{telegram.url}/bot{telegram.token}/sendDocument"
    async with aiohttp.ClientSession() as http, http.post(url, data=form) as response:
        refused((response.status, await response.json()), 400, "stray")


async def test_chat_action(telegram: FakeTelegram, bot: Bot, call: Call) -> None:
    assert await bot.send_chat_action(1, "typing") is True
    refused(await call("sendChatAction", chat_id=1, action="sleeping"), 400, "wrong parameter")
    assert telegram.sent == []
    assert telegram.calls[0].params == {"chat_id": "1", "action": "typing"}


async def test_callback_queries_are_answered_once(telegram: FakeTelegram, bot: Bot) -> None:
    telegram.callback("yes", user_id=1)
    (update,) = await bot.get_updates()
    assert update.callback_query
    with pytest.raises(TelegramBadRequest, match="TOO_LONG"):
        await bot.answer_callback_query(update.callback_query.id, text="x" * 201)
    assert await bot.answer_callback_query(update.callback_query.id, text="ok") is True
    assert (telegram.sent[-1].method, telegram.sent[-1].chat_id) == ("answerCallbackQuery", 1)
    too_old = "Bad Request: query is too old and response timeout expired or query ID is invalid"
    for query_id in (update.callback_query.id, "1"):
        with pytest.raises(TelegramBadRequest, match=too_old):
            await bot.answer_callback_query(query_id)
    telegram.query_life = 0.01
    telegram.callback("yes", user_id=2)
    await asyncio.sleep(0.02)
    (_, update) = (await bot.get_updates(offset=-1), (await bot.get_updates())[0])
    assert update.callback_query
    with pytest.raises(TelegramBadRequest, match=too_old):
        await bot.answer_callback_query(update.callback_query.id)


async def test_editing(telegram: FakeTelegram, bot: Bot, call: Call) -> None:
    button = InlineKeyboardButton(text="Yes", callback_data="y")
    markup = InlineKeyboardMarkup(inline_keyboard=[[button]])
    message = await bot.send_message(1, "a", reply_markup=markup)
    where = {"chat_id": 1, "message_id": message.message_id}
    same = json.loads(markup.model_dump_json(exclude_none=True))
    answer = await call("editMessageText", **where, text="a", reply_markup=same)
    refused(answer, 400, "Bad Request: message is not modified")
    assert len(telegram.sent) == 1
    edited = await bot.edit_message_text("b", chat_id=1, message_id=message.message_id)
    assert not isinstance(edited, bool)
    assert (edited.text, edited.reply_markup) == ("b", None)
    assert edited.edit_date
    refused(await call("editMessageReplyMarkup", **where), 400, "message is not modified")
    assert (await call("editMessageReplyMarkup", **where, reply_markup=same))[0] == 200
    answer = await call("editMessageText", **where, text="c", reply_markup={"force_reply": True})
    refused(answer, 400, "inline keyboard expected")
    refused(await call("editMessageText", **where, text=""), 400, "text is empty")
    assert [s.text for s in telegram.sent] == ["a", "b", "b"]
    assert telegram.texts(1) == ["a"]


async def test_only_its_own_messages_are_edited(telegram: FakeTelegram, call: Call) -> None:
    update_id = telegram.message("mine", user_id=1)
    message_id = telegram.updates[update_id]["message"]["message_id"]
    answer = await call("editMessageText", chat_id=1, message_id=message_id, text="x")
    refused(answer, 400, "message can't be edited")
    answer = await call("editMessageText", chat_id=1, message_id=99, text="x")
    refused(answer, 400, "message to edit not found")
    answer = await call("editMessageText", inline_message_id="1", text="x")
    refused(answer, 400, "chat_id is empty")


async def test_deleting(telegram: FakeTelegram, bot: Bot, call: Call) -> None:
    message = await bot.send_message(1, "x")
    assert await message.delete() is True
    answer = await call("deleteMessage", chat_id=1, message_id=message.message_id)
    refused(answer, 400, "message to delete not found")


async def test_commands(telegram: FakeTelegram, bot: Bot, call: Call) -> None:
    everywhere = [BotCommand(command="start", description="Begin")]
    private = [*everywhere, BotCommand(command="forget", description="Erase")]
    scope = BotCommandScopeAllPrivateChats()
    await bot.set_my_commands(everywhere)
    await bot.set_my_commands(private, scope=scope, language_code="de")
    assert telegram.commands.keys() == {("default", ""), ("all_private_chats", "de")}
    (command,) = await bot.get_my_commands()
    assert (command.command, command.description) == ("start", "Begin")
    commands = await bot.get_my_commands(scope=scope, language_code="de")
    assert [c.command for c in commands] == ["start", "forget"]
    await bot.delete_my_commands()
    assert await bot.get_my_commands() == []
    for bad in ([{"command": "Start", "description": "x"}], [{"command": "a"}], "x", [1]):
        assert (await call("setMyCommands", commands=bad))[0] == 400
    refused(await call("getMyCommands", scope="chat"), 400, "BotCommandScope")
    many = [{"command": "a", "description": "b"}] * 101
    refused(await call("setMyCommands", commands=many), 400, "BOT_COMMANDS_TOO_MUCH")
    nothing = [{"command": "a", "description": ""}]
    refused(await call("setMyCommands", commands=nothing), 400, "DESCRIPTION_INVALID")


async def test_blocked(telegram: FakeTelegram, bot: Bot) -> None:
    message = await bot.send_message(1, "x")
    telegram.block(1)
    for method in (
        bot.send_message(1, "y"),
        bot.edit_message_text("y", chat_id=1, message_id=message.message_id),
        bot.send_document(1, BufferedInputFile(b"x", "x")),
        bot.send_chat_action(1, "typing"),
    ):
        with pytest.raises(TelegramForbiddenError, match="bot was blocked by the user"):
            await method
    await bot.send_message(2, "x")
    telegram.unblock(1)
    await bot.send_message(1, "z")
    assert telegram.texts(1) == ["x", "z"]
