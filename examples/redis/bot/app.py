"""The running bot: its parts put together, started, and stopped without losing anything."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog
from aiogram import Bot, Dispatcher
from aiogram.client.session.base import BaseSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import ClientDecodeError, TelegramAPIError
from aiogram.types import BotCommandScopeAllPrivateChats
from aiohttp import web

from bot import metrics
from bot.agent import Agent
from bot.agent_adapter import TelegramAgentAdapter
from bot.config import Settings
from bot.errors import OperatorError
from bot.health import listen, make_server
from bot.state.engine import create_store
from bot.state.store import StateError, StateStore
from bot.telegram.dispatcher import make_dispatcher
from bot.telegram.handlers import COMMANDS, PRIVATE_COMMANDS
from bot.telegram.meanwhile import meanwhile
from bot.telegram.polling import Poller
from bot.telegram.replies import Session
from bot.telegram.transaction import Transactions
from bot.telegram.webhook import BODY_LIMIT, Webhook, is_same_address, register

WATCH_SECONDS = 30.0
"""How often Telegram is asked what is waiting."""

ANNOUNCE_SECONDS = 5.0
"""How long the bot's commands may take to be announced before the bot goes on without."""

log = structlog.get_logger()


@dataclass(slots=True)
class App:
    """The parts of a bot that is ready to take updates."""

    settings: Settings
    bot: Bot
    dispatcher: Dispatcher
    store: StateStore
    agent: TelegramAgentAdapter
    transactions: Transactions

    async def drain(self) -> None:
        """Finish what is under way, updates first, within `SHUTDOWN_TIMEOUT`; give up the rest."""
        deadline = time.monotonic() + self.settings.shutdown_timeout
        await self.transactions.drain(self.settings.shutdown_timeout)
        await self.agent.drain(deadline - time.monotonic())


@asynccontextmanager
async def open_app(
    settings: Settings,
    *,
    session: BaseSession,
    token: str,
    store: StateStore | None = None,
    agent: TelegramAgentAdapter | None = None,
) -> AsyncIterator[App]:
    """Open the store and the agent, put everything together, and close it in the end.

    Args:
        settings: the settings.
        session: how the bot reaches Telegram, or the terminal.
        token: the bot's token.
        store: the store to use instead of the engine's.
        agent: the agent to use instead of the owner's.

    Raises:
        OperatorError: the store cannot be opened.
    """
    store = store or create_store(settings)
    agent = agent or Agent(token)
    bot = Bot(token, session=session)
    agent.store, agent.bot = store, bot
    async with AsyncExitStack() as stack:
        stack.push_async_callback(bot.session.close)
        stack.push_async_callback(store.close)
        stack.push_async_callback(agent.close)
        try:
            await store.connect()
            await agent.connect()
            dispatcher = make_dispatcher(store, agent, settings)
            transactions = Transactions(bot, dispatcher, store, settings, agent)
            yield App(settings, bot, dispatcher, store, agent, transactions)
        except StateError as error:
            raise OperatorError(f"the {store.name} store cannot be used: {error}") from error


async def run(
    settings: Settings,
    stop: asyncio.Event,
    *,
    skip: int | None = None,
    store: StateStore | None = None,
    agent: TelegramAgentAdapter | None = None,
    listening: Callable[[int], None] | None = None,
) -> None:
    """Run the bot until `stop` is set, then finish what is under way.

    Args:
        settings: the settings; `WEBHOOK_URL` decides between webhook and long polling.
        stop: set by whoever wants the bot to stop.
        skip: an update to acknowledge without handling it.
        store: the store to use instead of the engine's.
        agent: the agent to use instead of the owner's.
        listening: called with the port once the HTTP server listens.

    Raises:
        OperatorError: the bot cannot run; the text says what to do.
    """
    session = Session(api=TelegramAPIServer.from_base(settings.telegram_api_url))
    token = settings.token
    async with open_app(settings, session=session, token=token, store=store, agent=agent) as app:
        await app.store.claim(settings.bot_id)
        if not app.store.survives_exit:
            log.warning("the memory store forgets everything when the bot stops")
        if skip is not None:
            app.transactions.skip(skip)
        receiver = _Receiver(app)
        server = make_server(app.store, lambda: receiver.is_receiving, body_limit=BODY_LIMIT)
        receiver.add_routes(server)
        runner = await listen(server, settings.host, settings.port)
        try:
            port: int = runner.addresses[0][1]
            log.info("listening", host=settings.host, port=port)
            if listening:
                listening(port)
            await _receive_until(stop, receiver)
        finally:
            await app.drain()
            await receiver.close()
            await runner.cleanup()
    log.info("stopped")


class _Receiver:
    """Gets updates from Telegram, by webhook or by long polling."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._kinds = app.dispatcher.resolve_used_update_types()
        self._poller = Poller(app.bot, app.transactions, self._kinds)
        self._is_registered = False

    @property
    def is_receiving(self) -> bool:
        return self._is_registered or self._poller.is_running

    def add_routes(self, server: web.Application) -> None:
        settings = self._app.settings
        if settings.webhook_url:
            webhook = Webhook(self._app.bot, self._app.transactions, settings.secret)
            server.router.add_post(settings.webhook_path, webhook.deliver)

    async def run(self) -> None:
        """Receive until cancelled.

        Raises:
            OperatorError: Telegram refuses for good.
        """
        try:
            with meanwhile(0, self._watch):
                if self._app.settings.webhook_url:
                    await self._register()
                    await asyncio.Event().wait()
                with meanwhile(0, lambda: _announce_commands(self._app.bot)):
                    await self._poller.run()
        finally:
            self._is_registered = self._poller.is_running = False

    async def _register(self) -> None:
        """Tell Telegram everything; then the bot is ready, and may be frozen while nothing comes in."""
        await register(self._app.bot, self._app.settings, self._kinds)
        await _announce_commands(self._app.bot)
        self._is_registered = True
        log.info("webhook registered", max_connections=self._app.settings.webhook_max_connections)

    async def _watch(self) -> None:
        """Ask Telegram, now and then, how many updates wait there and whether it still delivers here."""
        url = self._app.settings.webhook_url
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                info = await self._app.bot.get_webhook_info()
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


async def _receive_until(stop: asyncio.Event, receiver: _Receiver) -> None:
    receiving = asyncio.create_task(receiver.run())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({receiving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if receiving.done():
            receiving.result()
    finally:
        for task in (receiving, stopping):
            task.cancel()
        await asyncio.gather(receiving, stopping, return_exceptions=True)


async def _announce_commands(bot: Bot) -> None:
    """Show the commands in Telegram's menu; the bot works without."""
    try:
        async with asyncio.timeout(ANNOUNCE_SECONDS):
            await bot.set_my_commands(COMMANDS)
            await bot.set_my_commands(PRIVATE_COMMANDS, scope=BotCommandScopeAllPrivateChats())
    except (TelegramAPIError, ClientDecodeError, TimeoutError) as error:
        log.debug("commands not announced", reason=type(error).__name__)
