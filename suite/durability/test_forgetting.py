"""Who is forgotten is so in groups, too, though the bot is killed while it looks through them."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bot.agent_adapter import chat
from bot.runtime.state.store import OperatorStore
from suite.bot_api import FakeTelegram
from suite.support.process import BotProcess, spread

pytestmark = pytest.mark.clause("forget.erases")

GROUPS = [-100_500 - number for number in range(5)]


async def test_a_walk_through_shared_records_goes_on_after_a_kill(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    async def written() -> list[list[str]]:
        records = [await store.load(chat(group), None) for group in GROUPS]
        return [[said.text for said in record.history if said.role == "user"] for record in records]

    def process() -> BotProcess:
        settings = {"WEBHOOK_URL": "https://bot.example/hook", "JOBS_SECONDS": "0.2", "AGENT_TIMEOUT": "2"}
        return BotProcess(tmp_path, telegram, "suite.forgetting_bot", **settings)

    async with AsyncExitStack() as stack:
        targets = [await stack.enter_async_context(process())]
        await stack.enter_async_context(spread(telegram, targets))
        for group in GROUPS:
            for user in (1, 2):
                telegram.message(f"from {user}", user_id=user, chat_id=group)
        await telegram.settled(60)
        telegram.callback("forget:1:1", user_id=1)
        await telegram.settled(60)
        telegram.message("back from 1", user_id=1, chat_id=GROUPS[0])
        await asyncio.wait_for(targets[0].process.wait(), 60)
        assert ["from 1", "from 2"] in await written(), "killed before it was through"
        targets[0] = await stack.enter_async_context(process())
        left = [["from 2", "back from 1"], *[["from 2"]] * (len(GROUPS) - 1)]
        async with asyncio.timeout(60):
            while await written() != left:  # noqa: ASYNC110 - the store tells nobody
                await asyncio.sleep(0.1)
