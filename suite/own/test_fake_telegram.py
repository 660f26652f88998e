"""The fake Telegram keeps Telegram's rules: each test here fails if its rule is missing."""

import asyncio
import contextlib
import itertools
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import aiohttp
import pytest
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import (
    TelegramBadRequest,
    TelegramForbiddenError,
    TelegramNetworkError,
    TelegramRetryAfter,
    TelegramServerError,
    TelegramUnauthorizedError,
)
from aiogram.types import (
    BotCommand,
    BotCommandScopeAllPrivateChats,
    BufferedInputFile,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    ReplyKeyboardRemove,
)
from aiohttp import web

from suite.bot_api import parse_html
from suite.fake_telegram import FakeTelegram

pytestmark = pytest.mark.clause("kit.telegram")

Json = dict[str, Any]
Call = Callable[..., Coroutine[Any, Any, tuple[int, Json]]]
Answer = Callable[[Json], Awaitable[web.Response] | web.Response]


@pytest.fixture
async def telegram() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram() as server:
        yield server


@pytest.fixture
async def bot(telegram: FakeTelegram) -> AsyncIterator[Bot]:
    session = AiohttpSession(api=TelegramAPIServer.from_base(telegram.url))
    bot = Bot(telegram.token, session=session)
    yield bot
    if session._session is not None:  # close() would wait 0.25 s each time, for TLS
        await session._session.close()


@pytest.fixture
async def call(telegram: FakeTelegram) -> AsyncIterator[Call]:
    """A plain client: call(method, **parameters) -> status, answer."""
    async with aiohttp.ClientSession() as http:

        async def call(method: str, **params: Any) -> tuple[int, Json]:
            url = f"{telegram.url}/bot{telegram.token}/{method}"
            async with http.post(url, json=params) as response:
                return response.status, await response.json()

        yield call


@contextlib.asynccontextmanager
async def hook(answer: Answer) -> AsyncIterator[str]:
    """A bot's end of a webhook; yields its address. `answer` gets the update and its headers."""

    async def handle(request: web.Request) -> web.Response:
        result = answer({**await request.json(), "headers": request.headers, "path": request.path})
        return result if isinstance(result, web.Response) else await result

    app = web.Application()
    app.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def ids(answer: tuple[int, Json]) -> list[int]:
    status, body = answer
    assert status == 200, body
    return [update["update_id"] for update in body["result"]]


def refused(answer: tuple[int, Json], status: int, description: str) -> None:
    assert answer[0] == answer[1]["error_code"] == status
    assert answer[1]["ok"] is False
    assert description in answer[1]["description"]


# --- The server -----------------------------------------------------------------------------------


async def test_wrong_token_is_401(telegram: FakeTelegram, call: Call) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{telegram.url}/bot42:WRONG/getMe") as response:
            body = {"ok": False, "error_code": 401, "description": "Unauthorized"}
            assert (response.status, await response.json()) == (401, body)
        async with http.get(f"{telegram.url}/") as response:
            assert response.status == 404
    refused(await call("sendMesage", chat_id=1, text="x"), 404, "Not Found")
    assert [(c.method, c.status) for c in telegram.calls] == [
        ("getMe", 401),
        ("/", 404),
        ("sendMesage", 404),
    ]
    assert telegram.sent == []


async def test_get_form_multipart_and_json(telegram: FakeTelegram) -> None:
    url = f"{telegram.url}/bot{telegram.token}/sendmessage"  # names are case-insensitive
    form = aiohttp.FormData({"chat_id": "1", "text": "multipart"})
    form._is_multipart = True
    async with aiohttp.ClientSession() as http:
        await http.get(url, params={"chat_id": "1", "text": "query"})
        await http.post(url, data={"chat_id": "1", "text": "form ü"})
        await http.post(url, data=form)
        await http.post(url, json={"chat_id": 1, "text": "json", "disable_notification": True})
        for broken in (b"[]", b"[1]", b"{", b'"\xff"'):
            headers = {"Content-Type": "application/json"}
            async with http.post(url, data=broken, headers=headers) as response:
                assert response.status == 400
    assert telegram.texts(1) == ["query", "form ü", "multipart", "json"]
    assert telegram.sent[3].params["disable_notification"] == "true"
    assert {c.method for c in telegram.calls} == {"sendMessage"}


