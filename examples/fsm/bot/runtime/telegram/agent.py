"""The interface between Telegram, the store and an agent."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from contextvars import Context, copy_context
from datetime import datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, ParamSpec, TypeVar

import structlog
from pydantic import BaseModel

from bot.runtime.engines.memory.store import MemoryStore
from bot.runtime.errors import (
    StateConflict,
    StateError,
    StateForgotten,
    StateUnavailable,
    TurnGivenUp,
    WrongReply,
)
from bot.runtime.state.codec import dumps, is_storable
from bot.runtime.state.jobs import JOB, MICROSECONDS, UPDATE, Claim, Job, Timetable, jobs_in
from bot.runtime.state.record import (
    BROADCAST,
    FORGETTING,
    WAITING,
    Message,
    Place,
    RecordId,
    UserRecord,
    address_of,
    exchanges,
    is_person,
    is_waiting,
    person,
    without_data,
)
from bot.runtime.state.shape import Shape
from bot.runtime.state.store import NEVER, Changes, StateStore
from bot.runtime.state.turn import (
    CLOCKS_DIFFER,
    COMMIT_ATTEMPTS,
    COMPACTING,
    KeyedLock,
    Memory,
    Turn,
    current_turn,
    give_way,
    mutate,
    turn_of,
)

if TYPE_CHECKING:
    from aiogram import Bot
    from aiogram.methods import TelegramMethod
    from aiogram.types import Update

    from bot.runtime.telegram.streaming import Streams

P = ParamSpec("P")
T = TypeVar("T")

PROGRESS_SECONDS = 10.0

WALK_SECONDS = 3600
"""Seconds from one walk through shared records, for people who are to be forgotten, to the next."""

LAST_WORDS = 1.0
"""Seconds that what was cancelled has for cleaning up."""

log = structlog.get_logger()


class TelegramAgentAdapter:
    """An agent with state and history. Override `agent_logic` or, to do more, `process_agent_request`.

    Attributes:
        bot_token: the bot's token.
        store: where users' records are kept; the running bot puts its own here.
        bot: aiogram's client, once the bot runs.
        lanes: one per user, in which everything that changes the user's record runs, one after another.
        timetable: the store's time, and what this process knows to be due.
        username: the bot's user name in lower case; `None` until Telegram has told it.
        accepts: the kinds of messages that `agent_logic` is to have, as aiogram's `ContentType` names them,
            such as `photo` or `location`; and `edited`, `business` and `guest` for messages that were
            edited, that customers of a business write, and where the bot is a guest. What nobody else takes
            of the rest is answered with `Texts.only_text`.
        deferred: whether messages are kept and acknowledged at once, and handled when their turn comes: for
            an agent that takes longer than the minute for which Telegram waits. `None`: only by webhook, if
            its answers come in pieces, which could not be stopped otherwise.
        format: what the texts are that `agent_logic` and jobs return and `send` is given: `plain`, or
            `markdown`, as models write it, which is kept as it is written and rendered when it is sent.
        while_busy: what a person's next message does in the middle of an answer that is shown while it grows:
            it waits (`queue`), or stops that (`stop`).
        state_type: a pydantic model that the state is to be; `None` leaves it a dict.
        state_version: counted up whenever what is kept of `state_type` changes, see `upgrade`.
        kept: keys of the state that `/reset` leaves; `/forget` takes them, too.
        compact_seconds: how long `compact` may take.
        remembers: all that its turns have to know of these.
        streams: what is shown of answers that grow, as long as the bot runs.
    """

    accepts: ClassVar[Collection[str]] = frozenset({"text"})
    deferred: ClassVar[bool | None] = None
    format: ClassVar[Literal["plain", "markdown"]] = "plain"
    while_busy: ClassVar[Literal["queue", "stop"]] = "queue"
    state_type: ClassVar[type[BaseModel] | None] = None
    state_version: ClassVar[int] = 1
    kept: ClassVar[Collection[str]] = frozenset()
    compact_seconds: ClassVar[float] = 60.0

    bot: Bot

    def __init__(self, bot_token: str, store: StateStore | None = None) -> None:
        """Make an agent.

        Args:
            bot_token: the bot's token; empty in the terminal.
            store: where to keep users' records; in this process only, when none is given.
        """
        self.bot_token = bot_token
        self.store: StateStore = store or MemoryStore()
        self.lanes = KeyedLock()
        self.timetable = Timetable()
        self.username: str | None = None
        self.streams: Streams | None = None
        self._background = _Background()
        self._entered = AsyncExitStack()
        model, version = self.state_type, self.state_version
        shape = Shape(model, version, self.upgrade, self.new_state) if model else None
        is_compact = type(self).compact is not TelegramAgentAdapter.compact
        self.remembers = Memory(shape, self.kept, self._begin_compacting if is_compact else None)

    async def connect(self) -> None:
        """Connect the store; override it to open what the agent needs.

        Raises:
            StateUnavailable: the store does not answer.
        """
        await self.store.connect()

    async def close(self) -> None:
        """Leave what was entered, and close the store; override it to close what else the agent opened."""
        try:
            await self._entered.aclose()
        finally:
            await self.store.close()

    async def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enter something, such as a client for HTTP, that is left again when the agent is closed.

        Args:
            manager: what `async with` takes.

        Returns:
            What `as` would give.
        """
        return await self._entered.enter_async_context(manager)

    @property
    def turn(self) -> Turn:
        """The turn under way: `history`, `message`, `attachments`, `user`, `reply(method)`.

        Raises:
            RuntimeError: none is; `handle_message` begins one.
        """
        turn = current_turn()
        if turn is None:
            raise RuntimeError("no turn is under way: call handle_message, which begins one")
        return turn

    async def handle_message(self, *, user_id: str, message: str) -> str:
        """Have the agent answer a message, and remember both.

        Inside an update it is part of the update's transaction. Called from anywhere else it is one of its
        own, which runs again when somebody else changed the record meanwhile.

        Args:
            user_id: Telegram's id, as text.
            message: what the user wrote. The history also says what came with it, such as `[photo]`.

        Returns:
            The agent's reply.

        Raises:
            StateError: the record could not be loaded or committed.
            WrongReply: the agent returned something else than a text.
        """
        turn = turn_of(user_id)
        if turn is None or not turn.is_open:
            _refuse_inside_another_turn(user_id)
            return await mutate(
                self.store,
                user_id,
                lambda _: self.handle_message(user_id=user_id, message=message),
                lanes=self.lanes,
                timetable=self.timetable,
                memory=self.remembers,
            )
        turn.remember("user", f"{turn.incoming.title} {message}".strip() if turn.incoming.title else message)
        reply = turn.stopped if turn.stopped is not None else await self._answer(turn, message)
        if not isinstance(reply, str):
            own = type(self).process_agent_request is not TelegramAgentAdapter.process_agent_request
            method = "process_agent_request" if own else "agent_logic"
            raise WrongReply(f"{type(self).__name__}.{method} returned {type(reply).__name__}, not str")
        if reply or turn.owes_data:
            turn.remember("assistant", reply)
        return reply

    async def _answer(self, turn: Turn, message: str) -> Any:
        """What the agent answers; what it said so far, when its person stops it."""
        turn.answering = asyncio.current_task()
        try:
            reply = await _whole(turn, self.process_agent_request(message, turn.user_id))
            turn.said_until_stopped()  # which notes it, where the agent took no notice of its cancellation
            return reply
        except (asyncio.CancelledError, Exception) as error:
            said = turn.said_until_stopped()
            if said is None:
                raise
            if isinstance(error, Exception):
                log.warning("the agent failed when it was stopped", exc_info=error)
            return said
        finally:
            turn.answering = None

    async def process_agent_request(self, message: str, user_id: str) -> str:
        """Answer a message: load the user's state, run `agent_logic`, keep what it changed.

        It may be an async generator, as `agent_logic` may.

        Args:
            message: what the user wrote.
            user_id: Telegram's id, as text.

        Returns:
            The reply; an empty one is not sent.
        """
        turn = turn_of(user_id)
        if turn is None or not turn.is_open:
            return await self.handle_message(user_id=user_id, message=message)
        state = turn.typed if self.state_type else turn.state
        reply: str = await _whole(turn, self.agent_logic(message, state))
        return reply

    def agent_logic(self, message: str, state: Any) -> Coroutine[Any, Any, str] | AsyncGenerator[str, None]:
        """Answer a message. Every agent has to implement this.

        It is an `async def` that returns the reply, or yields it in pieces, which are shown as they come.

        Args:
            message: what the user wrote: the text, or the caption of what stands in `turn.attachments`; empty
                if there is none.
            state: what is kept about the user: a dict, in which whatever JSON is put there is kept, or the
                `state_type`.

        Returns:
            The reply; an empty one is not sent.
        """
        raise NotImplementedError("write agent_logic in bot/agent.py")

    def new_state(self) -> Any:
        """The state of somebody new, where there is a `state_type`: as it is, all of its defaults."""
        assert self.state_type
        return self.state_type()

    def upgrade(self, raw: dict[str, Any], version: int) -> dict[str, Any]:
        """Make of a state that was kept with an older `state_version` what the `state_type` of today takes.

        It is asked when somebody's state is needed for the first time since, and once it is committed not
        again; `bot state check` asks it of all. What the model has no field for is left out anyway.

        Args:
            raw: what is kept; yours to change.
            version: the version with which it was kept; 0 if that was before there was a `state_type`.

        Returns:
            The fields, as JSON.
        """
        return raw

    async def compact(self, old: Sequence[Message]) -> str | None:
        """Make a summary of the oldest messages of a conversation, before they have to go.

        Asked after a turn and its replies, when the history has reached three quarters of its limits; nobody
        waits for it. The summary stands in their place then: a message with `is_summary`, which is among the
        oldest the next time. If this takes longer than `compact_seconds`, fails or gives nothing, they go
        when they have to, and it is asked again after an hour. Override it to have summaries.

        Args:
            old: whole exchanges, the oldest first; about half of the conversation.

        Returns:
            The summary, shorter than they are; empty or `None` for none.
        """
        return None

    def _begin_compacting(self, turn: Turn, old: Sequence[Message]) -> None:
        self._background.start(self._compact(turn, old), copy_context())

    async def _compact(self, turn: Turn, old: Sequence[Message]) -> None:
        async def replace_old(now: Turn) -> bool:
            return now.claimed_by(turn) and now.replace_oldest(old, summary)

        try:
            async with asyncio.timeout(self.compact_seconds):
                with turn.active():
                    summary = await self.compact(old) or ""
            if type(summary) is not str:
                raise WrongReply(f"{type(self).__name__}.compact returned {type(summary).__name__}, not str")
        except TimeoutError:
            log.warning("no summary of old messages", user_id=turn.user_id, reason="compact took too long")
            return
        except Exception as error:
            log.warning("no summary of old messages", user_id=turn.user_id, exc_info=error)
            return
        if not summary:
            return
        try:
            is_used = await mutate(
                self.store,
                turn.user_id,
                replace_old,
                since=turn.version,
                lanes=self.lanes,
                conversation=turn.conversation,
            )
            if is_used:
                log.info("old messages have a summary", messages=len(old))
            else:
                log.info("summary dropped: it is no shorter than the messages, or they are gone")
        except StateError as error:
            log.warning("no summary of old messages", user_id=turn.user_id, reason=str(error))

    def wants(self, update: Update) -> bool:
        """Whether an update is handled at all.

        That is decided before its person's record is loaded, and without waiting for anybody, so what a group
        says among itself costs next to nothing. As it is, what people say in groups is wanted where the bot
        is meant: by its name, by an answer to it, or by a command that names no other bot. All else is
        wanted. Should this raise, the update is.

        Args:
            update: as aiogram has it. Neither `self.turn` nor any record is there yet.
        """
        from bot.runtime.telegram.updates import is_addressed, is_said

        message = update.message or update.edited_message
        return not message or not is_said(message) or is_addressed(message, self.bot.id, self.username)

    async def on_error(self, error: Exception) -> str | None:
        """An update failed: it raised, took too long (`TimeoutError`), or its state cannot be kept or read.

        It is logged already and its user gets an apology. Override this to report it elsewhere, or to choose
        other words. `self.turn` shows the record as it was before the update; changes of it are dropped. It
        has five seconds; should it fail itself, the usual apology is sent.

        Args:
            error: what happened.

        Returns:
            What to tell the user; empty for nothing, `None` for the usual apology.
        """
        return None

    def record_of(self, place: Place) -> RecordId | None:
        """Choose the record that an update changes: the person's, everywhere, unless you override this.

        Called often, with the same answer for the same place: it looks at `place` only.

        Args:
            place: where the update came from, and who is behind it.

        Returns:
            What `person`, `chat`, `topic` or `identity` made; `None` to keep nothing of it.
        """
        return None if place.person is None else person(place.person)

    def record_at(self, place: Place) -> RecordId | None:
        """What `record_of` chooses; the usual record, when that fails: no update is left for it."""
        try:
            record = self.record_of(place)
            if record is None or (type(record) is str and record and is_storable(record)):
                return record
            raise TypeError("record_of has to return what person, chat, topic or identity made, or None")
        except Exception:
            log.exception("record_of failed: the person's record is used")
            return TelegramAgentAdapter.record_of(self, place)

    async def on_unknown(self, update: dict[str, Any]) -> None:
        """An update came that aiogram does not know, or a message with content that it does not know.

        It is logged, without what it says. Override this to deal with it: Telegram knows new kinds before
        aiogram does. There is no turn and no record, and it has five seconds; a message that can be read but
        for its content goes to the routers as well.

        Args:
            update: as Telegram sends it.
        """

    async def get_user_state(self, user_id: str) -> dict[str, Any]:
        """The user's state: the turn's own inside a turn, where changes to it are kept; else a copy.

        Raises:
            StateUnavailable: the store does not answer.
            StateCorrupt: what is stored cannot be read.
        """
        turn = turn_of(user_id)
        if turn and turn.is_open:
            return turn.state
        return (await self.store.load(user_id)).state

    async def update_user_state(self, user_id: str, key: str, value: Any) -> None:
        """Set one key of the user's state, without touching the others.

        A background task that outlives its turn writes to the store, unless the user was forgotten since:
        then nothing is written.

        Raises:
            StateValueError: `value` is not JSON.
            StateError: the store could not be read or written.
        """
        dumps(value, f"state[{key!r}]")

        async def change(turn: Turn) -> None:
            turn.state[key] = value

        await self.mutate(user_id, change)

    async def clear_user_state(self, user_id: str) -> None:
        """Remove every key of the user's state; the conversation stays.

        Raises:
            StateError: the store could not be read or written.
        """

        async def change(turn: Turn) -> None:
            turn.state.clear()

        await self.mutate(user_id, change)

    async def mutate(self, user_id: str, change: Callable[[Turn], Awaitable[T]]) -> T | None:
        """Read a user's record and change it as one step, inside a turn or outside one.

        Outside a turn, it waits for the user's turn under way, and `change` runs again when another commit
        was first. A background task that outlives its turn changes nothing once the user was forgotten.
        Inside a turn only its own record can be changed.

        Args:
            user_id: Telegram's id, as text.
            change: is given the turn, and changes its `state`.

        Returns:
            What `change` returned; `None` when the user was forgotten.

        Raises:
            StateError: the record could not be loaded or committed, or is not the one of the turn.
        """
        turn = turn_of(user_id)
        if turn and (turn.is_open or turn.is_anonymous):
            return await change(turn)
        _refuse_inside_another_turn(user_id)
        try:
            since = turn.version if turn else None
            return await mutate(
                self.store,
                user_id,
                change,
                since=since,
                lanes=self.lanes,
                timetable=self.timetable,
                memory=self.remembers,
            )
        except StateForgotten:
            log.info("change dropped: the user was forgotten meanwhile", user_id=user_id)
            return None

    async def later(
        self,
        record: RecordId | str,
        when: timedelta | datetime,
        method: Callable[..., Any],
        /,
        **arguments: Any,
    ) -> str | None:
        """Have a method run later as a turn of a record, from outside of turns: a web hook of yours, say.

        Args:
            record: whose turn it is to be.
            when: how long from now, or at what time.
            method: one of the agent's, marked with `@job`.
            arguments: what it is called with, as JSON.

        Returns:
            The job's id; `None` when the user was forgotten after the turn that this outlives.

        Raises:
            StateError: the record could not be changed, or too many jobs wait.
            TypeError, ValueError: the method, an argument or the time cannot be kept.
        """

        async def change(turn: Turn) -> str:
            return turn.later(when, method, **arguments)

        return await self.mutate(record, change)

    def background(
        self, work: Callable[P, Coroutine[Any, Any, Any]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Run `work(*args, **kwargs)` in the background.

        Inside a turn it starts once the turn is committed and its replies are out, so that nothing which it
        sends overtakes them. A turn that is run again begins its work once, one that fails not at all. An
        error of the work is logged. When the bot stops, the work may finish within `SHUTDOWN_TIMEOUT` and is
        cancelled then; when the bot is killed, it is gone.
        """
        context = copy_context()

        async def run() -> None:
            await work(*args, **kwargs)

        def begin() -> None:
            self._background.start(run(), context)

        turn = current_turn()
        if turn and turn.is_given_up:
            raise TurnGivenUp
        if turn and turn.is_open:
            turn.when_committed(begin)
        else:
            begin()

    async def drain(self, timeout: float) -> None:
        """Let background work finish; cancel what takes longer than `timeout` seconds."""
        await self._background.drain(timeout)

    async def send(self, user_id: str, message: str | TelegramMethod[Any]) -> None:
        """Send something to a user, now or, inside the user's turn, as one of its replies.

        It waits as long as Telegram asks it to, up to an hour, or cannot be connected to, up to a day. A
        background task that outlives its turn sends nothing once the user was forgotten. Nothing is sent
        again if the bot is killed meanwhile.

        Args:
            user_id: Telegram's id, as text.
            message: a text of the agent's `format`, which is split where it is too long, or an aiogram
                method, un-awaited.

        Raises:
            DeliveryFailed: sending failed for minutes, or has to wait for longer than that.
            StateUnavailable: the store does not answer.
        """
        # Here, because aiogram takes a while to import and an agent without Telegram can do without.
        from aiogram.methods import SendMessage

        from bot.runtime.telegram.calls import options_of, prepare
        from bot.runtime.telegram.outbox import completed, noting_upgrades, send

        method: TelegramMethod[Any]
        if isinstance(message, str):
            chat_id, topic_id = address_of(user_id)
            options = options_of(self.format)
            method = SendMessage(chat_id=chat_id, message_thread_id=topic_id, text=message, **options)
        else:
            method = message
        turn = turn_of(user_id)
        if turn and turn.is_open:
            turn.reply(method)
            return
        if (earlier := current_turn()) and earlier.is_given_up:
            raise TurnGivenUp
        if turn and (await self.store.load(user_id)).forgotten > turn.version:
            log.info("message dropped: the user was forgotten meanwhile", user_id=user_id)
            return
        reply = await prepare(self.bot, method, person=user_id)
        if complete := await completed(self.bot, reply):
            await send(self.bot, complete, noting_upgrades(self.store))


async def ask_to_forget(agent: TelegramAgentAdapter, user_id: int) -> None:
    """Have what a person wrote so far in records that others share be erased.

    The request is kept before their own record is erased, so none is lost. See `forget_in_shared_records`.

    Raises:
        StateConflict: others were first, too often in a row.
        StateUnavailable: nobody knows whether it is kept.
    """
    if type(agent).record_of is TelegramAgentAdapter.record_of:
        return  # nothing is shared

    def asked(walk: Job | None, began: int) -> _Requests:
        now = agent.timetable.now()
        at = walk.at if walk else max(now, began + WALK_SECONDS * MICROSECONDS)
        # Messages have this machine's time, which may be ahead; but not so far that a walk would wait for it.
        until = min(max(now, time.time_ns() // 1000), now + CLOCKS_DIFFER)
        people = {**(walk.arguments if walk else {}), str(user_id): until}
        # Whoever is at it keeps the claim: what comes meanwhile is for the next time.
        return _Requests(people, at, None if walk and not walk.stopped else at, began)

    await _change_requests(agent, asked)


async def forget_in_shared_records(agent: TelegramAgentAdapter, claim: Claim, seconds: float) -> None:
    """Erase what people who are to be forgotten wrote in shared records: one walk for all who asked.

    Killed in between, it begins again with whoever has the claim after that.

    Args:
        agent: whose records.
        claim: of the record in which the requests are.
        seconds: how long a turn may run. Who asked within these seconds has to wait: a turn may be under
            way that keeps what they wrote before.

    Raises:
        StateError: as the store does; then it is to be done again.
    """
    walk, began = _walk_in(await agent.store.load(FORGETTING)), agent.timetable.now()
    if walk is None:
        return await claim.leave(NEVER)
    delay = int(seconds * MICROSECONDS)
    people = {int(user_id): at for user_id, at in walk.arguments.items() if at + delay <= began}
    if not people:
        due = min(walk.arguments.values()) + delay
        await claim.leave(due, -1)
        return agent.timetable.note(FORGETTING, due)
    looked, erased, failed, busy, told = 0, 0, 0, 0, time.monotonic()
    log.info("erasing what people who are forgotten wrote in shared records", people=len(people))
    async for record_id in agent.store.users():
        if not claim.is_held:
            return
        if is_person(record_id.removeprefix(WAITING)) or record_id.startswith((BROADCAST, FORGETTING)):
            continue
        looked += 1
        try:
            erased += await _forget_in(agent, record_id, people)
        except StateConflict:
            busy += 1
        except StateUnavailable:
            raise
        except StateError as error:  # it is not to keep the walk from the others
            failed += 1
            log.warning("not erased in a shared record", record=record_id, reason=str(error))
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            log.info("still erasing in shared records", records=looked, messages=erased)
    if busy:
        log.info("not erased everywhere: some records were too busy; tried again in an hour", records=busy)
        return await claim.leave(began + WALK_SECONDS * MICROSECONDS)
    await _end_walk(agent, people, began)
    log.info("erased in shared records", records=looked, messages=erased, failed=failed)


async def _end_walk(agent: TelegramAgentAdapter, done: Mapping[int, int], began: int) -> None:
    """Drop the requests that are done; those that came meanwhile are for the next walk."""

    def left(walk: Job | None, _: int) -> _Requests:
        asked = walk.arguments if walk else {}
        people = {user_id: at for user_id, at in asked.items() if at > done.get(int(user_id), 0)}
        at = began + WALK_SECONDS * MICROSECONDS
        return _Requests(people, at, at if people else NEVER, began)

    await _change_requests(agent, left)


def _walk_in(kept: UserRecord) -> Job | None:
    return next(iter(jobs_in(kept.fsm)), None)


class _Requests(NamedTuple):
    """Who is to be forgotten in shared records, and when that is to be done."""

    people: Mapping[str, int]  # when each asked
    at: int  # when the next walk is
    due: int | None  # what the index is told
    began: int  # when the last walk did; 0 if there was none


async def _change_requests(
    agent: TelegramAgentAdapter, change: Callable[[Job | None, int], _Requests]
) -> None:
    """Keep the requests as one job: so they are listed, exported and imported as jobs are.

    They are made of those there are, and of when the last walk began.
    """
    for attempt in range(COMMIT_ATTEMPTS):
        kept = await agent.store.load(FORGETTING)
        people, at, due, began = change(_walk_in(kept), kept.state.get("began", 0))
        walk = Job(id="walk", name="forget in shared records", arguments=people, at=at)
        changes = Changes(
            fsm={f"{JOB}{walk.id}": dumps(walk.to_json(), "people") if people else None},
            state={"began": dumps(began, "began")} if began else {},
            due=due,
        )
        try:
            await agent.store.commit(FORGETTING, changes, expect=kept.version)
        except StateConflict:
            await give_way(attempt)
        else:
            return agent.timetable.note_commit(FORGETTING, due, owes=False)
    raise StateConflict(f"others committed first, {COMMIT_ATTEMPTS} times in a row", FORGETTING)


async def _forget_in(agent: TelegramAgentAdapter, record_id: str, people: Mapping[int, int]) -> int:
    """Erase in a record what these people wrote before the times given; how many messages that were."""

    def is_theirs(message: Message) -> bool:
        if message.is_summary:
            return not people.keys().isdisjoint(message.data["authors"])
        author = message.author.id if message.author else 0
        return message.at * MICROSECONDS <= people.get(author, 0)

    def is_gone(name: str, flow: Any) -> bool:
        if name.startswith(UPDATE):  # a message that waits to be handled
            at, raw = flow["data"]["at"], flow["data"]["raw"]
            told = (each for each in raw.values() if isinstance(each, dict))
            return any(at <= people.get(each.get("from", {}).get("id", 0), 0) for each in told)
        if name.startswith(JOB):  # its arguments may be their words
            made_there = Job.from_json(name.removeprefix(JOB), flow)
            return made_there.made <= people.get(made_there.place.person or 0, -1)
        user_id = name.rpartition(":")[2]
        return name.count(":") > 4 and user_id.isdecimal() and int(user_id) in people

    def gone_in(flows: Mapping[str, Any]) -> list[str]:
        return [name for name, flow in flows.items() if is_gone(name, flow)]

    def without_theirs(said: Sequence[Message]) -> list[Message]:
        kept: list[Message] = []
        for exchange in exchanges(said):
            others = [each for each in exchange if not is_theirs(each)]
            # The data beside an answer may repeat the question.
            kept += others if len(others) == len(exchange) else without_data(others)
        return kept

    async def erase(turn: Turn) -> None:
        turn.end_compacting()
        turn.history[:] = without_theirs(turn.history)
        turn.replace_others({name: without_theirs(said) for name, said in turn.others.items()})
        for name in gone_in(turn.fsm):
            del turn.fsm[name]

    record = await agent.store.load(record_id, None)
    erased = sum(map(is_theirs, chain(record.history, *record.others.values())))
    gone = gone_in(record.fsm)
    if is_waiting(record_id) and gone:
        # Nothing is said of when it is due: whoever handles what waits keeps the claim.
        changes = Changes(fsm=dict.fromkeys(gone))
        await agent.store.commit(record_id, changes, expect=record.version)
    elif erased or gone or any(name.startswith(COMPACTING) for name in record.marks):
        await mutate(
            agent.store, record_id, erase, lanes=agent.lanes, conversation=None, timetable=agent.timetable
        )
    return erased + len(gone)


def streams(agent: type[TelegramAgentAdapter]) -> bool:
    """Whether an agent's answers come in pieces."""
    return any(map(inspect.isasyncgenfunction, (agent.agent_logic, agent.process_agent_request)))


def defers(agent: type[TelegramAgentAdapter], *, by_webhook: bool) -> bool:
    """Whether an agent's messages are kept and acknowledged at once.

    By webhook, Telegram brings a Stop, as all else of a chat, when the message before is acknowledged. With
    polling it comes at once, and what is not acknowledged is there again as soon as the bot is, after a kill.
    """
    return by_webhook and streams(agent) if agent.deferred is None else agent.deferred


async def _whole(turn: Turn, answer: Awaitable[Any] | AsyncGenerator[str, None]) -> Any:
    """All of an answer, shown as it grows, if it comes in pieces."""
    if not isinstance(answer, AsyncGenerator):
        return await answer
    # Here, because it takes aiogram, and few agents need it.
    from bot.runtime.telegram.streaming import joined

    return await joined(turn, answer)


async def is_admin(_: Any) -> bool:
    """A filter for routers: whether `ADMINS` names who wrote or pressed."""
    turn = current_turn()
    return turn is not None and turn.is_admin


def _refuse_inside_another_turn(user_id: str) -> None:
    """Refuse to change one record in a turn of another: two that wait for each other would never end."""
    turn = current_turn()
    if turn and turn.is_open and not turn.is_anonymous and turn.user_id != user_id:
        reason = f"its record cannot be changed in a turn of user {turn.user_id}: use `background` for that"
        raise StateError(reason, user_id)


class _Background:
    """Holds references to running tasks, logs their errors, and ends them with the bot."""

    def __init__(self) -> None:
        """Start without tasks."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], context: Context) -> None:
        """Run `work` in `context`, which knows the turn it belongs to. Its error, if it fails, is logged."""
        task = asyncio.create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def drain(self, timeout: float) -> None:
        """Wait for all work, also what it begins itself; cancel what is not done in time.

        Args:
            timeout: seconds.
        """
        if self._tasks:
            log.info("finishing background work", tasks=len(self._tasks))
        deadline = time.monotonic() + timeout
        while self._tasks and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait(self._tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if self._tasks:
            log.warning("background work cancelled", tasks=len(self._tasks))
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=LAST_WORDS)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("background work failed", exc_info=error)
