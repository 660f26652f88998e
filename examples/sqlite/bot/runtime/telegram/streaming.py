"""Streaming: what an agent has said so far is shown while it goes on, and it can be stopped.

In a private chat that is a draft. Elsewhere it is a message, sent as "…", edited now and then, and turned
into the answer in the end. What is shown meanwhile is best effort, in frames that nothing waits for; the
answer itself leaves through the outbox. Of a draft nothing is left after half a minute. A message stays, so
its id is kept in the person's record before anything else is shown in it: after a kill it is deleted, and the
answer is a message of its own.

Where updates wait in the inbox, a Stop that comes to another process is noted there beside them. While an
answer is shown, its process looks for that once a second; and so does whoever handles the update anew.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any

import orjson
import structlog
from aiogram import Bot
from aiogram.enums import ChatType
from aiogram.exceptions import (
    ClientDecodeError,
    TelegramAPIError,
    TelegramNetworkError,
    TelegramRetryAfter,
    TelegramServerError,
)
from aiogram.methods import SendMessage
from aiogram.types import Update

from bot.runtime.errors import LeaseLost, StateError, WrongReply
from bot.runtime.state.codec import clean
from bot.runtime.state.jobs import STOP
from bot.runtime.state.record import waiting_for
from bot.runtime.state.store import StateStore
from bot.runtime.state.turn import Turn
from bot.runtime.telegram.calls import (
    NOTHING_YET,
    PLACE,
    SHOWN,
    TEXT_LIMIT,
    Frame,
    Reply,
    options_of,
    split_reply,
)
from bot.runtime.telegram.texts import TextTable
from bot.runtime.telegram.updates import (
    STOP_BUTTON,
    LruDict,
    Sender,
    Stops,
    answer,
    is_later,
    is_said,
    is_stop,
    said_in,
)

DRAFT_DELAY, DRAFT_GAP, DRAFT_LIFE = 0.3, 0.5, 20.0
"""Seconds for which a draft waits for something to show, between two frames, and after which the same one is
shown again. Telegram drops a draft after 30: https://core.telegram.org/bots/api#sendmessagedraft"""

MESSAGE_DELAY, FIRST_GAP, MESSAGE_GAP = 0.5, 1.0, 4.0
"""Seconds before the message, before its first edit, and between two: a group takes 20 messages a minute."""

FRAMES_A_SECOND = 100
"""Most frames a second of the whole process; each stream gets fewer when there are many."""

FRAME_SECONDS = 5
"""How long a frame may take. The answer waits for the one under way, which would otherwise come after it."""

BREATH_SECONDS = 0.05
"""How long an agent may yield without a pause before others get their turn."""

UNSURE = (TelegramNetworkError, TelegramServerError, ClientDecodeError, TimeoutError)
"""What is raised when nobody knows whether a frame came."""

SHOWN_SECONDS = 25 * 3600
"""How long the id of a message is kept: as long as Telegram brings an update again."""

LOOK_SECONDS = 1.0
"""How often it is looked whether another process was told to stop an answer."""

NUMBER_BITS = 8
"""Of a draft's id, those that number the streams of one update."""

EDITED = {
    *("chat_id", "business_connection_id", "text", "parse_mode", "entities"),
    *("link_preview_options", "reply_markup"),
}
"""The parameters of a message that an edit has, too."""
LOST_BY_EDIT = {"message_thread_id", "direct_messages_topic_id", "disable_notification"}
"""Those of which an edit has no need."""

log = structlog.get_logger()


class _NoMoreFrames(Exception):
    """Nothing more can be shown."""


