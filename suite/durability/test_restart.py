"""Stopped, cut off and started again over the same store: nothing is lost, nothing happens twice."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from bot.runtime.state.record import UserRecord
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Mode, Runtime


async def committed(bot: Runtime, user_id: int, update_id: int) -> UserRecord:
    """Wait until an update is applied."""
    for _ in range(20_000):
        record = await bot.record(user_id)
        if update_id in record.applied:
            return record
        await asyncio.sleep(0.005)
    raise TimeoutError(f"update {update_id} was not applied")


@pytest.mark.clause("shutdown.graceful")
async def test_stopping_finishes_what_is_under_way(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    bot = await make_runtime(mode).start()
    under_way = telegram.message("sleep 0.6", user_id=1)
    queued = telegram.message("queued", user_id=1)
    await telegram.wait_for(lambda: telegram.attempts[under_way])
    await asyncio.sleep(0.1)
    await bot.stop()
    assert telegram.texts(1) == ["Processed: sleep 0.6 (#1)"]
    assert under_way in telegram.acknowledged
    assert queued not in telegram.acknowledged, "it had not begun, so Telegram keeps it"
    async with bot:
        await telegram.settled()
    assert telegram.texts(1) == ["Processed: sleep 0.6 (#1)", "Processed: queued (#2)"]


@pytest.mark.clause("update.effect-survives")
async def test_an_agent_cut_off_in_mid_thought_starts_over(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    bot = await make_runtime(mode).start()
    update_id = telegram.message("sleep 0.8", user_id=1)
    await telegram.wait_for(lambda: telegram.attempts[update_id])
    await asyncio.sleep(0.1)
    await bot.cut_off()
    assert (await bot.record(1)).state == {}
    assert update_id not in telegram.acknowledged
    async with bot:
        await telegram.settled()
    assert telegram.texts(1) == ["Processed: sleep 0.8 (#1)"]
    assert (await bot.record(1)).state["message_count"] == 1


@pytest.mark.clause("reply.at-least-once")
async def test_a_reply_cut_off_after_the_commit_comes_after_the_restart(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    bot = await make_runtime(mode).start()
    telegram.delay("sendMessage", 30, times=1)
    update_id = telegram.message("hi", user_id=1)
    record = await committed(bot, 1, update_id)
    assert list(record.outbox) == [update_id]
    await bot.cut_off()
    assert telegram.texts(1) == []
    async with bot:
        await telegram.settled()
        assert telegram.texts(1) == ["Processed: hi (#1)"]
        telegram.message("there", user_id=1)
        await telegram.settled()
    assert telegram.texts(1) == ["Processed: hi (#1)", "Processed: there (#2)"]
    assert update_id not in (await bot.record(1)).outbox


@pytest.mark.parametrize("days", [0, 3], ids=["", "by a clock that is wrong"])
@pytest.mark.clause("reply.at-least-once")
async def test_it_comes_also_when_another_update_went_through_meanwhile(
    make_runtime: MakeRuntime,
    telegram: FakeTelegram,
    mode: Mode,
    days: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bot = await make_runtime(mode).start()
    telegram.delay("sendMessage", 30, times=1)
    lost = telegram.message("in private", user_id=1)
    await committed(bot, 1, lost)
    await bot.cut_off()

    monkeypatch.setattr(
        "bot.runtime.state.turn.time", SimpleNamespace(time=lambda: time.time() + days * 86_400)
    )
    other = make_runtime(mode)
    other.telegram = FakeTelegram(token=telegram.token)
    async with other.telegram as elsewhere:
        other.settings.telegram_api_url = elsewhere.url
        async with other:
            elsewhere.message("in a group", user_id=1, chat_id=-100)
            await elsewhere.settled()
            assert elsewhere.texts(-100) == ["Processed: in a group (#2)"]
    assert lost in (await bot.record(1)).outbox

    async with bot:
        await telegram.settled()
    assert telegram.texts(1) == ["Processed: in private (#1)"]
    assert (await bot.record(1)).state["message_count"] == 2


@pytest.mark.clause("reply.at-least-once")
async def test_a_reply_is_forgotten_a_day_after_telegram_forgot_its_update(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    """A process that has ended took along that it had delivered the reply."""
    async with make_runtime(mode):
        old = telegram.message("hi", user_id=1)
        await telegram.settled()
    async with make_runtime(mode) as bot:
        telegram.message("soon after", user_id=1, date=int(time.time()) + 24 * 3600)
        await telegram.settled()
        assert old in (await bot.record(1)).outbox
        telegram.message("much later", user_id=1, date=int(time.time()) + 26 * 3600)
        await telegram.settled()
        assert old not in (await bot.record(1)).outbox


@pytest.mark.clause("update.once")
async def test_a_whole_window_that_comes_again_changes_nothing(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    bot = await make_runtime(mode).start()
    ids = [telegram.message(f"m{n}", user_id=1) for n in range(1, 101)]
    await telegram.settled()
    expected = [f"Processed: m{n} (#{n})" for n in range(1, 101)]
    assert telegram.texts(1) == expected
    before = await bot.record(1)
    await bot.cut_off()
    for update_id in ids:
        telegram.repeat(update_id)
    async with bot:
        await telegram.settled()
        telegram.message("after", user_id=1)
        await telegram.settled()
    record = await bot.record(1)
    assert record.state == {"message_count": 101, "last_message": "after"}
    assert before.state["message_count"] == 100
    assert telegram.texts(1)[-1] == "Processed: after (#101)"
    again = telegram.texts(1)[100:-1]
    assert again == [text for text in expected if text in again], "in order"


@pytest.mark.clause("update.once")
async def test_two_processes_handed_the_same_update_apply_it_once(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    """As when a webhook's answer is so late that Telegram delivers again, to another replica."""
    async with FakeTelegram(token=telegram.token) as elsewhere:
        elsewhere.next_update_id = telegram.next_update_id = 1_000
        other = make_runtime("webhook")
        other.telegram = elsewhere
        other.settings.telegram_api_url = elsewhere.url
        async with make_runtime("webhook") as bot, other:
            for _ in range(10):
                telegram.message("hi", user_id=1)
                elsewhere.message("hi", user_id=1)
            await telegram.settled()
            await elsewhere.settled()
            assert (await bot.record(1)).state["message_count"] == 10
            said = telegram.texts(1) + elsewhere.texts(1)
            assert set(said) == {f"Processed: hi (#{n})" for n in range(1, 11)}


@pytest.mark.clause("update.once")
async def test_an_id_that_restarts_lower_is_a_new_update(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    async with make_runtime(mode):
        telegram.next_update_id = 900_000_000
        telegram.message("before", user_id=1)
        await telegram.settled()
        telegram.next_update_id = 17
        telegram.message("after a quiet week", user_id=1)
        await telegram.settled()
        assert telegram.texts(1) == ["Processed: before (#1)", "Processed: after a quiet week (#2)"]