async def test_unknown_parameters_are_refused(telegram: FakeTelegram, call: Call) -> None:
    refused(await call("sendMessage", chat_id=1, text="x", parse_mod="HTML"), 400, "parse_mod")
    refused(await call("getMe", chat_id=1), 400, "chat_id")
    assert telegram.texts(1) == []


async def test_state_outlives_an_outage(telegram: FakeTelegram, bot: Bot, call: Call) -> None:
    url, update_id = telegram.url, telegram.message("hello", user_id=1)
    poll = asyncio.create_task(call("getUpdates", offset=update_id + 1, timeout=50))
    await telegram.wait_for(lambda: telegram.calls)
    await telegram.stop()
    with pytest.raises(aiohttp.ClientError):
        await poll
    with pytest.raises(TelegramNetworkError):
        await bot.get_me()
    await telegram.start()
    assert telegram.url == url
    assert (await bot.get_me()).is_bot
    assert update_id in telegram.acknowledged


async def test_quiet(caplog: pytest.LogCaptureFixture, call: Call, telegram: FakeTelegram) -> None:
    caplog.set_level(logging.INFO)
    telegram.drop_answer("sendMessage")
    with pytest.raises(aiohttp.ClientError):
        await call("sendMessage", chat_id=1, text="x")
    await call("getMe")
    assert caplog.records == []


# --- What it accepts ------------------------------------------------------------------------------


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
    refused(await call("sendDocument", chat_id=1, document="id"), 400, "no document")
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


# --- Traffic from people --------------------------------------------------------------------------


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


# --- Polling --------------------------------------------------------------------------------------


async def test_offset_confirms_what_is_below(telegram: FakeTelegram, call: Call) -> None:
    a, b, c = (telegram.message(x, user_id=1) for x in "abc")
    assert ids(await call("getUpdates")) == [a, b, c]
    assert telegram.acknowledged == {}
    assert ids(await call("getUpdates", offset=b)) == [b, c]
    assert list(telegram.acknowledged) == [a]
    assert ids(await call("getUpdates", offset=a, limit=1)) == [b]  # a is forgotten
    assert ids(await call("getUpdates", offset=c + 1)) == []
    assert list(telegram.acknowledged) == [a, b, c]
    assert telegram.attempts == {a: 1, b: 3, c: 2}
    assert telegram.dropped == []


async def test_at_most_100_at_once(telegram: FakeTelegram, call: Call) -> None:
    first = telegram.next_update_id
    for _ in range(150):
        telegram.message("x", user_id=1)
    assert ids(await call("getUpdates", offset=first)) == list(range(first, first + 100))
    assert ids(await call("getUpdates", offset=0, limit=7)) == list(range(first, first + 7))
    for limit in (0, 101, "many"):
        refused(await call("getUpdates", limit=limit), 400, "limit")


async def test_the_same_offset_at_once_again_gets_one(telegram: FakeTelegram, call: Call) -> None:
    a, b = (telegram.message(x, user_id=1) for x in "ab")
    assert ids(await call("getUpdates", offset=a)) == [a, b]
    assert ids(await call("getUpdates", offset=a)) == [a]
    await asyncio.sleep(0.51)
    assert ids(await call("getUpdates", offset=a)) == [a, b]


async def test_long_poll(telegram: FakeTelegram, call: Call) -> None:
    began = time.monotonic()
    assert ids(await call("getUpdates", timeout=1)) == []
    assert 0.95 < time.monotonic() - began < 2
    poll = asyncio.create_task(call("getUpdates", offset=1, timeout=50))
    await telegram.wait_for(lambda: len(telegram.calls) == 2)
    assert telegram.calls[1].status == 0
    update_id = telegram.message("x", user_id=1)
    assert ids(await asyncio.wait_for(poll, 1)) == [update_id]


async def test_the_older_poll_is_aborted(telegram: FakeTelegram, call: Call) -> None:
    older = asyncio.create_task(call("getUpdates", timeout=50))
    await telegram.wait_for(lambda: telegram.calls)
    newer = asyncio.create_task(call("getUpdates", offset=1, timeout=50))
    refused(await asyncio.wait_for(older, 1), 409, "Conflict: terminated by other getUpdates")
    update_id = telegram.message("x", user_id=1)
    assert ids(await asyncio.wait_for(newer, 1)) == [update_id]


