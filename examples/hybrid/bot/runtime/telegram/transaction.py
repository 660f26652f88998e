"""One attempt at an update: load, deduplicate, handle, commit, begin to reply."""

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from aiogram import Bot, Dispatcher
from aiogram.dispatcher.event.bases import UNHANDLED, CancelHandler, SkipHandler
from aiogram.dispatcher.middlewares.manager import MiddlewareManager
from aiogram.methods import TelegramMethod
from aiogram.types import TelegramObject, Update

from bot.runtime import metrics
from bot.runtime.config import Settings
from bot.runtime.errors import (
    AttachmentTooLarge,
    ReplyTooLarge,
    StateConflict,
    StateCorrupt,
    StateTooLarge,
    StateUnavailable,
)
from bot.runtime.state.codec import clean, dumps
from bot.runtime.state.fsm import follow_conversation, moved_to, upgrade_group
from bot.runtime.state.jobs import MICROSECONDS, UPDATE, next_number, updates_in
from bot.runtime.state.record import OutboxEntry, UserRecord, chat
from bot.runtime.state.store import FORGOTTEN_SECONDS, Changes, StateStore
from bot.runtime.state.turn import COMMIT_ATTEMPTS, Turn, current_turn, give_way, load_again
from bot.runtime.telegram.agent import LAST_WORDS, TelegramAgentAdapter, defers, streams
from bot.runtime.telegram.calls import SHOWN, Reply
from bot.runtime.telegram.outbox import Delivery, Outbox, files_of, outbox_changes, replies_of
from bot.runtime.telegram.texts import Texts, TextTable
from bot.runtime.telegram.updates import (
    MOST_PARTS,
    STOP_BUTTON,
    LruDict,
    Sender,
    Stops,
    answer,
    belongs_to,
    date_of,
    incoming,
    is_later,
    is_part,
    is_stop,
    merged,
    queue_of,
    raw_of,
    said_in,
    sender_of,
    turned_down,
    upgrade_in,
)

if TYPE_CHECKING:
    from bot.runtime.telegram.streaming import Stream, Streams

ON_ERROR_SECONDS = 5.0
"""How long the owner's `on_error` may take."""

QUERY_SECONDS = 8.0
"""How long handling a query may take; Telegram waits for ten: https://core.telegram.org/bots/api#precheckoutquery"""

PART_SECONDS = 1.0
"""How long the next part of an album, or of a text that was cut, may take to come."""

FORGETS = 0
"""Noted in the place of a queue with an update at which its user was forgotten."""

CLOCKS_DIFFER = 5.0
"""Seconds by which the store's clock may be ahead of Telegram's."""

Begin = Callable[[], None]
"""Begins what an update's turn handed to `background`."""

Data = dict[str, Any]
"""What aiogram hands to a handler besides the event."""

T = TypeVar("T")

log = structlog.get_logger()


def _nothing() -> None:
    """Begin nothing."""


