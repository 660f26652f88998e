"""Albums, and texts that the client has cut, are one turn."""

import asyncio
from typing import Any

import pytest
from aiogram import F, Router
from aiogram.types import Message

from bot.runtime.app import Owner
from bot.runtime.telegram import transaction
from suite.agents import CountingAgent
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Mode, Runtime

pytestmark = pytest.mark.clause("parts.one-turn")


class Looking(CountingAgent):
    """Says what it sees."""

    accepts = frozenset({"text", "photo", "video"})

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        state["message_count"] = state.get("message_count", 0) + 1
        files = " ".join(each.file_id for each in self.turn.attachments)
        said = message if len(message) < 50 else f"{len(message)} {message[-6:]}"
        if message == "raise":
            raise ValueError(message)
        return f"#{state['message_count']} {said} {files}".strip()


def looking(make_runtime: MakeRuntime, mode: Mode = "webhook", **settings: Any) -> Runtime:
    bot = make_runtime(mode, **{"jobs_seconds": 0.2, **settings})
    bot.owner = Owner(agent=Looking)
    bot.agent_class = Looking
    return bot


def photo(telegram: FakeTelegram, name: str, album: str | None, **more: Any) -> int:
    size = {"file_id": name, "file_unique_id": name, "width": 1, "height": 1, "file_size": 10}
    if album:
        more["media_group_id"] = album
    return telegram.message(None, user_id=1, photo=[size], **more)


async def said(telegram: FakeTelegram, *texts: str) -> None:
    await telegram.wait_for(lambda: len(telegram.texts(1)) >= len(texts), 20)
    assert telegram.texts(1) == list(texts)


async def test_an_album_is_one_turn(make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode) -> None:
    async with looking(make_runtime, mode) as bot:
        for number, more in enumerate([{}, {"caption": "my cats"}, {}]):
            photo(telegram, f"p{number}", "album", **more)
        await said(telegram, "#1 my cats p0 p1 p2")
        record = await bot.record(1)
        assert [each.text for each in record.history] == [
            "[photo, photo, photo] my cats",
            "#1 my cats p0 p1 p2",
        ]
        assert record.fsm == {}
        await telegram.settled()


async def test_a_lone_photo_is_not_delayed(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with looking(make_runtime):
        photo(telegram, "p1", None)
        await telegram.wait_for(lambda: telegram.texts(1), 0.9)


async def test_ten_are_whole(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with looking(make_runtime):
        for number in range(10):
            photo(telegram, f"p{number}", "album")
        await said(telegram, "#1  " + " ".join(f"p{number}" for number in range(10)))


async def test_a_cut_text_is_one_turn(make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode) -> None:
    async with looking(make_runtime, mode) as bot:
        telegram.message("a" * 4096, user_id=1)
        telegram.message("b" * 4090 + "the six"[1:], user_id=1)
        telegram.message("the end", user_id=1)
        await said(telegram, "#1 8199 he end")
        assert (await bot.record(1)).fsm == {}
        telegram.message("short", user_id=1)
        await said(telegram, "#1 8199 he end", "#2 short")


async def test_a_long_text_of_which_nothing_follows(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with looking(make_runtime):
        telegram.message("a" * 4090 + "abcdef", user_id=1)
        await said(telegram, "#1 4096 abcdef")


async def test_what_comes_next_waits_for_it(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    async with looking(make_runtime, mode):
        photo(telegram, "p1", "one")
        photo(telegram, "p2", "one")
        photo(telegram, "p3", "two")
        telegram.message("hi", user_id=1)
        await said(telegram, "#1  p1 p2", "#2  p3", "#3 hi")


async def test_killed_between_two_parts(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "PART_SECONDS", 5.0)  # a start may take longer than a second
    parts = []
    for number in range(3):
        async with looking(make_runtime, mode) as bot:
            parts.append(photo(telegram, f"p{number}", "album"))
            await telegram.settled()
            if number < 2:
                await bot.cut_off()
                for update_id in parts:
                    telegram.repeat(update_id)
            else:
                await said(telegram, "#1  p0 p1 p2")
                for update_id in parts:
                    telegram.repeat(update_id)
                await telegram.settled()
                await asyncio.sleep(0.5)
                assert telegram.texts(1) == ["#1  p0 p1 p2"]
                assert (await bot.record(1)).state == {"message_count": 1}


async def test_after_a_kill_the_last_part_need_not_come(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    bot = await looking(make_runtime).start()
    photo(telegram, "p1", "album")
    photo(telegram, "p2", "album")
    await telegram.settled()
    await bot.cut_off()
    async with looking(make_runtime):
        await said(telegram, "#1  p1 p2")


async def test_an_agent_that_raises_does_not_see_it_again(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with looking(make_runtime) as bot:
        photo(telegram, "p1", "album", caption="raise")
        await telegram.wait_for(lambda: telegram.texts(1))
        telegram.message("hi", user_id=1)
        await telegram.wait_for(lambda: len(telegram.texts(1)) == 2)
        assert telegram.texts(1)[1] == "#1 hi"
        record = await bot.record(1)
        assert record.fsm == {}
        assert (await bot.store.due(10**9, 9)).due == []


async def test_parts_that_the_agent_does_not_take_are_the_routers(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    router = Router()

    @router.message(F.document)
    async def document(message: Message) -> Any:
        return message.answer("a document")

    bot = looking(make_runtime)
    bot.owner = Owner(agent=Looking, before=[router])
    async with bot:
        for number in range(2):
            file = {"file_id": str(number), "file_unique_id": str(number)}
            telegram.message(None, user_id=1, document=file, media_group_id="album")
        await said(telegram, "a document", "a document")
