"""The running bot: its parts put together, started, and stopped without losing anything."""

import asyncio
import gc
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import structlog
from aiogram import Bot, Dispatcher, Router
from aiogram.client.session.base import BaseSession
from aiogram.fsm.strategy import FSMStrategy

from bot.runtime.config import Settings
from bot.runtime.engines import create_store
from bot.runtime.errors import OperatorError, StateError, unusable
from bot.runtime.health import add_jobs, listen, make_server
from bot.runtime.logs import Outage
from bot.runtime.state.fsm import RecordStorage
from bot.runtime.state.store import OperatorStore, StateStore
from bot.runtime.telegram.agent import TelegramAgentAdapter, defers, streams
from bot.runtime.telegram.calls import Session, build_models, run_alongside
from bot.runtime.telegram.commands import (
    Administrators,
    FloodProtection,
    commands,
    conversation,
    remainder,
)
from bot.runtime.telegram.jobs import JobRunner
from bot.runtime.telegram.processor import Admission, Processor
from bot.runtime.telegram.receiver import BODY_LIMIT, Receiver
from bot.runtime.telegram.texts import STOP_MENU, TextTable
from bot.runtime.telegram.transaction import Transaction
from bot.runtime.telegram.updates import SAID

YOUNG_OBJECTS = 5_000
"""New objects after which the garbage collector looks at them; Python's own number is 700."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Owner:
    """What the owner wrote.

    Attributes:
        agent: makes the agent, given the bot's token.
        texts: what the bot says besides the agent.
        before: routers that are asked before the bot's own commands.
        flows: routers that are asked after the commands and before the agent.
        after: routers that are asked for what the agent does not take.
    """

    agent: Callable[[str], TelegramAgentAdapter]
    texts: TextTable = field(default_factory=TextTable)
    before: Sequence[Router] = ()
    flows: Sequence[Router] = ()
    after: Sequence[Router] = ()


def load_owner() -> Owner:
    """Import `bot/agent.py`, `bot/handlers.py` and `bot/flow/`. Only `Agent` has to be there."""
    from bot.agent import Agent

    handlers = import_module("bot.handlers") if find_spec("bot.handlers") else None
    flow = import_module("bot.flow") if find_spec("bot.flow") else None
    menus = [*([flow.MENU] if flow else []), *([STOP_MENU] if streams(Agent) else [])]
    return Owner(
        agent=Agent,
        texts=TextTable(getattr(handlers, "TEXTS", None), menus),
        before=_routers(handlers, "before"),
        flows=[flow.router()] if flow else [],
        after=_routers(handlers, "after"),
    )


def _routers(handlers: ModuleType | None, name: str) -> list[Router]:
    router = getattr(handlers, name, None)
    return [] if router is None else [router]


@dataclass(slots=True)
class App:
    """The parts of a bot that is ready to take updates."""

    settings: Settings
    bot: Bot
    dispatcher: Dispatcher
    store: OperatorStore
    agent: TelegramAgentAdapter
    texts: TextTable
    processor: Processor
    jobs: JobRunner
    outage: Outage

    async def drain(self) -> None:
        """Finish what is under way, updates and jobs first, within `SHUTDOWN_TIMEOUT`; give up the rest."""
        deadline = time.monotonic() + self.settings.shutdown_timeout
        jobs = asyncio.create_task(self.jobs.drain(self.settings.shutdown_timeout))
        await self.processor.drain(self.settings.shutdown_timeout, after=jobs)
        await self.agent.drain(deadline - time.monotonic())


@asynccontextmanager
async def open_app(
    settings: Settings,
    *,
    session: BaseSession,
    token: str,
    bot_id: int | None = None,
    store: OperatorStore | None = None,
    owner: Owner | None = None,
    is_ours: Callable[[str], bool] = lambda _: True,
) -> AsyncIterator[App]:
    """Open the store and the agent, put everything together, and close it in the end.

    What fails first is raised; what fails at closing after that is logged.

    Args:
        settings: the settings.
        session: how the bot reaches Telegram, or the terminal.
        token: the bot's token.
        bot_id: whose records these have to be; anybody's, if `None`.
        store: the store to use instead of the engine's.
        owner: what to use instead of what the owner wrote.
        is_ours: whose jobs may run here.

    Raises:
        OperatorError: the store cannot be opened, or belongs to another bot; two jobs have one name; or the
            agent's `state_type` cannot be used.
    """
    store = store or create_store(settings)
    owner = owner or load_owner()
    agent, bot = owner.agent(token), Bot(token, session=session)
    agent.store, agent.bot = store, bot
    if agent.remembers.shape:
        agent.remembers.shape.check()
    async with AsyncExitStack() as stack:
        stack.push_async_exit(_closing(bot.session.close))
        stack.push_async_exit(_closing(store.close))
        try:
            await store.connect()
            if bot_id is not None:
                await store.bind(bot_id)
            await agent.connect()  # which may begin to write
            stack.push_async_exit(_closing(agent.close))
            dispatcher = _make_dispatcher(store, agent, settings, owner)
            transaction = Transaction(bot, dispatcher, store, agent, owner.texts, settings)
            admission = Admission(bot, agent, settings)
            most = settings.max_concurrent_updates
            processor = Processor(bot, transaction, admission, max_concurrent=most)
            outage = transaction.outbox.outage
            jobs = JobRunner(
                store,
                agent,
                transaction.outbox,
                owner.texts,
                seconds=settings.agent_timeout,
                poll=settings.jobs_seconds or store.due_seconds,
                most=most,
                is_ours=is_ours,
                empty=processor.empty_inbox,
                gather=transaction.gather,
                admins=settings.admins or (),
            )
            yield App(settings, bot, dispatcher, store, agent, owner.texts, processor, jobs, outage)
        except StateError as error:
            raise unusable(store.name, error) from error


def _closing(close: Callable[[], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """An exit that closes something and, where something else went wrong before, does not hide it."""

    async def exit_(_kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            await close()
        except Exception:
            if error is None:
                raise
            log.exception("closing failed, too")

    return exit_


def _make_dispatcher(
    store: StateStore, agent: TelegramAgentAdapter, settings: Settings, owner: Owner
) -> Dispatcher:
    """aiogram's dispatcher, with its flows kept in the store, and the agent at hand."""
    dispatcher = Dispatcher(
        storage=RecordStorage(store, settings.fsm_ttl, agent.lanes, agent.record_at),
        # A flow is of one person in one chat and, in a forum, in one topic.
        fsm_strategy=FSMStrategy.USER_IN_TOPIC,
        agent=agent,
        texts=owner.texts,
        administrators=Administrators(),
    )
    if settings.flood_limit:
        flood = FloodProtection(settings.flood_limit, settings.flood_seconds, owner.texts)
        for kind in SAID:
            dispatcher.observers[kind].outer_middleware(flood)
    asked_first = (*owner.before, commands(), *owner.flows)
    asked_last = (conversation(agent.accepts, agent.format), *owner.after, remainder(agent.accepts))
    for router in (*asked_first, *asked_last):
        # aiogram attaches a router once, and tests make several dispatchers of the same.
        router._parent_router = None
        dispatcher.include_router(router)
    return dispatcher


