"""A turn: load a record, change it in memory, commit what changed.

The update transaction, commands, flows and agents all see the same turn, so together they are one change.
"""

import asyncio
import hashlib
import math
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import orjson

from bot.runtime.errors import (
    LeaseLost,
    ReplyTooLarge,
    StateConflict,
    StateCorrupt,
    StateError,
    StateForgotten,
    StateValueError,
    TurnGivenUp,
)
from bot.runtime.state.codec import dumps, is_storable
from bot.runtime.state.jobs import (
    JOB,
    MICROSECONDS,
    NOWHERE,
    UPDATE,
    Job,
    Timetable,
    hear,
    jobs_in,
    new_job,
    put_job,
    repeated,
)
from bot.runtime.state.record import (
    HOME,
    Author,
    Conversation,
    Limits,
    Message,
    Place,
    RecordId,
    UserRecord,
    carries_data,
    exchanges,
    place_of,
    summary_of,
    without_data,
)
from bot.runtime.state.shape import VERSION, Shape
from bot.runtime.state.store import Changes, ConversationChange, StateStore, next_version

if TYPE_CHECKING:
    from aiogram.methods import TelegramMethod
    from aiogram.types import Chat, Update, User
    from aiogram.types import Message as TelegramMessage

T = TypeVar("T")

COMMIT_ATTEMPTS = 10


MESSAGE_BYTES = len('{"role":"assistant","text":,"at":1764115200.123456},')
"""What a message of the history takes besides its text."""

COMPACTING = "compact:"
"""How the counters are named that say that a summary is being made."""

COMPACTING_SECONDS = 3600
"""How long no other summary is begun, whatever becomes of that one."""

NEARLY_FULL = 0.75
"""Which part of its limits a conversation has reached when its older half is to be made into a summary."""

COUNT = "count:"
"""What the names of counters begin with that are the owner's."""

COUNT_LETTERS, MOST_COUNTS = 64, 100
"""How long their names may be, and how many a record may have: they are in no limit of its size."""

CLOCKS_DIFFER = 60_000_000
"""Microseconds by which the store's clock may be ahead of this one, when it forgets a user."""

AUTHOR_BYTES = len(',"author":{"id":,"name":}')
"""What its author takes besides id and name."""

DATA_BYTES = len(',"data":')
"""What its data takes besides itself."""

CONVERSATION_BYTES = len('"":[1764115200123456,1764115200123456,10000,1764115200.123456],')
"""What a record notes of each conversation takes besides its name, when there are several."""

