"""Receives updates from Telegram, by webhook or by long polling, and tells Telegram about the bot."""

import asyncio

import structlog
from aiogram import Bot
from aiogram.exceptions import ClientDecodeError, TelegramAPIError
from aiogram.types import BotCommand, BotCommandScopeAllPrivateChats
from aiohttp import web

from bot.runtime import metrics
from bot.runtime.config import Settings
from bot.runtime.telegram.chat_action import run_alongside
from bot.runtime.telegram.polling import Poller
from bot.runtime.telegram.processor import Processor
from bot.runtime.telegram.texts import TextTable
from bot.runtime.telegram.webhook import Webhook, is_same_address, register

WATCH_SECONDS = 30.0
"""How often Telegram is asked what is waiting."""

ANNOUNCE_SECONDS = 5.0
"""How long the bot's commands may take to be announced before the bot goes on without."""

log = structlog.get_logger()


class Receiver:
    """Gets updates from Telegram, by webhook or by long polling."""

    def __init__(
        self, bot: Bot, processor: Processor, settings: Settings, kinds: list[str], texts: TextTable
    ) -> None:
        """Make it; nothing is received yet.

        Args:
            bot: whose updates to receive.
            processor: to hand them to.
            settings: `WEBHOOK_URL` decides between webhook and long polling.
            kinds: the kinds of updates to ask Telegram for.
            texts: the commands to show in Telegram's menu.
        """
        self._bot = bot
        self._processor = processor
        self._settings = settings
        self._kinds = kinds
        self._texts = texts
        self._poller = Poller(bot, processor, kinds)
        self._is_registered = False

    @property
    def is_receiving(self) -> bool:
        """Whether updates can come in."""
        return self._is_registered or self._poller.is_running

    def add_routes(self, server: web.Application) -> None:
        """Have the bot's HTTP server take Telegram's deliveries, in webhook mode."""
        settings = self._settings
        if settings.webhook_url:
            webhook = Webhook(self._bot, self._processor, settings.secret)
            server.router.add_post(settings.webhook_path, webhook.deliver)

    async def run(self) -> None:
        """Receive until cancelled.

        Raises:
            OperatorError: Telegram refuses for good.
        """
        try:
            with run_alongside(0, self._watch):
                if self._settings.webhook_url:
                    await self._register()
                    await asyncio.Event().wait()
                with run_alongside(0, lambda: _announce_commands(self._bot, self._texts)):
                    await self._poller.run()
        finally:
            self._is_registered = self._poller.is_running = False

    async def _register(self) -> None:
        """Tell Telegram everything; then the bot is ready, and may be frozen while nothing comes in."""
        await register(self._bot, self._settings, self._kinds)
        await _announce_commands(self._bot, self._texts)
        self._is_registered = True
        log.info("webhook registered", max_connections=self._settings.webhook_max_connections)

    async def _watch(self) -> None:
        """Ask Telegram, now and then, how many updates wait there and whether it still delivers here."""
        url = self._settings.webhook_url
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                info = await self._bot.get_webhook_info()
            except (TelegramAPIError, ClientDecodeError) as error:
                log.debug("Telegram does not say what is waiting", reason=type(error).__name__)
                continue
            metrics.PENDING.set(info.pending_update_count)
            if url:
                self._is_registered = is_same_address(info.url, url)
                if not self._is_registered:
                    log.warning("another webhook is set, or none: restart the bot to register its own again")

    async def close(self) -> None:
        """Confirm what was done since the last poll."""
        await self._poller.confirm()


async def _announce_commands(bot: Bot, texts: TextTable) -> None:
    """Show the commands in Telegram's menu, in each language; the bot works without."""
    try:
        async with asyncio.timeout(ANNOUNCE_SECONDS):
            for number, language in enumerate(texts.texts):
                # The first language is for everybody for whom there is no other.
                code = language.partition("-")[0] if number else None
                for scope in (None, BotCommandScopeAllPrivateChats()):
                    menu = texts.menu(language, is_private=scope is not None)
                    commands = [BotCommand(command=name, description=text) for name, text in menu.items()]
                    await bot.set_my_commands(commands, scope=scope, language_code=code)
    except (TelegramAPIError, ClientDecodeError, TimeoutError) as error:
        log.debug("commands not announced", reason=type(error).__name__)
