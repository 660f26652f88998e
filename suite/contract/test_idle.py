"""Users who wrote once leave their records behind, and nothing else."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from aiogram import Bot
from aiogram.client.session.base import BaseSession
from aiogram.methods import TelegramMethod
from aiogram.types import Update

from bot.runtime.app import App, Owner, open_app
from bot.runtime.config import Settings
from bot.runtime.state.store import OperatorStore
from suite.agents import CountingAgent

pytestmark = pytest.mark.clause("idle.nothing-left")

USERS = 300
KINDS = {
    "Task", "Future", "Lock", "Event", "Semaphore", "Timeout", "Handle", "TimerHandle",
    "Context", "coroutine", "async_generator", "deque", "_Queue", "Turn", "Update", "Message",
}  # fmt: skip


class Yes(BaseSession):
    """A Telegram that says yes to everything, at once."""

    async def make_request(self, bot: Bot, method: TelegramMethod[Any], timeout: int | None = None) -> Any:
        return True

    async def stream_content(self, *args: Any, **kwargs: Any) -> AsyncGenerator[bytes, None]:
        raise NotImplementedError
        yield b""

    async def close(self) -> None:
        pass


async def write_once(app: App, users: range) -> None:
    for first in range(users.start, users.stop, 100):
        async with asyncio.TaskGroup() as group:
            for user in range(first, min(first + 100, users.stop)):
                group.create_task(app.processor.process(message(app.bot, user)))


async def settled(tasks: int) -> None:
    """Wait until no more tasks than that are left: engines, too, work in the background for a moment."""
    async with asyncio.timeout(60):
        while len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def message(bot: Bot, user: int) -> Update:
    chat = {"id": user, "type": "private", "first_name": "A"}
    sender = {"id": user, "is_bot": False, "first_name": "A"}
    said = {"message_id": 1, "date": 1, "chat": chat, "from": sender, "text": "hi"}
    return Update.model_validate({"update_id": user, "message": said}, context={"bot": bot})


def census() -> Counter[str]:
    gc.collect()
    found = Counter((type(each).__module__, type(each).__name__) for each in gc.get_objects())
    return Counter({f"{module}.{name}": n for (module, name), n in found.items()
                    if name in KINDS and module != "bot.runtime.state.record"})  # fmt: skip


async def test_only_records_are_left_of_users_who_wrote_once(store: OperatorStore) -> None:
    settings = Settings.model_validate({"bot_token": "42:TEST"})
    owner = Owner(agent=CountingAgent)
    async with open_app(settings, session=Yes(), token="42:TEST", store=store, owner=owner) as app:
        await write_once(app, range(1, 201))
        await asyncio.sleep(0.05)
        before, tasks = census(), len(asyncio.all_tasks())
        await write_once(app, range(201, 201 + USERS))
        assert app.processor.is_idle
        await settled(tasks)
        grown = census() - before  # a connection keeps what it was opened for
        assert not {kind: count for kind, count in grown.items() if count > USERS / 3}
        assert (await store.load(str(200 + USERS))).state["message_count"] == 1