async def test_no_polling_beside_a_webhook(telegram: FakeTelegram, call: Call) -> None:
    poll = asyncio.create_task(call("getUpdates", timeout=50))
    await telegram.wait_for(lambda: telegram.calls)
    await call("setWebhook", url="http://127.0.0.1:1/")
    refused(await asyncio.wait_for(poll, 1), 409, "Conflict: terminated by setWebhook request")
    refused(await call("getUpdates"), 409, "can't use getUpdates method while webhook is active")
    await call("deleteWebhook")
    assert ids(await call("getUpdates")) == []


async def test_negative_offset(telegram: FakeTelegram, call: Call) -> None:
    a, b, c = (telegram.message(x, user_id=1) for x in "abc")
    assert ids(await call("getUpdates", offset=-4)) == [a, b, c]
    assert ids(await call("getUpdates", offset=-1)) == [c]
    assert telegram.dropped == [a, b]
    assert telegram.acknowledged == {}


async def test_dropping_is_recorded(telegram: FakeTelegram, call: Call) -> None:
    a, b = (telegram.message(x, user_id=1) for x in "ab")
    await call("deleteWebhook")
    await call("deleteWebhook", drop_pending_updates=False)
    assert (telegram.dropped, telegram.drop_requests) == ([], 0)
    await call("deleteWebhook", drop_pending_updates=True)
    assert (telegram.dropped, telegram.drop_requests) == ([a, b], 1)
    assert ids(await call("getUpdates")) == []
    c = telegram.message("c", user_id=1)
    await call("setWebhook", url="http://127.0.0.1:1/", drop_pending_updates="True")
    await call("setWebhook", url="http://127.0.0.1:1/", drop_pending_updates="True")
    assert (telegram.dropped, telegram.drop_requests) == ([a, b, c], 3)
    await telegram.settled(0)


async def test_allowed_updates(telegram: FakeTelegram, call: Call) -> None:
    assert telegram.push({"chat_member": {"from": {"id": 1}}}) == 0  # opt-in
    a = telegram.push({"my_chat_member": {"from": {"id": 1}}})
    poll = await call("getUpdates", allowed_updates=["message", "chat_member"])
    assert ids(poll) == [a]  # made before, so still delivered
    assert telegram.callback("x", user_id=1) == 0
    b = telegram.push({"chat_member": {"from": {"id": 1}}})
    assert b == a + 1  # what was filtered took no id
    assert ids(await call("getUpdates", offset=b)) == [b]  # unset: as it was
    assert telegram.push({"hologram": {}}) == 0
    assert [next(iter(u)) for u in telegram.filtered] == [
        "chat_member",
        "callback_query",
        "hologram",
    ]
    await call("getUpdates", allowed_updates=[])
    assert telegram.callback("x", user_id=1) == b + 1
    for bad in ("message", '"message"', ["mesage"], [["message"]]):
        assert (await call("getUpdates", allowed_updates=bad))[0] == 400


# --- Webhook --------------------------------------------------------------------------------------


async def test_webhook_delivers(telegram: FakeTelegram, bot: Bot) -> None:
    got: list[Json] = []

    def answer(update: Json) -> web.Response:
        got.append(update)
        return web.Response(status=204)

    before = telegram.message("before", user_id=1)
    async with hook(answer) as address:
        telegram.webhook_address = address
        await bot.set_webhook("https://bot.example/hook", secret_token="s-E_3", max_connections=3)
        after = telegram.message("after", user_id=1)
        await telegram.settled(5)
    assert [u["update_id"] for u in got] == [before, after]
    assert {u["headers"]["X-Telegram-Bot-Api-Secret-Token"] for u in got} == {"s-E_3"}
    assert {u["path"] for u in got} == {"/hook"}
    assert telegram.acknowledged.keys() == telegram.attempts.keys() == {before, after}
    assert telegram.webhook
    assert telegram.webhook.max_connections == 3
    info = await bot.get_webhook_info()
    assert (info.url, info.pending_update_count) == ("https://bot.example/hook", 0)
    await bot.delete_webhook()
    assert (await bot.get_webhook_info()).url == ""


