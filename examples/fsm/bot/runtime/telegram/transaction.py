"""One attempt at an update: load, deduplicate, handle, commit, begin to reply."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import structlog
from aiogram import Bot, Dispatcher
from aiogram.dispatcher.event.bases import UNHANDLED
from aiogram.methods import SendMessage, TelegramMethod
from aiogram.types import Update

from bot.runtime import metrics
from bot.runtime.errors import StateConflict, StateCorrupt, StateTooLarge, StateUnavailable
from bot.runtime.state.codec import clean
from bot.runtime.state.record import OutboxEntry, UserRecord
from bot.runtime.state.store import Changes, StateStore
from bot.runtime.state.turn import COMMIT_ATTEMPTS, Turn
from bot.runtime.telegram.agent import TelegramAgentAdapter
from bot.runtime.telegram.calls import Reply
from bot.runtime.telegram.outbox import Delivery, Outbox, outbox_changes, replies_of
from bot.runtime.telegram.texts import Texts, TextTable
from bot.runtime.telegram.updates import Sender

ON_ERROR_SECONDS = 5.0
"""How long the owner's `on_error` may take."""

Begin = Callable[[], None]
"""Begins what an update's turn handed to `background`."""

log = structlog.get_logger()


def _nothing() -> None:
    """Begin nothing."""