class Transaction:
    """Handles an update, commits its changes and replies atomically, and begins to send the replies.

    Attributes:
        outbox: sends them.
        store: where records are.
        lanes: the agent's: one per user, in which what changes the user's record runs.
        defers: whether updates are kept, to be handled when their turn comes.
    """

    def __init__(
        self,
        bot: Bot,
        dispatcher: Dispatcher,
        store: StateStore,
        agent: TelegramAgentAdapter,
        texts: TextTable,
        settings: Settings,
    ) -> None:
        """Make it.

        Args:
            bot: whose updates these are.
            dispatcher: what handles them.
            store: where records are.
            agent: is told of errors.
            texts: what users are told of them.
            settings: how long handling may take, and what may come in.
        """
        self._bot = bot
        self._dispatcher = dispatcher
        self.store = store
        self._agent = agent
        self._texts = texts
        self._settings = settings
        self.lanes = agent.lanes
        self.defers = defers(type(agent), by_webhook=bool(settings.webhook_url))
        self.outbox = Outbox(bot, store, self.lanes, agent.timetable)
        if streams(type(agent)):
            self.begin_streaming()
        self._began: LruDict[int] = LruDict()

    def sender_of(self, update: Update) -> Sender:
        """Who an update is from, and which record it changes."""
        return sender_of(update, self._agent.record_at)

    async def run(
        self,
        update: Update,
        sender: Sender,
        *,
        is_kept: bool = False,
        failure: Exception | None = None,
        holds: Callable[[], Awaitable[bool]] | None = None,
    ) -> tuple[str, Delivery | None]:
        """Run it; start over when another commit to the record was first.

        Args:
            update: the update.
            sender: who it is from.
            is_kept: whether Telegram has its acknowledgement, and will not bring it again.
            failure: why it is not to be handled: it is apologised for.
            holds: whether no other process has taken it over, where one could.

        Returns:
            The outcome, in one or two words, and the replies on their way.

        Raises:
            StateUnavailable: the store does not answer.
            StateConflict: others committed first, too often in a row.
            LeaseLost: another process has taken it over.
        """
        if upgrade := upgrade_in(update):
            await upgrade_group(self.store, *upgrade, self.lanes, sender.lock_key)
        if sender.user_id is None:
            return await self._without_record(update, sender)
        for attempt in range(COMMIT_ATTEMPTS):
            try:
                with metrics.LOAD_SECONDS.time():
                    record = await self.store.load(sender.user_id, sender.conversation)
            except StateCorrupt as error:
                log.error("record is corrupt, see `bot state show --raw`", reason=str(error))
                turn = self._turn(UserRecord(sender.user_id), update, sender)
                return "corrupt", self._deliver(
                    update, sender, *await self._apology(turn, update, sender, error)
                )
            self.outbox.take_over(record, update.update_id, _chat_of(sender), self._undelivered(sender))
            if update.update_id in record.applied:
                metrics.DUPLICATES.inc()
                entry = record.outbox.get(update.update_id)
                replies = replies_of(entry) if entry else []
                return "seen", self._deliver(update, sender, replies, entry=entry)
            if (supergroup := moved_to(record)) and sender.place.chat:
                # Telegram brings late what was said in the group before. It waits for no lane: who moves the
                # group from the new one's may be waiting for this one.
                await upgrade_group(self.store, sender.place.chat, supergroup)
                sender = replace(
                    sender, user_id=chat(supergroup), place=replace(sender.place, chat=supergroup)
                )
                continue
            if (began := self._began.get(update.update_id, -1)) < 0:
                self._began.set(update.update_id, began := record.version)
            is_late = record.forgotten > began or _is_older_than_forgetting(update, record)
            parts = updates_in(record.fsm)
            if parts and not belongs_to(update, [raw for _, _, raw in parts]):
                with contextlib.suppress(StateConflict):
                    await self.gather(record.user_id)
                continue
            if not is_late and is_part(update, self._agent.accepts) and len(parts) + 1 < MOST_PARTS:
                try:
                    return await self._keep_part(update, sender, record)
                except StateTooLarge:
                    log.warning("no room to wait for the rest of an album or text")
                except StateConflict:
                    continue
            try:
                return await self._commit(
                    update,
                    sender,
                    record,
                    is_late=is_late,
                    is_kept=is_kept,
                    failure=failure,
                    parts=parts,
                    holds=holds,
                )
            except StateConflict:
                metrics.CONFLICTS.inc()
                await give_way(attempt)
        raise StateConflict(f"others committed first, {COMMIT_ATTEMPTS} times in a row", sender.user_id)

    async def gather(
        self,
        record_id: str,
        failure: Exception | None = None,
        holds: Callable[[], Awaitable[bool]] | None = None,
    ) -> Delivery | None:
        """Handle what came in parts, and waits in a record, as one update. The caller is in its lane.

        Args:
            record_id: the record.
            failure: why it is not to be handled: it is apologised for.
            holds: whether it is still for this process to do.

        Raises:
            LeaseLost: it is for another process by now.
            StateConflict: another commit was first.
            StateError: as the store does.
        """
        record = await self.store.load(record_id)
        parts = updates_in(record.fsm)
        if not parts:
            return None
        # The same in each attempt: by it is known which message shows the answer.
        key: int = parts[0][2]["update_id"]
        update = merged(self._bot, [raw for _, _, raw in parts], key)
        sender = replace(self.sender_of(update), user_id=record_id)
        if sender.conversation:
            record = await load_again(self.store, record, sender.conversation)
        outcome, delivery = await self._commit(
            update,
            sender,
            record,
            is_late=False,
            is_kept=True,
            failure=failure,
            parts=parts,
            is_whole=True,
            holds=holds,
        )
        log.info("parts handled as one", parts=len(parts), outcome=outcome)
        return delivery

    async def _keep_part(
        self, update: Update, sender: Sender, record: UserRecord
    ) -> tuple[str, Delivery | None]:
        """Keep a part until the rest is here, or none has come for a moment."""
        turn = self._turn(record, update, sender)
        turn.claims_summaries = False  # the turn of all parts does, and begins to make one
        at = self._agent.timetable.now() + int(PART_SECONDS * MICROSECONDS)
        kept = {"raw": raw_of(update), "at": at, "number": next_number(turn.fsm)}
        turn.fsm[f"{UPDATE}{update.update_id}"] = {"data": kept}
        changes = await turn.fitted_changes(self.store) or Changes()
        queue = queue_of(update, sender, self._bot.token)
        noted = with_applied(changes, record, update.update_id, queue, date_of(update))
        await self.store.commit(record.user_id, noted, expect=record.version)
        self._agent.timetable.note_commit(record.user_id, changes.due, owes=False)
        return "part", None

    async def answer_query(self, update: Update, sender: Sender) -> tuple[str, Delivery | None]:
        """Handle a query that has a deadline, beside whatever else its person's updates are at.

        It sees the record as it is. Nothing is kept, and should it come again, it is handled again.

        Returns:
            As `run`.

        Raises:
            StateUnavailable: the store does not answer.
        """
        begin: Begin = _nothing
        turn = self._turn(UserRecord(sender.user_id or ""), update, sender, is_read_only=True)
        try:
            with metrics.LOAD_SECONDS.time():
                record = await self.store.load(sender.user_id or "", sender.conversation)
            turn = self._turn(record, update, sender, is_read_only=True)
            outcome = await self._handle(turn, update, seconds=QUERY_SECONDS)
            turn.check_unchanged()
            replies = await self.outbox.prepare(update, turn.replies)
            begin = turn.committed
        except StateUnavailable:
            raise
        except Exception as error:
            log.error("query failed", exc_info=error)
            outcome = _outcome_of(error)
            replies, begin = await self._apology(turn, update, sender, error)
        return outcome, self._deliver(update, sender, replies, begin, lane=f"query {update.update_id}")

    async def turn_down(self, update: Update, sender: Sender) -> Delivery | None:
        """Tell somebody who may not use the bot that this is so. Nothing is kept."""
        methods = turned_down(update, self._texts.of(sender.language).not_allowed)
        return self._deliver(update, sender, await self.outbox.prepare(update, methods))

    async def tell_full(self, update: Update, sender: Sender) -> Delivery | None:
        """Tell somebody that no more is taken for now. Nothing is kept."""
        said = said_in(update)
        text = self._texts.of(sender.language).inbox_full
        methods = [answer(said, text)] if said and text else []
        return self._deliver(update, sender, await self.outbox.prepare(update, methods))

    async def _commit(
        self,
        update: Update,
        sender: Sender,
        record: UserRecord,
        *,
        is_late: bool,
        is_kept: bool,
        failure: Exception | None,
        parts: Sequence[tuple[str, int, dict[str, Any]]] = (),
        is_whole: bool = False,
        holds: Callable[[], Awaitable[bool]] | None = None,
    ) -> tuple[str, Delivery | None]:
        """Handle the update and commit what it changed or, where it failed, an apology.

        It is the last part of what waits in `parts` or, if it `is_whole`, made of these.

        One that is late, because its user has been forgotten since it was sent or begun, is not handled.
        """
        # The turn owns the record's contents from here on; what waits in its outbox stays as it was loaded.
        pieces = [raw for _, _, raw in parts]
        if parts and not is_whole:
            update = merged(self._bot, pieces := [*pieces, raw_of(update)], update.update_id)
        updates = [merged(self._bot, [piece], update.update_id) for piece in pieces]
        turn = self._turn(record, update, sender, updates, holds=holds)
        gone: dict[str, bytes | None] = {name: None for name, _, _ in parts}
        for name in gone:
            del turn.fsm[name]
        queue = queue_of(update, sender, self._bot.token)

        owing = functools.partial(
            outbox_changes, record, update, is_delivered=self.outbox.is_delivered, is_kept=is_kept
        )

        async def write(changes: Changes, replies: list[Reply], owed: Mapping[int, bytes | None]) -> None:
            await turn.check_lease()
            if files := files_of(replies):
                changes = replace(changes, files=files)
            noted = with_applied(changes, record, update.update_id, queue, date_of(update))
            with metrics.COMMIT_SECONDS.time():
                await self.store.commit(record.user_id, noted, expect=record.version)
            owes = owed.get(update.update_id) is not None
            self._agent.timetable.note_commit(record.user_id, noted.due, owes=owes)

        if is_late:
            log.info("without effect: its user was forgotten meanwhile")
            replies = await self.outbox.prepare(update, [])
            replies = await self._in_place_of_shown(turn, replies)
            owed, entry = owing(replies)
            due = turn.due({}, owed, owes=is_owed(entry))
            await write(Changes(marks=turn.counter_changes(), due=due, outbox=owed), replies, owed)
            return "forgotten", self._deliver(update, sender, replies, entry=entry)
        try:
            if failure:
                raise failure
            await follow_conversation(self.store, turn)
            outcome = await self._handle(turn, update)
            replies = await self.outbox.prepare(update, turn.replies)
            replies = await self._in_place_of_shown(turn, replies)
            owed, entry = owing(replies)
            changes = await turn.fitted_changes(self.store, owed, owes=is_owed(entry))
        except (StateUnavailable, StateConflict):
            raise
        except Exception as error:
            failure = error
        else:
            try:
                # What it says or begins is noted, too, though nothing changed: it is not to be run again.
                if changes or replies or turn.begins_work:
                    if changes is None:
                        changes = Changes(due=turn.due({}, owed, owes=is_owed(entry)), outbox=owed)
                    await write(changes, replies, owed)
                return outcome, self._deliver(update, sender, replies, turn.committed, entry=entry)
            except StateTooLarge as error:
                failure = error
        if isinstance(failure, StateTooLarge):
            log.warning("record or reply would be too large", reason=str(failure))
        else:
            log.error("update failed; its user got an apology", exc_info=failure)
        turn.drop_claim()
        replies, begin = await self._apology(turn, update, sender, failure)
        replies = await self._in_place_of_shown(turn, replies)
        # A record may be so large that not even this fits: it is said, and acknowledged, all the same.
        owed, owing_apology = owing(replies)
        entry = None
        with contextlib.suppress(StateTooLarge):
            due = turn.due(gone, owed, owes=is_owed(owing_apology))
            changes = Changes(fsm=gone, marks=turn.counter_changes(), due=due, outbox=owed)
            await write(changes, replies, owed)
            entry = owing_apology
        return _outcome_of(failure), self._deliver(update, sender, replies, begin, entry=entry)

    async def _without_record(self, update: Update, sender: Sender) -> tuple[str, Delivery | None]:
        """Handle an update that no person is behind: at least once, and nothing is kept."""
        turn = self._turn(UserRecord(sender.lock_key), update, sender)
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
            replies = apology if update.message or turn.replies_to_failure() else []
        return outcome, self._deliver(update, sender, replies, begin)

    def _turn(
        self,
        record: UserRecord,
        update: Update,
        sender: Sender,
        parts: Sequence[Update] = (),
        *,
        is_read_only: bool = False,
        holds: Callable[[], Awaitable[bool]] | None = None,
    ) -> Turn:
        """A turn on a record that was loaded for an update."""
        return Turn(
            record,
            self.store.limits,
            incoming=incoming(update, sender, self._bot, self._settings, parts),
            is_anonymous=sender.user_id is None,
            is_read_only=is_read_only,
            timetable=self._agent.timetable,
            open_stream=self._open_stream if sender.user_id and not is_read_only else None,
            stopped=self._agent.streams.said(update.update_id) if self._agent.streams else None,
            holds=holds,
            memory=self._agent.remembers,
        )

    def _open_stream(self, turn: Turn) -> "Stream | None":
        """Begin to show what a turn's agent says."""
        return self.begin_streaming().open(turn)

    def begin_streaming(self) -> "Streams":
        """What shows answers while they grow."""
        if self._agent.streams is None:
            from bot.runtime.telegram.streaming import Streams

            self._agent.streams = Streams(
                self._bot,
                self.store,
                self._texts,
                can_stop=self.defers or not self._settings.webhook_url,
                is_deferred=self.defers,
                is_behind=self.outbox.is_behind,
                by_message=self._agent.while_busy == "stop",
                format=self._agent.format,
            )
        return self._agent.streams

    def heed(self, update: Update, sender: Sender) -> "Stops | None":
        """Stop the answers that an update asks to stop; which those are, here or elsewhere."""
        if self._agent.streams is None and self._may_stop(update):
            self.begin_streaming()  # another process shows what an agent says that does not yield
        streams = self._agent.streams
        return streams.heed(update, sender, self._agent.username) if streams else None

    def _may_stop(self, update: Update) -> bool:
        """Whether an update asks to stop an answer, for all that this process knows."""
        message, query = update.message, update.callback_query
        if message:
            by_message = self._agent.while_busy == "stop"
            return self.defers and (by_message or is_stop(message.text, self._agent.username))
        is_pressed = query is not None and STOP_BUTTON.fullmatch(query.data or "") is not None
        return is_pressed or update.stopped_message_generation is not None

    async def _in_place_of_shown(self, turn: Turn, replies: list[Reply]) -> list[Reply]:
        """The replies, of which the first takes the place of what was shown until then."""
        stream: Any = turn.stream if self._may_be_shown(turn) else None
        return await stream.replaced_by(replies) if stream else replies

    def _may_be_shown(self, turn: Turn) -> bool:
        """Whether this attempt at a turn has shown something, or one before it, in a process that is dead."""
        update_id = turn.update.update_id if turn.update else 0
        before = self._agent.streams is not None and update_id in self._agent.streams.messages
        return turn.is_shown or before or f"{SHOWN}{update_id}" in turn.counters

    async def _handle(self, turn: Turn, update: Update, *, seconds: float = math.inf) -> str:
        """Run the dispatcher; its methods, returned un-awaited, become the turn's replies.

        Raises:
            Exception: what a handler raised, whoever caught it, unless they chose to keep the turn.
        """

        async def handle() -> Any:
            with turn.active():
                result = None
                with contextlib.suppress(SkipHandler, CancelHandler):  # ended on purpose
                    result = await self._dispatcher.feed_update(self._bot, update)
                for method in result if isinstance(result, list | tuple) else [result]:
                    if isinstance(method, TelegramMethod):
                        turn.reply(method)
                    elif isinstance(method, str):
                        log.warning(
                            "a handler returned a text, which is not sent: return message.answer(...)"
                        )
                if turn.failure:
                    raise turn.failure
                return result

        try:
            result = await limited(handle(), min(seconds, self._settings.agent_timeout), turn)
        except asyncio.CancelledError:
            if turn.is_shown and turn.stream:
                await turn.stream.close(0)
            raise
        finally:
            if turn.is_shown and turn.stream:
                await turn.stream.close()
        if result is not UNHANDLED:
            return "handled"
        if turn.is_read_only:
            log.error("no handler answered a query")
        elif turn.message and turn.message.successful_payment:
            log.error("no handler took a payment: it is booked nowhere")
        return "ignored"

    async def _apology(
        self, turn: Turn, update: Update, sender: Sender, error: Exception
    ) -> tuple[list[Reply], Begin]:
        """Tell the owner of an error, and prepare what to tell the user."""
        text = _sorry(self._texts.of(sender.language), error)
        begin = _nothing
        try:
            # In a turn that nobody commits: what is changed now must not get in the way of the apology.
            aside = turn.as_loaded()

            async def ask() -> str | None:
                with aside.active():
                    return await self._agent.on_error(error)

            chosen = await limited(ask(), ON_ERROR_SECONDS, aside)
            begin = aside.committed
            if chosen is not None:
                text = clean(chosen)
        except Exception:
            log.exception("on_error failed itself")
        if answers := turn.replies_to_failure():
            try:
                return await self.outbox.prepare(update, answers), begin
            except Exception:
                log.exception("the reply to the failure failed itself")
        said = said_in(update)
        methods: list[TelegramMethod[Any]] = [answer(said, text)] if said and text.strip() else []
        if turn.is_read_only:
            methods = turned_down(update, text.strip() or self._texts.of(sender.language).sorry)
        return await self.outbox.prepare(update, methods), begin

    def _deliver(
        self,
        update: Update,
        sender: Sender,
        replies: list[Reply],
        begin: Begin = _nothing,
        *,
        entry: OutboxEntry | None = None,
        lane: str = "",
    ) -> Delivery | None:
        """Begin to send replies, and what is to begin after them; `entry` is what the record has of them."""
        if not replies:
            begin()
            return None
        delivery = Delivery(
            update_id=update.update_id,
            replies=replies,
            lane=lane or sender.lock_key,
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


def is_owed(entry: OutboxEntry | None) -> bool:
    """Whether nothing but this entry tells of its replies."""
    return entry is not None and entry.is_owed


def with_applied(
    changes: Changes, record: UserRecord, update_id: int, queue: int, sent: float | None
) -> Changes:
    """The changes, and that an update, or a job, is applied.

    Its id stays until it is known to be acknowledged, because another one came from the same queue, and its
    replies are out; or until Telegram has dropped it. Of the ids that are acknowledged the newest stay.
    """
    commit = record.version / 1e6  # the last one, by the store's clock
    noted = {int(name): mark for name, mark in record.marks.items() if name.isdecimal()}
    waiting = {key for key in record.outbox if changes.outbox.get(key, b"") is not None}
    over = [
        key
        for key, (at, its_queue) in sorted(noted.items(), key=lambda each: each[1])
        if (its_queue == queue and key not in waiting) or at < commit - FORGOTTEN_SECONDS
    ]
    # A clock that is wrong may have an id stay for longer, but not for less.
    at = int(max(time.time(), commit, sent or 0))
    own = dumps([at, FORGETS if changes.forget else queue], "marks")
    marks = {**changes.marks, **dict.fromkeys(map(str, over)), str(update_id): own}
    return replace(changes, applied=tuple(over), marks=marks)


def _is_older_than_forgetting(update: Update, record: UserRecord) -> bool:
    """Whether the user was forgotten after this was sent.

    Where an update had them forgotten, ids tell: Telegram counts. Where an operator had, the clocks have to.
    """
    sent, commit = date_of(update), record.version / 1e6
    if forgettings := [
        int(name)
        for name, mark in record.marks.items()
        if name.isdecimal() and mark[1] == FORGETS and (sent or commit) < mark[0] + FORGOTTEN_SECONDS
    ]:
        return any(is_later(each, update.update_id) for each in forgettings)
    at = record.forgotten / 1e6
    return sent is not None and at <= time.time() and sent < int(at) - CLOCKS_DIFFER


def _watched(
    middlewares: Sequence[Callable[..., Any]], handler: Callable[..., Any]
) -> Callable[[TelegramObject, dict[str, Any]], Any]:
    """A handler in its middlewares, with the turn told of every exception that ends one of these.

    For aiogram's `wrap_middlewares`, by which it calls everything: so no middleware and no handler of errors,
    at whatever level, can have half a turn kept by catching one.
    """
    wrapped = _watch(lambda event, data: handler(event, **data))
    if middlewares:  # to which it is to look like the handler
        functools.update_wrapper(wrapped, handler)
    for middleware in reversed(middlewares):
        wrapped = _watch(functools.partial(middleware, wrapped))
    return wrapped


def _watch(call: Callable[..., Any]) -> Callable[..., Any]:
    async def watching(event: TelegramObject, data: Data) -> Any:
        try:
            return await call(event, data)
        except (SkipHandler, CancelHandler):
            raise
        except BaseException as error:
            if turn := current_turn():
                turn.fail(error)
            raise

    return watching


setattr(MiddlewareManager, "wrap_middlewares", staticmethod(_watched))  # noqa: B010 - it is aiogram's


async def limited(work: Coroutine[Any, Any, T], seconds: float, turn: Turn) -> T:
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
        case ReplyTooLarge():
            return texts.sorry_reply_too_large
        case StateTooLarge():
            return texts.sorry_too_large
        case StateCorrupt():
            return texts.sorry_corrupt
        case AttachmentTooLarge():
            return texts.sorry_file_too_large
        case _:
            return texts.sorry
