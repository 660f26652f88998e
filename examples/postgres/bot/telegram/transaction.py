"""One transaction per update: order, load, seen?, handle, commit, reply, acknowledge.

An update is acknowledged to Telegram when `Transactions.process` returns, and only then. Killed before
that, the bot gets the update again; its id among the applied ones then tells whether its effect is already
there, and the outbox what is still to be said.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog
from aiogram import Bot, Dispatcher
from aiogram.dispatcher.event.bases import UNHANDLED
from aiogram.dispatcher.middlewares.user_context import UserContextMiddleware
from aiogram.methods import AnswerCallbackQuery, SendMessage, TelegramMethod
from aiogram.types import Chat, Update, User
from aiogram.types.update import UpdateTypeLookupError

from bot import metrics
from bot.agent_adapter import TelegramAgentAdapter
from bot.config import Settings
from bot.state.codec import clean
from bot.state.store import (
    Changes,
    StateConflict,
    StateCorrupt,
    StateStore,
    StateTooLarge,
    StateUnavailable,
    UserRecord,
)
from bot.state.turn import COMMIT_ATTEMPTS, Turn
from bot.telegram.meanwhile import meanwhile
from bot.telegram.order import KeyedOrder
from bot.telegram.recent import Recent
from bot.telegram.replies import DeliveryFailed, Reply, prepare, send
from bot.telegram.updates import date_of

CALLBACK_PATIENCE = 3.0
"""Seconds after which a pressed button stops spinning, though its update is still waiting or running."""

RETRY_DELAYS = (0.5, 30.0)
"""First and longest delay in seconds before an update is tried again."""

ON_ERROR_SECONDS = 5.0
"""How long the owner's `on_error` may take."""

SORRY = "Sorry, something went wrong with this message. Please try another one."
SORRY_TOO_LARGE = (
    "Sorry, I cannot remember any more. Send /reset to clear what I know, or /export to keep a copy first."
)
SORRY_CORRUPT = "Sorry, I cannot read what I know about you. The person who runs me has been told."

log = structlog.get_logger()


class NotAcknowledged(Exception):
    """The update was not dealt with, through no fault of its own; Telegram has to deliver it again."""


@dataclass(frozen=True, slots=True)
class _Sender:
    """Who an update is from. `user_id` is `None` when no person is behind it."""

    user: User | None
    chat: Chat | None
    user_id: str | None

    @property
    def order_key(self) -> str:
        return self.user_id or f"chat:{self.chat.id if self.chat else ''}"


