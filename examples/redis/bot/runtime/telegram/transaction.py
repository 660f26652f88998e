"""One attempt at an update: load, deduplicate, handle, commit, reply."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import structlog
from aiogram import Bot, Dispatcher
from aiogram.dispatcher.event.bases import UNHANDLED
from aiogram.methods import SendMessage, TelegramMethod
from aiogram.types import Update

from bot.runtime import metrics
from bot.runtime.errors import StateConflict, StateCorrupt, StateTooLarge, StateUnavailable
from bot.runtime.state.codec import clean
from bot.runtime.state.record import UserRecord
from bot.runtime.state.store import Changes, StateStore
from bot.runtime.state.turn import COMMIT_ATTEMPTS, Turn
from bot.runtime.telegram.agent import LAST_WORDS, TelegramAgentAdapter
from bot.runtime.telegram.calls import Reply
from bot.runtime.telegram.outbox import Outbox, outbox_changes, stored_replies
from bot.runtime.telegram.texts import Texts, TextTable
from bot.runtime.telegram.updates import Sender, date_of

ON_ERROR_SECONDS = 5.0
"""How long the owner's `on_error` may take."""

IsDone = Callable[[int], bool]
"""Tells of an update id whether this process has dealt with it, replies included."""

T = TypeVar("T")

log = structlog.get_logger()


class Transaction:
    """Handles an update, commits its changes and replies atomically, and sends the replies."""

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
        self._outbox = Outbox(bot)

    async def run(self, update: Update, sender: Sender, is_done: IsDone) -> str:
        """Run it; start over when another commit to the record was first.

        Returns:
            The outcome, in one or two words.

        Raises:
            StateUnavailable: the store does not answer.
            StateConflict: others committed first, too often in a row.
            DeliveryFailed: it is committed, and Telegram could not be reached.
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
                await self._deliver(update, await self._apology(turn, update, sender, error))
                return "corrupt"
            if update.update_id in record.applied:
                metrics.DUPLICATES.inc()
                await self._deliver(update, stored_replies(record, update.update_id))
                return "seen"
            try:
                outcome, replies = await self._commit(update, sender, record, is_done)
            except StateConflict:
                metrics.CONFLICTS.inc()
                await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))
                continue
            await self._deliver(update, replies)
            return outcome
        raise StateConflict(f"others committed first, {COMMIT_ATTEMPTS} times in a row", sender.user_id)

    async def _commit(
        self, update: Update, sender: Sender, record: UserRecord, is_done: IsDone
    ) -> tuple[str, list[Reply]]:
        """Handle the update and commit what it changed or, where it failed, an apology."""
        # The turn owns the record's contents from here on; what waits in its outbox stays as it was loaded.
        turn = Turn(record, self._store.limits, user=sender.user, at=date_of(update))

        async def write(changes: Changes, replies: list[Reply]) -> None:
            noted = replace(
                changes,
                applied=(update.update_id,),
                outbox=outbox_changes(record, update, replies, is_done),
            )
            with metrics.COMMIT_SECONDS.time():
                await self._store.commit(record.user_id, noted, expect=record.version)

        failure: Exception
        try:
            outcome = await self._handle(turn, update)
            replies = await self._outbox.prepare(update, turn.replies)
            changes = turn.changes()
        except (StateUnavailable, StateConflict):
            raise
        except Exception as error:
            failure = error
        else:
            try:
                if changes:
                    await write(changes, replies)
                turn.committed()
                return outcome, replies
            except StateTooLarge as error:
                failure = error
        if isinstance(failure, StateTooLarge):
            log.warning("record would be too large", reason=str(failure))
        else:
            log.error("update failed; its user got an apology", exc_info=failure)
        replies = await self._apology(turn, update, sender, failure)
        # A record may be so large that not even this fits: it is said, and acknowledged, all the same.
        with contextlib.suppress(StateTooLarge):
            await write(Changes(), replies)
        return _outcome_of(failure), replies

    async def _without_record(self, update: Update, sender: Sender) -> str:
        """Handle an update that no person is behind: at least once, and nothing is kept."""
        turn = Turn(UserRecord(sender.lock_key), self._store.limits, at=date_of(update), is_anonymous=True)
        try:
            outcome = await self._handle(turn, update)
            replies = await self._outbox.prepare(update, turn.replies)
        except (StateUnavailable, StateConflict):
            raise
        except Exception as error:
            log.exception("update failed")
            outcome = _outcome_of(error)
            apology = await self._apology(turn, update, sender, error)
            replies = apology if update.message else []
        else:
            turn.committed()
        await self._deliver(update, replies)
        return outcome

    async def _handle(self, turn: Turn, update: Update) -> str:
        """Run the dispatcher; its methods, returned un-awaited, become the turn's replies."""

        async def handle() -> Any:
            with turn.active():
                return await self._dispatcher.feed_update(self._bot, update)

        result = await _limited(handle(), self._agent_timeout, turn)
        if result is UNHANDLED:
            return "ignored"
        for method in result if isinstance(result, list | tuple) else [result]:
            if isinstance(method, TelegramMethod):
                turn.reply(method)
        return "handled"

    async def _apology(self, turn: Turn, update: Update, sender: Sender, error: Exception) -> list[Reply]:
        """Tell the owner of an error, and prepare what to tell the user."""
        text = _sorry(self._texts.of(sender.language), error)
        try:
            # In a turn that nobody commits: what is changed now must not get in the way of the apology.
            aside = turn.as_loaded()

            async def ask() -> str | None:
                with aside.active():
                    return await self._agent.on_error(error)

            chosen = await _limited(ask(), ON_ERROR_SECONDS, aside)
            aside.committed()
            if chosen is not None:
                text = clean(chosen)
        except Exception:
            log.exception("on_error failed itself")
        methods = [SendMessage(chat_id=sender.chat.id, text=text)] if sender.chat and text.strip() else []
        return await self._outbox.prepare(update, methods)

    async def _deliver(self, update: Update, replies: list[Reply]) -> None:
        await self._outbox.deliver(update.update_id, replies)


async def _limited(work: Coroutine[Any, Any, T], seconds: float, turn: Turn) -> T:
    """Run the owner's code for so long, and take it for an error when it cancels itself.

    It runs in a task of its own, which can be left behind: code that catches every exception catches its
    cancellation, too. What it does to its turn after that has no effect.

    Raises:
        TimeoutError: it took longer.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        await _stop(task, turn)
        raise
    if not task.done():
        raise TimeoutError(f"not done within {seconds:g} s") from await _stop(task, turn)
    try:
        return task.result()
    except asyncio.CancelledError as error:
        raise RuntimeError("waited for something that was cancelled") from error


async def _stop(task: asyncio.Task[Any], turn: Turn) -> BaseException | None:
    """Cancel a task; what tells where it was, if it lets itself be cancelled."""
    turn.give_up()
    task.cancel()
    await asyncio.wait({task}, timeout=LAST_WORDS)
    task.add_done_callback(_ended)
    if not task.done():
        left_behind.add(task)
        log.error("the agent goes on though it was cancelled: does it catch every exception?")
        return None
    try:
        return task.exception()
    except asyncio.CancelledError as error:
        return error


left_behind: set[asyncio.Task[Any]] = set()
"""Agents' tasks that do not end when they are cancelled; held here until they do."""


def _ended(task: asyncio.Task[Any]) -> None:
    left_behind.discard(task)
    if not task.cancelled() and (error := task.exception()):
        log.warning("the agent failed after it was given up", reason=error)


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