async def joined(turn: Turn, pieces: AsyncGenerator[str, None]) -> str:
    """All that an agent yields, shown as it grows; what there is of it, when its person stops it.

    Raises:
        WrongReply: it yields something else than texts.
    """
    stream, parts = turn.stream, list[str]()
    if stream:
        stream.follow(parts)
    breathed = time.monotonic()
    async with aclosing(pieces):
        if stream and stream.is_stopped:
            return ""
        async for piece in pieces:
            if not isinstance(piece, str):
                raise WrongReply(f"the agent yielded {type(piece).__name__}, not str")
            parts.append(piece)
            if stream is None:
                continue
            if stream.is_stopped:
                break
            await stream.grow()
            if (now := time.monotonic()) - breathed > BREATH_SECONDS:
                await asyncio.sleep(0)
                breathed = now
    return "".join(parts)


def fitting(text: str) -> str:
    """What a frame shows of a text: the end of it, if it is too long for one message."""
    text = clean(text)
    if not text.strip():
        return NOTHING_YET
    if _units(text) <= TEXT_LIMIT:
        return text
    end, start = text[1 - TEXT_LIMIT :], 0
    excess = _units(end) - TEXT_LIMIT + 1
    while excess > 0:
        excess -= _units(end[start])
        start += 1
    return NOTHING_YET + end[start:]


def _units(text: str) -> int:
    """Length in UTF-16 units."""
    return len(text.encode("utf-16-le")) // 2


