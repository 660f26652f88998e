"""Files of replies: where their bytes come from, how large they may be, and what they are called."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiogram import Bot
from aiogram.client.telegram import TelegramAPIServer
from aiogram.methods import SendDocument
from aiogram.types import BufferedInputFile, FSInputFile, InputFile, URLInputFile
from aiohttp import web

from bot.runtime.errors import ReplyTooLarge
from bot.runtime.state.record import Limits
from bot.runtime.telegram import calls, outbox
from bot.runtime.telegram.calls import FileGone, Reply, Session, prepare, with_files
from bot.runtime.telegram.outbox import completed, send
from bot.runtime.telegram.texts import Texts
from suite.agents import CountingAgent
from suite.bot_api import FakeTelegram
from suite.contract.harness import Harness
from suite.support.runtime import MakeRuntime, Mode

pytestmark = pytest.mark.clause("outbox.files")


@pytest.fixture
async def bot(telegram: FakeTelegram) -> AsyncIterator[Bot]:
    session = Session(api=TelegramAPIServer.from_base(telegram.url))
    async with Bot(telegram.token, session=session) as bot:
        yield bot


@pytest.fixture
async def site() -> AsyncIterator[str]:
    """A site with a file, one that never comes, one that never ends, and one that is not there."""

    over = asyncio.Event()

    async def never(request: web.Request) -> web.StreamResponse:
        await over.wait()
        return web.Response()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while not over.is_set():
            await response.write(b"x" * 65_536)
        return response

    async def file(request: web.Request) -> web.Response:
        return web.Response(text=f"for {request.headers.get('Authorization')}")

    app = web.Application()
    app.add_routes([web.get("/file", file), web.get("/never", never), web.get("/endless", endless)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    over.set()
    await runner.cleanup()


async def prepared(bot: Bot, file: InputFile, **limits: Any) -> Reply:
    reply = await prepare(bot, SendDocument(chat_id=1, document=file), **limits)
    return Reply.from_json(reply.to_json())


CONTROLS = "".join(map(chr, [*range(32), 127]))


@pytest.mark.parametrize(
    "name", [f"a{CONTROLS}b.txt", "\ud800.txt", "\r\nX-Evil: 1", 'quote".txt', "é\\👩.txt", ""]
)
async def test_whatever_a_file_is_called_it_is_sent(telegram: FakeTelegram, bot: Bot, name: str) -> None:
    reply = await prepare(bot, SendDocument(chat_id=1, document=BufferedInputFile(b"x", name)))
    await send(bot, reply)
    (sent,) = telegram.sent
    assert list(sent.files.values()) == [b"x"]
    assert not any(each.isspace() and each != " " for each in next(iter(sent.files)))


async def test_a_path_is_kept_as_it_is_and_read_when_it_is_sent(
    telegram: FakeTelegram, bot: Bot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_bytes(b"before")
    monkeypatch.chdir(tmp_path)
    reply = await prepared(bot, FSInputFile("a.txt"))
    monkeypatch.chdir("/")
    assert reply.kept_files() == {}
    assert reply.sources["".join(reply.sources)] == {"name": "a.txt", "path": str(tmp_path / "a.txt")}
    (tmp_path / "a.txt").write_bytes(b"after")
    await send(bot, await with_files(bot, reply))
    assert telegram.sent[0].files == {"a.txt": b"after"}


async def test_a_path_to_nothing_fails_the_turn_and_not_the_delivery(bot: Bot, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await prepared(bot, FSInputFile(tmp_path / "nothing"))


async def test_an_address_is_kept_with_its_headers_and_read_when_it_is_sent(
    telegram: FakeTelegram, bot: Bot, site: str
) -> None:
    file = URLInputFile(f"{site}/file", headers={"Authorization": "me"}, filename="b.txt")
    reply = await prepared(bot, file)
    assert reply.kept_files() == {}
    await send(bot, await with_files(bot, reply))
    assert telegram.sent[0].files == {"b.txt": b"for me"}


@pytest.mark.parametrize("page", ["never", "endless", "missing"])
async def test_an_address_that_does_not_give_a_file_holds_nothing_up(
    bot: Bot, site: str, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "READ_SECONDS", 0.3 if page == "never" else 60.0)
    monkeypatch.setattr(calls, "UPLOAD_BYTES", 1_000_000)
    monkeypatch.setattr(outbox, "FILE_ATTEMPTS", 2)
    monkeypatch.setattr(outbox, "FIRST_DELAY", 0.01)
    reply = await prepared(bot, URLInputFile(f"{site}/{page}", timeout=86_400))
    async with asyncio.timeout(30):
        with pytest.raises(FileGone):
            await with_files(bot, reply)
        assert await completed(bot, reply) is None


class Stuck(InputFile):
    """A file of the owner's own making, which never comes."""

    async def read(self, bot: Bot) -> AsyncGenerator[bytes, None]:
        yield b"x"
        await asyncio.Event().wait()


async def test_a_file_that_never_comes_is_not_waited_for(bot: Bot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "READ_SECONDS", 0.1)
    async with asyncio.timeout(30):
        with pytest.raises(TimeoutError):
            await prepared(bot, Stuck("a"))


class Endless(InputFile):
    """One that never ends."""

    async def read(self, bot: Bot) -> AsyncGenerator[bytes, None]:
        while True:
            yield b"x" * 1_000


async def test_only_files_that_would_be_kept_are_limited(bot: Bot, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 2_000)
    await prepared(bot, BufferedInputFile(b"x" * 1_000, "a"), file_bytes=1_000)
    await prepared(bot, FSInputFile(tmp_path / "a"), file_bytes=1_000)
    for file in (BufferedInputFile(b"x" * 1_001, "a"), Endless("a")):
        with pytest.raises(ReplyTooLarge):
            await prepared(bot, file, file_bytes=1_000)
    os.truncate(tmp_path / "a", Limits().file_bytes + 1)  # beyond what Telegram takes
    with pytest.raises(ReplyTooLarge):
        await prepared(bot, FSInputFile(tmp_path / "a"), file_bytes=1_000)


class Sending(CountingAgent):
    """Sends a file of so many bytes, or says as much: `file BYTES`, `say BYTES`."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        reply = await super().agent_logic(message, state)
        what, size = message.split()
        if what == "say":
            return "x" * int(size)
        self.turn.reply(SendDocument(chat_id=1, document=BufferedInputFile(bytes(int(size)), "a.bin")))
        return reply


async def test_a_reply_that_is_too_large_is_refused_with_words_of_its_own(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, harness: Harness
) -> None:
    async with make_runtime(mode, agent_class=Sending) as bot:
        bot.store = await harness.open(Limits(max_bytes=20_000, file_bytes=100_000))
    async with bot:
        for text in ("file 100000", "file 100001", "say 30000", "file 7"):
            telegram.message(text, user_id=1)
        await telegram.settled()
        record = await bot.record(1)
    sorry = Texts().sorry_reply_too_large
    assert telegram.texts(1) == ["Processed: file 100000 (#1)", sorry, sorry, "Processed: file 7 (#2)"]
    assert [len(each.files["a.bin"]) for each in telegram.sent if each.method == "sendDocument"] == [
        100_000,
        7,
    ]
    assert record.state["message_count"] == 2
    assert "reset" not in sorry


async def test_a_file_is_gone_from_the_store_when_it_was_delivered(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    async with make_runtime(mode, agent_class=Sending) as bot:
        telegram.message("file 1000", user_id=1)
        await telegram.settled()
        record = await bot.record(1)
        (file,) = next(iter(record.outbox.values())).kept_files()
        assert await bot.store.read_file("1", file) is None
