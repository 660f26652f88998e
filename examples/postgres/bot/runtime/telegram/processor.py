"""Admission of updates: deduplicate, order per user, retry, drain.

An update is acknowledged to Telegram when `Processor.process` returns, and only then: its replies are out, or
its user's record owes them. Killed before that, the bot gets the update again; its id among the applied ones
then tells whether its effect is already there, and the outbox what is still to be said.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import structlog
from aiogram import Bot
from aiogram.enums import ChatType
from aiogram.exceptions import TelegramAPIError
from aiogram.methods import AnswerCallbackQuery
from aiogram.types import Update

from bot.runtime import metrics
from bot.runtime.config import Settings
from bot.runtime.errors import LeaseLost, StateConflict, StateUnavailable
from bot.runtime.state.jobs import Claim
from bot.runtime.state.record import waiting_for
from bot.runtime.telegram.agent import TelegramAgentAdapter
from bot.runtime.telegram.calls import run_alongside
from bot.runtime.telegram.inbox import Inbox, InboxFull
from bot.runtime.telegram.outbox import Delivery
from bot.runtime.telegram.transaction import ON_ERROR_SECONDS, Transaction
from bot.runtime.telegram.updates import (
    QUERIES,
    LruDict,
    Sender,
    Stops,
    has_to_be_handled,
    is_about_forgetting,
    is_forgetting,
    is_known,
    is_listed,
    kind_of,
    message_in,
    name_of,
    parse_update,
    raw_of,
    sent_at,
    upgrade_in,
)

CALLBACK_DELAY = 3.0
"""Seconds after which a pressed button stops spinning, though its update is still waiting or running."""

NAME_AGAIN = 30.0
"""Seconds before Telegram is asked for the bot's name again that it did not tell."""

QUERY_LIFE = 10.0
"""Seconds after which Telegram takes no answer to a query."""

RETRY_DELAYS = (0.5, 30.0)
"""First and longest delay in seconds before an update is tried again."""

Attempt = Callable[[Update, Sender], Awaitable[tuple[str, Delivery | None]]]
"""One attempt at an update: its outcome, in a word or two, and the replies on their way."""

log = structlog.get_logger()


class NotAcknowledged(Exception):
    """The update was not processed, for a reason that lies elsewhere; Telegram has to deliver it again."""


class Admission:
    """Which updates are handled at all: decided before an update waits for its person's others."""

    def __init__(self, bot: Bot, agent: TelegramAgentAdapter, settings: Settings) -> None:
        """Decide as the agent and the settings say."""
        self._bot = bot
        self.agent = agent
        self._allowed = settings.allowed_users and settings.allowed_users | (settings.admins or frozenset())
        self._asking = asyncio.Lock()
        self._ask_again_at = 0.0
        self._told: LruDict[bool] = LruDict()

    async def is_wanted(self, update: Update) -> bool:
        """Whether the agent wants it."""
        message = message_in(update)
        if message and message.chat.type != ChatType.PRIVATE:
            if has_to_be_handled(message):
                return True
            await self.learn_name()
        try:
            return self.agent.wants(update)
        except Exception:
            log.exception("Agent.wants failed: the update is handled")
            return True

    async def learn_name(self) -> None:
        """Learn the bot's name, by which people mean it, if Telegram tells it soon."""
        if self.agent.username is None:
            async with self._asking:  # those who wait go on in order
                if self.agent.username is None and time.monotonic() > self._ask_again_at:
                    self.agent.username = await name_of(self._bot)
                    self._ask_again_at = time.monotonic() + NAME_AGAIN

    def is_allowed(self, update: Update, sender: Sender) -> bool:
        """Whether whoever caused it may use the bot, or nobody did."""
        if not self._allowed or is_listed(self._allowed, sender):
            return True
        message = message_in(update)
        if sender.chat and sender.chat.id in self._allowed:
            return True
        if message is None:
            return sender.user is None
        if has_to_be_handled(message):
            return True
        return message.sender_chat is not None and message.sender_chat.id in self._allowed

    def is_told(self, update: Update, sender: Sender) -> bool:
        """Whether somebody who may not use the bot is to be told: once, and not in front of others."""
        if update.message is None or sender.user is None:
            return message_in(update) is None or update.guest_message is not None
        if update.message.chat.type != ChatType.PRIVATE or sender.user.id in self._told:
            return False
        self._told.set(sender.user.id, True)
        return True


