"""What is longer than Telegram takes, or has markup that it does not take, loses neither text nor order."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiogram import Bot, Router
from aiogram.client.telegram import TelegramAPIServer
from aiogram.methods import (
    AnswerInlineQuery,
    CopyMessage,
    EditMessageCaption,
    EditMessageMedia,
    EditMessageText,
    SendAnimation,
    SendAudio,
    SendDocument,
    SendMediaGroup,
    SendMessage,
    SendPhoto,
    SendPoll,
    SendVideo,
    SendVoice,
    TelegramMethod,
)
from aiogram.types import (
    BufferedInputFile,
    CallbackQuery,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InlineQueryResultArticle,
    InputMediaPhoto,
    InputPollOption,
    InputTextMessageContent,
    Message,
    MessageEntity,
    ReplyParameters,
)

from bot.runtime.app import Owner
from bot.runtime.telegram.calls import Session, prepare, split_reply
from bot.runtime.telegram.outbox import DeliveryFailed, deliver, send
from suite.agents import CountingAgent
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime

pytestmark = pytest.mark.clause("outbox.as-sent")

CHAT = 1
WORDS = " ".join(f"{number:04}👩" for number in range(1_500))
"""A text of 10,499 UTF-16 units, of which no word is like another."""

HTML = f"<i>{WORDS}</i>"
BROKEN = f"<b>{WORDS}"
BUTTONS = InlineKeyboardMarkup(inline_keyboard=[[InlineKeyboardButton(text="b", callback_data="b")]])


@pytest.fixture
async def bot(telegram: FakeTelegram) -> AsyncIterator[Bot]:
    """A client of the fake Telegram. (No backend is part of this.)"""
    async with Bot(telegram.token, session=Session(api=TelegramAPIServer.from_base(telegram.url))) as bot:
        yield bot


def file(name: str = "a.png") -> BufferedInputFile:
    return BufferedInputFile(b"x", name)


def shown(telegram: FakeTelegram) -> str:
    """All that a person reads in the chat, in its order: of each message what it is by now."""
    messages = [message for (chat, _), message in sorted(telegram.messages.items()) if chat == CHAT]
    texts = [
        each.get("text") or each.get("caption") or each.get("poll", {}).get("question") for each in messages
    ]
    return " ".join(text for text in texts if text)


def methods(text: str, there: int, with_file: int, **options: Any) -> dict[str, TelegramMethod[Any]]:
    """Every method that has a text which people read, and the name of the parameter.

    Args:
        text: it.
        there: a message of the bot to edit.
        with_file: another, which has a file.
        options: its markup.
    """
    media = InputMediaPhoto(media=file("2.png"), caption=text, **options)
    return {
        "sendMessage": SendMessage(chat_id=CHAT, text=text, **options),
        "sendPhoto": SendPhoto(chat_id=CHAT, photo=file(), caption=text, **options),
        "sendDocument": SendDocument(chat_id=CHAT, document=file(), caption=text, **options),
        "sendVideo": SendVideo(chat_id=CHAT, video=file(), caption=text, **options),
        "sendAnimation": SendAnimation(chat_id=CHAT, animation=file(), caption=text, **options),
        "sendAudio": SendAudio(chat_id=CHAT, audio=file(), caption=text, **options),
        "sendVoice": SendVoice(chat_id=CHAT, voice=file(), caption=text, **options),
        "sendMediaGroup": SendMediaGroup(chat_id=CHAT, media=[InputMediaPhoto(media=file("1.png")), media]),
        "copyMessage": CopyMessage(
            chat_id=CHAT, from_chat_id=CHAT, message_id=with_file, caption=text, **options
        ),
        "editMessageText": EditMessageText(chat_id=CHAT, message_id=there, text=text, **options),
        "editMessageCaption": EditMessageCaption(chat_id=CHAT, message_id=with_file, caption=text, **options),
        "editMessageMedia": EditMessageMedia(chat_id=CHAT, message_id=with_file, media=media),
    }


NAMES = sorted(methods("", 0, 0))


async def make(bot: Bot, name: str, text: str, **options: Any) -> TelegramMethod[Any]:
    """One of the methods, after the messages that it may be about."""
    with_file = await bot.send_photo(CHAT, file())
    there = await bot.send_message(CHAT, "…")
    method = methods(text, there.message_id, with_file.message_id, **options)[name]
    if name != "editMessageText":
        await bot.delete_message(CHAT, there.message_id)
    return method


@pytest.mark.parametrize("name", NAMES)
async def test_what_is_too_long_is_sent_whole_in_order(telegram: FakeTelegram, bot: Bot, name: str) -> None:
    """What fits stays in its place, and messages follow; all are refused if they are a unit too long."""
    await send(bot, await prepare(bot, await make(bot, name, WORDS)))
    assert shown(telegram) == WORDS
    assert all(call.status == 200 for call in telegram.calls)


@pytest.mark.parametrize("text", [HTML, BROKEN], ids=["too long", "not understood"])
@pytest.mark.parametrize("name", NAMES)
async def test_markup_that_is_refused_costs_neither_text_nor_order(
    telegram: FakeTelegram, bot: Bot, name: str, text: str
) -> None:
    await send(bot, await prepare(bot, await make(bot, name, text, parse_mode="HTML")))
    assert shown(telegram) == text


async def test_entities_that_are_refused_cost_no_text(telegram: FakeTelegram, bot: Bot) -> None:
    telegram.fail("sendMessage", status=400, description="Bad Request: can't parse MessageEntity")
    entities = [MessageEntity(type="bold", offset=0, length=9_002)]
    await send(bot, await prepare(bot, SendMessage(chat_id=CHAT, text=WORDS, entities=entities)))
    assert shown(telegram) == WORDS
    assert len(telegram.calls) == 4


@pytest.mark.parametrize("name", NAMES)
async def test_entities_stay_with_their_words(telegram: FakeTelegram, bot: Bot, name: str) -> None:
    key = "entities" if name in ("sendMessage", "editMessageText") else "caption_entities"
    words = WORDS.split()
    at = [7 * number for number in range(len(words))]
    given = {key: [MessageEntity(type="bold", offset=offset, length=6) for offset in at]}
    parts = split_reply(await prepare(bot, await make(bot, name, WORDS, **given)))
    assert len(parts) == 4 if name not in ("sendMessage", "editMessageText") else 3
    bold = "".join(
        part.params.get("entities", "") + part.params.get("caption_entities", "") for part in parts
    )
    in_media = parts[0].params.get("media", "")
    assert (bold + in_media).count("bold") == len(words)


async def test_only_the_first_part_is_a_reply_and_the_last_has_the_buttons(bot: Bot) -> None:
    method = SendPhoto(
        chat_id=CHAT,
        photo=file(),
        caption=WORDS,
        message_thread_id=7,
        protect_content=True,
        message_effect_id="1",
        reply_parameters=ReplyParameters(message_id=5),
        reply_markup=BUTTONS,
    )
    first, *between, last = split_reply(await prepare(bot, method))
    assert {"reply_parameters", "message_effect_id"} <= first.params.keys()
    assert "reply_markup" not in first.params
    assert "reply_markup" in last.params
    assert last.params["text"]
    for part in (*between, last):
        assert part.method == "sendMessage"
        assert (part.params["message_thread_id"], part.params["protect_content"]) == ("7", "true")
        assert not {"reply_parameters", "message_effect_id", "photo", "caption"} & part.params.keys()
        assert not part.sources


async def test_an_edit_whose_message_is_gone_is_sent_whole(telegram: FakeTelegram, bot: Bot) -> None:
    """Never the end of an answer without its beginning."""
    method = EditMessageText(chat_id=CHAT, message_id=77, text=WORDS, reply_markup=BUTTONS)
    await send(bot, await prepare(bot, method))
    assert shown(telegram) == WORDS


async def test_a_short_edit_whose_message_is_gone_is_dropped(telegram: FakeTelegram, bot: Bot) -> None:
    """Who deleted the message does not want it again."""
    await send(bot, await prepare(bot, EditMessageText(chat_id=CHAT, message_id=77, text="short")))
    assert shown(telegram) == ""


async def test_an_edit_that_changes_nothing_has_been_made(telegram: FakeTelegram, bot: Bot) -> None:
    """As after an attempt whose answer was lost."""
    message = await bot.send_message(CHAT, "…")
    method = EditMessageText(chat_id=CHAT, message_id=message.message_id, text=WORDS)

    async def pause(_seconds: float, _failures: int) -> None:
        pass

    telegram.drop_answer("editMessageText")
    await deliver(bot, await prepare(bot, method), pause)
    assert shown(telegram) == WORDS


async def test_an_inline_message_is_cut_where_one_sees_it(bot: Bot) -> None:
    """It is in a chat that the bot does not know, so there is nowhere for the rest."""
    (only,) = split_reply(await prepare(bot, EditMessageText(inline_message_id="1", text=WORDS)))
    assert only.params["text"].endswith("…")
    assert WORDS.startswith(only.params["text"].removesuffix("…"))
    content = InputTextMessageContent(message_text=WORDS)
    article = InlineQueryResultArticle(id="1", title="a", input_message_content=content)
    answer = AnswerInlineQuery(inline_query_id="1", results=[article])
    (only,) = split_reply(await prepare(bot, answer))
    assert '…"' in only.params["results"]


async def test_the_question_of_a_poll_is_read_before_it(telegram: FakeTelegram, bot: Bot) -> None:
    options: list[Any] = [InputPollOption(text="yes"), InputPollOption(text="no")]
    await send(bot, await prepare(bot, SendPoll(chat_id=CHAT, question=WORDS, options=options)))
    *messages, poll = telegram.sent
    assert " ".join(message.text for message in messages) == WORDS
    assert (poll.method, poll.text[-1]) == ("sendPoll", "…")


def test_a_long_text_in_an_album_takes_no_time(bot: Bot) -> None:
    from bot.runtime.telegram.calls import Reply

    began = time.thread_time()
    split_reply(Reply("sendPhoto", {"chat_id": "1", "caption": "word " * 200_000}))
    assert time.thread_time() - began < 4


# --- In an update ---------------------------------------------------------------------------------


def pressed(*methods: Any) -> Owner:
    """An owner who replies so to a pressed button."""
    router = Router()

    @router.callback_query()
    async def answer(query: CallbackQuery) -> list[TelegramMethod[Any]]:
        return [method(query) if callable(method) else method for method in methods]

    return Owner(agent=CountingAgent, before=[router])


@pytest.mark.parametrize("chat_id", [CHAT, -100], ids=["private", "group"])
@pytest.mark.parametrize("is_late", [False, True])
async def test_a_long_answer_to_a_button_is_a_message_as_well(
    make_runtime: MakeRuntime, telegram: FakeTelegram, chat_id: int, is_late: bool
) -> None:
    """In a group only who pressed sees an answer: so that person alone gets the rest, too."""
    bot = make_runtime("webhook")
    bot.owner = pressed(lambda query: query.answer(WORDS, show_alert=True))
    telegram.query_life = 0 if is_late else 150
    async with bot:
        telegram.callback("b", user_id=CHAT, chat_id=chat_id)
        await telegram.settled()
    answers = [sent.text for sent in telegram.sent if sent.method == "answerCallbackQuery"]
    assert [(answer[-1], WORDS.startswith(answer[:-1])) for answer in answers] == [("…", True)] * (
        not is_late
    )
    assert " ".join(telegram.texts(CHAT)) == WORDS
    assert telegram.texts(-100) == []


async def test_the_rest_of_an_edit_stays_in_its_topic(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    def edit(query: CallbackQuery) -> TelegramMethod[Any]:
        assert isinstance(query.message, Message)
        return query.message.edit_text(WORDS)

    bot = make_runtime("webhook")
    bot.owner = pressed(edit)
    topic = {"message_thread_id": 7, "is_topic_message": True}
    under = telegram.new_message(-100, {"from": telegram.me(), "text": "?", **topic})
    async with bot:
        telegram.callback("b", user_id=CHAT, chat_id=-100, message=under["message_id"])
        await telegram.settled()
    assert [call.params["message_thread_id"] for call in telegram.calls if call.method == "sendMessage"] == [
        "7",
        "7",
    ]
    first = telegram.messages[-100, under["message_id"]]["text"]
    assert " ".join([first, *telegram.texts(-100)]) == WORDS


async def test_a_refused_part_ends_it(telegram: FakeTelegram, bot: Bot) -> None:
    """A file that Telegram does not take is not followed by the rest of its caption."""

    async def pause(_seconds: float, _failures: int) -> None:
        pass

    with pytest.raises(DeliveryFailed):
        await deliver(bot, await prepare(bot, SendPhoto(chat_id=CHAT, photo="none", caption=WORDS)), pause)
    assert shown(telegram) == ""


@pytest.mark.parametrize("sent_before", range(4))
async def test_a_group_that_becomes_a_supergroup_in_mid_send_gets_all_parts(
    make_runtime: MakeRuntime, telegram: FakeTelegram, sent_before: int
) -> None:
    """In their order; what they reply to is not in the new chat."""
    old, new = -55, -1_000_000_000_055
    router = Router()

    @router.message()
    async def quote(message: Message) -> list[TelegramMethod[Any]]:
        return [message.reply(WORDS), message.answer("end")]

    async def upgrade(_: Any) -> None:
        telegram.upgrade(old, new)

    bot = make_runtime("webhook")
    bot.owner = Owner(agent=CountingAgent, before=[router])
    telegram.group(old)
    telegram.fault("sendMessage", upgrade, after=sent_before)
    async with bot:
        telegram.message("hi", user_id=1, chat_id=old)
        await telegram.settled()
    assert len(telegram.texts(old)) == sent_before
    assert " ".join(telegram.texts(old) + telegram.texts(new)) == f"{WORDS} end"


async def test_an_edit_in_a_group_that_became_a_supergroup_is_sent_anew(
    telegram: FakeTelegram, bot: Bot
) -> None:
    """The message to edit stays behind."""
    telegram.group(-55)
    message = await bot.send_message(-55, "…")
    telegram.upgrade(-55, -1_000_000_000_055)
    await send(
        bot, await prepare(bot, EditMessageText(chat_id=-55, message_id=message.message_id, text="done"))
    )
    assert telegram.texts(-1_000_000_000_055) == ["done"]
