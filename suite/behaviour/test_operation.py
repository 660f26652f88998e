"""Real processes, as an operator runs them: stopped, restarted in turn, and given more than they can do."""

import asyncio
import itertools
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
import pytest

from bot.runtime.state.store import OperatorStore
from suite.bot_api import FakeTelegram
from suite.support.process import BotProcess, spread
from suite.support.runtime import Mode

pytestmark = pytest.mark.rarely  # they take half a minute of a processor

HOOK = "https://bot.example/hook"


def in_mode(mode: Mode) -> dict[str, str]:
    return {"WEBHOOK_URL": HOOK} if mode == "webhook" else {}


@pytest.mark.clause("replicas.rolling")
async def test_three_replicas_restarted_one_by_one_under_load_lose_nothing(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    users, said = range(1, 21), "sleep 0.03"
    sent = dict.fromkeys(users, 0)

    async def write(user: int) -> None:
        while not is_over:
            sent[user] += 1
            telegram.message(said, user_id=user)
            await telegram.wait_for(lambda: len(telegram.texts(user)) >= sent[user] - 3, timeout=180)

    async with AsyncExitStack() as stack:
        folders = (tmp_path / f"replica-{n}" for n in itertools.count())

        async def begin() -> BotProcess:
            replica = BotProcess(next(folders), telegram, WEBHOOK_URL=HOOK)
            await stack.enter_async_context(replica)
            await replica.ready()
            return replica

        replicas = list(await asyncio.gather(begin(), begin(), begin()))
        old = list(replicas)
        async with spread(telegram, replicas):
            is_over = False
            writing = [asyncio.create_task(write(user)) for user in users]
            for each in old:
                await asyncio.sleep(0.5)
                replicas.append(await begin())
                assert await each.stop() == 0, each.written
                replicas.remove(each)  # as late as can be: it got deliveries until now
                assert "finishing updates in flight" in each.written, "it was told to in mid-work"
            await asyncio.sleep(0.5)
            is_over = True
            await asyncio.gather(*writing)
            await telegram.settled(180)
        assert all(each not in replicas for each in old)
    assert sum(sent.values()) > 100, "there was load"
    for user in users:
        assert (await store.load(str(user))).state["message_count"] == sent[user]
        replies = [f"Processed: {said} (#{n})" for n in range(1, sent[user] + 1)]
        assert list(dict.fromkeys(telegram.texts(user))) == replies, "each, in order; some perhaps twice"


@pytest.mark.parametrize("trouble", ["block", "thread"])
@pytest.mark.clause("shutdown.graceful")
async def test_an_agent_that_cannot_be_stopped_does_not_keep_the_bot_from_stopping(
    tmp_path: Path, telegram: FakeTelegram, trouble: str
) -> None:
    async with BotProcess(tmp_path, telegram, SHUTDOWN_TIMEOUT="0.5", WEBHOOK_URL=HOOK) as bot:
        telegram.webhook_address = bot.url
        await bot.ready()
        update_id = telegram.message(f"{trouble} 3600", user_id=1)
        await telegram.wait_for(lambda: telegram.attempts[update_id])
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as http:
            with suppress(TimeoutError):
                while trouble == "block":  # until nothing else runs there any more
                    await http.get(f"{bot.url}/healthz")
        assert await bot.stop(timeout=120) == 0
        assert update_id not in telegram.acknowledged


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.clause("load.bounded")
async def test_memory_is_bounded_while_ten_thousand_updates_wait(
    tmp_path: Path, telegram: FakeTelegram, mode: Mode
) -> None:
    async with BotProcess(tmp_path, telegram, WEBHOOK_MAX_CONNECTIONS="100", **in_mode(mode)) as bot:
        telegram.webhook_address = bot.url
        await bot.ready()
        for user in range(1, 301):
            telegram.message("hi", user_id=user)
        await telegram.settled()
        before = bot.memory()
        for _, user in itertools.product(range(20), range(1, 501)):
            telegram.message("sleep 1" + " " * 2_000, user_id=user)
        most = before
        while sum(telegram.attempts.values()) < 300 + 500:
            await asyncio.sleep(0.1)
            most = max(most, bot.memory())
        assert most - before < 8, "MiB: it holds what it works on, and no more"
        assert len(telegram._pending) > 8_000, "they still wait, where they are safe"


@pytest.mark.clause("load.bounded")
async def test_one_who_writes_much_does_not_hold_up_the_others(
    tmp_path: Path, telegram: FakeTelegram, mode: Mode
) -> None:
    """As far as Telegram's window goes: a webhook has none, a poller sees a hundred."""
    async with BotProcess(tmp_path, telegram, **in_mode(mode)) as bot:
        telegram.webhook_address = bot.url
        await bot.ready()
        for _ in range(1_000 if mode == "webhook" else 90):
            telegram.message("sleep 0.1", user_id=1)
        for user in range(2, 7):
            telegram.message("hi", user_id=user)
        await telegram.wait_for(lambda: all(telegram.texts(user) for user in range(2, 7)), timeout=120)
        assert len(telegram.texts(1)) < 40
