"""Files: `getFile`, downloads, links that end, and the limits of both modes."""

import asyncio
from io import BytesIO
from pathlib import Path

import aiohttp
import pytest
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import TelegramBadRequest
from aiogram.types import BufferedInputFile, Message

from suite.bot_api import FakeTelegram
from suite.own.bot_api.client import Call, refused

pytestmark = pytest.mark.clause("kit.telegram")


async def arrived(bot: Bot) -> Message:
    """The newest message."""
    message = (await bot.get_updates(offset=-1))[0].message
    assert message
    return message


async def status_of(url: str) -> int:
    """What a download is answered with."""
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return response.status


async def test_what_people_send_is_downloaded(telegram: FakeTelegram, bot: Bot) -> None:
    named = {"file_name": "a.pdf", "mime_type": "application/pdf"}
    telegram.attachment("document", b"%PDF", user_id=1, caption="Read this", of_file=named)
    message = await arrived(bot)
    assert message.document
    assert (message.caption, message.document.file_name, message.document.file_size) == (
        "Read this",
        "a.pdf",
        4,
    )
    file = await bot.get_file(message.document.file_id)
    assert file.file_path
    assert not file.file_path.startswith("/")
    assert (file.file_unique_id, file.file_size) == (message.document.file_unique_id, 4)
    assert (await bot.download(message.document) or BytesIO()).read() == b"%PDF"
    assert [c.method for c in telegram.calls[-2:]] == ["getFile", "downloadFile"]


@pytest.mark.parametrize(
    "kind", ["photo", "voice", "video", "audio", "animation", "video_note", "sticker", "document"]
)
async def test_aiogram_understands_every_kind(telegram: FakeTelegram, bot: Bot, kind: str) -> None:
    telegram.attachment(kind, b"content", user_id=1, chat_id=-5)
    message = await arrived(bot)
    assert (message.content_type, message.chat.id) == (kind, -5)
    found = getattr(message, kind)
    file = found[-1] if kind == "photo" else found
    assert (await bot.download(file) or BytesIO()).read() == b"content"


async def test_what_the_bot_sent_is_downloaded_and_sent_again(telegram: FakeTelegram, bot: Bot) -> None:
    sent = await bot.send_photo(1, BufferedInputFile(b"png", "a.png"))
    assert sent.photo
    photo = sent.photo[-1]
    assert (await bot.download(photo) or BytesIO()).read() == b"png"
    again = await bot.send_photo(2, photo.file_id)
    assert again.photo
    assert again.photo[-1] == photo
    with pytest.raises(TelegramBadRequest, match="can't use file of type Photo as Document"):
        await bot.send_document(2, photo.file_id)
    assert len(telegram.sent) == 2
    assert (await bot.send_photo(1, "https://example.org/a.png")).photo


async def test_a_link_ends_and_getfile_gives_a_new_one(telegram: FakeTelegram, bot: Bot) -> None:
    assert telegram.files.life == 3600
    telegram.files.life = 0
    file_id = telegram.files.add(b"x")["file_id"]
    file = await bot.get_file(file_id)
    await asyncio.sleep(0.01)
    url = f"{telegram.url}/file/bot{telegram.token}/{file.file_path}"
    assert await status_of(url) == 404
    telegram.files.life = 3600
    await bot.get_file(file_id)
    assert await status_of(url) == 200
    assert await status_of(f"{telegram.url}/file/bot42:WRONG/{file.file_path}") == 401
    assert await status_of(f"{url}x") == 404


async def test_only_the_path_from_getfile_works(telegram: FakeTelegram, call: Call) -> None:
    file_id = telegram.files.add(b"x")["file_id"]
    assert await status_of(f"{telegram.url}/file/bot{telegram.token}/documents/{file_id}") == 404
    refused(await call("downloadFile", file_path="x"), 404, "Not Found")


async def test_bad_file_ids(call: Call) -> None:
    refused(await call("getFile"), 400, "Bad Request: file_id not specified")
    wrong = "Bad Request: wrong file_id or the file is temporarily unavailable"
    refused(await call("getFile", file_id="nothing"), 400, wrong)


async def test_more_than_20_mb_is_out_of_reach(telegram: FakeTelegram, bot: Bot) -> None:
    just_so = {"file_size": 20 * 2**20}
    telegram.attachment("video", user_id=1, of_file=just_so)
    small = await arrived(bot)
    assert small.video
    assert (await bot.get_file(small.video.file_id)).file_size == 20 * 2**20
    telegram.attachment("video", user_id=1, of_file={"file_size": 20 * 2**20 + 1})
    large = await arrived(bot)
    assert large.video
    with pytest.raises(TelegramBadRequest, match="Bad Request: file is too big"):
        await bot.get_file(large.video.file_id)


async def test_local_mode_has_no_limit_and_paths_of_this_machine(
    telegram: FakeTelegram, bot: Bot, tmp_path: Path
) -> None:
    telegram.files.local_folder = tmp_path
    file_id = telegram.files.add(b"large", file_size=2 * 2**30)["file_id"]
    server = TelegramAPIServer.from_base(telegram.url, is_local=True)
    session = AiohttpSession(api=server)
    local = Bot(telegram.token, session=session)
    try:
        file = await local.get_file(file_id)
        assert file.file_path
        assert Path(file.file_path).is_relative_to(tmp_path)
        assert (await local.download(file_id) or BytesIO()).read() == b"large"
    finally:
        assert session._session
        await session._session.close()
    assert await status_of(f"{telegram.url}/file/bot{telegram.token}{file.file_path}") == 404


async def test_downloads_fail_on_demand(telegram: FakeTelegram, bot: Bot) -> None:
    file_id = telegram.files.add(b"content")["file_id"]
    telegram.fail("downloadFile", status=502)
    with pytest.raises(aiohttp.ClientResponseError):
        await bot.download(file_id)
    telegram.drop_answer("downloadFile")
    with pytest.raises(aiohttp.ClientPayloadError):
        await bot.download(file_id)
    assert [c.status for c in telegram.calls if c.method == "downloadFile"] == [502, 200]
    assert (await bot.download(file_id) or BytesIO()).read() == b"content"
