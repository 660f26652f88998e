"""What the agent sees of a message: its place, its files, and what it did not ask for."""

from pathlib import Path
from typing import Any

import pytest
from aiogram import F, Router
from aiogram.methods import TelegramMethod
from aiogram.types import Message

from bot.agent_adapter import AttachmentError, AttachmentTooLarge, TelegramAgentAdapter, Texts
from bot.runtime.app import Owner
from bot.runtime.errors import OperatorError
from bot.runtime.telegram.updates import FILES
from suite.agents import CountingAgent
from suite.bot_api import FakeTelegram
from suite.bot_api.call import Call, Json
from suite.support.command_line import run
from suite.support.runtime import MakeRuntime, Mode

pytestmark = pytest.mark.clause("incoming")

CONTENT = bytes(range(256)) * 1_000
GROUP = -1_005


class Reader(TelegramAgentAdapter):
    """Tells what came in, and reads the files."""

    accepts = frozenset({"text", *FILES, "paid_media", "location", "edited", "business", "guest"})

    def __init__(self, bot_token: str) -> None:
        super().__init__(bot_token)
        self.read: list[bytes] = []
        self.errors: list[Exception] = []

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        turn = self.turn
        assert turn.message
        assert turn.chat == turn.message.chat
        assert turn.update
        assert turn.user == turn.message.from_user
        for file in turn.attachments:
            try:
                self.read.append(await file.read())
            except AttachmentError as error:
                self.errors.append(error)
        files = [
            f"{each.kind} {each.media_type} {each.size} {each.name}".strip() for each in turn.attachments
        ]
        return f"{message!r} {files}"


@pytest.fixture
def bot_that_reads(make_runtime: MakeRuntime) -> Any:
    return lambda mode="webhook", **settings: make_runtime(mode, agent_class=Reader, **settings)


@pytest.mark.parametrize("caption", [None, "look"])
@pytest.mark.parametrize("kind", sorted(FILES))
async def test_every_kind_of_file(
    bot_that_reads: Any, telegram: FakeTelegram, kind: str, caption: str
) -> None:
    async with bot_that_reads() as bot:
        telegram.attachment(kind, CONTENT, user_id=1, caption=caption)
        await telegram.settled()
        assert bot.agent.read == [CONTENT]
        assert telegram.texts(1) == [f"{caption or ''!r} ['{kind} {FILES[kind]} {len(CONTENT)}']"]
        said = (await bot.record(1)).history[0].text
        assert said == (f"[{kind}] look" if caption else f"[{kind}]")


async def test_both_modes(bot_that_reads: Any, telegram: FakeTelegram, mode: Mode) -> None:
    async with bot_that_reads(mode) as bot:
        telegram.attachment(
            "document", CONTENT, user_id=1, of_file={"file_name": "a]\nb.pdf", "mime_type": "application/pdf"}
        )
        telegram.message("hi", user_id=1)
        await telegram.settled()
        assert bot.agent.read == [CONTENT]
        assert telegram.texts(1)[1] == "'hi' []"
        assert (await bot.record(1)).history[0].text == "[document: a b.pdf]"


async def test_of_a_photo_the_largest_size(bot_that_reads: Any, telegram: FakeTelegram) -> None:
    sizes = [
        telegram.files.add(str(width).encode(), "photo", width=width, height=width)
        for width in (90, 1280, 320)
    ]
    async with bot_that_reads() as bot:
        telegram.message(None, user_id=1, photo=sizes)
        await telegram.settled()
        assert bot.agent.read == [b"1280"]


async def test_files_that_are_something_else_besides(bot_that_reads: Any, telegram: FakeTelegram) -> None:
    """Telegram fills a second field, for bots that are older than the kind."""
    animation, video = telegram.files.add(b"gif", "animation"), telegram.files.add(b"video", "live_photo")
    photo = telegram.files.add(b"photo", "photo")
    bought = [{"type": "photo", "photo": [photo]}, {"type": "preview"}]
    async with bot_that_reads() as bot:
        telegram.message(None, user_id=1, animation=animation, document=animation)
        await telegram.settled()
        telegram.message(None, user_id=1, live_photo=video, photo=[photo])
        await telegram.settled()
        telegram.message(None, user_id=1, paid_media={"star_count": 1, "paid_media": bought})
        await telegram.settled()
        assert bot.agent.read == [b"gif", b"video", b"photo", b"photo"]
        said = [message.text for message in (await bot.record(1)).history[::2]]
        assert said == ["[animation]", "[live_photo, photo]", "[photo]"]


