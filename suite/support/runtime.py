"""A bot that runs in the test's event loop, against a fake Telegram, over a store that outlives it."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, Self

from bot.agent_adapter import TelegramAgentAdapter
from bot.runtime import app
from bot.runtime.app import Owner
from bot.runtime.config import Settings
from bot.runtime.state.record import UserRecord
from bot.runtime.state.store import OperatorStore
from suite.agents import CountingAgent
from suite.bot_api import FakeTelegram

Mode = Literal["polling", "webhook"]

WEBHOOK = "https://bot.example/telegram"


class Runtime:
    """Runs the bot; it can be stopped, or cut off, and started again."""

    def __init__(
        self,
        telegram: FakeTelegram,
        store: OperatorStore,
        mode: Mode,
        agent_class: type[TelegramAgentAdapter] = CountingAgent,
        **settings: Any,
    ) -> None:
        self.telegram = telegram
        self.store = store
        self.mode = mode
        self.agent_class = agent_class
        self.agent = agent_class("")
        self.owner = Owner(agent=agent_class)
        self.port = 0
        self.skip: int | None = None
        webhook_url = WEBHOOK if mode == "webhook" else None
        self.settings = Settings.model_validate(
            {
                "bot_token": telegram.token,
                "telegram_api_url": telegram.url,
                "webhook_url": webhook_url,
                "host": "127.0.0.1",
                "port": 0,
                "shutdown_timeout": 5,
                **settings,
            }
        )
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> Self:
        """Start the bot and wait until updates can come in."""
        self._stop = asyncio.Event()
        self.agent = self.agent_class(self.telegram.token)
        listening = asyncio.Event()
        self._task = asyncio.create_task(
            app.run(
                self.settings,
                self._stop,
                skip=self.skip,
                store=self.store,
                owner=replace(self.owner, agent=lambda _: self.agent),
                listening=lambda port: self._listening(port, listening),
            )
        )
        while not listening.is_set():
            if self._task.done():
                await self.ended()
            await asyncio.sleep(0.005)
        return self

    def _listening(self, port: int, listening: asyncio.Event) -> None:
        self.port = port
        self.telegram.webhook_address = f"http://127.0.0.1:{port}"
        listening.set()

    async def stop(self) -> None:
        """Stop the bot as SIGTERM does."""
        self._stop.set()
        await self.ended()

    async def ended(self) -> None:
        """Wait until the bot has ended; raises what ended it."""
        assert self._task
        task, self._task = self._task, None
        await task

    async def cut_off(self) -> None:
        """Stop the bot without giving anything that runs the time to finish."""
        timeout = self.settings.shutdown_timeout
        self.settings.shutdown_timeout = 0
        await self.stop()
        self.settings.shutdown_timeout = timeout

    async def record(self, user_id: int) -> UserRecord:
        """What is kept about a user; also when the bot has stopped, and closed its store."""
        await self.store.connect()
        return await self.store.load(str(user_id))

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        if self._task:
            await self.stop()


MakeRuntime = Callable[..., Runtime]
"""Makes a bot, given the mode and settings."""
