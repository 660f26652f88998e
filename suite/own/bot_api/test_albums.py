"""Albums, sent by bots and by people."""

from typing import Any

import pytest
from aiogram import Bot
from aiogram.exceptions import TelegramBadRequest
from aiogram.types import BufferedInputFile, InputMediaDocument, InputMediaPhoto, InputMediaVideo

from suite.bot_api import FakeTelegram
from suite.own.bot_api.client import Call, Json, refused

pytestmark = pytest.mark.clause("kit.telegram")

PHOTO = {"type": "photo", "media": "https://example.org/a.png"}
DOCUMENT = {"type": "document", "media": "https://example.org/a.pdf"}


async def test_a_bot_sends_an_album(telegram: FakeTelegram, bot: Bot) -> None:
    known = telegram.files.add(b"v", "video")["file_id"]
    messages = await bot.send_media_group(
        -7,
        [
            InputMediaPhoto(media=BufferedInputFile(b"1", "1.png"), caption="<b>Two</b>", parse_mode="HTML"),
            InputMediaVideo(media=known),
        ],
    )
    assert [m.content_type for m in messages] == ["photo", "video"]
    assert messages[0].media_group_id
    assert messages[0].media_group_id == messages[1].media_group_id
    assert (messages[0].caption, messages[1].caption) == ("Two", None)
    assert [(s.method, s.chat_id, s.text) for s in telegram.sent] == [
        ("sendMediaGroup", -7, "Two"),
        ("sendMediaGroup", -7, ""),
    ]
    assert telegram.texts(-7) == []
    other = await bot.send_media_group(1, [InputMediaDocument(media=BufferedInputFile(b"x", "x"))] * 2)
    assert other[0].media_group_id != messages[0].media_group_id


@pytest.mark.parametrize(
    ("media", "description"),
    [
        ("x", "can't parse media JSON array"),
        ([], "Bad Request: there are no messages to send"),
        ([PHOTO], "too few messages to send as an album"),
        ([PHOTO] * 11, "Bad Request: too many messages to send as an album"),
        ([PHOTO, 1], "can't parse InputMedia: expected an Object"),
        ([PHOTO, {"media": "x"}], "can't parse InputMedia"),
        ([PHOTO, {"type": "photo"}], "can't parse InputMedia: media not found"),
        ([PHOTO, {"type": "photo", "media": "attach://none"}], "there is no photo in the request"),
        ([PHOTO, {"type": "photo", "media": "unknown"}], "wrong file identifier"),
        ([PHOTO, PHOTO | {"type": "animation"}], 'type "animation" can\'t be used in sendMediaGroup'),
        ([PHOTO, PHOTO | {"type": "sticker"}], 'type "sticker" is unsupported'),
        ([PHOTO, DOCUMENT], "document can't be mixed with other media types"),
        ([PHOTO, DOCUMENT | {"type": "audio"}], "audio can't be mixed with other media types"),
        ([PHOTO, PHOTO | {"performer": "x"}], "InputMedia has no field 'performer'"),
        ([PHOTO, PHOTO | {"caption": "x" * 1025}], "caption is too long"),
        ([PHOTO, PHOTO | {"show_caption_above_media": True}], "must be the same for all messages"),
        ([PHOTO, PHOTO | {"type": "live_photo"}], 'Can\'t find field "photo"'),
    ],
)
async def test_bad_albums(telegram: FakeTelegram, call: Call, media: Any, description: str) -> None:
    refused(await call("sendMediaGroup", chat_id=1, media=media), 400, description)
    assert telegram.sent == []
    assert telegram.messages == {}


async def test_what_may_be_together(call: Call) -> None:
    live = PHOTO | {"type": "live_photo", "media": "https://example.org/a.mp4", "photo": PHOTO["media"]}
    video = PHOTO | {"type": "video"}
    for media in ([PHOTO, video, live], [PHOTO] * 10, [DOCUMENT] * 2, [DOCUMENT | {"type": "audio"}] * 2):
        status, answer = await call("sendMediaGroup", chat_id=1, media=media)
        assert status == 200, answer
        assert len(answer["result"]) == len(media)


async def test_no_buttons_under_an_album(call: Call) -> None:
    markup: Json = {"inline_keyboard": []}
    answer = await call("sendMediaGroup", chat_id=1, media=[PHOTO] * 2, reply_markup=markup)
    refused(answer, 400, "no parameter 'reply_markup'")


async def test_a_blocked_bot_sends_none(telegram: FakeTelegram, call: Call) -> None:
    telegram.block(1)
    refused(await call("sendMediaGroup", chat_id=1, media=[PHOTO] * 2), 403, "blocked")


async def test_people_send_albums(telegram: FakeTelegram, bot: Bot) -> None:
    update_ids = telegram.album(b"1", b"2", b"3", user_id=1, chat_id=-7, caption="Three")
    updates = await bot.get_updates()
    assert [u.update_id for u in updates] == update_ids
    messages = [u.message for u in updates if u.message]
    assert len({m.message_id for m in messages}) == 3
    assert len({m.media_group_id for m in messages}) == 1
    assert [m.caption for m in messages] == ["Three", None, None]
    for message, content in zip(messages, (b"1", b"2", b"3"), strict=True):
        assert message.photo
        downloaded = await bot.download(message.photo[-1])
        assert downloaded
        assert downloaded.read() == content
    telegram.album(b"1", b"2", user_id=1, kind="document")
    other = (await bot.get_updates(offset=-1))[0].message
    assert other
    assert other.document
    assert other.media_group_id != messages[0].media_group_id
    for contents in ((b"1",), (b"1",) * 11):
        with pytest.raises(ValueError, match="2 to 10"):
            telegram.album(*contents, user_id=1)


async def test_a_part_that_cannot_be_sent_keeps_the_others_back(telegram: FakeTelegram, bot: Bot) -> None:
    photos: list[Any] = [InputMediaPhoto(media=BufferedInputFile(b, "a.png")) for b in (b"x", b"")]
    with pytest.raises(TelegramBadRequest, match="non-empty"):
        await bot.send_media_group(1, photos)
    assert telegram.sent == []
