"""One person who writes in more chats than there are ids kept of acknowledged updates."""

import asyncio

import pytest

from bot.runtime.state.store import APPLIED_LIMIT, Changes, OperatorStore
from bot.runtime.telegram import outbox
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Mode

pytestmark = pytest.mark.clause("update.once")

CHATS = APPLIED_LIMIT + 144


async def not_delivered(*_: object) -> None:
    await asyncio.Event().wait()


async def not_released(*_: object) -> bool:
    return False


async def test_what_is_applied_and_could_not_be_answered_is_not_applied_again(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    """Telegram takes no reply until all of the updates are applied; then the bot is killed."""
    with pytest.MonkeyPatch.context() as outage:
        outage.setattr(outbox, "deliver", not_delivered)
        outage.setattr(outbox, "LANE_SECONDS", 0.001)
        outage.setattr(outbox.Outbox, "released", not_released)
        bot = await make_runtime("webhook").start()
        for number in range(CHATS):
            telegram.message("hi", user_id=1, chat_id=-1_000 - number)
        await telegram.wait_for(lambda: len(telegram.attempts) == CHATS, 180)
        while (record := await bot.record(1)).state.get("message_count", 0) < CHATS:  # noqa: ASYNC110 - in the store
            await asyncio.sleep(0.05)
        assert sorted(record.applied) == sorted(telegram.updates)
        await bot.cut_off()
    async with make_runtime("webhook") as bot:
        await telegram.settled(180)
        assert (await bot.record(1)).state["message_count"] == CHATS
    assert all(len(telegram.texts(-1_000 - number)) == 1 for number in range(CHATS))


async def test_what_is_acknowledged_gives_way_to_the_newest(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    """In one chat, the next update tells that the one before is acknowledged."""
    async with make_runtime(mode) as bot:
        private = [telegram.message("hi", user_id=1) for _ in range(APPLIED_LIMIT + 5)]
        await telegram.settled(180)
        record = await bot.record(1)
        assert record.acknowledged == (*private[4:-1],)
        assert [*record.marks] == [str(private[-1])]
        groups = []
        for chat_id in (-1, -2, -1):
            groups.append(telegram.message("hi", user_id=1, chat_id=chat_id))
            await telegram.settled()
        record = await bot.record(1)
        assert record.acknowledged == (*private[5:-1], groups[0])
        assert sorted(map(int, record.marks)) == [private[-1], *groups[1:]]


async def test_ids_are_kept_for_as_long_as_telegram_keeps_updates(
    make_runtime: MakeRuntime, telegram: FakeTelegram, store: OperatorStore
) -> None:
    bot = await make_runtime("webhook").start()
    first = telegram.message("hi", user_id=1, chat_id=-1)
    await telegram.settled()
    at, queue = (await bot.record(1)).marks[str(first)]
    for age, stays in ((24.9, True), (25.1, False)):
        mark = f"[{at - int(age * 3600)},{queue}]".encode()
        await store.commit("1", Changes(marks={str(first): mark}), expect=None)
        telegram.message("hi", user_id=1)
        await telegram.settled()
        assert (str(first) in (await bot.record(1)).marks) is stays
    await bot.stop()