class Streams:
    """What is shown by this process, and what was stopped."""

    def __init__(
        self,
        bot: Bot,
        store: StateStore,
        texts: TextTable,
        *,
        can_stop: bool,
        is_deferred: bool,
        is_behind: Callable[[str, str], bool],
        by_message: bool,
        format: str = "plain",
    ) -> None:
        """Show nothing yet.

        Args:
            bot: shows it.
            store: where ids of messages are kept, and what was stopped.
            texts: what the button says.
            can_stop: whether a button to stop is offered: not where its press would come too late.
            is_deferred: whether what is answered waits in the inbox, so that others may be told to stop it.
            is_behind: whether there are replies, of a lane to a chat, that no message is to overtake.
            by_message: whether the next message of a person stops what the agent is saying.
            format: of the agent's texts.
        """
        self.bot, self.store, self.texts, self.can_stop = bot, store, texts, can_stop
        self.looks = is_deferred and store.survives_exit
        self.is_behind = is_behind
        self._by_message = by_message
        self._options = options_of(format)
        self._open: dict[int, Stream] = {}
        self._quiet: LruDict[float] = LruDict(10_000)
        self._stopped_before: LruDict[int] = LruDict(10_000)
        self._stopped: LruDict[bool] = LruDict(10_000)
        self._said: LruDict[str] = LruDict(1_000)
        self.messages: LruDict[int] = LruDict(10_000)
        self.unsure: LruDict[bool] = LruDict(10_000)

    def marked(self, text: str) -> dict[str, str]:
        """The parameters of a frame with a text: of one in Markdown, rendered."""
        if not self._options or text == NOTHING_YET:
            return {"text": text}
        *_, last = split_reply(Reply("sendMessage", {"chat_id": "1", "text": text, **self._options}))
        return {key: last.params[key] for key in ("text", "entities") if key in last.params}

    def open(self, turn: Turn) -> "Stream | None":
        """Begin to show what a turn's agent says; `None` where that cannot be shown."""
        update = turn.update
        said = said_in(update) if update else None
        there = answer(said, NOTHING_YET) if said else None
        if update is None or said is None or not isinstance(there, SendMessage):
            return None
        values = there.model_dump(include=PLACE, exclude_none=True)
        place = {name: str(value) for name, value in values.items()}
        screen: _Draft | _Message
        if said.chat.type == ChatType.PRIVATE and place.keys() <= {"chat_id", "message_thread_id"}:
            screen = _Draft(self, update.update_id, place)
        elif turn.is_anonymous:
            return None  # nothing is kept, and a message could be left behind
        else:
            language = turn.user.language_code if turn.user else None
            screen = _Message(self, update.update_id, place, turn, self.texts.of(language).stop)
        stream = Stream(self, turn, screen, update.update_id, said.chat.id)
        stop = self._stopped_before.get(hash((turn.user_id, said.chat.id)), 0)
        stream.is_stopped = update.update_id in self._stopped or is_later(stop, update.update_id)
        self._open[update.update_id] = stream
        return stream

    def heed(self, update: Update, sender: Sender, username: str | None) -> Stops | None:
        """Stop what this update asks to stop: Telegram's Stop, the button, `/stop`, perhaps any message.

        Returns:
            Which of the person's updates that are, in this process or elsewhere; `None` if it asks nothing.
        """
        message, query = update.message, update.callback_query
        chat = sender.chat.id if sender.chat else None
        if stopped := update.stopped_message_generation:
            self.stop(update_id := stopped.draft_id >> NUMBER_BITS)
            return _stops_one(update_id, chat)
        if query and (pressed := STOP_BUTTON.fullmatch(query.data or "")):
            stops = _stops_one(int(pressed[1]), chat)
        elif message and chat and (is_stop(message.text, username) or self._stops(update)):
            self._stopped_before.set(hash((sender.lock_key, chat)), update.update_id)
            stops = _stops_before(update.update_id, chat)
        else:
            return None
        for update_id, stream in list(self._open.items()):
            if stream.record == sender.lock_key and stops(update_id, stream.chat_id):
                self.stop(update_id)
        return stops

    def _stops(self, update: Update) -> bool:
        return self._by_message and bool(update.message and is_said(update.message))

    def stop(self, update_id: int) -> None:
        """Stop the answer to an update, also one that has not begun yet."""
        self._stopped.set(update_id, True)
        if stream := self._open.get(update_id):
            stream.stop()

    def said(self, update_id: int) -> str | None:
        """What was said until the update was stopped, in an attempt before this one; `None` if it was not."""
        is_stopped = update_id in self._said or update_id in self._stopped
        return self._said.get(update_id, "") if is_stopped else None

    def note_said(self, update_id: int, text: str) -> None:
        """Note what was said until it was stopped: the agent does not run again."""
        self._said.set(update_id, text)

    def take_away(self, record: str, background: Callable[..., None]) -> None:
        """Take away what is shown of a record whose person was forgotten."""
        for stream in list(self._open.values()):
            if stream.record == record:
                background(stream.take_away)

    def seconds_of_quiet(self, chat: str) -> float:
        """For how long Telegram takes no frames for a chat."""
        return self._quiet.get(hash(chat), 0.0) - time.monotonic()

    def keep_quiet(self, chat: str, seconds: float) -> None:
        """Show nothing in a chat for so long."""
        self._quiet.set(hash(chat), time.monotonic() + seconds)

    def least_gap(self) -> float:
        """Seconds between two frames of a stream, for all that are open to get theirs."""
        return len(self._open) / FRAMES_A_SECOND

    @property
    def is_busy(self) -> bool:
        """Whether anything is shown."""
        return bool(self._open)

    def closed(self, update_id: int) -> None:
        """Forget a stream."""
        self._open.pop(update_id, None)


def _stops_one(stopped: int, there: int | None) -> Stops:
    return lambda update_id, chat_id: (update_id, chat_id) == (stopped, there)


def _stops_before(stop: int, there: int) -> Stops:
    return lambda update_id, chat_id: chat_id == there and is_later(stop, update_id)