_current: ContextVar["Turn | None"] = ContextVar("turn", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A file that somebody sent.

    Attributes:
        kind: such as `photo`, `voice` or `document`.
        media_type: such as `image/jpeg`, as the sender's app has it.
        size: bytes; `None` when Telegram does not say.
        name: what its sender calls it; empty when it has no name.
        file_id: Telegram's id of it, by which the bot can send it again.
    """

    kind: str
    media_type: str
    size: int | None
    name: str
    file_id: str
    fetch: Callable[[], Awaitable[bytes]] = field(repr=False, compare=False)

    async def read(self) -> bytes:
        """Download it, anew each time.

        Raises:
            AttachmentTooLarge: it has more than `ATTACHMENT_BYTES`, or than Telegram hands out (20 MB).
            AttachmentError: it is gone, cannot be reached, or did not come within `ATTACHMENT_TIMEOUT`.
        """
        return await self.fetch()


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """What came in. A `Turn` has the same attributes, and says more about them.

    Attributes:
        title: what the history says of a message besides its text, such as `[photo]`.
    """

    place: Place = NOWHERE
    author: Author | None = None
    update: "Update | None" = None
    message: "TelegramMessage | None" = None
    chat: "Chat | None" = None
    user: "User | None" = None
    attachments: Sequence[Attachment] = ()
    at: float | None = None
    is_admin: bool = False
    title: str = ""


NOTHING = Incoming()

READ_ONLY = (
    "nothing can be kept while a query is answered, which is done beside the person's other updates: "
    "that has to wait for the message that follows, such as successful_payment"
)


class Stream(Protocol):
    """Shows what an answer is so far, see `bot.runtime.telegram.streaming`."""

    is_stopped: bool

    def show(self, text: str) -> None:
        """Show this from now on."""

    def follow(self, parts: Sequence[str]) -> None:
        """Show these, which become more."""

    async def grow(self) -> None:
        """There are more of them."""

    def said_until_stopped(self) -> str | None:
        """What was said until its person stopped it; `None` if they did not."""

    async def close(self, seconds: float = ...) -> None:
        """Show no more; wait for so long for what is under way."""


@dataclass(frozen=True, slots=True)
class Memory:
    """How an agent remembers, as far as its turns have to know.

    Attributes:
        shape: of its state; `None` for an agent that takes it as a dict.
        kept: keys of the state that `Turn.reset` leaves.
        compact: begins to make a summary of a turn's oldest messages, once that is committed; `None` for an
            agent that makes none.
    """

    shape: Shape | None = None
    kept: Collection[str] = ()
    compact: "Callable[[Turn, Sequence[Message]], None] | None" = None


NO_MEMORY = Memory()


class _Sealed(dict[str, Any]):
    """A dict that can be read only."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise StateError(READ_ONLY)

    __setitem__ = __delitem__ = __ior__ = update = pop = popitem = clear = _refuse

    def setdefault(self, key: str, default: Any = None, /) -> Any:
        return self[key] if key in self else self._refuse()


class Turn:
    """One update's view of one record.

    Attributes:
        user_id: whose record: its id.
        version: the version it was loaded at.
        state: the owner's keys; change it freely.
        history: the conversation at the place where the update came from, oldest message first; append to it
            with `remember`.
        conversation: the name of that conversation within the record.
        fsm: conversation flows, see `bot.runtime.state.fsm`.
        place: where the update came from, and who is behind it, as ids.
        author: who wrote, to those who read the history, if the record is not one person's.
        update: what came in, as aiogram has it; `None` when no update did.
        message: the message in it, also an edited one; `None` when it brought none, as a pressed button.
        chat: where that was; `None` where it was in no chat, as an inline query.
        user: who wrote or pressed, if anybody did.
        attachments: the files of the message; of a photo the largest size.
        is_admin: whether `ADMINS` names who it was.
        at: when its update came, in seconds since 1970 by Telegram's clock; `None` when that is not known.
        replies: what goes out once the turn is committed.
        is_open: whether changes still count. It ends when the turn is committed or given up.
        is_given_up: whether its time was over before its code was.
        is_anonymous: nobody is behind it (a channel post, an anonymous admin): nothing is kept.
        is_read_only: a query is answered that has a deadline: changing anything raises `StateError`.
        job: the job that runs; `None` in the turn of an update.
        counters: what limits people: per name, until when it counts (in seconds since 1970, by Telegram's
            clock) and the count. They outlive `/reset`, `/forget` and a turn that fails.
        failure: the exception that ended a handler, whoever caught it: with it, nothing is kept.
        stopped: what the agent had said when its person stopped it, in an attempt before this one.
        answering: the task in which the agent answers, while it does.
    """

    def __init__(
        self,
        record: UserRecord,
        limits: Limits,
        *,
        incoming: Incoming = NOTHING,
        is_anonymous: bool = False,
        is_read_only: bool = False,
        timetable: Timetable | None = None,
        job: Job | None = None,
        open_stream: "Callable[[Turn], Stream | None] | None" = None,
        stopped: str | None = None,
        holds: Callable[[], Awaitable[bool]] | None = None,
        memory: Memory = NO_MEMORY,
    ) -> None:
        """Open a turn on a freshly loaded record, which belongs to it from now on."""
        self._memory = memory
        self._has_claimed = False
        self.claims_summaries = True
        self.job = job
        self._holds = holds
        self.stopped = stopped
        self.answering: asyncio.Task[Any] | None = None
        self._open_stream = open_stream
        self._stream: Stream | None = None
        self._timetable = timetable or Timetable()
        self.user_id = record.user_id
        self.version = record.version
        self.state = _Sealed(record.state) if is_read_only else record.state
        self.conversation = record.conversation
        self.fsm = record.fsm
        self.incoming = incoming
        self.place, self.author = incoming.place, incoming.author
        self.update, self.message = incoming.update, incoming.message
        self.chat, self.user = incoming.chat, incoming.user
        self.attachments = incoming.attachments
        self.is_admin = incoming.is_admin
        self.at = incoming.at
        self.replies: list[TelegramMethod[Any]] = []
        self.is_open = True
        self.is_given_up = False
        self.is_anonymous = is_anonymous
        self.is_read_only = is_read_only
        now = record.version / 1e6
        self.counters: dict[str, list[int]] = {
            name: mark for name, mark in record.marks.items() if not name.isdecimal() and mark[0] > now
        }
        self.failure: BaseException | None = None
        self._replies_before_failure = 0
        self._record = record
        self._limits = limits
        self._loaded_state = self._read_state = _frozen(record.state)
        self._typed: Any = None
        self._written: dict[str, Any] = {}
        self._fullness = 0.0
        self._loaded_fsm = _frozen(record.fsm)
        self._loaded_history: tuple[Message, ...] = ()
        self._history: list[Message] | None = None
        self._said: list[Message] = []
        self._beside: bytes | None = None
        self._unread_history = record.unread or ()
        if not self._unread_history:
            self._read_history()
        self._noted = dict(record.conversations) | dict.fromkeys(record.orphans)
        self._units: dict[str, list[_Unit]] = {}
        self._unread: str | None = None
        self._replaced: dict[str, list[Message]] = {}
        self._ended: set[str] = set()
        self._forget = False
        self._afterwards: list[Callable[[], None]] = []

    def reply(self, method: "TelegramMethod[Any]") -> None:
        """Send `method`, un-awaited, when the turn is committed: at least once, and in order."""
        self.replies.append(method)

    def show(self, text: str) -> None:
        """Show what the answer is so far, while the agent goes on. What it returns in the end is the answer.

        Nothing is waited for, and not each text is shown: as many as Telegram takes. Where nothing can be
        shown, as outside of updates, this does nothing.

        Raises:
            TurnGivenUp: the turn took too long.
            CancelledError: its person has stopped it.
        """
        if self.is_given_up:
            raise TurnGivenUp
        if self.is_open and (stream := self.stream):
            stream.show(text)

    def said_until_stopped(self) -> str | None:
        """What was said until its person stopped the answer; `None` if nobody did, or the turn is over."""
        return self._stream.said_until_stopped() if self._stream and not self.is_given_up else None

    @property
    def is_shown(self) -> bool:
        """Whether the answer is shown while it grows."""
        return self._stream is not None

    @property
    def stream(self) -> Stream | None:
        """What shows the answer while it grows; `None` where that is not possible."""
        if self._stream is None and self._open_stream:
            self._stream = self._open_stream(self)
        return self._stream

    def remember(self, role: Literal["user", "assistant"], text: str, data: Any = None) -> None:
        """Append a message to the history.

        What belongs together is dropped together when the history is full: from a message of a `user` up to
        the next one, if there is data with any of these. Too large for the limits, they lose their data.

        Args:
            role: who said it.
            text: what was said; may be empty, if there is data.
            data: JSON to keep beside the text, such as the call of a tool; `Message.data` gives it again.

        Raises:
            StateValueError: the data cannot be kept; the text names what of it.
            StateError: a query is answered.
        """
        self.check_may_change()
        json = None if data is None else dumps(data, "data")
        if role == "assistant" and json is None:
            json, self._beside = self._beside, None
        messages = self._said if self._history is None else self._history
        messages.append(Message(role, text, time.time(), self.author if role == "user" else None, json))

    def remember_beside(self, data: Any) -> None:
        """Keep JSON beside what is remembered next of the bot's: the answer that the agent is about to give.

        Args:
            data: as `remember` takes it, in the place of what was given before; `None` for nothing.

        Raises:
            StateValueError: the data cannot be kept; the text names what of it.
            StateError: a query is answered.
        """
        self.check_may_change()
        self._beside = None if data is None else dumps(data, "data")

    @property
    def owes_data(self) -> bool:
        """Whether there is data to keep beside an answer, even an empty one."""
        return self._beside is not None

    @property
    def beside(self) -> Any:
        """The data that `remember_beside` keeps beside what is remembered next; `None` if there is none."""
        return None if self._beside is None else orjson.loads(self._beside)

    @property
    def history(self) -> list[Message]:
        """The conversation at the place where the update came from, oldest message first."""
        return self._read_history() if self._history is None else self._history

    @history.setter
    def history(self, messages: list[Message]) -> None:
        self._read_history()
        self._history = messages

    def _read_history(self) -> list[Message]:
        """Make the messages that nobody has looked at yet, and note them as loaded."""
        if self._history is None:
            self._history = self._record.history
            self._loaded_history = tuple(self._history)
            self._history += self._said
        return self._history

    def continue_here(self, conversation: str, history: Sequence[Message]) -> None:
        """Have the conversation of another name end, and go on at this place."""
        self._record.conversations.pop(conversation, None)
        self._ended.add(conversation)
        self.history[:0] = history

    @property
    def typed(self) -> Any:
        """The state as the agent's `state_type` has it; change it freely, and it is kept.

        Raises:
            StateCorrupt: what is kept does not fit.
            StateValueError: what was put into `state` in this turn does not fit.
            StateError: the agent has no `state_type`.
        """
        if self._typed is None:
            shape = self._memory.shape
            if shape is None:
                raise StateError("the agent declares no state_type: set it, or use turn.state")
            typed = shape.read(_thawed(self._read_state), self.user_id)
            if changed := _compare(self._read_state, self.state, "state")[0]:
                typed = shape.fitting(_with_keys(shape.write(typed), self.state, changed))
                self._read_state = _frozen(self.state)
            self._typed, self._written = typed, _frozen(shape.write(typed))
        return self._typed

    def _write_typed(self) -> None:
        """Put into `state` what was changed in `typed`. What was changed in `state` itself has to fit, too.

        Raises:
            StateCorrupt: what is kept does not fit, and was to be changed.
            StateValueError: what it became does not fit.
        """
        shape = self._memory.shape
        if shape is None or self.is_read_only:
            return
        by_key = _compare(self._read_state, self.state, "state")[0].keys() - {VERSION}
        if self._typed is None and not (by_key and self.state):
            return
        value = shape.write(self.typed)
        by_key &= _compare(self._read_state, self.state, "state")[0].keys()  # `typed` has seen the others
        unchanged = by_key - _compare(self._written, value, "state")[0].keys()
        value = _with_keys(value, self.state, unchanged)
        if value and _compare(self._written, value, "state")[0]:
            shape.fitting(value)
        elif not self.state:
            return  # of somebody new, nothing is kept as long as nothing is changed
        self.state.clear()
        if value:
            self.state.update(value, **{VERSION: shape.version})
        self._read_state, self._written = _frozen(self.state), _frozen(value)

    def check_may_change(self) -> None:
        """Raise `StateError` if this turn keeps nothing because a query is answered."""
        if self.is_read_only:
            raise StateError(READ_ONLY)

    def check_unchanged(self) -> None:
        """Raise `StateError` if something inside of a value was changed in a turn that keeps nothing."""
        is_as_before = self._history is None or tuple(self._history) == self._loaded_history
        shape = self._memory.shape
        if shape and self._typed is not None:
            is_as_before &= not _compare(self._written, shape.write(self._typed), "state")[0]
        if not is_as_before or _compare(self._loaded_state, self.state, "state")[0]:
            raise StateError(READ_ONLY)

    @property
    def now(self) -> int:
        """The store's time, in microseconds since 1970."""
        return self._timetable.now()

    @property
    def jobs(self) -> list[Job]:
        """What is to be done later, the first first; also what was given up, which says why in `stopped`."""
        return jobs_in(self.fsm)

    def later(self, when: timedelta | datetime, method: Callable[..., Any], /, **arguments: Any) -> str:
        """Have a method run later, as a turn of this record: once, after every restart.

        Args:
            when: how long from now, or at what time.
            method: one of the agent's, marked with `@job`.
            arguments: what it is called with, as JSON.

        Returns:
            The job's id.

        Raises:
            StateError: too many jobs wait, or a query is answered.
            TypeError, ValueError: the method, an argument or the time cannot be kept.
        """
        return self._put(new_job(method, arguments, at=self._timetable.at(when), place=self.place))

    def every(
        self,
        interval: timedelta,
        method: Callable[..., Any],
        start: datetime | None = None,
        /,
        **arguments: Any,
    ) -> str:
        """Have a method run again and again, until it is cancelled. What was missed is left out.

        Args:
            interval: how long it is from one time to the next, counted in whole days by the clock in the time
                zone of `start`, if that has a `ZoneInfo`.
            method: one of the agent's, marked with `@job`.
            start: when first; after one interval, if it is not given.
            arguments: what it is called with, as JSON.

        Returns:
            The job's id.

        Raises:
            StateError: too many jobs wait, or a query is answered.
            TypeError, ValueError: the method, an argument or the time cannot be kept.
        """
        at, every, zone = repeated(interval, start, self._timetable)
        return self._put(new_job(method, arguments, at=at, every=every, zone=zone, place=self.place))

    def count(self, name: str, amount: int = 0, *, per: timedelta = timedelta(days=1)) -> int:
        """Add to a counter of this record that limits people: of tokens a day, say.

        It begins anew when so much time has passed since it began. It outlives `/reset`, `/forget` and a turn
        that fails.

        Args:
            name: what is counted.
            amount: how many more; 0 to look only.
            per: for how long they count.

        Returns:
            How many there are.

        Raises:
            StateError: something is added while a query is answered.
            ValueError: the name is too long or cannot be kept, or there are too many.
        """
        key, now = f"{COUNT}{name}", self.now // MICROSECONDS
        until, count = self.counters.get(key, (0, 0))
        if until <= now:
            until, count = now + math.ceil(per.total_seconds()), 0
        if not amount:
            return count
        self.check_may_change()
        if not is_storable(name) or len(name) > COUNT_LETTERS:
            raise ValueError(f"a counter has a name of at most {COUNT_LETTERS} letters: choose another")
        if key not in self.counters and len(self.own_counts) >= MOST_COUNTS:
            raise ValueError(f"{MOST_COUNTS} counters count already: make fewer names of them")
        self.counters[key] = [until, count + amount]
        return count + amount

    @property
    def own_counts(self) -> dict[str, list[int]]:
        """The owner's counters."""
        return {name: each for name, each in self.counters.items() if name.startswith(COUNT)}

    def tell(self, record: RecordId, method: Callable[..., Any], /, **arguments: Any) -> str:
        """Have a method run as a turn of another record, soon, and once.

        Args:
            record: whose turn it is to be.
            method: one of the agent's, marked with `@job`.
            arguments: what it is called with, as JSON.

        Returns:
            The job's id.

        Raises:
            StateError: too many jobs wait, or a query is answered.
            TypeError, StateValueError: the method or an argument cannot be kept.
        """
        place, to = place_of(record), "" if record == self.user_id else record
        return self._put(new_job(method, arguments, at=self._timetable.now(), place=place, to=to))

    def ask(
        self,
        question: str,
        choices: Mapping[str, str],
        within: timedelta,
        method: Callable[..., Any],
        /,
        **arguments: Any,
    ) -> str:
        """Ask whoever this turn is of, with buttons, and have a method run with the answer: once.

        The question is one of the turn's replies, and remembered. The method runs as a job when a button is
        pressed or, when that takes too long, with the answer `None`. Only the person is heard who is asked;
        where no person is behind the turn, anybody in the chat. `reset` and `cancel` take the question back.

        Args:
            question: what to ask, as plain text.
            choices: the answers, and what their buttons say.
            within: for how long an answer is taken.
            method: one of the agent's, marked with `@job`. Its argument `answer` is one of `choices`, or
                `None`.
            arguments: what else it is called with, as JSON.

        Returns:
            The id of the job, by which the question can be taken back.

        Raises:
            StateError: too many jobs wait, or a query is answered.
            TypeError, ValueError: the method or an argument cannot be kept, there are no choices, or there is
                no chat to ask in.
        """
        # Here, because aiogram takes a while to import, and few turns ask.
        from aiogram.methods import SendMessage
        from aiogram.types import InlineKeyboardButton, InlineKeyboardMarkup

        place, message = self.place, self.message
        if place.chat is None or (message and message.guest_query_id):
            raise ValueError("a question needs a chat that the bot is in")
        if not choices:
            raise ValueError("a question needs choices")
        at = self._timetable.at(within)
        job = new_job(method, {"answer": None, **arguments}, at=at, place=place, choices=dict(choices))
        data = f"ask:{job.id}:{{}}:{place.person or 0}:{at // MICROSECONDS}"
        buttons = [
            InlineKeyboardButton(text=label, callback_data=data.format(number))
            for number, label in enumerate(choices.values())
        ]
        direct = message.direct_messages_topic if message else None
        self._put(job)
        self.remember("assistant", question)
        self.reply(
            SendMessage(
                chat_id=place.chat,
                message_thread_id=None if direct else place.topic,
                direct_messages_topic_id=direct.topic_id if direct else None,
                business_connection_id=place.business_connection,
                text=question,
                reply_markup=InlineKeyboardMarkup(inline_keyboard=[[button] for button in buttons]),
            )
        )
        return job.id

    def answer(self, job_id: str, number: int) -> str | None:
        """Take an answer to a question: its method runs next.

        Args:
            job_id: what `ask` returned.
            number: of the choice, from 0.

        Returns:
            What the button says; `None` when the question is not open, or not any more.
        """
        job = next((each for each in self.jobs if each.id == job_id), None)
        if job is None or job.stopped or job.at <= self.now or not 0 <= number < len(job.choices):
            return None
        self.check_may_change()
        answer, label = list(job.choices.items())[number]
        arguments = {**job.arguments, "answer": answer}
        put_job(self.fsm, replace(job, at=self.now, arguments=arguments, choices={}))
        self.remember("user", label)
        return label

    def cancel(self, job_id: str) -> bool:
        """Drop a job.

        Returns:
            Whether there was one of this id.
        """
        self.check_may_change()
        return self.fsm.pop(JOB + job_id, None) is not None

    async def keep_now(self, store: StateStore, name: str, number: int, seconds: int) -> None:
        """Keep a counter at once, for so long: what a rerun has to know, should this process be killed.

        The turn's own commit counts from there, so nobody has to run again.

        Raises:
            StateConflict: another commit was first.
            StateError: as `StateStore.commit` says.
        """
        record = self._record
        mark = [int(max(time.time(), record.version / 1e6)) + seconds, number]
        changes = Changes(marks={name: dumps(mark, name)})
        record.version = self.version = await store.commit(self.user_id, changes, expect=record.version)
        record.marks = {**record.marks, name: mark}
        self.counters[name] = mark

    async def check_lease(self) -> None:
        """Raise `LeaseLost` if another process has taken over what came in.

        Raises:
            LeaseLost: it has.
            StateUnavailable: nobody knows.
        """
        if self._holds and not await self._holds():
            raise LeaseLost("another process has taken it over")

    def hear(self, job: Job) -> None:
        """Take a job from another record, unless it came before.

        Raises:
            StateError: too many jobs wait.
        """
        hear(self.fsm, self.counters, job, self._timetable.now())

    def _put(self, job: Job) -> str:
        self.check_may_change()
        put_job(self.fsm, replace(job, made=self.now))
        return job.id

    def reset(self) -> None:
        """Clear state, flows, and the conversation at this place.

        Keys that are `kept` stay, and so do jobs; questions are taken back.
        """
        self.check_may_change()
        self._clear(self._kept_state())

    def _clear(self, kept: Mapping[str, Any]) -> None:
        self.state.clear()
        self.state.update(kept)
        self._typed, self._read_state = None, _frozen(self.state)
        self.history.clear()
        jobs = {JOB + each.id for each in self.jobs if not each.choices}
        for name in self.fsm.keys() - jobs:
            del self.fsm[name]

    def _kept_state(self) -> dict[str, Any]:
        """What `reset` leaves of the state: of one that does not fit, what does."""
        if not self._memory.kept:
            return {}
        shape = self._memory.shape
        with suppress(StateCorrupt, StateValueError):
            if shape and self.state:
                _ = self.typed  # which upgrades it
            self._write_typed()
        kept = {key: value for key, value in self.state.items() if key in self._memory.kept}
        if not kept or shape is None:
            return kept
        try:
            typed = shape.fitting(shape.write(shape.fresh()) | kept)
        except StateValueError:
            return {}
        return shape.write(typed) | {VERSION: shape.version}

    def forget(self) -> None:
        """Erase everything kept about the user when the turn is committed."""
        self.check_may_change()
        self._clear({})
        self.fsm.clear()
        self.end_compacting()
        self._forget = True
        self._loaded_state = self._read_state = {}
        self._loaded_fsm = {}
        self._loaded_history = ()

    def fail(self, error: BaseException) -> None:
        """Note that an exception ended a handler, a filter or a middleware."""
        if self.failure is None:
            self.failure = error
            self._replies_before_failure = len(self.replies)

    def keep(self) -> None:
        """Keep what the turn has changed, though an exception ended a handler.

        For whoever catches it: a handler of errors, or a middleware.
        """
        self.failure = None

    def replies_to_failure(self) -> "list[TelegramMethod[Any]]":
        """What those who caught the exception reply."""
        return self.replies[self._replies_before_failure :] if self.failure else []

    def personal_data(self, record: UserRecord) -> dict[str, Any]:
        """What the user may have a copy of, as a JSON object.

        Args:
            record: theirs with all conversations; this turn has only one.
        """
        others = {name: said for name, said in record.others.items() if name not in self._ended}
        now = replace(record, state=self.state, fsm=self.fsm, others=others)
        if self.conversation:
            now.others[self.conversation] = self.history
        else:
            now.history = self.history
        flows = {name: flow for name, flow in self.fsm.items() if not name.startswith(JOB)}
        return now.personal_data() | {"fsm": flows, "jobs": [each.shown() for each in self.jobs]}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this the current turn of the code inside, and close it on the way out."""
        token = _current.set(self)
        try:
            yield
        finally:
            self.is_open = False
            _current.reset(token)

    def as_loaded(self) -> "Turn":
        """Another turn on the record as it was loaded."""
        self._read_history()
        record = replace(
            self._record,
            version=self.version,
            state=_thawed(self._loaded_state),
            history=list(self._loaded_history),
            fsm=_thawed(self._loaded_fsm),
            conversations=dict(self._record.conversations),
        )
        return Turn(
            record,
            self._limits,
            incoming=self.incoming,
            is_anonymous=self.is_anonymous,
            timetable=self._timetable,
            job=self.job,
            memory=self._memory,
        )

    def when_committed(self, begin: Callable[[], None]) -> None:
        """Have `begin` called once the turn is committed and its replies are out; not at all if it fails."""
        self._afterwards.append(begin)

    @property
    def begins_work(self) -> bool:
        """Whether something waits for the commit."""
        return bool(self._afterwards)

    def give_up(self) -> None:
        """End the turn though its code may still run: whatever that does from now on is without effect."""
        self.is_open, self.is_given_up = False, True

    def committed(self) -> None:
        """Begin what waits for the commit. In an update it waits for the replies, too."""
        for begin in self._afterwards:
            begin()

    @property
    def conversations(self) -> Mapping[str, Conversation]:
        """What is noted of each conversation, by name; nothing as long as there is one only."""
        return self._record.conversations

    @property
    def others(self) -> Mapping[str, list[Message]]:
        """The conversations beside `HOME`, if the record was loaded with all."""
        return self._record.others

    def replace_others(self, others: Mapping[str, list[Message]]) -> None:
        """Put these in the place of all conversations beside `HOME`, of a record that was loaded with all."""
        before = self._record.conversations
        following = next_version(max([self.version, *(each.next for each in before.values())]))
        self._record.conversations = {}
        for name, messages in others.items():
            kept, size = _newest(messages, self._limits.history)
            if kept:
                self._units[name] = _units(kept)
                if kept == self._record.others.get(name):
                    self._record.conversations[name] = before[name]
                    continue
                self._replaced[name] = kept
                self._record.conversations[name] = noted_of(kept, size, following + len(kept))

    async def fitted_changes(
        self, store: StateStore, outbox: Mapping[int, bytes | None] | None = None, *, owes: bool = False
    ) -> Changes | None:
        """As `changes`, after reading what that has to know of other conversations when the record is full.

        When a second conversation begins, what the first one takes is read, and noted from then on.

        Args:
            store: where the record is.
            outbox: as for `changes`.
            owes: as for `changes`.

        Raises:
            StateConflict: another commit was first.
            StateError: as `StateStore.load` and `changes` say.
        """
        self._write_typed()
        is_first = self.conversation and not (self._record.conversations or self._forget)
        if is_first and self.version and self.history:
            home = await self._read_units(store, HOME)
            if home.history:
                size, following = sum(size for _, size in self._units[HOME]), len(home.history)
                self._record.conversations[HOME] = noted_of(home.history, size, following)
        while True:
            changes = self.changes(outbox, owes=owes)
            if self._unread is not None:
                await self._read_units(store, self._unread)
            elif changes is None or not self._claim_compacting():
                return changes

    def _claim_compacting(self) -> bool:
        """Have a summary made of the oldest messages, if they are soon to go and nobody is at it.

        That is noted with the turn, so that one process does it, and not soon again, if it fails.
        """
        compact, mark = self._memory.compact, compacting(self.conversation)
        if compact is None or not self.claims_summaries:
            return False
        if mark in self.counters or self._fullness < NEARLY_FULL:
            return False
        old = _older_half(self.history)
        if not old or (len(old) == 1 and old[0].is_summary):
            return False
        self.counters[mark] = [self._timetable.now() // MICROSECONDS + COMPACTING_SECONDS, 1]
        self._has_claimed = True
        self.when_committed(partial(compact, self, old))
        return True

    def drop_claim(self) -> None:
        """Claim no summary, as this turn is not to be committed as it is: nobody would make it."""
        if self._has_claimed:
            self.counters.pop(compacting(self.conversation), None)
            self._has_claimed = False

    def replace_oldest(self, old: Sequence[Message], text: str) -> bool:
        """Put a summary in the place of these messages, if they are still the oldest.

        Some of them may have gone meanwhile, as the history was full: they are in the summary, too.

        Returns:
            Whether it stands there now.
        """
        if old[-1] not in self.history:
            return False
        left = self.history.index(old[-1]) + 1
        summary = summary_of(old, text)
        is_smaller = _message_size(summary) < sum(map(_message_size, self.history[:left]))
        if self.history[:left] != list(old[-left:]) or not is_smaller:
            return False
        self.history[:left] = [summary]
        self.counters.pop(compacting(self.conversation), None)
        return True

    def claimed_by(self, other: "Turn") -> bool:
        """Whether it is still that turn's to have a summary made here: nobody has cleared anything since."""
        mark = compacting(self.conversation)
        return mark in self.counters and self.counters[mark] == other.counters.get(mark)

    def end_compacting(self) -> None:
        """Have no summary that is being made take the place of anything, as some of it is to be forgotten."""
        self.counters = {key: each for key, each in self.counters.items() if not key.startswith(COMPACTING)}

    async def _read_units(self, store: StateStore, conversation: str) -> UserRecord:
        record = await load_again(store, self._record, conversation)
        self._units[conversation] = _units(record.history)
        return record

    def changes(
        self, outbox: Mapping[int, bytes | None] | None = None, *, owes: bool = False
    ) -> Changes | None:
        """What to commit; `None` when nothing changed.

        When the record is full, the oldest messages of the conversation that was not used for longest go
        first: all of them, unless `fitted_changes` has read how large each is.

        Args:
            outbox: what the record's outbox gains and loses with it, which alone is no change.
            owes: whether Telegram will not bring the update again for which it gains an entry.

        Raises:
            StateValueError: a value cannot be kept; the text names its key.
            ReplyTooLarge: the state fits, but not with the replies that wait.
        """
        outbox = outbox or {}
        state, state_size = _compare(self._loaded_state, self.state, "state")
        fsm, fsm_size = _compare(self._loaded_fsm, self.fsm, "fsm")
        before = {} if self._forget else self._record.outbox
        content = state_size + fsm_size
        content += sum(
            len(orjson.dumps(entry.to_json())) for key, entry in before.items() if key not in outbox
        )
        content += sum(len(entry) for entry in outbox.values() if entry)
        others = {} if self._forget else dict(self._record.conversations)
        own = others.pop(self.conversation, None)
        if state_size + fsm_size <= self._limits.max_bytes < content:
            raise ReplyTooLarge(f"with its replies it has more bytes than {self._limits.max_bytes}")
        noted_size = _noted_size(self.conversation) if self.conversation or others else 0
        room = self._limits.max_bytes - content - noted_size
        kept, history_size, history = self._fitting_history(room)
        content += noted_size + history_size if kept else 0
        self._fullness = max(kept / max(1, self._limits.history), history_size / max(1, room))
        if kept < len(self._unread_history if self._history is None else self._history):
            self._fullness = 1.0
        self._unread = None
        if others:
            self._make_room(others, self._limits.max_bytes - content)
            content += sum(each.bytes + _noted_size(name) for name, each in others.items())

        was_empty, appended_only, fresh = self._appended(history)
        messages = tuple(fresh[-kept:]) if kept else ()
        clear = not was_empty and (not appended_only or not kept)
        keep: int | None = kept
        conversations: dict[str, ConversationChange | None] = {}
        if self.conversation:
            home = self._record.conversations.get(HOME)
            keep = None
            if home != others.get(HOME):
                keep = others[HOME].next - others[HOME].first if HOME in others else 0
            if kept:
                # Numbers that nobody ever had: where a record has expired, its messages may still be there.
                # They tell whether it began before its user was forgotten.
                following = own.next if own else next_version(self.version) + self._forget * CLOCKS_DIFFER
                following += kept if clear else len(messages)
                others[self.conversation] = self._noted_now(kept, history_size, following)
                if messages:
                    conversations[self.conversation] = ConversationChange(others[self.conversation], messages)
            messages, clear = (), False
        elif others and kept:
            others[HOME] = self._noted_now(kept, history_size, kept)
        for name in self._replaced.keys() & others.keys():
            newest = self._replaced[name][others[name].first - others[name].next :]
            conversations[name] = ConversationChange(others[name], tuple(newest))
        if others.keys() <= {HOME}:
            others = {}
        for name in self._noted.keys() | others.keys():
            if name not in others:
                conversations[name] = None
            elif name not in conversations and others[name] != self._noted.get(name):
                conversations[name] = ConversationChange(others[name])

        changes = Changes(
            state=state,
            fsm=fsm,
            messages=messages,
            clear_history=clear,
            keep_history=keep,
            conversations=conversations,
            marks=self.counter_changes(),
            outbox=outbox,
            due=self.due(fsm, outbox, owes=owes),
            forget=self._forget,
            size=content,
        )
        is_nothing = not (
            changes.state
            or changes.fsm
            or messages
            or clear
            or changes.conversations
            or changes.marks
            or changes.forget
        )
        return None if is_nothing else changes

    def due(
        self, fsm: Mapping[str, bytes | None], outbox: Mapping[int, bytes | None], *, owes: bool
    ) -> int | None:
        """When the record has something to do after a commit; `None` if that is as before.

        Args:
            fsm: the flows that change with it.
            outbox: what the outbox gains and loses.
            owes: whether it gains what Telegram will not cause to be sent again.
        """
        before = {} if self._forget else self._record.outbox
        owed = {key for key, entry in before.items() if entry.is_owed}
        if not (owed or owes or any(name.startswith((JOB, UPDATE)) for name in fsm)):
            return None
        still_owes = owes or bool(owed - {key for key, entry in outbox.items() if entry is None})
        flows = _thawed(self._loaded_fsm) | {key: value and orjson.loads(value) for key, value in fsm.items()}
        flows = {key: value for key, value in flows.items() if value is not None}
        return self._timetable.due_after(flows, owes=still_owes)

    def counter_changes(self) -> dict[str, bytes | None]:
        """The counters that changed, or whose time is over, as `Changes.marks`."""
        before = {name: mark for name, mark in self._record.marks.items() if not name.isdecimal()}
        if not (before or self.counters):
            return {}
        changed = {
            name: dumps(mark, name) for name, mark in self.counters.items() if mark != before.get(name)
        }
        return dict.fromkeys(before.keys() - self.counters.keys()) | changed

    def _appended(self, history: list[Message] | None) -> tuple[bool, bool, list[Message]]:
        """Whether there was no history, whether it was only appended to, and what is to be written of it."""
        if history is None:
            return False, True, self._said
        loaded = self._loaded_history
        appended_only = tuple(history[: len(loaded)]) == loaded
        return not loaded, appended_only, history[len(loaded) :] if appended_only else history

    def _noted_now(self, kept: int, size: int, following: int) -> Conversation:
        """What is to be noted of the conversation here, of which so many messages stay."""
        said = self._said if self._history is None else self._history
        return Conversation(following - kept, following, size, (said or self.history)[-1].at)

    def _fitting_history(self, max_bytes: int) -> tuple[int, int, list[Message] | None]:
        """How many of the newest messages state and limits leave room for, their bytes as JSON, and all."""
        most = self._limits.history
        said = self._said if self._history is None else self._history
        if carries_data(said):
            history, size = _newest(self.history, most, max_bytes)
            return len(history), size, [*self.history[: len(self.history) - len(history)], *history]
        texts = [message.text for message in said]
        if self._history is None:
            texts = [each["text"] for each in self._unread_history] + texts
        texts = texts[-most:] if most else []
        if not texts:
            return 0, 0, self._history
        brackets_and_commas = len(texts) + 1
        size = len(orjson.dumps(texts)) - brackets_and_commas + len(texts) * MESSAGE_BYTES
        size += sum([_author_size(each) for each in said[-most:] if each.author])
        dropped = 0
        if size > max_bytes:
            newest = self.history[-most:]
            while size > max_bytes and dropped < len(newest):
                size -= _message_size(newest[dropped])
                dropped += 1
        return len(texts) - dropped, size, self._history

    def _make_room(self, others: dict[str, Conversation], room: int) -> None:
        """Drop of other conversations what does not fit."""
        excess = sum(each.bytes + _noted_size(name) for name, each in others.items()) - room
        for name in sorted(others, key=lambda name: others[name].at):
            if excess <= 0:
                return
            about = others.pop(name)
            if excess < about.bytes and name not in self._units:
                self._unread = name
            elif excess < about.bytes:
                for count, size in self._units[name]:
                    if excess > 0:
                        about = about._replace(first=about.first + count, bytes=about.bytes - size)
                        excess -= size
                if about.first < about.next:
                    others[name] = about
                return
            excess -= about.bytes + _noted_size(name)


_Unit = tuple[int, int]
"""How many messages are dropped together, and their bytes as JSON."""


def _units(messages: Sequence[Message]) -> list[_Unit]:
    """What of a conversation is dropped together: an exchange with data, and each other message alone."""
    units: list[_Unit] = []
    for exchange in exchanges(messages):
        sizes = list(map(_message_size, exchange))
        if carries_data(exchange):
            units.append((len(sizes), sum(sizes)))
        else:
            units += [(1, size) for size in sizes]
    return units


def _newest(messages: Sequence[Message], most: int, max_bytes: float = math.inf) -> tuple[list[Message], int]:
    """The newest messages of a conversation, as many as fit, and their bytes as JSON.

    The newest exchange loses its data when it does not fit with it.
    """
    kept, units = list(messages), _units(messages)
    newest = list(exchanges(kept))[-1] if kept else []
    if carries_data(newest) and (len(newest) > most or units[-1][1] > max_bytes):
        kept[-len(newest) :] = without_data(newest)
        units = _units(kept)
    count, size = len(kept), sum(each for _, each in units)
    for messages_of_unit, bytes_of_unit in units:
        if count <= most and size <= max_bytes:
            break
        count -= messages_of_unit
        size -= bytes_of_unit
    return kept[len(kept) - count :], size


def _older_half(messages: Sequence[Message]) -> list[Message]:
    """The oldest exchanges of a conversation, about half of it, and never the newest one."""
    half, half_size = len(messages) / 2, sum(map(_message_size, messages)) / 2
    old: list[Message] = []
    for exchange in list(exchanges(messages))[:-1]:
        if len(old) >= half and sum(map(_message_size, old)) >= half_size:
            break
        old += exchange
    return old


def compacting(conversation: str) -> str:
    """The name of the counter that has one process at a time make a summary of a conversation."""
    return COMPACTING + hashlib.sha256(conversation.encode()).hexdigest()[:16]


def _message_size(message: Message) -> int:
    """Bytes of a message as JSON."""
    size = len(orjson.dumps(message.text)) + MESSAGE_BYTES + _author_size(message)
    return size if message.json is None else size + DATA_BYTES + len(message.json)


def _author_size(message: Message) -> int:
    author = message.author
    return AUTHOR_BYTES + len(str(author.id)) + len(orjson.dumps(author.name)) if author else 0


def _noted_size(conversation: str) -> int:
    """Bytes of what is noted of a conversation."""
    return CONVERSATION_BYTES + len(conversation.encode())


def noted_of(messages: Sequence[Message], size: int, following: int) -> Conversation:
    """What is to be noted of a conversation of these messages, of which the next one has this number."""
    return Conversation(following - len(messages), following, size, messages[-1].at)


def turn_of(user_id: str) -> Turn | None:
    """The turn this code runs in, open or over, if it is that user's."""
    turn = _current.get()
    return turn if turn and turn.user_id == user_id else None


def current_turn() -> Turn | None:
    """The turn this code runs in, open or over, whosever it is."""
    return _current.get()


@dataclass(slots=True)
class _Entry:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class KeyedLock:
    """A lock per key: first come, first served. Keeps nothing about a key that nobody holds or waits for."""

    def __init__(self) -> None:
        """Make a lock that nobody holds."""
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        """How many keys are held at this moment."""
        return len(self._entries)

    def is_held(self, key: str) -> bool:
        """Whether somebody holds the key, or waits for it."""
        return key in self._entries

    def hold(self, key: str) -> AbstractAsyncContextManager[None]:
        """Wait for the key, and hold it until the end of the block."""
        return _Hold(self._entries, key)


class _Hold(AbstractAsyncContextManager[None]):
    """A key that is waited for and held."""

    def __init__(self, entries: dict[str, _Entry], key: str) -> None:
        self._entries = entries
        self._key = key

    async def __aenter__(self) -> None:
        entry = self._entries.get(self._key)
        if entry is None:
            entry = self._entries[self._key] = _Entry()
        entry.users += 1
        try:
            await entry.lock.acquire()
        except BaseException:
            self._leave(entry)
            raise

    async def __aexit__(self, *_: object) -> None:
        entry = self._entries[self._key]
        entry.lock.release()
        self._leave(entry)

    def _leave(self, entry: _Entry) -> None:
        entry.users -= 1
        if not entry.users:
            del self._entries[self._key]


async def give_way(attempt: int) -> None:
    """Wait for a moment when another commit was first: the longer, the more attempts were made before."""
    await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))


