"""Flood protection: off unless asked for; tells once; counts right whatever happens."""

import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from bot.runtime.state.store import Changes, OperatorStore
from bot.runtime.state.transfer import export_lines, import_lines
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Mode, Runtime

pytestmark = pytest.mark.clause("flood")

TOLD = "That is more than I can take: 3 messages in 60 seconds."


def counted(telegram: FakeTelegram, chat_id: int) -> list[str]:
    return [text for text in telegram.texts(chat_id) if text.startswith("Processed")]


async def test_off_by_default(make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode) -> None:
    async with make_runtime(mode) as bot:
        for _ in range(20):
            telegram.message("hi", user_id=1)
        await telegram.settled()
        assert len(counted(telegram, 1)) == 20
        assert (await bot.record(1)).marks.keys() == {str(max(telegram.updates))}


async def test_beyond_the_limit_the_user_is_told_once(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    async with make_runtime(mode, flood_limit=3) as bot:
        now = int(time.time())
        for n in range(1, 11):
            telegram.message(f"m{n}", user_id=1, date=now)
        telegram.message("hi", user_id=2, date=now)
        await telegram.settled()
        said = telegram.texts(1)
        assert said[:3] == [f"Processed: m{n} (#{n})" for n in (1, 2, 3)]
        assert said[3].startswith(TOLD)
        assert "for 60 seconds" in said[3]
        assert len(said) == 4
        assert telegram.texts(2) == ["Processed: hi (#1)"]
        record = await bot.record(1)
        assert record.state == {"last_message": "m3", "message_count": 3}
        assert len(record.applied) == 10, "each is dealt with for good"
        telegram.message("later", user_id=1, date=now + 60)
        await telegram.settled()
        assert telegram.texts(1)[-1] == "Processed: later (#4)"


async def test_what_waited_at_telegram_is_no_flood(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    begin = int(time.time()) - 3600
    for n in range(10):
        telegram.message("hi", user_id=1, date=begin + 60 * n)
    async with make_runtime(mode, flood_limit=3):
        await telegram.settled()
    assert len(counted(telegram, 1)) == 10


async def test_commands_work_in_the_middle_of_a_flood_and_are_no_way_around(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    async with make_runtime(mode, flood_limit=3) as bot:
        now = int(time.time())
        for _ in range(5):
            telegram.message("hi", user_id=1, date=now)
        for command in ("/help", "/reset", "/help@test_bot", "/export", "/forget"):
            telegram.message(command, user_id=1, date=now)
        telegram.message("hi", user_id=1, date=now)
        telegram.message("/unknown, so it is for the agent", user_id=1, date=now)
        await telegram.settled()
        said = telegram.texts(1)
        assert len(counted(telegram, 1)) == 3
        assert sum(text.startswith(TOLD) for text in said) == 1
        assert "Done. We start afresh." in said
        assert said[-1] == "Shall I erase everything I keep about you? This cannot be undone."
        telegram.press(telegram.sent[-1], 0, 0, user_id=1)
        await telegram.settled()
        assert (await bot.record(1)).is_empty, "a count is nothing about the user"
        telegram.message("hi", user_id=1, date=now + 59)
        await telegram.settled()
        assert len(counted(telegram, 1)) == 3, "/forget is no way around either"
        telegram.message("hi", user_id=1, date=now + 60)
        await telegram.settled()
        assert telegram.texts(1)[-1] == "Processed: hi (#1)"


async def test_a_message_that_comes_again_ends_as_it_did(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    bot = await make_runtime(mode, flood_limit=3).start()
    now = int(time.time())
    ids = [telegram.message(f"m{n}", user_id=1, date=now) for n in range(6)]
    await telegram.settled()
    said = telegram.texts(1)
    await bot.cut_off()
    telegram.message("much later", user_id=1, date=now + 600)
    for update_id in ids:
        telegram.repeat(update_id)
    async with bot:
        await telegram.settled()
        assert [text for text in telegram.texts(1) if text not in said] == ["Processed: much later (#4)"]
        assert (await bot.record(1)).state["message_count"] == 4


async def test_two_processes_count_together(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    now = int(time.time())
    async with FakeTelegram(token=telegram.token) as elsewhere:
        elsewhere.next_update_id = telegram.next_update_id + 1_000
        other: Runtime = make_runtime("webhook", flood_limit=3)
        other.telegram = elsewhere
        other.settings.telegram_api_url = elsewhere.url
        async with make_runtime("webhook", flood_limit=3) as bot, other:
            for each in (telegram, elsewhere):
                for _ in range(5):
                    each.message("hi", user_id=1, date=now)
            await telegram.settled()
            await elsewhere.settled()
            assert (await bot.record(1)).state["message_count"] == 3
            said = telegram.texts(1) + elsewhere.texts(1)
            assert sum(text.startswith(TOLD) for text in said) == 1


@pytest.mark.parametrize("field", ["new_chat_title", "group_chat_created"])
async def test_what_telegram_tells_is_not_counted(
    make_runtime: MakeRuntime, telegram: FakeTelegram, field: str
) -> None:
    async with make_runtime("webhook", flood_limit=3):
        for _ in range(5):
            telegram.message(None, user_id=1, chat_id=-100, **{field: "x" if "title" in field else True})
        telegram.message("hi", user_id=1, chat_id=-100)
        await telegram.settled()
        assert telegram.texts(-100) == ["Processed: hi (#1)"]


GROUP = {"id": -100, "type": "supergroup", "title": "Group"}
CHANNEL = {"id": -200, "type": "channel", "title": "Channel"}


@pytest.mark.parametrize("writer", [GROUP, CHANNEL], ids=["an anonymous admin", "a channel"])
async def test_it_binds_who_writes_as_nobody(
    make_runtime: MakeRuntime, telegram: FakeTelegram, writer: dict[str, Any]
) -> None:
    user_id = 1_087_968_824 if writer is GROUP else 136_817_688
    async with make_runtime("webhook", flood_limit=3):
        now = int(time.time())
        for n in range(8):
            telegram.message(f"/ask {n}", user_id=user_id, chat_id=-100, sender_chat=writer, date=now)
        telegram.message("/ask", user_id=user_id, chat_id=-100, sender_chat=CHANNEL | {"id": -300}, date=now)
        await telegram.settled()
        said = telegram.texts(-100)
        assert len(counted(telegram, -100)) == 3 + 1
        assert sum(text.startswith(TOLD) for text in said) == 1
        telegram.message("/ask", user_id=user_id, chat_id=-100, sender_chat=writer, date=now + 60)
        await telegram.settled()
        assert telegram.texts(-100)[-1].startswith("Processed")


def answering_bot(telegram: FakeTelegram) -> dict[str, Any]:
    """A message that answers one of the bot's."""
    chat = {"id": -100, "type": "supergroup"}
    return {
        "reply_to_message": {"message_id": 1, "date": 1, "chat": chat, "from": telegram.me(), "text": "?"}
    }


ADDRESSED: list[tuple[str, Callable[[FakeTelegram], dict[str, Any]]]] = [
    ("so, @TEST_bot, is it?", lambda _: {}),
    ("/ask", lambda _: {}),
    ("/ask@test_bot now", lambda _: {}),
    ("is it?", answering_bot),
    (
        "Bot, is it?",
        lambda telegram: {
            "entities": [{"type": "text_mention", "offset": 0, "length": 3, "user": telegram.me()}]
        },
    ),
]


@pytest.mark.parametrize(("text", "fields"), ADDRESSED, ids=[text for text, _ in ADDRESSED])
async def test_in_groups_only_who_addresses_the_bot_is_told(
    make_runtime: MakeRuntime, telegram: FakeTelegram, text: str, fields: Callable[..., dict[str, Any]]
) -> None:
    """And what one says to others takes nothing away from what is for the bot."""
    async with make_runtime("webhook", flood_limit=3):
        now = int(time.time())
        others = [
            "just talking",
            "@test_bot_2, you there?",
            "you there, @another_bot?",
            "and@test",
            "me@test_botany.org",
        ]
        for said in others:
            telegram.message(said, user_id=1, chat_id=-100, date=now)
        await telegram.settled()
        assert len(telegram.texts(-100)) == len(counted(telegram, -100)) == 3
        for _ in range(5):
            telegram.message(text, user_id=1, chat_id=-100, date=now, **fields(telegram))
        await telegram.settled()
        assert len(counted(telegram, -100)) == 6
        assert [said.startswith(TOLD) for said in telegram.texts(-100)[6:]] == [True]


async def test_messages_that_fail_are_counted(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    """They cost as much."""
    async with make_runtime("webhook", flood_limit=3) as bot:
        now = int(time.time())
        for text in ("raise", "spoil", "hoard 1000000", "hi", "hi"):
            telegram.message(text, user_id=1, date=now)
        await telegram.settled()
        assert counted(telegram, 1) == []
        assert (await bot.record(1)).marks["flood"] == [now + 60, 5]


async def test_an_export_made_with_it_can_be_imported(
    make_runtime: MakeRuntime, telegram: FakeTelegram, store: OperatorStore
) -> None:
    """With what was counted; and it is gone when its period is over, also when the limit is."""
    now = int(time.time())
    async with make_runtime("webhook", flood_limit=3):
        for _ in range(4):
            telegram.message("hi", user_id=1, date=now)
        await telegram.settled()
        lines = [line async for line in export_lines(store)]
        assert b"flood" not in orjson.dumps((await store.load("1")).personal_data())
        await store.commit("1", Changes(marks={"flood": None}), expect=None)
        assert [done async for done in import_lines(store, lines)] == [(1, 0)]
        telegram.message("hi", user_id=1, date=now)
        await telegram.settled()
        assert len(counted(telegram, 1)) == 3
    await store.connect()  # which the bot has closed
    await store.commit("1", Changes(marks={"flood": b"[%d,4]" % (now - 1)}), expect=None)
    async with make_runtime("webhook") as bot:
        telegram.message("hi", user_id=1)
        await telegram.settled()
        assert "flood" not in (await bot.record(1)).marks


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("/start a payload", {}),
        ("/forget", {"forward_origin": {"type": "hidden_user", "date": 1, "sender_user_name": "B"}}),
        ("/help@test_bot@test_bot", {}),
    ],
    ids=["start with a payload", "a command handed on", "none at all"],
)
async def test_only_commands_that_the_agent_never_sees_are_exempt(
    make_runtime: MakeRuntime, telegram: FakeTelegram, text: str, fields: dict[str, Any]
) -> None:
    async with make_runtime("webhook", flood_limit=3) as bot:
        for _ in range(5):
            telegram.message(text, user_id=1, date=int(time.time()), **fields)
        await telegram.settled()
        assert (await bot.record(1)).state["message_count"] == 3
