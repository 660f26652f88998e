"""Message drafts: where, for how long, and how they are stopped."""

import time
from typing import Any

import pytest
from aiogram import Bot
from aiogram.types import InputRichMessage

from suite.bot_api import FakeTelegram
from suite.own.bot_api.client import Call, Json, refused

pytestmark = pytest.mark.clause("kit.telegram")


async def test_frames_of_one_draft_follow_each_other(telegram: FakeTelegram, bot: Bot) -> None:
    for text in ("", "He", "<b>Hello</b>"):
        assert await bot.send_message_draft(chat_id=1, draft_id=7, text=text, parse_mode="HTML") is True
    shown = telegram.drafts.shown(1)
    assert shown
    assert (shown.draft_id, shown.text, shown.is_animated) == (7, "Hello", True)
    assert shown.content["entities"][0]["type"] == "bold"
    assert telegram.drafts.texts(1) == ["", "He", "Hello"]
    assert [f.is_animated for f in telegram.drafts.frames] == [False, True, True]
    assert telegram.drafts.shown(2) is None
    assert telegram.sent == []
    assert telegram.messages == {}


async def test_another_id_takes_the_place(telegram: FakeTelegram, bot: Bot) -> None:
    for draft_id in (7, -8):
        await bot.send_message_draft(chat_id=1, draft_id=draft_id, text="x")
    shown = telegram.drafts.shown(1)
    assert shown
    assert (shown.draft_id, shown.is_animated) == (-8, False)
    assert (telegram.drafts.texts(1, 7), telegram.drafts.texts(1)) == (["x"], ["x", "x"])


@pytest.mark.parametrize(
    ("params", "description"),
    [
        ({"chat_id": -7}, "message drafts can be sent only to private chats"),
        ({"chat_id": "@somebody"}, "chat not found"),
        ({"chat_id": None}, "chat_id is empty"),
        ({"draft_id": 0}, "draft identifier must be non-zero"),
        ({"draft_id": None}, "draft identifier must be non-zero"),
        ({"draft_id": 2**63}, "draft_id is not an integer"),
        ({"draft_id": "x"}, "draft_id is not an integer"),
        ({"text": "x" * 4097}, "Bad Request: message is too long"),
        ({"text": "<b>x", "parse_mode": "HTML"}, "can't parse entities"),
        ({"reply_markup": {"inline_keyboard": []}}, "no parameter 'reply_markup'"),
    ],
)
async def test_bad_drafts(telegram: FakeTelegram, call: Call, params: Json, description: str) -> None:
    given = {"chat_id": 1, "draft_id": 1, "text": "x"} | params
    refused(await call("sendMessageDraft", **given), 400, description)
    assert telegram.drafts.frames == []


async def test_a_blocked_bot_shows_nothing(telegram: FakeTelegram, call: Call) -> None:
    telegram.block(1)
    refused(await call("sendMessageDraft", chat_id=1, draft_id=1, text="x"), 403, "blocked")