class Transactions:
    """Deals with updates, each exactly once in its effect on state."""

    def __init__(
        self,
        bot: Bot,
        dispatcher: Dispatcher,
        store: StateStore,
        settings: Settings,
        agent: TelegramAgentAdapter,
    ) -> None:
        """Make it; nothing runs yet."""
        self._bot = bot
        self._dispatcher = dispatcher
        self._agent = agent
        self._store = store
        self._settings = settings
        self._order = KeyedOrder()
        self._slots = asyncio.Semaphore(settings.max_concurrent_updates)
        self._running: dict[int, asyncio.Task[None]] = {}
        self._waiting_since: dict[int, float] = {}
        self._sent: Recent[int] = Recent()
        self._finished: Recent[bool] = Recent()
        self._draining = asyncio.Event()
        metrics.QUEUE_AGE.set_function(self._queue_age)

    @property
    def is_idle(self) -> bool:
        """Whether no update is known to be under way, nor any trace of one left."""
        return not self._running and not len(self._order)

    def skip(self, update_id: int) -> None:
        """Acknowledge this update without handling it when it comes."""
        self._finished.set(update_id, True)

    async def process(self, update: Update, *, keep_trying: bool = False) -> None:
        """Deal with an update, or join the work when it is already under way.

        Args:
            update: bound to the bot.
            keep_trying: wait here while the store or Telegram is away, keeping the user's place.

        Raises:
            NotAcknowledged: it has to be delivered again.
        """
        update_id = update.update_id
        if update_id in self._finished:
            metrics.DUPLICATES.inc()
            return
        task = self._running.get(update_id)
        if task is None:
            if self._draining.is_set():
                raise NotAcknowledged("the bot is shutting down")
            task = asyncio.create_task(self._in_order(update, keep_trying))
            self._running[update_id] = task
            self._waiting_since[update_id] = _sent_at(update)
            task.add_done_callback(lambda _: self._done(update_id))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise NotAcknowledged("the bot is shutting down") from None
            raise

    async def drain(self, timeout: float) -> None:
        """Take no more updates, finish those that have begun, give up the rest.

        Args:
            timeout: seconds after which also those that have begun are given up; Telegram has them all.
        """
        self._draining.set()
        tasks = set(self._running.values())
        if not tasks:
            return
        log.info("finishing what is under way", updates=len(tasks))
        _, late = await asyncio.wait(tasks, timeout=timeout)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if late:
            log.warning("given up; Telegram will deliver them again", updates=len(late))

    def _done(self, update_id: int) -> None:
        del self._running[update_id], self._waiting_since[update_id]

    def _queue_age(self) -> float:
        """Seconds for which the oldest update has waited."""
        now = time.time()
        return max(0.0, now - min(self._waiting_since.values(), default=now))

    async def _in_order(self, update: Update, keep_trying: bool) -> None:
        kind = _kind(update)
        if kind is None:
            log.warning(
                "update of an unknown kind", update_id=update.update_id, fields=[*(update.model_extra or ())]
            )
            self._finished.set(update.update_id, True)
            return
        sender = _sender(update)
        started = time.monotonic()
        structlog.contextvars.bind_contextvars(update_id=update.update_id, user_id=sender.user_id, kind=kind)
        with metrics.IN_FLIGHT.track_inprogress(), self._releasing_button(update):
            async with self._order.hold(sender.order_key):
                outcome = await self._until_done(update, sender, keep_trying)
        seconds = time.monotonic() - started
        metrics.UPDATES.labels(kind, outcome).inc()
        metrics.TURN_SECONDS.observe(seconds)
        log.info("update done", outcome=outcome, seconds=round(seconds, 3))

    async def _until_done(self, update: Update, sender: _Sender, keep_trying: bool) -> str:
        delay, longest = RETRY_DELAYS
        while True:
            try:
                async with self._slots:
                    if self._draining.is_set():
                        raise NotAcknowledged("the bot is shutting down")
                    outcome = await self._attempt(update, sender)
            except NotAcknowledged:
                raise
            except Exception as error:
                metrics.RETRIES.inc()
                # Whatever a driver raises, the owner's code did not: whether it was applied is unknown.
                is_known = isinstance(error, StateUnavailable | StateConflict | DeliveryFailed)
                reason = str(error) if is_known else type(error).__name__
                log.warning("update has to wait", reason=reason, retry=keep_trying, exc_info=not is_known)
                if not keep_trying:
                    raise NotAcknowledged(reason) from error
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._draining.wait(), delay)
                delay = min(delay * 2, longest)
            else:
                self._finished.set(update.update_id, True)
                return outcome

    async def _attempt(self, update: Update, sender: _Sender) -> str:
        if sender.user_id is None:
            return await self._without_record(update, sender)
        for attempt in range(COMMIT_ATTEMPTS):
            try:
                with metrics.LOAD_SECONDS.time():
                    record = await self._store.load(sender.user_id)
            except StateCorrupt as error:
                log.error("record is corrupt, see `bot state show --raw`", reason=str(error))
                turn = Turn(UserRecord(sender.user_id), self._store.limits, user=sender.user)
                await self._deliver(update, await self._apology(turn, update, sender, error))
                return "corrupt"
            if update.update_id in record.applied:
                metrics.DUPLICATES.inc()
                entry = record.outbox.get(update.update_id)
                stored = entry.replies if entry else []
                await self._deliver(update, [Reply.from_json(reply) for reply in stored])
                return "seen"
            try:
                outcome, replies = await self._turn(update, sender, record)
            except StateConflict:
                metrics.CONFLICTS.inc()
                await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))
                continue
            await self._deliver(update, replies)
            return outcome
        raise StateConflict(f"others came between {COMMIT_ATTEMPTS} times", sender.user_id)

    async def _turn(self, update: Update, sender: _Sender, record: UserRecord) -> tuple[str, list[Reply]]:
        """Handle the update and commit what it changed, or that it failed."""
        turn = Turn(record, self._store.limits, user=sender.user)
        try:
            outcome = await self._handle(turn, update)
            replies = await self._prepared(turn, update)
            changes = turn.changes()
            noted = changes and self._noting(turn, update, changes, replies)
        except (StateUnavailable, StateConflict):
            raise
        except Exception as error:
            return await self._failed(turn, update, sender, error)
        if noted:
            try:
                await self._commit(turn, noted)
            except StateTooLarge as error:
                return await self._failed(turn, update, sender, error)
        turn.committed()
        return outcome, replies

    async def _failed(
        self, turn: Turn, update: Update, sender: _Sender, error: Exception
    ) -> tuple[str, list[Reply]]:
        """Commit the record as it was loaded, with the update and an apology."""
        if isinstance(error, StateTooLarge):
            log.warning("record would be too large", reason=str(error))
        else:
            log.error("update failed; its user got an apology", exc_info=error)
        replies = await self._apology(turn, update, sender, error)
        # A record may be so large that not even this fits: it is said, and acknowledged, all the same.
        with contextlib.suppress(StateTooLarge):
            await self._commit(turn, self._noting(turn, update, Changes(), replies))
        return _failure(error)[0], replies

    async def _without_record(self, update: Update, sender: _Sender) -> str:
        """Handle an update that no person is behind: at least once, and nothing is kept."""
        turn = Turn(UserRecord(sender.order_key), self._store.limits, is_anonymous=True)
        try:
            outcome = await self._handle(turn, update)
            replies = await self._prepared(turn, update)
        except (StateUnavailable, StateConflict):
            raise
        except Exception as error:
            log.exception("update failed")
            outcome = _failure(error)[0]
            apology = await self._apology(turn, update, sender, error)
            replies = apology if update.message else []
        else:
            turn.committed()
        await self._deliver(update, replies)
        return outcome

    async def _handle(self, turn: Turn, update: Update) -> str:
        """Run the dispatcher; its methods, returned un-awaited, become the turn's replies."""
        with turn.active():
            async with _limited(self._settings.agent_timeout):
                result = await self._dispatcher.feed_update(self._bot, update)
        if result is UNHANDLED:
            return "ignored"
        for method in result if isinstance(result, list | tuple) else [result]:
            if isinstance(method, TelegramMethod):
                turn.reply(method)
        return "handled"

    async def _prepared(self, turn: Turn, update: Update) -> list[Reply]:
        return await self._with_answer(update, turn.replies)

    async def _apology(self, turn: Turn, update: Update, sender: _Sender, error: Exception) -> list[Reply]:
        """Tell the owner of an error, and prepare what to tell the user."""
        text = _failure(error)[1]
        try:
            # In a turn that nobody commits: what is changed now must not get in the way of the apology.
            with (aside := turn.as_loaded()).active():
                async with _limited(ON_ERROR_SECONDS):
                    chosen = await self._agent.on_error(error)
            aside.committed()
            if chosen is not None:
                text = clean(chosen)
        except Exception:
            log.exception("on_error failed itself")
        methods = [SendMessage(chat_id=sender.chat.id, text=text)] if sender.chat and text.strip() else []
        return await self._with_answer(update, methods)

    async def _with_answer(self, update: Update, methods: Sequence[TelegramMethod[Any]]) -> list[Reply]:
        """The methods as replies; a pressed button is answered in any case."""
        query = update.callback_query
        if query and not any(isinstance(method, AnswerCallbackQuery) for method in methods):
            methods = [*methods, AnswerCallbackQuery(callback_query_id=query.id)]
        return [reply for method in methods for reply in await prepare(self._bot, method)]

    def _noting(self, turn: Turn, update: Update, changes: Changes, replies: list[Reply]) -> Changes:
        """The changes, with the id of the update and its replies."""
        update_id = update.update_id
        stored = [reply.to_json() for reply in replies]
        outbox = turn.outbox_changes(update_id, stored, self._finished.__contains__, date_of(update))
        return replace(changes, applied=(update_id,), outbox=outbox)

    async def _commit(self, turn: Turn, changes: Changes) -> None:
        with metrics.COMMIT_SECONDS.time():
            await self._store.commit(turn.user_id, changes, expect=turn.version)

    def _releasing_button(self, update: Update) -> contextlib.AbstractContextManager[None]:
        """Stop a pressed button from spinning when its update waits or runs for long."""
        query = update.callback_query
        if query is None:
            return contextlib.nullcontext()

        async def release() -> None:
            await self._bot(AnswerCallbackQuery(callback_query_id=query.id))

        return meanwhile(CALLBACK_PATIENCE, release)

    async def _deliver(self, update: Update, replies: list[Reply]) -> None:
        """Send what this process has not sent yet."""
        already = self._sent.get(update.update_id, 0)
        for number, reply in enumerate(replies[already:], start=already + 1):
            await send(self._bot, reply)
            self._sent.set(update.update_id, number)


@contextlib.asynccontextmanager
async def _limited(seconds: float) -> AsyncIterator[None]:
    """Limit the owner's code in time, and take it for an error when it cancels itself."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task and task.cancelling():
            raise
        raise RuntimeError("waited for something that was cancelled") from error


def _sender(update: Update) -> _Sender:
    context = UserContextMiddleware.resolve_event_context(update)
    message = update.message or update.edited_message
    is_person = context.user is not None and not (message and message.sender_chat)
    return _Sender(
        user=context.user,
        chat=context.chat,
        user_id=str(context.user.id) if context.user and is_person else None,
    )


def _sent_at(update: Update) -> float:
    """When it was sent or, where it does not say, now; in seconds since 1970."""
    return update.message.date.timestamp() if update.message else time.time()


def _kind(update: Update) -> str | None:
    try:
        return update.event_type
    except UpdateTypeLookupError:
        return None


def _failure(error: Exception) -> tuple[str, str]:
    """How an update ended that failed, and the usual apology for it."""
    match error:
        case StateTooLarge():
            return "too large", SORRY_TOO_LARGE
        case StateCorrupt():
            return "corrupt", SORRY_CORRUPT
        case TimeoutError():
            return "timeout", SORRY
        case _:
            return "failed", SORRY
