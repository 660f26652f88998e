"""Several processes of one bot over one store, killed at any moment."""

import asyncio
import random
from pathlib import Path

import pytest

from bot.runtime.state.store import OperatorStore
from suite.bot_api import FakeTelegram
from suite.support.replicas import balanced, replicas

pytestmark = pytest.mark.clause("update.effect-survives")


@pytest.mark.clause("replicas.share")
async def test_fifty_quick_messages_of_one_user_split_over_two_processes(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    async with (
        replicas(2, tmp_path, telegram, WEBHOOK_URL="https://bot.example/hook") as two,
        balanced(telegram, two) as taken,
    ):
        await telegram.wait_for(lambda: telegram.webhook, timeout=120)
        for n in range(1, 51):
            telegram.message(f"m{n}", user_id=1)
        await telegram.settled(180)
    assert telegram.texts(1) == [f"Processed: m{n} (#{n})" for n in range(1, 51)]
    assert (await store.load("1")).state == {"last_message": "m50", "message_count": 50}
    assert min(taken) >= 5, "both had their share"


@pytest.mark.clause("replicas.share")
async def test_fifty_messages_of_one_user_in_many_chats_at_once(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    """Telegram orders by chat, so these come to both processes at the same moment."""
    async with (
        replicas(2, tmp_path, telegram, WEBHOOK_URL="https://bot.example/hook") as two,
        balanced(telegram, two) as taken,
    ):
        await telegram.wait_for(lambda: telegram.webhook, timeout=120)
        for n in range(50):
            telegram.message("hi", user_id=1, chat_id=-100 - n)
        await telegram.settled(180)
    said = [text for n in range(50) for text in telegram.texts(-100 - n)]
    assert sorted(said) == sorted(f"Processed: hi (#{n})" for n in range(1, 51))
    assert (await store.load("1")).state["message_count"] == 50
    assert min(taken) >= 5


async def test_a_process_killed_in_mid_window_loses_nothing(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    async with (
        replicas(2, tmp_path, telegram, WEBHOOK_URL="https://bot.example/hook") as two,
        balanced(telegram, two),
    ):
        await telegram.wait_for(lambda: telegram.webhook, timeout=120)
        for n, user in ((n, user) for n in range(1, 11) for user in range(1, 11)):
            telegram.message(f"m{n}", user_id=user)
        await until(telegram, 20)
        await two[0].kill()
        await telegram.settled(180)
    await expect_each_once(telegram, store, users=10, messages=10)


async def test_a_poller_killed_again_and_again_loses_nothing(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    for n, user in ((n, user) for n in range(1, 21) for user in range(1, 21)):
        telegram.message(f"m{n}", user_id=user)
    kills = 0
    while len(telegram.acknowledged) < 400:
        goal = min(len(telegram.acknowledged) + 90, 400)
        async with replicas(1, tmp_path, telegram):
            await until(telegram, goal)
        kills += 1
    assert kills > 2, "this test would not notice"
    await expect_each_once(telegram, store, users=20, messages=20)


async def until(telegram: FakeTelegram, acknowledged: int) -> None:
    """Wait until so many updates are acknowledged, and a moment longer."""
    await telegram.wait_for(lambda: len(telegram.acknowledged) >= acknowledged, timeout=180)
    await asyncio.sleep(random.uniform(0, 0.05))


async def expect_each_once(
    telegram: FakeTelegram, store: OperatorStore, *, users: int, messages: int
) -> None:
    """Every message was counted once; its reply came in order, at least once."""
    for user in range(1, users + 1):
        record = await store.load(str(user))
        assert record.state == {"last_message": f"m{messages}", "message_count": messages}
        said = telegram.texts(user)
        expected = [f"Processed: m{n} (#{n})" for n in range(1, messages + 1)]
        assert list(dict.fromkeys(said)) == expected, "each, in order; some perhaps twice"
