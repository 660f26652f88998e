"""Replies: split as Telegram demands, kept as they will be sent."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from aiogram import Bot
from aiogram.client.default import DefaultBotProperties
from aiogram.enums import ParseMode
from aiogram.methods import (
    AnswerCallbackQuery,
    RestrictChatMember,
    SendDocument,
    SendMediaGroup,
    SendMessage,
    SetMessageReaction,
    TelegramMethod,
)
from aiogram.types import (
    BufferedInputFile,
    ChatPermissions,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InputMediaDocument,
    InputMediaPhoto,
    MessageEntity,
    ReactionTypeEmoji,
    ReplyParameters,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.runtime.telegram.calls import (
    TEXT_LIMIT,
    Reply,
    Session,
    prepare,
    split_reply,
    split_text,
    with_files,
)
from bot.runtime.telegram.outbox import send
from suite.bot_api import FakeTelegram

pytestmark = pytest.mark.clause("outbox.as-sent")


def units(text: str) -> int:
    """Length as Telegram counts it."""
    return len(text.encode("utf-16-le")) // 2


@settings(max_examples=100)
@given(text=st.text(st.sampled_from("ab \n👩é"), max_size=200), limit=st.integers(2, 20))
def test_pieces_fit_stand_where_they_say_and_lose_only_white_space(text: str, limit: int) -> None:
    whole = text.encode("utf-16-le")
    covered = ""
    for offset, piece in split_text(text, limit):
        assert 0 < units(piece) <= limit
        assert piece.strip()
        assert whole[offset * 2 : (offset + units(piece)) * 2].decode("utf-16-le") == piece
        covered += piece
    assert "".join(covered.split()) == "".join(text.split())


def test_a_split_prefers_line_breaks_then_spaces() -> None:
    assert [piece for _, piece in split_text("aaa bbb\nccc ddd", 9)] == ["aaa bbb", "ccc ddd"]
    assert [piece for _, piece in split_text("aaa bbb ccc", 8)] == ["aaa bbb", "ccc"]
    assert [piece for _, piece in split_text("aaaaaaaaa", 4)] == ["aaaa", "aaaa", "a"]


@pytest.mark.parametrize("text", ["x" * 1_000_000, "👩 " * 400_000, " \n" * 500_000, "word " * 200_000])
def test_a_long_text_takes_no_time_that_grows_with_its_square(text: str) -> None:
    entities = [{"type": "bold", "offset": 10 * n, "length": 5} for n in range(10_000)]
    params = {"text": f"a{text}", "entities": orjson.dumps(entities).decode()}
    began = time.thread_time()
    parts = split_reply(Reply("sendMessage", params))
    assert time.thread_time() - began < 4, "it took 13 s and more"
    assert sum(len(part.params["text"]) for part in parts) <= len(text) + 1


@pytest.fixture
def bot() -> Bot:
    return Bot("42:TEST", session=Session())


async def test_parts_keep_quote_buttons_and_entities_in_place(bot: Bot) -> None:
    button = InlineKeyboardButton(text="b", callback_data="b")
    method = SendMessage(
        chat_id=1,
        text="x" * 4_000 + " " + "👩" * 1_000,
        entities=[
            MessageEntity(type="bold", offset=3_990, length=31),
            MessageEntity(type="italic", offset=0, length=1),
        ],
        reply_parameters=ReplyParameters(message_id=5),
        reply_markup=InlineKeyboardMarkup(inline_keyboard=[[button]]),
    )
    first, second = split_reply(await prepare(bot, method))
    assert "reply_parameters" in first.params
    assert "reply_parameters" not in second.params
    assert "reply_markup" not in first.params
    assert "reply_markup" in second.params
    assert '"offset":3990,"length":10' in first.params["entities"].replace(" ", "")
    assert '"offset":0,"length":20' in second.params["entities"].replace(" ", "")
    assert "italic" not in second.params["entities"]


METHODS: list[TelegramMethod[Any]] = [
    SendMessage(chat_id=1, text="hi \ud800\0"),
    SendMessage(chat_id="@channel", text="<b>hi</b>", parse_mode=ParseMode.HTML, disable_notification=True),
    SetMessageReaction(chat_id=1, message_id=2, reaction=[ReactionTypeEmoji(emoji="👍")]),
    AnswerCallbackQuery(callback_query_id="1", text="ok", show_alert=True),
    RestrictChatMember(
        chat_id=1,
        user_id=2,
        permissions=ChatPermissions(can_send_messages=False),
        until_date=datetime(2030, 1, 1, tzinfo=UTC),
    ),
    RestrictChatMember(chat_id=1, user_id=2, permissions=ChatPermissions(), until_date=timedelta(days=1)),
    SendDocument(chat_id=1, document=BufferedInputFile(b"\x00\xff", "a.bin"), caption="file"),
    SendMediaGroup(
        chat_id=1,
        media=[
            InputMediaPhoto(media=BufferedInputFile(b"1", "1.png")),
            InputMediaDocument(media=BufferedInputFile(b"2", "2.txt")),
        ],
    ),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
async def test_a_reply_is_kept_without_loss(bot: Bot, method: TelegramMethod[Any]) -> None:
    reply = await prepare(bot, method)
    assert split_reply(reply) == [reply]
    assert Reply.from_json(reply.to_json()) == replace(reply, files={})
    assert reply.files.keys() == reply.sources.keys()
    assert reply.method == method.__api_method__
    for key, (_, content) in reply.files.items():
        assert f"attach://{key}" in "".join(reply.params.values())
        assert content


async def test_what_is_sent_is_what_aiogram_would_send(bot: Bot) -> None:
    """Every field of a call is the same, whether aiogram or the outbox sends it."""
    for method in METHODS[:5]:
        reply = await prepare(bot, method)
        form = bot.session.build_form_data(bot, method)  # type: ignore[attr-defined]
        fields = {options["name"]: value for options, _, value in form._fields}
        assert reply.params == {
            key: value.replace("\ud800", "\ufffd").replace("\0", "\ufffd") for key, value in fields.items()
        }


async def test_the_bots_defaults_hold_for_replies() -> None:
    html = Bot("42:TEST", default=DefaultBotProperties(parse_mode=ParseMode.HTML), session=Session())
    by_default = await prepare(html, SendMessage(chat_id=1, text="<b>hi</b>"))
    plain = await prepare(html, SendMessage(chat_id=1, text="a < b", parse_mode=None))
    assert by_default.params["parse_mode"] == "HTML"
    assert "parse_mode" not in plain.params


async def test_markup_that_telegram_refuses_is_sent_as_plain_text() -> None:
    from aiogram.client.telegram import TelegramAPIServer

    async with FakeTelegram() as telegram:
        session = Session(api=TelegramAPIServer.from_base(telegram.url))
        async with Bot(telegram.token, session=session) as bot:
            for text in ("<b>never closed", "<b>" + "x" * (TEXT_LIMIT + 10) + "</b>"):
                reply = await prepare(bot, SendMessage(chat_id=1, text=text, parse_mode="HTML"))
                await send(bot, reply)
        first, *rest = telegram.texts(1)
    assert first == "<b>never closed"
    assert "".join(rest) == "<b>" + "x" * (TEXT_LIMIT + 10) + "</b>"


async def test_a_file_reaches_telegram_from_the_outbox() -> None:
    from aiogram.client.telegram import TelegramAPIServer

    async with FakeTelegram() as telegram:
        session = Session(api=TelegramAPIServer.from_base(telegram.url))
        async with Bot(telegram.token, session=session) as bot:
            method = SendDocument(chat_id=1, document=BufferedInputFile(b"\x00\xff", "a.bin"))
            reply = await prepare(bot, method)
            files = reply.kept_files()

            async def kept(file: str) -> bytes | None:
                return files[file]

            await send(bot, await with_files(bot, Reply.from_json(reply.to_json()), kept))
    assert telegram.sent[0].files == {"a.bin": b"\x00\xff"}