async def test_a_draft_goes_after_half_a_minute(
    telegram: FakeTelegram, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    await bot.send_message_draft(chat_id=1, draft_id=7, text="x")
    (frame,) = telegram.drafts.frames
    monkeypatch.setattr("suite.bot_api.drafts.time.monotonic", lambda: now)
    frame.at = now - 29.9
    assert telegram.drafts.shown(1) is frame
    frame.at = now - 30.1
    assert telegram.drafts.shown(1) is None


async def test_the_next_message_takes_the_draft_away(telegram: FakeTelegram, bot: Bot) -> None:
    message = await bot.send_message(1, "before")
    await bot.send_message_draft(chat_id=1, draft_id=7, text="x")
    await bot.send_message(2, "elsewhere")
    await bot.edit_message_text("an edit is none", chat_id=1, message_id=message.message_id)
    assert telegram.drafts.shown(1)
    await bot.send_message(1, "done")
    assert telegram.drafts.shown(1) is None
    await bot.send_message_draft(chat_id=1, draft_id=7, text="y")
    shown = telegram.drafts.shown(1)
    assert shown
    assert not shown.is_animated


async def test_topics_have_drafts_of_their_own(telegram: FakeTelegram, bot: Bot) -> None:
    for thread_id in (None, 5):
        await bot.send_message_draft(chat_id=1, draft_id=7, text=f"{thread_id}", message_thread_id=thread_id)
    await bot.send_message(1, "done")
    assert telegram.drafts.shown(1) is None
    shown = telegram.drafts.shown(1, 5)
    assert shown
    assert shown.text == "5"
    await bot.send_message(1, "done", message_thread_id=5)
    assert telegram.drafts.shown(1, 5) is None


@pytest.mark.parametrize("keep", [False, True])
async def test_stop(telegram: FakeTelegram, bot: Bot, keep: bool) -> None:
    await bot.send_message_draft(
        chat_id=1, draft_id=7, text="x", can_stop=True, keep_on_stop=keep, message_thread_id=5
    )
    update_id = telegram.drafts.stop(1, 5)
    (update,) = await bot.get_updates()
    assert (update.update_id, update.event_type) == (update_id, "stopped_message_generation")
    stopped = update.stopped_message_generation
    assert stopped
    assert (stopped.chat.id, stopped.draft_id, stopped.message_thread_id) == (1, 7, 5)
    assert (telegram.drafts.shown(1, 5) is not None) is keep
    with pytest.raises(ValueError, match="nothing to stop"):
        telegram.drafts.stop(1, 5)
    await bot.send_message_draft(chat_id=1, draft_id=7, text="late", message_thread_id=5, can_stop=True)
    shown = telegram.drafts.shown(1, 5)
    assert (shown.text if shown else None) == ("x" if keep else None)
    await bot.send_message_draft(chat_id=1, draft_id=8, text="new", message_thread_id=5)
    shown = telegram.drafts.shown(1, 5)
    assert shown
    assert shown.text == "new"


async def test_only_where_the_bot_allows_it(telegram: FakeTelegram, bot: Bot) -> None:
    with pytest.raises(ValueError, match="nothing to stop"):
        telegram.drafts.stop(1)
    await bot.send_message_draft(chat_id=1, draft_id=7, text="x")
    with pytest.raises(ValueError, match="nothing to stop"):
        telegram.drafts.stop(1)
    assert telegram.updates == {}


async def test_stop_is_an_update_that_can_be_filtered(telegram: FakeTelegram, call: Call) -> None:
    await call("getUpdates", allowed_updates=["message"])
    await call("sendMessageDraft", chat_id=1, draft_id=7, text="x", can_stop=True)
    assert telegram.drafts.stop(1) == 0


async def test_rich_drafts(telegram: FakeTelegram, bot: Bot, call: Call) -> None:
    rich = InputRichMessage(html="<tg-thinking>Hm</tg-thinking><p>So <b>far</b></p>")
    assert await bot.send_rich_message_draft(chat_id=1, draft_id=7, rich_message=rich, can_stop=True) is True
    shown = telegram.drafts.shown(1)
    assert shown
    assert (shown.text, shown.can_stop) == ("Hm\nSo \nfar", True)
    assert shown.content["rich_message"]["blocks"][0]["type"] == "thinking"
    await bot.send_message_draft(chat_id=1, draft_id=7, text="plain")
    shown = telegram.drafts.shown(1)
    assert shown
    assert shown.is_animated
    sent: dict[str, Any] = {
        "chat_id": 1,
        "draft_id": 7,
        "rich_message": {"html": "<img src='https://x.y/a'/>"},
    }
    refused(await call("sendRichMessageDraft", **sent), 400, "can't upload files in a message draft")
    sent["rich_message"] = {"html": f"<img src='{telegram.files.add(b'x', 'photo')['file_id']}'/>"}
    assert (await call("sendRichMessageDraft", **sent))[0] == 200
    sent["chat_id"] = -7
    refused(await call("sendRichMessageDraft", **sent), 400, "only to private chats")