async def load_again(store: StateStore, record: UserRecord, conversation: str) -> UserRecord:
    """A record with another conversation, if it is still the same.

    Raises:
        StateConflict: another commit was first.
        StateError: as `StateStore.load` says.
    """
    again = await store.load(record.user_id, conversation)
    if again.version != record.version:
        raise StateConflict("another commit was first", record.user_id)
    return again


async def mutate(
    store: StateStore,
    user_id: str,
    change: Callable[[Turn], Awaitable[T]],
    *,
    since: int | None = None,
    lanes: KeyedLock | None = None,
    conversation: str | None = HOME,
    timetable: Timetable | None = None,
    memory: Memory = NO_MEMORY,
) -> T:
    """Change a record outside an update: load, `change`, commit; start over when another commit was first.

    Args:
        store: where the record is.
        user_id: whose record.
        change: changes the turn it is given; it may run several times.
        since: a version the caller acts upon; a user forgotten after it stays forgotten.
        lanes: hold one for each record that is being changed in this process. The change waits for its turn
            there: nothing would be lost otherwise, but what runs in the lane would have to run again. Inside
            of another record's turn it does not wait, as that one may be waiting, too.
        conversation: the one in the turn's history; `None`: that at `HOME`, and all others beside it.
        timetable: the store's time; told of jobs.
        memory: the agent's, if the change touches its state or says something.

    Returns:
        What `change` returned.

    Raises:
        StateConflict: others committed first, too often in a row.
        StateForgotten: the user was forgotten meanwhile.
        TurnGivenUp: the caller's own turn took too long.
        StateUnavailable: the backend is away; whether the change was applied is unknown.
        StateError: as `StateStore.load` and `StateStore.commit` say.
    """
    _check_time()
    running = current_turn()
    is_inside = running and running.is_open and not running.is_anonymous
    async with nullcontext() if is_inside or lanes is None else lanes.hold(user_id):
        for attempt in range(COMMIT_ATTEMPTS):
            record = await store.load(user_id, conversation)
            since = record.version if since is None else since
            if record.forgotten > since:
                raise StateForgotten("forgotten meanwhile", user_id)
            place = place_of(user_id)
            incoming = Incoming(place=place)
            turn = Turn(record, store.limits, incoming=incoming, timetable=timetable, memory=memory)
            with turn.active():
                result = await change(turn)
            _check_time()
            try:
                changes = await turn.fitted_changes(store)
                _check_time()
                if changes is not None:
                    await store.commit(user_id, changes, expect=record.version)
                    if timetable:
                        timetable.note_commit(user_id, changes.due, owes=False)
            except StateConflict:
                await give_way(attempt)
            else:
                turn.committed()
                return result
    raise StateConflict(f"others committed first, {COMMIT_ATTEMPTS} times in a row", user_id)