class Transaction:
    """Handles an update, commits its changes and replies atomically, and begins to send the replies.

    Attributes:
        outbox: sends them.
    """

    def __init__(
        self,
        bot: Bot,
        dispatcher: Dispatcher,
        store: StateStore,
        agent: TelegramAgentAdapter,
        texts: TextTable,
        *,
        agent_timeout: float,
    ) -> None:
        """Make it.

        Args:
            bot: whose updates these are.
            dispatcher: what handles them.
            store: where records are.
            agent: is told of errors.
            texts: what users are told of them.
            agent_timeout: seconds that handling may take.
        """
        self._bot = bot
        self._dispatcher = dispatcher
        self._store = store
        self._agent = agent
        self._texts = texts
        self._agent_timeout = agent_timeout
        self.outbox = Outbox(bot, store)

    async def run(self, update: Update, sender: Sender) -> tuple[str, Delivery | None]:
        """Run it; start over when another commit to the record was first.

        Returns:
            The outcome, in one or two words, and the replies on their way.

        Raises:
            StateUnavailable: the store does not answer.
            StateConflict: others committed first, too often in a row.
        """
        if sender.user_id is None:
            return await self._without_record(update, sender)
        for attempt in range(COMMIT_ATTEMPTS):
            try:
                with metrics.LOAD_SECONDS.time():
                    record = await self._store.load(sender.user_id)
            except StateCorrupt as error:
                log.error("record is corrupt, see `bot state show --raw`", reason=str(error))
                turn = Turn(UserRecord(sender.user_id), self._store.limits, user=sender.user)
                return "corrupt", self._deliver(
                    update, sender, *await self._apology(turn, update, sender, error)
                )
            self.outbox.take_over(record, _chat_of(sender), self._undelivered(sender))
            if update.update_id in record.applied:
                metrics.DUPLICATES.inc()
                entry = record.outbox.get(update.update_id)
                replies = replies_of(entry) if entry else []
                return "seen", self._deliver(update, sender, replies, entry=entry)
            try:
                return await self._commit(update, sender, record)
            except StateConflict:
                metrics.CONFLICTS.inc()
                await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))
        raise StateConflict(f"others committed first, {COMMIT_ATTEMPTS} times in a row", sender.user_id)

    async def _commit(
        self, update: Update, sender: Sender, record: UserRecord
    ) -> tuple[str, Delivery | None]:
        """Handle the update and commit what it changed or, where it failed, an apology."""
        # The turn owns the record's contents from here on; what waits in its outbox stays as it was loaded.
        turn = Turn(record, self._store.limits, user=sender.user)

        async def write(changes: Changes, replies: list[Reply]) -> OutboxEntry | None:
            outbox, entry = outbox_changes(record, update, replies, self.outbox.is_delivered)
            noted = replace(changes, applied=(update.update_id,), outbox=outbox)
            with metrics.COMMIT_SECONDS.time():
                await self._store.commit(record.user_id, noted, expect=record.version)
            return entry

        failure: Exception
        entry: OutboxEntry | None = None
        try:
            outcome = await self._handle(turn, update)
            replies = await self.outbox.prepare(update, turn.replies)
            changes = turn.changes()
        except (StateUnavailable, StateConflict):
            raise
        except Exception as error:
            failure = error
        else:
            try:
                # What it says or begins is noted, too, though nothing changed: it is not to be run again.
                if changes or replies or turn.begins_work:
                    entry = await write(changes or Changes(), replies)
                return outcome, self._deliver(update, sender, replies, turn.committed, entry=entry)
            except StateTooLarge as error:
                failure = error
        if isinstance(failure, StateTooLarge):
            log.warning("record would be too large", reason=str(failure))
        else:
            log.error("update failed; its user got an apology", exc_info=failure)
        replies, begin = await self._apology(turn, update, sender, failure)
        # A record may be so large that not even this fits: it is said, and acknowledged, all the same.
        with contextlib.suppress(StateTooLarge):
            entry = await write(Changes(), replies)
        return _outcome_of(failure), self._deliver(update, sender, replies, begin, entry=entry)

    async def _without_record(self, update: Update, sender: Sender) -> tuple[str, Delivery | None]:
        """Handle an update that no person is behind: at least once, and nothing is kept."""
        turn = Turn(UserRecord(sender.lock_key), self._store.limits, is_anonymous=True)
        begin: Begin = turn.committed
        try:
            outcome = await self._handle(turn, update)
            replies = await self.outbox.prepare(update, turn.replies)
        except (StateUnavailable, StateConflict):
            raise
        except Exception as error:
            log.exception("update failed")
            outcome = _outcome_of(error)
            apology, begin = await self._apology(turn, update, sender, error)
            replies = apology if update.message else []
        return outcome, self._deliver(update, sender, replies, begin)

    async def _handle(self, turn: Turn, update: Update) -> str:
        """Run the dispatcher; its methods, returned un-awaited, become the turn's replies."""
        with turn.active():
            async with _limited(self._agent_timeout):
                result = await self._dispatcher.feed_update(self._bot, update)
        if result is UNHANDLED:
            return "ignored"
        for method in result if isinstance(result, list | tuple) else [result]:
            if isinstance(method, TelegramMethod):
                turn.reply(method)
        return "handled"

    async def _apology(
        self, turn: Turn, update: Update, sender: Sender, error: Exception
    ) -> tuple[list[Reply], Begin]:
        """Tell the owner of an error, and prepare what to tell the user."""
        text = _sorry(self._texts.of(sender.language), error)
        begin = _nothing
        try:
            # In a turn that nobody commits: what is changed now must not get in the way of the apology.
            with (aside := turn.as_loaded()).active():
                async with _limited(ON_ERROR_SECONDS):
                    chosen = await self._agent.on_error(error)
            begin = aside.committed
            if chosen is not None:
                text = clean(chosen)
        except Exception:
            log.exception("on_error failed itself")
        methods = [SendMessage(chat_id=sender.chat.id, text=text)] if sender.chat and text.strip() else []
        return await self.outbox.prepare(update, methods), begin

    def _deliver(
        self,
        update: Update,
        sender: Sender,
        replies: list[Reply],
        begin: Begin = _nothing,
        *,
        entry: OutboxEntry | None = None,
    ) -> Delivery | None:
        """Begin to send replies, and what is to begin after them; `entry` is what the record has of them."""
        if not replies:
            begin()
            return None
        delivery = Delivery(
            update_id=update.update_id,
            replies=replies,
            lane=sender.lock_key,
            user_id=sender.user_id if entry else None,
            chat=_chat_of(sender),
            sorry=self._undelivered(sender),
            then=begin,
            is_owed=entry is not None and entry.is_owed,
            failures=entry.failures if entry else 0,
        )
        return self.outbox.begin(delivery)

    def _undelivered(self, sender: Sender) -> str:
        return self._texts.of(sender.language).sorry_undelivered


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


def _chat_of(sender: Sender) -> str:
    return str(sender.chat.id) if sender.chat else ""


def _outcome_of(error: Exception) -> str:
    """How an update ended that failed."""
    match error:
        case StateTooLarge():
            return "too large"
        case StateCorrupt():
            return "corrupt"
        case TimeoutError():
            return "timeout"
        case _:
            return "failed"


def _sorry(texts: Texts, error: Exception) -> str:
    """The usual apology for an error."""
    match error:
        case StateTooLarge():
            return texts.sorry_too_large
        case StateCorrupt():
            return texts.sorry_corrupt
        case _:
            return texts.sorry