@pytest.mark.parametrize(
    ("params", "description"),
    [
        ({"url": "bot.example"}, "invalid webhook URL"),
        ({"url": "ftp://bot.example"}, "invalid webhook URL"),
        ({"url": "https://bot.example:port"}, "invalid webhook URL"),
        ({"url": "https://b.e/", "secret_token": "x" * 257}, "secret token is too long"),
        ({"url": "https://b.e/", "secret_token": "a b"}, "unallowed characters"),
        ({"url": "https://b.e/", "secret_token": "ä"}, "unallowed characters"),
        ({"url": "https://b.e/", "max_connections": 0}, "max_connections"),
        ({"url": "https://b.e/", "max_connections": 101}, "max_connections"),
        ({"url": "https://b.e/", "allowed_updates": "message"}, "allowed_updates"),
        ({"url": "https://b.e/", "drop_pending": True}, "drop_pending"),
    ],
)
async def test_bad_webhooks(
    telegram: FakeTelegram,
    call: Call,
    params: Json,
    description: str,
) -> None:
    refused(await call("setWebhook", **params), 400, description)
    assert telegram.webhook is None


async def test_https_is_required_on_demand(telegram: FakeTelegram, call: Call) -> None:
    telegram.allow_http_webhooks = False
    refused(await call("setWebhook", url="http://bot.example/"), 400, "An HTTPS URL must be")
    refused(await call("setWebhook", url="https://bot.example:8080/"), 400, "only on ports")
    assert (await call("setWebhook", url="https://bot.example:8443/"))[0] == 200
    assert (await call("setWebhook", url=""))[0] == 200
    assert telegram.webhook is None


async def test_redelivery_backs_off(telegram: FakeTelegram, call: Call, bot: Bot) -> None:
    times: list[float] = []
    statuses = iter([500, 307, 503, 404, 401, 500, 500, 200])

    def answer(update: Json) -> web.Response:
        times.append(time.monotonic())
        return web.Response(status=next(statuses), headers={"Location": "/elsewhere"})

    telegram.max_delay = 0.1
    async with hook(answer) as address:
        await call("setWebhook", url=address)
        update_id = telegram.message("x", user_id=1)
        await telegram.wait_for(lambda: len(times) == 7)
        assert update_id not in telegram.acknowledged
        info = await bot.get_webhook_info()
        assert info.pending_update_count == 1
        assert (info.last_error_message or "").startswith("Wrong response from the webhook: ")
        await telegram.settled(2)  # without `max_delay` the last wait alone is 3.2 s
    assert telegram.attempts[update_id] == 8
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert waits[0] >= 0.05
    assert min(waits[1:]) >= 0.1


async def test_retry_after_is_honoured_up_to_a_cap(telegram: FakeTelegram, call: Call) -> None:
    times: list[float] = []

    def answer(update: Json) -> web.Response:
        times.append(time.monotonic())
        busy = web.Response(status=503, headers={"Retry-After": "30"})
        return busy if len(times) == 1 else web.Response()

    telegram.max_retry_after = 0.3
    async with hook(answer) as address:
        await call("setWebhook", url=address)
        telegram.message("x", user_id=1)
        await telegram.settled(5)
    assert 0.3 <= times[1] - times[0] < 5


async def test_slow_and_absent_webhooks(telegram: FakeTelegram, call: Call) -> None:
    count = 0

    async def answer(update: Json) -> web.Response:
        nonlocal count
        count += 1
        await asyncio.sleep(5 if count == 1 else 0)
        return web.Response()

    telegram.webhook_timeout = 0.1
    await call("setWebhook", url="http://127.0.0.1:1/")
    update_id = telegram.message("x", user_id=1)
    await telegram.wait_for(lambda: telegram.attempts[update_id] == 2)
    async with hook(answer) as address:
        telegram.webhook_address = address
        await telegram.settled(5)
    assert count == 2


async def test_one_update_of_a_chat_at_a_time(telegram: FakeTelegram, call: Call) -> None:
    running: set[str] = set()
    overlaps: set[tuple[str, str]] = set()
    order: list[str] = []
    failed = False

    async def answer(update: Json) -> web.Response:
        nonlocal failed
        query = update.get("callback_query")
        name = query["data"] if query else update["message"]["text"]
        overlaps.update((other, name) for other in running)
        running.add(name)
        await asyncio.sleep(0.05)
        running.discard(name)
        if name == "1a" and not failed:
            failed = True
            return web.Response(status=500)
        order.append(name)
        return web.Response()

    async with hook(answer) as address:
        await call("setWebhook", url=address)
        telegram.message("1a", user_id=1)
        telegram.message("1b", user_id=1)
        telegram.callback("1q", user_id=1)
        telegram.callback("1r", user_id=1)
        telegram.callback("2q", user_id=2)
        telegram.message("2a", user_id=2)
        telegram.message("3a", user_id=1, chat_id=-3)
        telegram.message("3b", user_id=2, chat_id=-3)
        await telegram.settled(5)
    pairs = {frozenset(pair) for pair in overlaps}
    for lane in (("1a", "1b"), ("1q", "1r"), ("3a", "3b")):
        assert frozenset(lane) not in pairs
        assert order.index(lane[0]) < order.index(lane[1])
    for apart in (("1a", "1q"), ("1a", "2a"), ("1q", "2q"), ("1a", "3a")):
        assert frozenset(apart) in pairs
    assert order.index("2a") < order.index("1a")  # a failing chat does not hold back others


