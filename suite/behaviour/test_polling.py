"""Long polling: what is confirmed when, and how Telegram's errors are met."""

import asyncio
from itertools import pairwise

import aiohttp
import pytest
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer

from bot.runtime.errors import OperatorError
from bot.runtime.telegram import receiver
from suite.agents import Gate
from suite.bot_api import Call, FakeTelegram
from suite.support.runtime import MakeRuntime

pytestmark = pytest.mark.clause("polling.confirm")


def polls(telegram: FakeTelegram) -> list[Call]:
    """Every getUpdates so far."""
    return [call for call in telegram.calls if call.method == "getUpdates"]


@pytest.fixture(autouse=True)
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "FIRST_BACKOFF", 0.02)
    monkeypatch.setattr(receiver, "RIVAL_PAUSE", 0.02)


async def test_an_offset_never_passes_an_update_that_is_not_done(
    make_runtime: MakeRuntime, telegram: FakeTelegram, gate: Gate
) -> None:
    async with make_runtime("polling"):
        before = telegram.message("hi", user_id=1)
        slow = telegram.message("hold", user_id=2)
        after = [telegram.message("hi", user_id=user) for user in range(3, 10)]
        await telegram.wait_for(lambda: all(telegram.texts(user) for user in (1, 3, 9)))
        await telegram.wait_for(lambda: before in telegram.acknowledged)
        assert slow not in telegram.acknowledged
        assert not telegram.acknowledged.keys() & set(after), "they are done, yet above one that is not"
        later = telegram.message("hi", user_id=20)
        await telegram.wait_for(lambda: telegram.texts(20))
        assert slow not in telegram.acknowledged
        gate.opened.set()
        await telegram.settled()
        assert later in telegram.acknowledged
        assert all(len(telegram.texts(user)) == 1 for user in (1, 2, 3, 9, 20))