async def run(
    settings: Settings,
    stop: asyncio.Event,
    *,
    skip: int | None = None,
    store: OperatorStore | None = None,
    owner: Owner | None = None,
    listening: Callable[[int], None] | None = None,
) -> None:
    """Run the bot until `stop` is set, then finish what is under way.

    Args:
        settings: the settings; `WEBHOOK_URL` decides between webhook and long polling.
        stop: set by whoever wants the bot to stop.
        skip: an update to acknowledge without handling it.
        store: the store to use instead of the engine's.
        owner: what to use instead of what the owner wrote.
        listening: called with the port once the HTTP server listens.

    Raises:
        OperatorError: the bot cannot run; the text says what to do.
    """
    # As many connections as there may be slow uploads, and then some: polling needs one, too.
    session = Session.of(settings, limit=500)
    token = settings.token
    async with open_app(
        settings, session=session, token=token, bot_id=settings.bot_id, store=store, owner=owner
    ) as app:
        _check_busy(app.agent, settings)
        if not app.store.survives_exit:
            log.warning("the memory store forgets everything when the bot stops")
        if skip is not None:
            app.processor.skip(skip)
        receiver = Receiver(
            app.bot, app.processor, settings, app.dispatcher.resolve_used_update_types(), app.texts
        )
        server = make_server(app.store, lambda: receiver.is_receiving, app.outage, body_limit=BODY_LIMIT)
        if settings.webhook_secret and settings.webhook_path != "/jobs":
            add_jobs(server, app.jobs.run_once, settings.secret)
        receiver.add_routes(server)
        runner = await listen(server, settings.host, settings.port)
        try:
            port: int = runner.addresses[0][1]
            log.info("listening", host=settings.host, port=port)
            if listening:
                listening(port)
            with run_alongside(0, app.jobs.run), run_alongside(0, lambda: _warm_up(app.bot, receiver)):
                await _receive_until(stop, receiver)
        finally:
            await app.drain()
            await receiver.close()
            await runner.cleanup()
    log.info("stopped")


async def _warm_up(bot: Bot, receiver: Receiver) -> None:
    """Once the bot is ready, have the first update wait no longer than others: see `fast_import`.

    What is there by then stays, so the garbage collector need not look through it again and again, for a
    tenth of a second each time. And as an update leaves only some 30 objects, it need not come so often.
    """
    while not receiver.is_receiving:  # noqa: ASYNC110 - polling has no event for it
        await asyncio.sleep(0.05)
    await asyncio.to_thread(build_models, bot)
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)


async def run_jobs(settings: Settings) -> Counter[str]:
    """Do what is due now; see `JobRunner.run_once`.

    Args:
        settings: the bot's.

    Raises:
        OperatorError: the bot cannot run; the text says what to do.
    """
    session, token = Session.of(settings, limit=500), settings.token
    async with open_app(settings, session=session, token=token, bot_id=settings.bot_id) as app:
        if not app.store.survives_exit:
            raise OperatorError(
                "the memory store keeps nothing outside the running bot: leave its jobs to that"
            )
        try:
            return await app.jobs.run_once()
        finally:
            await app.drain()


def _check_busy(agent: TelegramAgentAdapter, settings: Settings) -> None:
    """Refuse what cannot work.

    Raises:
        OperatorError: it says what to do.
    """
    if agent.while_busy not in ("queue", "stop"):
        raise OperatorError(f"Agent.while_busy is {agent.while_busy!r}: it has to be 'queue' or 'stop'")
    if agent.while_busy == "stop" and settings.webhook_url and not defers(type(agent), by_webhook=True):
        raise OperatorError(
            'Agent.while_busy = "stop" cannot work with WEBHOOK_URL, as Telegram brings a message only when '
            "the one before is answered: set Agent.deferred = True, or leave WEBHOOK_URL empty"
        )


async def _receive_until(stop: asyncio.Event, receiver: Receiver) -> None:
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