class Stream:
    """What one turn shows.

    Attributes:
        chat_id: where.
        is_stopped: whether its person has enough.
    """

    def __init__(
        self, streams: Streams, turn: Turn, screen: "_Draft | _Message", update_id: int, chat_id: int
    ) -> None:
        """Show nothing yet."""
        self._streams, self._turn, self._screen = streams, turn, screen
        self._update_id, self.chat_id = update_id, chat_id
        self._is_eager = getattr(streams.bot.session, "shows_at_once", False)
        self._parts: Sequence[str] = ()
        self._wake, self._closing = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._cancelled: asyncio.Task[Any] | None = None
        self.is_stopped = False
        self._looking = asyncio.create_task(self._look()) if streams.looks else None

    @property
    def text(self) -> str:
        """What was said so far."""
        return "".join(self._parts)

    @property
    def record(self) -> str:
        """Whose it is."""
        return self._turn.user_id

    def show(self, text: str) -> None:
        """Show this from now on. Nothing is waited for.

        Raises:
            CancelledError: it was stopped.
        """
        if self.is_stopped:
            raise asyncio.CancelledError("stopped")
        self._parts = (text,)
        self._begin()
        self._wake.set()

    def follow(self, parts: Sequence[str]) -> None:
        """Show these, which become more; as something new, if something was shown before."""
        if self._parts:
            self._screen.number += 1
        self._parts = parts
        if not self._is_eager:
            self._begin()

    async def grow(self) -> None:
        """There is more to show. Over the network nothing is waited for."""
        if self._is_eager:
            with suppress(TelegramAPIError, StateError):
                await self._screen.show_now(fitting(self.text))
        else:
            self._wake.set()

    def _begin(self) -> None:
        if self._task is None and not self._closing.is_set():
            self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Have the agent end. A second time, or too late, it does nothing."""
        task = self._turn.answering
        if task and not (self.is_stopped or self._closing.is_set()):
            self.is_stopped = True
            self._cancelled = task
            task.cancel()

    def said_until_stopped(self) -> str | None:
        """What was said until it was stopped; `None` if it was not, or the turn is cancelled as well."""
        if not self.is_stopped:
            return None
        task, self._cancelled = self._cancelled, None
        if task and task.uncancel():
            return None
        self._streams.note_said(self._update_id, text := self.text)
        return text

    async def close(self, seconds: float = FRAME_SECONDS + 1) -> None:
        """Show no more, and wait for so long for the frame that is under way."""
        self._closing.set()
        self._wake.set()
        if self._looking:
            self._looking.cancel()
        self._streams.closed(self._update_id)
        if self._task:
            try:
                await asyncio.wait({self._task}, timeout=seconds)
            finally:
                if not self._task.done():
                    with suppress(_NoMoreFrames):
                        self._screen.note_unsure()
                self._task.cancel()

    async def replaced_by(self, replies: list[Reply]) -> list[Reply]:
        """The replies, of which the first takes the place of what was shown."""
        await self.close()
        return self._screen.replaced_by(replies)

    async def take_away(self) -> None:
        """Show no more, and nothing of what was shown."""
        for reply in await self.replaced_by([]):
            with suppress(TelegramAPIError):
                await self._streams.bot(Frame(reply=reply), request_timeout=FRAME_SECONDS)

    async def _look(self) -> None:
        """See whether another process was told to stop it."""
        while not await self._is_closed_within(LOOK_SECONDS):
            try:
                beside = await self._streams.store.load(waiting_for(self.record))
            except Exception as error:  # whatever a driver raises
                log.debug("it is not known whether the answer is stopped", reason=type(error).__name__)
            else:
                if f"{STOP}{self._update_id}" in beside.fsm:
                    self._streams.stop(self._update_id)

    async def _run(self) -> None:
        try:
            await self._show_frames()
        except (_NoMoreFrames, LeaseLost) as error:
            log.info("no more of the answer is shown before it is there", reason=str(error))
        except StateError as error:
            log.warning("the answer is not shown before it is there", reason=str(error))
        except Exception as error:  # whatever a driver raises
            log.warning("the answer is not shown before it is there", reason=type(error).__name__)

    async def _show_frames(self) -> None:
        shown, renew_at = "", None
        gap = 0.0 if self._is_eager else self._screen.delay
        if self._screen.shows_first_piece:
            await self._grown_within(gap)
            gap = 0.0
        while not (await self._is_closed_within(gap) or self._turn.is_given_up):
            self._wake.clear()
            text, now = fitting(self.text), time.monotonic()
            if text == shown and (renew_at is None or now < renew_at):
                await self._grown_within(None if renew_at is None else renew_at - now)
                gap = 0.0
            elif self._screen.has_to_wait:
                gap = self._screen.delay
            elif (gap := self._streams.seconds_of_quiet(self._screen.chat)) <= 0:
                gap = self._screen.gap
                await self._turn.check_lease()
                if frame := await self._frame(text):
                    shown, gap = frame
                    renew_at = self._screen.life and time.monotonic() + self._screen.life
                gap = max(gap, self._streams.least_gap()) if gap and not self._is_eager else 0.0

    async def _grown_within(self, seconds: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _is_closed_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._closing.wait()
        return self._closing.is_set()

    async def _frame(self, text: str) -> tuple[str, float] | None:
        """Show a frame: what is shown now, and for how many seconds at least; `None` if nobody knows."""
        try:
            return await self._screen.put(text)
        except TelegramRetryAfter as error:
            log.info("Telegram asks to slow down", seconds=error.retry_after)
            self._streams.keep_quiet(self._screen.chat, error.retry_after)
            return None
        except UNSURE:
            self._screen.note_unsure()
            return None
        except TelegramAPIError as error:
            raise _NoMoreFrames(type(error).__name__) from error


class _Draft:
    """A draft in a private chat. Another attempt at the same update shows the same one."""

    shows_first_piece = True
    has_to_wait = False  # it goes when a message comes

    def __init__(self, streams: Streams, update_id: int, place: dict[str, str]) -> None:
        self.delay, self.gap, self.life = DRAFT_DELAY, DRAFT_GAP, DRAFT_LIFE
        self._streams, self._update_id, self._place = streams, update_id, place
        self.chat = place["chat_id"]
        self.number = 1

    async def put(self, text: str) -> tuple[str, float]:
        params = {**self._place, "draft_id": str(self._update_id << NUMBER_BITS | self.number)}
        params |= self._streams.marked(text)
        if self._streams.can_stop:
            params |= {"can_stop": "true", "keep_on_stop": "true"}
        await self._streams.bot(Frame(reply=Reply("sendMessageDraft", params)), request_timeout=FRAME_SECONDS)
        return text, 0.0 if text == NOTHING_YET else self.gap  # the first piece is worth a frame of its own

    show_now = put

    def note_unsure(self) -> None:
        """Whether a frame came, nobody knows. The next one is another attempt."""

    def replaced_by(self, replies: list[Reply]) -> list[Reply]:
        """The replies: Telegram drops the draft when they come."""
        return replies


class _Message:
    """A message that becomes the answer."""

    shows_first_piece = False  # but "…", until it is kept which message it is

    def __init__(
        self, streams: Streams, update_id: int, place: dict[str, str], turn: Turn, button: str
    ) -> None:
        self._streams, self._update_id, self._place, self._turn = streams, update_id, place, turn
        self._button, self._key = button, f"{SHOWN}{update_id}"
        self.delay, self.gap, self.life = MESSAGE_DELAY, MESSAGE_GAP, None
        self.chat = place["chat_id"]
        self.number = 1
        # An attempt before this one may have sent it: here, or in a process from which this one took over.
        # That one may be alive, with an edit on its way that would come last. So nobody edits a message of
        # another process: it goes, and the answer is a message of its own.
        _, kept = turn.counters.get(self._key, (0, 0))
        own = streams.messages.get(update_id, 0)
        self._message: int | None = kept or own or None
        self._is_kept = kept > 0
        self._is_anothers = self._is_kept and kept != own
        self._own_besides = own if self._is_anothers else 0

    @property
    def _is_unsure(self) -> bool:
        """Whether an edit may still come after the final one."""
        return self._is_anothers or self._update_id in self._streams.unsure

    @property
    def has_to_wait(self) -> bool:
        """Whether the answer would stand above one to what was asked before."""
        return self._message is None and self._streams.is_behind(self._turn.user_id, self.chat)

    async def put(self, text: str) -> tuple[str, float]:
        if self._is_anothers:
            raise _NoMoreFrames("another process has begun to show it")
        if self._message is None:
            params = {**self._place, "text": NOTHING_YET, **self._buttons()}
            try:
                sent = await self._call("sendMessage", params)
            except UNSURE as error:
                # It may be there all the same. A second one would be one more that nobody takes away.
                raise _NoMoreFrames(type(error).__name__) from error
            self._message = int(sent["message_id"])
            self._streams.messages.set(self._update_id, self._message)
            await self._keep()
            return NOTHING_YET, FIRST_GAP
        await self._keep()
        params = {**self._whole(), **self._streams.marked(text), **self._buttons()}
        try:
            await self._call("editMessageText", params)
        except TelegramAPIError as error:
            if "not modified" not in error.message:
                raise
        return text, self.gap

    async def _keep(self) -> None:
        """Keep which message it is, if that is not kept: after a kill it is to go."""
        if not self._is_kept:
            assert self._message
            await self._turn.keep_now(self._streams.store, self._key, self._message, SHOWN_SECONDS)
            self._is_kept = True

    async def show_now(self, text: str) -> None:
        """Show it without delay."""
        if self._is_anothers:
            return
        if self._message is None:
            await self.put(text)
        await self.put(text)

    def note_unsure(self) -> None:
        """An edit may come late: nobody is to edit it after that, in this attempt or another."""
        self._streams.unsure.set(self._update_id, True)
        raise _NoMoreFrames("an edit got no answer")

    def replaced_by(self, replies: list[Reply]) -> list[Reply]:
        """The replies: the first edits the message, if that is possible; otherwise it goes after them."""
        self._turn.counters.pop(self._key, None)  # they are kept in its place
        if self._message is None:
            return replies
        if self._own_besides:
            replies = [*replies, self._deletion(self._own_besides)]
        for number, reply in enumerate(replies):
            if reply.params.get("chat_id") == self.chat and not reply.method.startswith(("edit", "delete")):
                if self._can_become(reply):
                    params = {key: value for key, value in reply.params.items() if key in EDITED}
                    edit = Reply("editMessageText", {**params, **self._whole()}, rest=self._place, anew=True)
                    return [*replies[:number], edit, *replies[number + 1 :]]
                break
        return [*replies, self._deletion(self._message)]

    def _can_become(self, reply: Reply) -> bool:
        markup = orjson.loads(reply.params.get("reply_markup", "{}"))
        return (
            reply.method == "sendMessage"
            and not self._is_unsure
            and reply.params.keys() <= EDITED | LOST_BY_EDIT
            and markup.keys() <= {"inline_keyboard"}
        )

    def _deletion(self, message: int) -> Reply:
        if connection := self._place.get("business_connection_id"):
            ids = orjson.dumps([message]).decode()
            return Reply("deleteBusinessMessages", {"business_connection_id": connection, "message_ids": ids})
        return Reply("deleteMessage", {"chat_id": self.chat, "message_id": str(message)})

    def _whole(self) -> dict[str, str]:
        place = {key: self._place[key] for key in EDITED & self._place.keys()}
        return {**place, "message_id": str(self._message)}

    def _buttons(self) -> dict[str, str]:
        if not self._streams.can_stop:
            return {}
        button = {"text": self._button, "callback_data": f"stop answer {self._update_id}"}
        return {"reply_markup": orjson.dumps({"inline_keyboard": [[button]]}).decode()}

    async def _call(self, method: str, params: dict[str, str]) -> Any:
        return await self._streams.bot(Frame(reply=Reply(method, params)), request_timeout=FRAME_SECONDS)