def _check_time() -> None:
    if (turn := _current.get()) and turn.is_given_up:
        raise TurnGivenUp


def _with_keys(value: dict[str, Any], state: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """The value, with these keys as they are in the state."""
    others = {key: each for key, each in value.items() if key not in set(keys)}
    return others | {key: state[key] for key in keys if key in state and key != VERSION}


def _frozen(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they are now: serialised, where they could be changed in place."""
    frozen = dict(values)
    if not _CHANGEABLE.isdisjoint(map(type, values.values())):  # spares most a look at each
        for key, value in values.items():
            if type(value) in _CHANGEABLE:
                frozen[key] = orjson.dumps(value)
    return frozen


def _thawed(frozen: Mapping[str, Any]) -> dict[str, Any]:
    """The values again."""
    return {key: orjson.loads(value) if type(value) is bytes else value for key, value in frozen.items()}


def _compare(
    before: Mapping[str, Any], values: Mapping[str, Any], name: str
) -> tuple[dict[str, bytes | None], int]:
    """What changed since `before` was frozen, serialised, and the bytes of everything there is now.

    Only what changed is checked: the rest was checked when it was written.
    """
    changed: dict[str, bytes | None] = dict.fromkeys(before.keys() - values.keys())
    for key in [key for key, value in values.items() if before.get(key, _MISSING) is not value]:
        old, value = before.get(key, _MISSING), values[key]
        if not _is_same(old, value):
            if old is _MISSING:
                dumps({key: None}, name)
            changed[key] = dumps(value, f"{name}[{key!r}]")
    if not values:
        return changed, 0
    brackets_and_commas = len(values) + 1
    size = len(orjson.dumps(list(values.values()))) - brackets_and_commas
    return changed, size + _text_size("".join(values))


def _is_same(before: Any, value: Any) -> bool:
    """Whether a value is what it was when frozen, by its serialised form: in Python, `1 == True == 1.0`."""
    if before is _MISSING:
        return False
    serialised = before if type(before) is bytes else orjson.dumps(before)
    try:
        return serialised == orjson.dumps(value, option=_AS_IT_IS)
    except orjson.JSONEncodeError:
        return False


_CHANGEABLE = frozenset({list, dict})

_MISSING = object()

_AS_IT_IS = (
    orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
)
"""Has orjson refuse what `dumps` refuses, where it can."""


def _text_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