async def test_an_unchanged_offset_is_asked_for_at_least_half_a_second_apart(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with make_runtime("polling"):
        telegram.message("sleep 2.5", user_id=1)
        await telegram.settled()
        repeated = [
            second.at - first.at
            for first, second in pairwise(polls(telegram))
            if first.params.get("offset") == second.params.get("offset") and second.status == 200
        ]
        assert len(repeated) >= 2
        assert min(repeated) >= 0.5


async def test_updates_in_disorder_are_all_done_before_they_are_confirmed(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    for user in range(1, 301):
        telegram.message("hi", user_id=user)
    telegram.reorder(seed=7)
    async with make_runtime("polling"):
        await telegram.settled()
    assert all(telegram.texts(user) == ["Processed: hi (#1)"] for user in range(1, 301))


async def test_no_more_than_the_limit_are_handled_at_once(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    for user in range(1, 9):
        telegram.message("sleep 0.3", user_id=user)
    async with make_runtime("polling", max_concurrent_updates=2):
        await telegram.settled()
        times = sorted(sent.at for sent in telegram.sent)
        assert times[-1] - times[0] > 0.75, "eight in pairs take four times as long as one"


@pytest.mark.parametrize("status", [500, 502])
async def test_errors_of_telegram_pass(
    make_runtime: MakeRuntime, telegram: FakeTelegram, status: int
) -> None:
    if status == 502:
        telegram.bad_gateway("getUpdates", 3)
    else:
        telegram.fail("getUpdates", status=status, times=3)
    telegram.drop_answer("getUpdates", 2)
    async with make_runtime("polling"):
        telegram.message("hi", user_id=1)
        await telegram.settled()
        assert telegram.texts(1) == ["Processed: hi (#1)"]


async def test_polling_waits_as_long_as_telegram_asks(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    telegram.fail("getUpdates", status=429, retry_after=1)
    async with make_runtime("polling"):
        telegram.message("hi", user_id=1)
        await telegram.settled()
        first, second = polls(telegram)[:2]
        assert second.at - first.at >= 1


async def test_an_outage_of_telegram_passes(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with make_runtime("polling"):
        telegram.message("m1", user_id=1)
        await telegram.settled()
        await telegram.stop()
        await asyncio.sleep(0.2)
        await telegram.start()
        telegram.message("m2", user_id=1)
        await telegram.settled()
        assert telegram.texts(1) == ["Processed: m1 (#1)", "Processed: m2 (#2)"]


async def test_a_refused_token_ends_the_bot(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    bot = make_runtime("polling", bot_token="42:WRONG")
    await bot.start()
    with pytest.raises(OperatorError, match="check BOT_TOKEN"):
        await asyncio.wait_for(bot.ended(), timeout=120)


async def test_a_webhook_that_is_still_set_is_removed_and_its_updates_kept(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    session = AiohttpSession(api=TelegramAPIServer.from_base(telegram.url))
    async with Bot(telegram.token, session=session) as client:
        await client.set_webhook("http://127.0.0.1:9/nobody-listens")
    telegram.message("hi", user_id=1)
    async with make_runtime("polling"):
        await telegram.settled()
        assert telegram.texts(1) == ["Processed: hi (#1)"]
        assert telegram.webhook is None
        assert telegram.drop_requests == 0


async def test_another_poller_is_given_time_to_go_away(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    telegram.fail("getUpdates", status=409, times=3)
    async with make_runtime("polling"):
        telegram.message("hi", user_id=1)
        await telegram.settled()
        assert telegram.texts(1) == ["Processed: hi (#1)"]


async def test_another_poller_that_stays_ends_the_bot_after_what_it_does_is_done(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "RIVAL_SECONDS", 0.3)
    bot = await make_runtime("polling").start()
    telegram.message("sleep 0.8", user_id=1)
    await telegram.wait_for(lambda: sum(telegram.attempts.values()))
    telegram.fail("getUpdates", status=409, times=1_000)
    with pytest.raises(OperatorError, match="another program polls"):
        await asyncio.wait_for(bot.ended(), timeout=120)
    assert telegram.texts(1) == ["Processed: sleep 0.8 (#1)"]


async def test_a_harmful_update_can_be_skipped(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    harmful = telegram.message("raise", user_id=1)
    telegram.message("hi", user_id=1)
    bot = make_runtime("polling")
    bot.skip = harmful
    async with bot:
        await telegram.settled()
        assert telegram.texts(1) == ["Processed: hi (#1)"]
        assert harmful not in (await bot.record(1)).applied


async def test_updates_that_cannot_be_understood_hold_up_nothing(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    telegram.push({"message": {"chat": {"id": 5}, "nonsense": True}})
    telegram.push({"kind_of_tomorrow": {"x": 1}})
    telegram.message("hi", user_id=1)
    async with make_runtime("polling"):
        await telegram.settled()
        assert telegram.texts(1) == ["Processed: hi (#1)"]


async def test_ready_as_soon_as_telegram_answers(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    telegram.fail("getUpdates", status=500, times=1)
    async with make_runtime("polling") as bot, aiohttp.ClientSession() as http:
        statuses = []
        for _ in range(100):
            statuses.append((await http.get(f"http://127.0.0.1:{bot.port}/readyz")).status)
            if statuses[-1] == 200:
                break
            await asyncio.sleep(0.02)
    assert statuses[0] == 503
    assert statuses[-1] == 200, "without any update, and long before a long poll ends"


async def test_the_commands_are_announced(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with make_runtime("polling"):
        await telegram.wait_for(lambda: len(telegram.commands) == 2)
        commands = {
            scope: [command["command"] for command in commands]
            for (scope, _), commands in telegram.commands.items()
        }
        everywhere, private = sorted(commands.values(), key=len)
        of_a_flow = {"profile", "cancel"}  # of `bot/flow/`, where a project has it
        assert [name for name in everywhere if name not in of_a_flow] == ["start", "help", "reset"]
        assert private == [*everywhere, "export", "forget"]