async def test_max_connections(telegram: FakeTelegram, call: Call) -> None:
    running = most = 0

    async def answer(update: Json) -> web.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return web.Response()

    async with hook(answer) as address:
        await call("setWebhook", url=address, max_connections=3)
        for user in range(1, 13):
            telegram.message("x", user_id=user)
        await telegram.settled(5)
    assert most == 3


async def test_the_same_webhook_again_changes_nothing(telegram: FakeTelegram, call: Call) -> None:
    async def answer(update: Json) -> web.Response:
        await asyncio.sleep(0.2)
        return web.Response()

    async with hook(answer) as address:
        await call("setWebhook", url=address)
        update_id = telegram.message("x", user_id=1)
        await telegram.wait_for(lambda: telegram.attempts[update_id])
        await call("setWebhook", url=address)
        await telegram.settled(5)
        assert telegram.attempts[update_id] == 1
        update_id = telegram.message("y", user_id=1)
        await telegram.wait_for(lambda: telegram.attempts[update_id])
        await call("setWebhook", url=f"{address}/other")
        await telegram.settled(5)
        assert telegram.attempts[update_id] == 2


async def test_a_webhook_outlives_an_outage(telegram: FakeTelegram, call: Call) -> None:
    async with hook(lambda update: web.Response()) as address:
        await call("setWebhook", url=address)
        await telegram.stop()
        update_id = telegram.message("x", user_id=1)
        await asyncio.sleep(0.05)
        assert telegram.attempts[update_id] == 0
        await telegram.start()
        await telegram.settled(5)


# --- Faults ---------------------------------------------------------------------------------------


async def test_failures_on_demand(telegram: FakeTelegram, bot: Bot) -> None:
    telegram.fail("sendMessage", after=1)
    await bot.send_message(1, "a")
    with pytest.raises(TelegramServerError):
        await bot.send_message(1, "b")
    await bot.send_message(1, "c")
    telegram.fail("sendMessage", status=429, retry_after=7, times=2)
    telegram.fail("sendMessage", status=403)
    telegram.fail("sendMessage", status=401)
    telegram.fail("sendMessage", status=400, description="Bad Request: no")
    for _ in range(2):
        with pytest.raises(TelegramRetryAfter) as caught:
            await bot.send_message(1, "d")
        assert caught.value.retry_after == 7
    with pytest.raises(TelegramForbiddenError, match="blocked"):
        await bot.send_message(1, "e")
    with pytest.raises(TelegramUnauthorizedError):
        await bot.send_message(1, "f")
    with pytest.raises(TelegramBadRequest, match="no"):
        await bot.send_message(1, "g")
    await bot.send_message(1, "h")
    assert telegram.texts(1) == ["a", "c", "h"]
    assert [c.status for c in telegram.calls] == [200, 500, 200, 429, 429, 403, 401, 400, 200]
    with pytest.raises(KeyError):
        telegram.fail("sendMesage")


async def test_bad_gateway(telegram: FakeTelegram, bot: Bot) -> None:
    telegram.bad_gateway("getMe")
    url = f"{telegram.url}/bot{telegram.token}/getMe"
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        assert (response.status, response.content_type) == (502, "text/html")
    assert await bot.get_me()


async def test_delay(telegram: FakeTelegram, bot: Bot) -> None:
    async def took() -> float:
        began = time.monotonic()
        await bot.send_message(1, "x")
        return time.monotonic() - began

    telegram.delay("sendMessage", 0.4, times=1)
    assert await took() >= 0.4
    assert await took() < 0.4
    telegram.delay("sendMessage", 0.05)
    assert min(await took(), await took()) >= 0.05
    telegram.delay("sendMessage", 0)
    assert await took() < 0.4


