"""An answer that grows in one process is stopped though the Stop comes to another."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bot.runtime.state.record import waiting_for
from bot.runtime.state.store import OperatorStore
from suite.bot_api import FakeTelegram
from suite.support.process import BotProcess
from suite.support.runtime import WEBHOOK

pytestmark = pytest.mark.clause("streaming.stop")

GROUP = -7


@asynccontextmanager
async def two(folder: Path, telegram: FakeTelegram, **settings: str) -> AsyncIterator[list[BotProcess]]:
    """Two processes of one bot. The second looks for nothing to do by itself."""
    settings = {"WEBHOOK_URL": WEBHOOK, **settings}
    first = BotProcess(folder / "first", telegram, "suite.speaking_bot", **settings)
    second = BotProcess(folder / "second", telegram, "suite.speaking_bot", **settings, JOBS_SECONDS="3600")
    async with first, second:
        telegram.webhook_address = first.url
        yield [first, second]


def left(telegram: FakeTelegram, chat: int) -> list[str]:
    """What the bot's messages in a chat say now."""
    return [
        message["text"]
        for (chat_id, _), message in telegram.messages.items()
        if chat_id == chat and message["from"]["is_bot"]
    ]


def growing(telegram: FakeTelegram, chat: int) -> list[str]:
    """What the answers say that can be stopped: in a group by a button under them."""
    if chat != GROUP:
        draft = telegram.drafts.shown(chat)
        return [draft.text] if draft and draft.can_stop else []
    shown = [message for (chat_id, _), message in telegram.messages.items() if chat_id == chat]
    return [message["text"] for message in shown if "reply_markup" in message]


async def grown(telegram: FakeTelegram, chat: int) -> None:
    """Wait until something of the answer is to be seen."""
    await telegram.wait_for(lambda: any("la la" in text for text in growing(telegram, chat)), 20)


def by_telegram(telegram: FakeTelegram) -> int:
    return telegram.drafts.stop(1)


def by_command(telegram: FakeTelegram) -> int:
    return telegram.message("/stop", user_id=1)


def by_button(telegram: FakeTelegram) -> int:
    return telegram.press(telegram.sent[-1], 0, 0, user_id=1)


def by_command_in_group(telegram: FakeTelegram) -> int:
    return telegram.message("/stop", user_id=1, chat_id=GROUP)


STOPS: list[tuple[int, Callable[[FakeTelegram], int]]] = [
    (1, by_telegram), (1, by_command), (GROUP, by_button), (GROUP, by_command_in_group),
]  # fmt: skip


@pytest.mark.parametrize("speaking", ["yields", "shows"])
async def test_by_another_process(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore, speaking: str
) -> None:
    async with two(tmp_path, telegram, SPEAKING=speaking) as (first, second):
        # One that does not yield is not known to be stopped by a word before it has shown something.
        stops = STOPS if speaking == "yields" else STOPS[::2]
        for number, (chat, stop) in enumerate(stops, start=1):
            telegram.message("ever", user_id=1, chat_id=chat)
            await grown(telegram, chat)
            telegram.webhook_address = second.url
            before, began = len(left(telegram, chat)) - (chat == GROUP), time.monotonic()
            stop(telegram)
            await telegram.wait_for(
                lambda: len(left(telegram, chat)) > before and not growing(telegram, chat),  # noqa: B023
                10,
            )
            seconds = time.monotonic() - began
            assert seconds < 3, "two, and what a busy machine takes"
            (said,) = left(telegram, chat)[before:]
            assert said.startswith("la la")
            telegram.webhook_address = first.url
            telegram.message("next", user_id=1, chat_id=chat)
            await telegram.wait_for(lambda: f"next #{2 * number}" in left(telegram, chat), 20)  # noqa: B023
        telegram.webhook_address = second.url
        for _, stop in STOPS[1::2]:  # late: it does nothing
            stop(telegram)
        await telegram.settled()
        telegram.webhook_address = first.url
        telegram.message("next", user_id=1)
        await telegram.wait_for(lambda: f"next #{2 * len(stops) + 1}" in left(telegram, 1), 20)
        await nothing_waits(store)


async def nothing_waits(store: OperatorStore) -> None:
    """Wait until nothing does, and nothing is noted of what was stopped."""
    await store.connect()
    for _ in range(1_000):
        if not (await store.load(waiting_for("1"))).fsm:
            return
        await asyncio.sleep(0.02)
    assert (await store.load(waiting_for("1"))).fsm == {}


async def test_one_that_survives_a_kill_ends_the_rerun_before_it_begins(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    async with two(tmp_path, telegram) as (first, second):
        for chat in (1, GROUP):
            telegram.message("ever", user_id=-chat if chat < 0 else 1, chat_id=chat)
            await grown(telegram, chat)
        first.process.kill()  # nobody is left to be stopped
        await first.process.wait()
        telegram.webhook_address = second.url
        by_telegram(telegram)
        telegram.press(telegram.sent[-1], 0, 0, user_id=7)
        await telegram.settled()
        async with BotProcess(
            tmp_path / "third", telegram, "suite.speaking_bot", WEBHOOK_URL=WEBHOOK
        ) as third:
            telegram.webhook_address = third.url
            calls = len(telegram.calls)
            for user, chat in ((1, 1), (7, GROUP)):
                telegram.message("next", user_id=user, chat_id=chat)
                await telegram.wait_for(lambda: left(telegram, chat) == ["next #1"], 20)  # noqa: B023
        assert not any("la" in call.params.get("text", "") for call in telegram.calls[calls:])
        await nothing_waits(store)