@pytest.mark.parametrize(
    ("of_file", "media_type"),
    [
        ({"is_animated": True}, "application/x-tgsticker"),
        ({"is_video": True}, "video/webm"),
        ({}, "image/webp"),
    ],
)
async def test_stickers(
    bot_that_reads: Any, telegram: FakeTelegram, of_file: dict[str, bool], media_type: str
) -> None:
    async with bot_that_reads():
        telegram.attachment("sticker", b"x", user_id=1, of_file=of_file)
        await telegram.settled()
    assert telegram.texts(1) == [f"'' ['sticker {media_type} 1']"]


async def test_what_is_no_file(bot_that_reads: Any, telegram: FakeTelegram) -> None:
    async with bot_that_reads() as bot:
        telegram.message(None, user_id=1, location={"latitude": 1.0, "longitude": 2.0})
        await telegram.settled()
        assert (await bot.record(1)).history[0].text == "[location]"
    assert telegram.texts(1) == ["'' []"]


async def test_what_is_not_accepted_is_answered_in_the_owners_words(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    """A caption is no message of its own: the agent would answer as if there were no picture."""
    async with make_runtime("webhook") as bot:
        telegram.attachment("photo", user_id=1, caption="look")
        telegram.attachment("voice", user_id=1)
        await telegram.settled()
        assert (await bot.record(1)).is_empty
    assert telegram.texts(1) == [Texts().only_text] * 2


async def test_what_is_not_accepted_is_there_for_the_owners_routers(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    after = Router()

    @after.message(F.photo)
    async def photo(message: Message) -> TelegramMethod[Any]:
        return message.answer(f"a photo: {message.caption}")

    bot = make_runtime("webhook")
    bot.owner = Owner(agent=CountingAgent, after=[after])
    async with bot:
        telegram.attachment("photo", user_id=1, caption="look")
        await telegram.settled()
    assert telegram.texts(1) == ["a photo: look"]


async def test_a_handler_reads_files_too(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    after = Router()

    @after.message(F.voice)
    async def voice(message: Message, agent: TelegramAgentAdapter) -> TelegramMethod[Any]:
        (file,) = agent.turn.attachments
        return message.answer((await file.read()).decode())

    bot = make_runtime("webhook")
    bot.owner = Owner(agent=CountingAgent, after=[after])
    async with bot:
        telegram.attachment("voice", b"spoken", user_id=1)
        await telegram.settled()
    assert telegram.texts(1) == ["spoken"]


async def test_an_edit_reaches_an_agent_that_asks_for_it(bot_that_reads: Any, telegram: FakeTelegram) -> None:
    async with bot_that_reads() as bot:
        update_id = telegram.message("first", user_id=1)
        await telegram.settled()
        telegram.edit(update_id, "second")
        await telegram.settled()
        said = [message.text for message in (await bot.record(1)).history]
    assert telegram.texts(1) == ["'first' []", "'second' []"]
    assert said == ["first", "'first' []", "[edited] second", "'second' []"]


async def test_edits_are_counted_by_flood_protection(bot_that_reads: Any, telegram: FakeTelegram) -> None:
    async with bot_that_reads(flood_limit=2):
        update_id = telegram.message("first", user_id=1)
        for number in range(5):
            telegram.edit(update_id, f"edit {number}")
        await telegram.settled()
    assert [text[:6] for text in telegram.texts(1)] == ["'first", "'edit ", "That i"]


class TestBounds:
    """A file is read within ATTACHMENT_BYTES and ATTACHMENT_TIMEOUT, or there is an error that says why."""

    async def test_it_says_that_it_is_too_large(self, bot_that_reads: Any, telegram: FakeTelegram) -> None:
        async with bot_that_reads(attachment_bytes=len(CONTENT) - 1) as bot:
            telegram.attachment("photo", CONTENT, user_id=1)
            await telegram.settled()
            (error,) = bot.agent.errors
        assert isinstance(error, AttachmentTooLarge)
        assert "ATTACHMENT_BYTES=255999" in str(error)
        assert not [call for call in telegram.calls if call.method == "getFile"], "nobody had to ask"

    async def test_of_several_files_each_is_bounded(
        self, bot_that_reads: Any, telegram: FakeTelegram
    ) -> None:
        sizes = (1_000, 1_001, 1_000)
        photos = [telegram.files.add(bytes(size), "photo") for size in sizes]
        bought = [{"type": "photo", "photo": [photo]} for photo in photos]
        async with bot_that_reads(attachment_bytes=1_000) as bot:
            telegram.message(None, user_id=1, paid_media={"star_count": 1, "paid_media": bought})
            await telegram.settled()
            assert list(map(len, bot.agent.read)) == [1_000, 1_000]
            assert [type(error) for error in bot.agent.errors] == [AttachmentTooLarge]

    async def test_it_is_larger_than_it_says(self, bot_that_reads: Any, telegram: FakeTelegram) -> None:
        async with bot_that_reads(attachment_bytes=1_000) as bot:
            telegram.attachment("photo", CONTENT, user_id=1, of_file={"file_size": 10})
            await telegram.settled()
            assert [type(error) for error in bot.agent.errors] == [AttachmentTooLarge]

    async def test_it_is_larger_than_telegram_hands_out(
        self, bot_that_reads: Any, telegram: FakeTelegram
    ) -> None:
        async with bot_that_reads(attachment_bytes=2**30) as bot:
            telegram.attachment("video", user_id=1, of_file={"file_size": 21 * 2**20})
            await telegram.settled()
            assert [type(error) for error in bot.agent.errors] == [AttachmentTooLarge]

    async def test_it_takes_too_long(self, bot_that_reads: Any, telegram: FakeTelegram) -> None:
        telegram.delay("getFile", 5)
        async with bot_that_reads(attachment_timeout=0.2) as bot:
            telegram.attachment("photo", CONTENT, user_id=1)
            await telegram.wait_for(lambda: telegram.texts(1), 3)
            (error,) = bot.agent.errors
        assert "within 0.2 s" in str(error)

    async def test_it_is_gone(self, bot_that_reads: Any, telegram: FakeTelegram) -> None:
        telegram.files.life = -1
        async with bot_that_reads() as bot:
            telegram.attachment("photo", CONTENT, user_id=1)
            await telegram.settled()
            assert [str(error) for error in bot.agent.errors] == ["Telegram no longer has the file"]

    @pytest.mark.parametrize("method", ["getFile", "downloadFile"])
    async def test_what_fails_on_the_way_is_tried_again(
        self, bot_that_reads: Any, telegram: FakeTelegram, method: str
    ) -> None:
        telegram.bad_gateway(method)
        telegram.drop_answer(method)
        async with bot_that_reads() as bot:
            telegram.attachment("photo", CONTENT, user_id=1)
            await telegram.settled()
            assert bot.agent.read == [CONTENT]

    async def test_an_agent_that_does_not_catch_it_apologises(
        self, make_runtime: MakeRuntime, telegram: FakeTelegram
    ) -> None:
        class Careless(TelegramAgentAdapter):
            accepts = ("photo",)

            async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
                return str(await self.turn.attachments[0].read())

        async with make_runtime("webhook", agent_class=Careless, attachment_bytes=1):
            telegram.attachment("photo", CONTENT, user_id=1)
            await telegram.settled()
        assert telegram.texts(1) == [Texts().sorry_file_too_large]


async def test_a_server_of_ones_own_in_local_mode(
    bot_that_reads: Any, telegram: FakeTelegram, tmp_path: Path
) -> None:
    """It puts files into a folder, of any size, and tells their paths."""
    telegram.files.local_folder = tmp_path
    async with bot_that_reads(attachment_bytes=2**30) as bot:
        telegram.attachment("video", CONTENT, user_id=1, of_file={"file_size": 30 * 2**20})
        await telegram.settled()
        assert bot.agent.read == [CONTENT]


async def test_a_local_file_that_the_bot_cannot_see(
    bot_that_reads: Any, telegram: FakeTelegram, tmp_path: Path
) -> None:
    @telegram.method("getFile", "file_id")
    async def elsewhere(call: Call) -> Json:
        return {"file_id": "x", "file_unique_id": "x", "file_path": str(tmp_path / "elsewhere")}

    async with bot_that_reads() as bot:
        telegram.attachment("video", CONTENT, user_id=1)
        await telegram.settled()
        (error,) = bot.agent.errors
    assert "let the bot see the server's folder" in str(error)
    assert str(tmp_path) not in str(error)


@pytest.mark.parametrize("accepts", [{"foto"}, "photo"])
async def test_a_kind_that_there_is_not(make_runtime: MakeRuntime, accepts: Any) -> None:
    bot = make_runtime("webhook", agent_class=type("Agent", (CountingAgent,), {"accepts": accepts}))
    with pytest.raises(OperatorError, match=r"Agent.accepts names (foto|photo): .*.*video_note") as caught:
        await bot.start()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a b.txt", "document 'a b.txt'"),
        ("a.png", "photo ''"),
        ("a.gif", "animation 'a.gif'"),
        ("a.ogg", "voice ''"),
        ("a.mp3", "audio 'a.mp3'"),
        ("a.mp4", "video 'a.mp4'"),
    ],
)
def test_bot_chat_sends_files(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_text("xx")
    line = f"/file '{name}'" if " " in name else f"/file {name}"
    said = f"{line}\n{line} look at this\n/file nowhere.png\n/file\n"
    done = run(tmp_path, "chat", stdin=said, module="suite.filing_bot")
    assert done.stdout.splitlines() == [
        f"{kind} of 2 bytes, ''",
        f"{kind} of 2 bytes, 'look at this'",
        "(not sent: nowhere.png cannot be read, No such file or directory)",
        "what?",
    ], done.stderr