async def test_a_dropped_answer_is_done_all_the_same(telegram: FakeTelegram, bot: Bot) -> None:
    telegram.drop_answer("sendMessage")
    with pytest.raises(TelegramNetworkError):
        await bot.send_message(1, "x")
    await bot.send_message(1, "y")
    assert telegram.texts(1) == ["x", "y"]
    assert [s.ok for s in telegram.sent] == [False, True]


async def test_repeat_while_polling(telegram: FakeTelegram, call: Call) -> None:
    a, b = (telegram.message(x, user_id=1) for x in "ab")
    assert ids(await call("getUpdates", offset=b + 1)) == []
    assert ids(await call("getUpdates", offset=0)) == []
    telegram.repeat(a)
    c = telegram.message("c", user_id=1)
    assert ids(await call("getUpdates", offset=c)) == [a, c]
    with pytest.raises(TimeoutError):
        await telegram.settled(0)
    assert ids(await call("getUpdates", offset=c + 1)) == []
    await telegram.settled(0)
    telegram.repeat(b)
    poll = await asyncio.wait_for(call("getUpdates", offset=c + 1, timeout=50), 1)
    assert ids(poll) == [b]
    with pytest.raises(KeyError):
        telegram.repeat(1)


async def test_repeat_by_webhook(telegram: FakeTelegram, call: Call) -> None:
    async with hook(lambda update: web.Response()) as address:
        await call("setWebhook", url=address)
        update_id = telegram.message("x", user_id=1)
        await telegram.settled(5)
        telegram.repeat(update_id)
        await telegram.settled(5)
    assert telegram.attempts[update_id] == 2


async def test_reorder(telegram: FakeTelegram, call: Call) -> None:
    made = [telegram.message("x", user_id=1) for _ in range(150)]
    telegram.reorder(1)
    first = ids(await call("getUpdates"))
    assert first != made[:100]
    assert sorted(first) == made[:100]  # so an offset still loses nothing
    rest = ids(await call("getUpdates", offset=made[100]))
    assert sorted(rest) == made[100:]
    got: list[int] = []

    def answer(update: Json) -> web.Response:
        got.append(update["update_id"])
        return web.Response()

    async with hook(answer) as address:
        await call("setWebhook", url=address)
        later = [telegram.message("x", user_id=2) for _ in range(20)]
        telegram.reorder(2)
        await telegram.settled(5)
    of_2 = [update_id for update_id in got if update_id >= later[0]]
    assert of_2 != later
    assert sorted(of_2) == later


# --- Observation ----------------------------------------------------------------------------------


async def test_settled_says_what_is_missing(telegram: FakeTelegram, call: Call) -> None:
    update_id = telegram.message("x", user_id=1)
    await call("getUpdates")
    with pytest.raises(TimeoutError, match=rf"1 updates .* {update_id} \(1 attempts\)"):
        await telegram.settled(0.05)
    await call("getUpdates", offset=update_id + 1)
    await telegram.settled(0)


async def test_wait_for(telegram: FakeTelegram) -> None:
    with pytest.raises(TimeoutError):
        await telegram.wait_for(lambda: False, 0.02)
    asyncio.get_running_loop().call_later(0.05, telegram.block, 1)
    began = time.monotonic()
    await telegram.wait_for(lambda: 1 in telegram._blocked, 1)
    assert 0.05 <= time.monotonic() - began < 1


# --- Load -----------------------------------------------------------------------------------------


async def test_10_000_updates_are_polled_fast(telegram: FakeTelegram, call: Call) -> None:
    last = [telegram.message("x", user_id=n % 200 + 1) for n in range(10_000)][-1]
    began, offset = time.monotonic(), 0
    while offset <= last:
        offset = ids(await call("getUpdates", offset=offset))[-1] + 1
    await call("getUpdates", offset=offset)
    assert len(telegram.acknowledged) == 10_000
    assert time.monotonic() - began < 3


async def test_200_users_at_once(telegram: FakeTelegram, call: Call) -> None:
    async def answer(update: Json) -> web.Response:
        chat_id = update["message"]["chat"]["id"]
        await call("sendMessage", chat_id=chat_id, text=update["message"]["text"])
        return web.Response()

    for n in range(5):
        for user in range(1, 201):
            telegram.message(f"{n}", user_id=user)
    async with hook(answer) as address:
        await call("setWebhook", url=address, max_connections=100)
        await telegram.settled(20)
    for user in range(1, 201):
        assert telegram.texts(user) == ["0", "1", "2", "3", "4"]