class Processor:
    """Processes updates: the effect of each on state is applied exactly once."""

    def __init__(
        self, bot: Bot, transaction: Transaction, admission: Admission, *, max_concurrent: int
    ) -> None:
        """Make it; nothing runs yet.

        Args:
            bot: whose updates these are.
            transaction: what is tried for each update until it succeeds.
            admission: which updates are handled at all.
            max_concurrent: most updates of different users handled at the same time.
        """
        self._bot = bot
        self._transaction = transaction
        self._agent = admission.agent
        self.admission = admission
        self._outbox = transaction.outbox
        self._lanes = transaction.lanes
        self._slots = asyncio.Semaphore(max_concurrent)
        self._query_slots = asyncio.Semaphore(max_concurrent)
        self._running: dict[int, asyncio.Task[None]] = {}
        self._waiting_since: dict[int, float] = {}
        self._done: LruDict[bool] = LruDict()
        self._handling: dict[str, asyncio.Task[Any]] = {}
        self._presses: dict[int, asyncio.TimerHandle] = {}
        self._inbox = Inbox(
            bot,
            transaction.store,
            self._agent.timetable,
            self.handle_kept,
            lambda update_id: transaction.begin_streaming().stop(update_id),
        )
        self._draining = asyncio.Event()
        metrics.QUEUE_AGE.set_function(self._queue_age)

    @property
    def is_idle(self) -> bool:
        """Whether no update is known to be under way, nor any trace of one left."""
        return not self._running and not len(self._lanes) and self._outbox.is_idle

    @property
    def defers(self) -> bool:
        """Whether updates are kept, to be handled when their turn comes."""
        return self._transaction.defers

    @property
    def empty_inbox(self) -> Callable[[Claim], Awaitable[None]]:
        """Handles the updates that wait for a record."""
        return self._inbox.empty

    def set_crowded(self, is_crowded: bool) -> None:
        """Whether updates that wait for their replies keep others from coming in."""
        self._outbox.set_crowded(is_crowded)

    def skip(self, update_id: int) -> None:
        """Acknowledge this update without handling it when it comes."""
        self._done.set(update_id, True)

    async def process_raw(self, raw: dict[str, Any], *, keep_trying: bool = False) -> None:
        """Process an update as Telegram sends it; what aiogram does not know reaches the owner's hook.

        Args:
            raw: the update.
            keep_trying: as for `process`.

        Raises:
            NotAcknowledged: it has to be delivered again.
        """
        update = parse_update(self._bot, raw)
        kind = kind_of(update) if update else None
        if update is None or not is_known(update, kind):
            await self._last_resort(raw)
        if update and kind:
            await self.process(update, raw, keep_trying=keep_trying)
        else:
            self._done.set(raw["update_id"], True)

    async def _last_resort(self, raw: dict[str, Any]) -> None:
        """Show the owner's agent what nobody else can read. Telegram would only bring the same again."""
        if raw["update_id"] in self._done:
            return
        if self._draining.is_set():
            raise NotAcknowledged("the bot is shutting down")
        try:
            async with asyncio.timeout(ON_ERROR_SECONDS):
                await self._agent.on_unknown(raw)
        except Exception:
            log.exception("on_unknown failed", update_id=raw["update_id"])
        metrics.UPDATES.labels("unknown", "unknown").inc()

    async def process(
        self, update: Update, raw: Mapping[str, Any] | None = None, *, keep_trying: bool = False
    ) -> None:
        """Process an update, or wait for it when it is already being processed.

        Args:
            update: bound to the bot.
            raw: the same as Telegram sent it.
            keep_trying: wait here while the store is away, keeping the user's place.

        Raises:
            NotAcknowledged: it has to be delivered again.
        """
        update_id = update.update_id
        if update_id in self._done:
            metrics.DUPLICATES.inc()
            return
        task = self._running.get(update_id)
        if task is None:
            if self._draining.is_set():
                raise NotAcknowledged("the bot is shutting down")
            task = asyncio.create_task(self._in_order(update, raw, keep_trying))
            self._running[update_id] = task
            self._waiting_since[update_id] = sent_at(update)
            task.add_done_callback(lambda _: self._ended(update_id))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise NotAcknowledged("the bot is shutting down") from None
            raise

    async def drain(self, timeout: float, after: Awaitable[None] | None = None) -> None:
        """Shut down gracefully: refuse new updates, finish those that have begun, cancel the rest.

        Args:
            timeout: seconds after which running updates are cancelled; Telegram delivers them again.
            after: what else has to end before no more is sent.
        """
        deadline = time.monotonic() + timeout
        self._draining.set()
        self._outbox.stop_waiting()
        if tasks := set(self._running.values()):
            log.info("finishing updates in flight", updates=len(tasks))
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if late:
                log.warning("cancelled; Telegram will deliver them again", updates=len(late))
        if after:
            await after
        await self._outbox.close(deadline - time.monotonic())

    def _ended(self, update_id: int) -> None:
        del self._running[update_id], self._waiting_since[update_id]

    def _queue_age(self) -> float:
        """Seconds for which the oldest update has waited."""
        now = time.time()
        return max(0.0, now - min(self._waiting_since.values(), default=now))

    async def handle_kept(
        self, update: Update, failure: Exception | None, holds: Callable[[], Awaitable[bool]]
    ) -> None:
        """Handle an update that waited, to its end; Telegram no longer knows of it.

        Args:
            update: bound to the bot.
            failure: why it is only to be apologised for.
            holds: whether no other process has taken it over.

        Raises:
            NotAcknowledged: the bot is shutting down, or another process is at it.
        """
        kind, sender = kind_of(update) or "", self._transaction.sender_of(update)
        structlog.contextvars.bind_contextvars(update_id=update.update_id, user_id=sender.user_id, kind=kind)
        started, record = time.monotonic(), sender.user_id or ""
        attempt = functools.partial(self._transaction.run, is_kept=True, failure=failure, holds=holds)
        if timer := self._presses.pop(update.update_id, None):
            timer.cancel()
        if task := asyncio.current_task():
            self._handling[record] = task
        try:
            with metrics.IN_FLIGHT.track_inprogress(), self._releasing_button(update):
                outcome, _ = await self._in_lane(attempt, update, sender, keep_trying=True)
        finally:
            del self._handling[record]
        self._note_done(update, kind, outcome, started)

    async def _keep(
        self, raw: Mapping[str, Any], stops: Stops | None, update: Update, sender: Sender
    ) -> tuple[str, Delivery | None]:
        """Have an update wait for its turn, and note what it stops."""
        try:
            await self._inbox.put(sender.user_id or "", update.update_id, raw, stops)
        except InboxFull as error:
            log.warning("update dropped: too much waits already", is_told=error.is_told)
            return "dropped", None if error.is_told else await self._transaction.tell_full(update, sender)
        return "kept", None

    async def _in_order(self, update: Update, raw: Mapping[str, Any] | None, keep_trying: bool) -> None:
        kind, sender = kind_of(update) or "", self._transaction.sender_of(update)
        started = time.monotonic()
        structlog.contextvars.bind_contextvars(update_id=update.update_id, user_id=sender.user_id, kind=kind)
        if not self.admission.is_allowed(update, sender):
            await self._turn_down(update, sender)
            metrics.UPDATES.labels(kind, "not allowed").inc()
            log.info("update turned down: its user is not among ALLOWED_USERS")
        elif not await self.admission.is_wanted(update):
            metrics.UPDATES.labels(kind, "unwanted").inc()
            log.debug("update not wanted")
        else:
            stops = self._transaction.heed(update, sender)
            with metrics.IN_FLIGHT.track_inprogress(), self._releasing_button(update):
                if kind in QUERIES:
                    outcome, delivery = await self._until_answered(update, sender, keep_trying)
                    await self._released(delivery)
                elif self.defers and sender.user_id:
                    outcome = await self._defer(update, raw, stops, sender, keep_trying)
                else:
                    outcome, delivery = await self._in_lane(
                        self._transaction.run, update, sender, keep_trying
                    )
                    await self._released(delivery)
            self._note_done(update, kind, outcome, started)
        self._done.set(update.update_id, True)

    async def _defer(
        self,
        update: Update,
        raw: Mapping[str, Any] | None,
        stops: Stops | None,
        sender: Sender,
        keep_trying: bool,
    ) -> str:
        """Keep an update for later, unless it has to do with what runs."""
        if is_forgetting(update):
            outcome, delivery = await self._until(
                self._transaction.run, update, sender, keep_trying, self._query_slots
            )
            await self._inbox.drop(sender.user_id or "", update.update_id)
            if streams := self._agent.streams:
                streams.take_away(sender.lock_key, self._agent.background)
            if task := self._handling.get(sender.user_id or ""):
                task.cancel()
        elif is_about_forgetting(update):
            outcome, delivery = await self._until(
                self._transaction.answer_query, update, sender, keep_trying, self._slots
            )
        else:
            if raw is None:
                raw = raw_of(update)
            keep = functools.partial(self._keep, raw, stops)
            async with self._lanes.hold(waiting_for(sender.lock_key)):  # in the order in which they came
                # Those who think hold the other slots, for minutes.
                outcome, delivery = await self._until(keep, update, sender, keep_trying, self._query_slots)
            if update.callback_query and outcome == "kept":
                self._release_later(
                    update.callback_query.id, update.update_id, 0 if stops else CALLBACK_DELAY
                )
        await self._released(delivery)
        return outcome

    def _release_later(self, query_id: str, update_id: int, seconds: float) -> None:
        """Stop a button from spinning whose press waits for long before it is handled."""

        def begin() -> None:
            if self._presses.pop(update_id, None):
                self._agent.background(release)

        async def release() -> None:
            with contextlib.suppress(TelegramAPIError):
                await self._bot(AnswerCallbackQuery(callback_query_id=query_id))

        self._presses[update_id] = asyncio.get_running_loop().call_later(seconds, begin)

    async def _in_lane(
        self, attempt: Attempt, update: Update, sender: Sender, keep_trying: bool
    ) -> tuple[str, Delivery | None]:
        """Handle an update when those before it are."""
        async with self._behind_upgrade(update, sender), self._lanes.hold(sender.lock_key):
            outcome, delivery = await self._until(attempt, update, sender, keep_trying, self._slots)
            if delivery:
                await self._outbox.moved(delivery)
        return outcome, delivery

    def _note_done(self, update: Update, kind: str, outcome: str, started: float) -> None:
        seconds = time.monotonic() - started
        metrics.UPDATES.labels(kind, outcome).inc()
        metrics.TURN_SECONDS.observe(seconds)
        log.info("update done", outcome=outcome, seconds=round(seconds, 3))

    async def _turn_down(self, update: Update, sender: Sender) -> None:
        if self.admission.is_told(update, sender):
            await self._released(await self._transaction.turn_down(update, sender))

    async def _released(self, delivery: Delivery | None) -> None:
        """Wait until an update can be acknowledged.

        Raises:
            NotAcknowledged: the bot stops before.
        """
        if delivery and not await self._outbox.released(delivery):
            raise NotAcknowledged("the bot is shutting down")

    async def _until_answered(
        self, update: Update, sender: Sender, keep_trying: bool
    ) -> tuple[str, Delivery | None]:
        """Answer a query, unless Telegram no longer waits for it."""
        try:
            async with asyncio.timeout(QUERY_LIFE):
                return await self._until(
                    self._transaction.answer_query, update, sender, keep_trying, self._query_slots
                )
        except TimeoutError:
            log.error("query given up: it is too late for an answer")
            return "too late", None

    async def _until(
        self,
        attempt: Attempt,
        update: Update,
        sender: Sender,
        keep_trying: bool,
        slots: asyncio.Semaphore,
    ) -> tuple[str, Delivery | None]:
        """Try until an attempt succeeds or, in webhook mode, once."""
        delay, longest = RETRY_DELAYS
        while True:
            try:
                async with slots:
                    if self._draining.is_set():
                        raise NotAcknowledged("the bot is shutting down")
                    done = await attempt(update, sender)
                    self._outbox.outage.ends()
                    return done
            except NotAcknowledged:
                raise
            except LeaseLost as error:
                raise NotAcknowledged(str(error)) from error
            except Exception as error:
                metrics.RETRIES.inc()
                # Whatever a driver raises, the owner's code did not: whether it was applied is unknown.
                is_known = isinstance(error, StateUnavailable | StateConflict)
                reason = str(error) if is_known else type(error).__name__
                if isinstance(error, StateUnavailable):
                    self._outbox.outage.goes_on(reason=reason)
                else:
                    log.warning("update is retried", reason=reason, retry=keep_trying, exc_info=not is_known)
                if not keep_trying:
                    raise NotAcknowledged(reason) from error
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._draining.wait(), delay)
                delay = min(delay * 2, longest)

    @contextlib.asynccontextmanager
    async def _behind_upgrade(self, update: Update, sender: Sender) -> AsyncIterator[None]:
        """Have what is said in a new supergroup wait until it is noted which group it was."""
        upgrade = upgrade_in(update)
        chat = upgrade[1] if upgrade else sender.chat.id if sender.chat else None
        name = f"upgrade {chat}"
        async with (
            self._lanes.hold(name) if upgrade or self._lanes.is_held(name) else contextlib.nullcontext()
        ):
            if upgrade:
                yield
        if not upgrade:
            yield

    def _releasing_button(self, update: Update) -> contextlib.AbstractContextManager[None]:
        """Stop a pressed button from spinning when its update waits or runs for long."""
        query = update.callback_query
        if query is None:
            return contextlib.nullcontext()

        async def release() -> None:
            await self._bot(AnswerCallbackQuery(callback_query_id=query.id))

        return run_alongside(CALLBACK_DELAY, release)
