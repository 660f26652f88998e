"""The outbox: replies are committed together with what their update changed, and sent after that.

Killed in between, the bot finds them in the user's record when Telegram delivers the update again. A person's
next update waits while replies go out, but not for one that cannot be sent at the moment: that one waits by
itself, behind the earlier replies to the same chat. If it waits for long, the record notes that it owes the
reply, and the update is acknowledged: so it holds back no other update. What a record owes is sent by the
process that tries, or, when that was killed, with a later update of the same person.
"""

import asyncio
import math
import re
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import structlog
from aiogram import Bot
from aiogram.exceptions import (
    ClientDecodeError,
    TelegramBadRequest,
    TelegramEntityTooLarge,
    TelegramForbiddenError,
    TelegramMigrateToChat,
    TelegramNetworkError,
    TelegramNotFound,
    TelegramRetryAfter,
    TelegramServerError,
    TelegramUnauthorizedError,
)
from aiogram.methods import AnswerCallbackQuery, SendMessage, TelegramMethod
from aiogram.types import Update
from aiohttp import ClientConnectorError, ClientError

from bot.runtime import metrics
from bot.runtime.errors import StateConflict, StateError, StateUnavailable
from bot.runtime.logs import Outage
from bot.runtime.state.fsm import upgrade_group
from bot.runtime.state.jobs import Timetable
from bot.runtime.state.record import OutboxEntry, UserRecord, encode_entry
from bot.runtime.state.store import Changes, StateStore
from bot.runtime.state.turn import COMMIT_ATTEMPTS, KeyedLock, give_way
from bot.runtime.telegram.calls import (
    PLACE,
    PROXY_FAILED,
    FileGone,
    Reply,
    Session,
    StoredCall,
    as_rich,
    instead_of_edit,
    prepare,
    split_reply,
    with_files,
    without_markup,
)
from bot.runtime.telegram.updates import LruDict, answer, date_of, is_later, said_in

OUTBOX_SECONDS = 25 * 3600
"""Age at which an undelivered reply is dropped: Telegram keeps an update for 24 hours, and no longer delivers
this one again."""

ATTEMPTS = 20
"""Failed attempts after which a reply is given up, about a quarter of an hour after the first."""
COST_OF_UNKNOWN, COST_OF_UPLOAD = 4, 7
"""For how many attempts one counts of which nobody knows how it ended: each may be one more copy."""
FILE_ATTEMPTS = 5
"""Failed attempts to read a file from an address after which its reply is given up."""
FIRST_DELAY, DOUBLINGS = 0.5, 7
"""Seconds before the second attempt, and how often they are doubled."""
AWAY_DELAY, AWAY_SECONDS = 30.0, 24 * 3600.0
"""Most seconds between two attempts to connect, and in all. They are not counted: nothing was sent."""
LONGEST_WAIT = 3600.0
"""Most seconds, in all, that a reply waits because Telegram asks for it."""

SHORT_WAIT = 3.0
"""Most seconds before another attempt during which the person's next update waits, too."""
LANE_SECONDS = 5.0
"""Most seconds for which a person's next update waits for replies."""
HOLD_SECONDS = 20.0
"""Most seconds for which an update waits for its replies: Telegram waits 60 for the answer to a delivery."""

AMEND_DELAY = 1.0
"""Seconds before another attempt to note that a record owes replies, or for which a note that they are out
is waited for."""
UPLOAD_RATE = 32 * 1024
"""Bytes per second that a connection has at least. For so long an upload may take, beyond what others may."""
SORRY_SECONDS = 10
"""How long it may take to tell somebody that a reply could not be sent."""

QUOTES = {"reply_parameters", "reply_to_message_id", "allow_sending_without_reply"}
"""The parameters that make a message the reply to another one."""

NO_QUOTE = re.compile("message to be replied not found|REPLY_MESSAGE_ID_INVALID|QUOTE_TEXT_INVALID")
NO_MARKUP = re.compile(r"can't parse (message)?entit|ENTIT(Y|IES)_|\bentity\b|too[ _]long", re.IGNORECASE)
NO_MESSAGE = re.compile("message to edit not found|message can't be edited|MESSAGE_ID_INVALID")
NO_CHANGE = re.compile("message is not modified|MESSAGE_NOT_MODIFIED")
"""What Telegram says when the message replied to is gone, it does not understand a text, the message to edit
is gone, or there is nothing to edit in it."""

ALL = sys.maxsize
"""How many replies of an update were sent that is over."""

Pause = Callable[[float, int], Awaitable[None]]
"""Waits before another attempt: for so many seconds, after so many failures."""

Moved = Callable[[str, str], Awaitable[None]]
"""Is told that a group has become a supergroup: its old id and its new one."""

log = structlog.get_logger()


async def stays_unknown(_: str, __: str) -> None:
    """Tell nobody."""


class DeliveryFailed(Exception):
    """A reply cannot be sent, now or ever.

    Attributes:
        kind: `refused`, `blocked` (by the person), `unreachable`, or `busy` (Telegram asks to wait too long).
    """

    def __init__(self, kind: str, reason: str) -> None:
        """Make an error."""
        super().__init__(reason)
        self.kind = kind


class _Left(Exception):
    """The bot stops while a reply waits."""


class _Gone(Exception):
    """The record no longer has the reply: the person was forgotten, or another process sent it."""


@dataclass(eq=False, slots=True, kw_only=True)
class Delivery:
    """The replies of one update, on their way to Telegram.

    Attributes:
        update_id: the update.
        replies: its replies, in order.
        lane: what is handled one after another has the same.
        user_id: in whose record they wait; `None` when they wait nowhere else.
        chat: the chat that the update came from.
        sorry: what to say in place of a reply that cannot be sent.
        then: called once the replies are out.
        is_owed: whether the record says that Telegram will not bring the update again.
        failures: attempts to send the reply whose turn it is that failed.
        is_amended: whether the record has to be told in the end.
        is_over: whether they are out; `None` while they are under way.
        moved: set when the person's next update need no longer wait.
        hurry: set when it is over, or the update should no longer wait.
        task: what delivers them.
    """

    update_id: int
    replies: Sequence[Reply]
    lane: str
    user_id: str | None
    chat: str
    sorry: str
    then: Callable[[], None] = lambda: None
    is_owed: bool = False
    failures: int = 0
    is_amended: bool = False
    is_over: bool | None = None
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None

    @property
    def place(self) -> str:
        """Replies to the same place go out one after another."""
        chats = (reply.params["chat_id"] for reply in self.replies if "chat_id" in reply.params)
        return f"{self.lane} {next(chats, '')}"


class Outbox:
    """The replies of updates, on their way from the transaction to Telegram.

    Attributes:
        outage: told when the store does not answer, by whoever notices.
    """

    def __init__(self, bot: Bot, store: StateStore, lanes: KeyedLock, timetable: Timetable) -> None:
        """Make an outbox from which nothing was sent yet.

        Args:
            bot: sends them.
            store: where records are.
            lanes: hold one for each record that is being changed; notes in a record take their turn.
            timetable: the store's time; told of what records owe.
        """
        self._timetable = timetable
        self._lanes = lanes
        self._bot = bot
        self._store = store
        self._places = KeyedLock()
        self._under_way: dict[int, Delivery] = {}
        self._sent: LruDict[int] = LruDict()
        self._upgraded: dict[str, str] = {}
        self.outage = Outage("the store does not answer: updates are retried", "the store answers again")
        self._is_crowded = False
        self._left: set[str] = set()
        self._closing = asyncio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way."""
        return not (self._under_way or len(self._places))

    def is_delivered(self, update_id: int) -> bool:
        """Whether this process is done with an update's replies."""
        return self._sent.get(update_id, 0) == ALL

    async def prepare(self, update: Update, methods: Sequence[TelegramMethod[Any]]) -> list[Reply]:
        """Turn methods into replies; a pressed button is answered in any case.

        Raises:
            ReplyTooLarge: a file has more bytes than may be kept.
            TimeoutError: reading a file takes too long.
        """
        query = update.callback_query
        if query and not any(isinstance(method, AnswerCallbackQuery) for method in methods):
            methods = [*methods, AnswerCallbackQuery(callback_query_id=query.id)]
        person = getattr(update.event, "from_user", None)
        place = {} if all(isinstance(method, SendMessage) for method in methods) else _place_of(update)
        return await self.prepare_all(
            methods, update.update_id, place=place, person=str(person.id) if person else ""
        )

    async def prepare_all(
        self,
        methods: Sequence[TelegramMethod[Any]],
        key: int,
        *,
        place: Mapping[str, str] | None = None,
        person: str = "",
    ) -> list[Reply]:
        """Turn methods into the replies that wait in a record under `key`.

        Raises:
            ReplyTooLarge: a file has more bytes than may be kept.
            TimeoutError: reading a file takes too long.
        """
        most = self._store.limits.file_bytes
        return [
            await prepare(self._bot, method, update_id=key, file_bytes=most, place=place, person=person)
            for method in methods
        ]

    def begin(self, delivery: Delivery) -> Delivery:
        """Begin to deliver.

        Returns:
            The delivery; the one that is under way, if the update's replies are.
        """
        if known := self._under_way.get(delivery.update_id):
            return known
        self._under_way[delivery.update_id] = delivery
        if self._places.is_held(delivery.place) or delivery.place in self._left:
            self._put_off(delivery)
        delivery.task = asyncio.create_task(self._run(delivery))
        return delivery

    def take_over(self, record: UserRecord, update_id: int | None, chat: str, sorry: str) -> list[Delivery]:
        """Begin to deliver what a record owes and nobody here delivers: the process that did was killed.

        What later updates than this one left has to wait for its turn: Telegram may bring others in between
        again, whose replies go first. Without an update, what Telegram is sure to bring again goes first.

        Returns:
            What was begun.
        """
        expected = [key for key, entry in record.outbox.items() if not entry.is_owed]
        owed = [
            key
            for key, entry in record.outbox.items()
            if entry.is_owed and key not in self._under_way and not self.is_delivered(key)
            if not any(is_later(key, each) for each in ([update_id] if update_id is not None else expected))
        ]
        begun = []
        for key in sorted(owed):  # Telegram counts
            entry = record.outbox[key]
            log.info("sending what is owed", owed_update_id=key)
            delivery = Delivery(
                update_id=key,
                replies=replies_of(entry),
                lane=record.user_id,
                user_id=record.user_id,
                chat=chat,
                sorry=sorry,
                is_owed=True,
                failures=entry.failures,
            )
            begun.append(self.begin(delivery))
        return begun

    async def moved(self, delivery: Delivery) -> None:
        """Wait for as long as the person's next update has to wait."""
        try:
            async with asyncio.timeout(LANE_SECONDS):
                await delivery.moved.wait()
        except TimeoutError:
            self._put_off(delivery)

    async def released(self, delivery: Delivery) -> bool:
        """Wait until Telegram need not bring the update again: the replies are out, or the record owes them.

        Returns:
            Whether that is so: not if the bot stops before.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(HOLD_SECONDS):
                await delivery.hurry.wait()
        while delivery.is_over is None and not delivery.is_owed:
            if delivery.user_id and not await self._amend(delivery, is_owed=True):
                await asyncio.sleep(AMEND_DELAY)
                continue
            delivery.is_owed = True
            log.info("update acknowledged, its replies follow")
        return delivery.is_over or delivery.is_owed

    def is_behind(self, lane: str, chat: str) -> bool:
        """Whether what would be sent to a chat now would overtake replies that are on their way there."""
        place = f"{lane} {chat}"
        return self._places.is_held(place) or place in self._left

    def set_crowded(self, is_crowded: bool) -> None:
        """Whether updates that wait for their replies keep others from coming in."""
        self._is_crowded = is_crowded
        for delivery in self._under_way.values() if is_crowded else ():
            if delivery.moved.is_set():
                delivery.hurry.set()

    def stop_waiting(self) -> None:
        """From now on send only what can be sent at once."""
        self._closing.set()

    async def close(self, timeout: float) -> None:
        """Give what is being sent so many seconds, and leave the rest to Telegram or to the record."""
        self._closing.set()
        tasks = [delivery.task for delivery in self._under_way.values() if delivery.task]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=max(0, timeout))
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, delivery: Delivery) -> None:
        structlog.contextvars.bind_contextvars(update_id=delivery.update_id)
        try:
            async with self._places.hold(delivery.place):
                # Those that were begun together are behind one another, too, though none was moved.
                is_behind = delivery.moved.is_set() or delivery.place in self._left
                if is_behind and self._closing.is_set():
                    raise _Left
                if not delivery.moved.is_set() or await self._is_wanted(delivery):
                    await self._send_all(delivery)
                self._sent.set(delivery.update_id, ALL)
            delivery.is_over = True
            delivery.then()
            delivery.moved.set()
            await self._drop_files(delivery)
            if delivery.user_id and (delivery.is_owed or delivery.is_amended):
                # Killed before this, they come again. It takes its turn, for which the update waits, too.
                asyncio.get_running_loop().call_later(AMEND_DELAY, delivery.hurry.set)
                await self._amend(delivery)
        except _Left:
            log.info("replies left for later")
        finally:
            if not delivery.is_over:
                delivery.is_over = False
                self._left.add(delivery.place)  # nothing may overtake them while the bot stops
            del self._under_way[delivery.update_id]
            delivery.moved.set()
            delivery.hurry.set()

    async def _drop_files(self, delivery: Delivery) -> None:
        """Delete the files of replies that are out."""
        files = [file for reply in delivery.replies for file in reply.kept_files()]
        if files and delivery.user_id:
            try:
                await self._store.drop_files(delivery.user_id, files)
            except Exception as error:  # whatever a driver raises: they go with the replies then
                log.warning("files not deleted yet", reason=type(error).__name__)

    async def _send_all(self, delivery: Delivery) -> None:
        """Send what this process has not sent yet, in order. What cannot be sent is given up."""
        already = self._sent.get(delivery.update_id, 0)
        for number, reply in enumerate(delivery.replies[already:], start=already + 1):
            try:
                if complete := await self._completed(delivery, reply):
                    pause = partial(self._pause, delivery)
                    await deliver(self._bot, complete, pause, delivery.failures, self._note_upgrade)
            except DeliveryFailed as error:
                await self._give_up(delivery, reply, error)
            except _Gone:
                log.info("reply dropped: the record no longer has it")
                return
            delivery.failures = 0
            self._sent.set(delivery.update_id, number)

    async def _note_upgrade(self, old: str, new: str) -> None:
        """Keep that a group has become a supergroup."""
        self._upgraded[old] = new
        await noting_upgrades(self._store)(old, new)

    async def _completed(self, delivery: Delivery, reply: Reply) -> Reply | None:
        """The reply with the contents of its files; `None` when one is gone that was kept.

        Raises:
            DeliveryFailed: one cannot be read.
        """

        async def kept(file: str) -> bytes | None:
            return await self._store.read_file(delivery.user_id, file) if delivery.user_id else None

        failures = 0
        while True:
            try:
                return await with_files(self._bot, reply, kept)
            except FileGone as error:
                if error.was_kept:
                    log.warning("reply dropped for its file", method=reply.method, reason=str(error))
                    return None
                failures += 1
                if failures == FILE_ATTEMPTS:
                    raise DeliveryFailed("unreachable", f"a file {error}") from error
            except StateUnavailable as error:
                self.outage.goes_on(reason=str(error))
            await self._pause(delivery, FIRST_DELAY * 2 ** min(failures, DOUBLINGS), delivery.failures)

    async def _pause(self, delivery: Delivery, seconds: float, failures: int) -> None:
        """Wait before another attempt, by itself when that takes long.

        Raises:
            _Left: the bot stops.
            _Gone: there is nothing left to send.
        """
        delivery.failures = failures
        if seconds > SHORT_WAIT:
            log.info("reply put off", seconds=seconds, failures=failures)
            self._put_off(delivery)
            if seconds > HOLD_SECONDS:
                delivery.hurry.set()
            if failures and delivery.user_id:
                await self._amend(delivery)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)
            raise _Left
        if not await self._is_wanted(delivery):
            raise _Gone

    def _put_off(self, delivery: Delivery) -> None:
        """Have the person's next update wait no longer."""
        delivery.moved.set()
        place = delivery.place
        waiting = (each for each in self._under_way.values() if each.hurry.is_set())
        if self._is_crowded or any(each.place == place for each in waiting):
            delivery.hurry.set()

    async def _is_wanted(self, delivery: Delivery) -> bool:
        """Whether the record still has the replies, as far as it can be read, or never had them."""
        try:
            user_id = delivery.user_id
            return user_id is None or delivery.update_id in (await self._store.load(user_id)).outbox
        except Exception:  # whatever a driver raises
            return True

    async def _amend(self, delivery: Delivery, *, is_owed: bool = False) -> bool:
        """Note in the record how far its replies are, if it still has them.

        Returns:
            Whether that was possible.
        """
        user_id, update_id = delivery.user_id or "", delivery.update_id
        try:
            async with self._lanes.hold(delivery.lane):
                for attempt in range(COMMIT_ATTEMPTS):
                    record = await self._store.load(user_id)
                    entry = record.outbox.get(update_id)
                    if entry is None:
                        return True
                    noted = replace(entry, is_owed=is_owed or entry.is_owed, failures=delivery.failures)
                    left = {key: each for key, each in record.outbox.items() if key != update_id}
                    if not delivery.is_over:
                        left[update_id] = noted
                    owes, due = any(each.is_owed for each in left.values()), None
                    if owes or entry.is_owed:
                        due = self._timetable.due_after(record.fsm, owes=owes)
                    kept = None if delivery.is_over else encode_entry(noted)
                    changes = Changes(outbox={update_id: kept}, due=due)
                    try:
                        await self._store.commit(user_id, changes, expect=record.version)
                        self._timetable.note_commit(user_id, due, owes=owes)
                    except StateConflict:
                        await give_way(attempt)
                    else:
                        delivery.is_amended = True
                        return True
            reason = "others committed first"
        except StateUnavailable as error:
            self.outage.goes_on(reason=str(error))
            return False
        except Exception as error:  # whatever a driver raises
            reason = str(error) if isinstance(error, StateError) else type(error).__name__
        log.warning("not noted how far replies are", are_out=bool(delivery.is_over), reason=reason)
        return False

    async def _give_up(self, delivery: Delivery, reply: Reply, error: DeliveryFailed) -> None:
        """Count a reply that cannot be sent, and say so in place of it where that is possible."""
        delivery.is_amended = True  # so that nobody tries again after a restart
        _note_failure(reply, error)
        chat = reply.params.get("chat_id")
        can_be_told = error.kind in ("refused", "unreachable") and chat in (delivery.chat, delivery.user_id)
        if can_be_told and reply.method.startswith("send") and chat:
            try:
                where = {key: value for key, value in reply.params.items() if key in PLACE}
                where["chat_id"] = self._upgraded.get(chat, chat)
                sorry = Reply("sendMessage", {**where, "text": delivery.sorry})
                await self._bot(StoredCall(reply=sorry), request_timeout=SORRY_SECONDS)
            except Exception as failure:  # whatever it is, it was an attempt
                log.info("not told either", reason=failure)


def replies_of(entry: OutboxEntry) -> list[Reply]:
    """The replies of an update, as they wait in a record."""
    return [Reply.from_json(reply) for reply in entry.replies]


def files_of(replies: Sequence[Reply]) -> dict[str, bytes]:
    """The files that are kept with replies, by id."""
    return {
        file: content
        for reply in replies
        for file, content in reply.kept_files().items()
        if content is not None
    }


def _place_of(update: Update) -> dict[str, str]:
    """Where an update came from, as the parameters of a message to there."""
    if (said := said_in(update)) is None:
        return {}
    there = answer(said, "").model_dump(include=PLACE, exclude_none=True)
    return {key: str(value) for key, value in there.items()}


def outbox_changes(
    record: UserRecord,
    update: Update,
    replies: Sequence[Reply],
    is_delivered: Callable[[int], bool],
    *,
    is_kept: bool = False,
) -> tuple[Mapping[int, bytes | None], OutboxEntry | None]:
    """What the record's outbox gains and loses with an update.

    Args:
        record: as it was loaded.
        update: the update.
        replies: its replies.
        is_delivered: tells of an update whether this process delivered its replies.
        is_kept: whether Telegram has its acknowledgement.

    Returns:
        The changes, and what the outbox has of this update then.
    """
    # Telegram's clock. One of our own may be wrong by days, and what is dropped by it could be the only copy
    # of a reply that another process was killed over.
    now = date_of(update)
    changes: dict[int, bytes | None] = {
        key: None for key, entry in record.outbox.items() if is_delivered(key) or _is_over(entry, now)
    }
    if not replies:
        return changes, None
    # What has no date, such as a pressed button, is brought again for two and a half minutes only.
    entry = OutboxEntry([reply.to_json() for reply in replies], now, is_owed=is_kept or now is None)
    changes[update.update_id] = encode_entry(entry)
    return changes, entry


def outbox_changes_of(
    record: UserRecord, key: int, replies: Sequence[Reply], is_delivered: Callable[[int], bool]
) -> Mapping[int, bytes | None]:
    """What the record's outbox gains and loses with a job, of which Telegram knows nothing.

    Args:
        record: as it was loaded.
        key: stands for the update.
        replies: what the job says.
        is_delivered: tells of an update whether this process delivered its replies.
    """
    changes: dict[int, bytes | None] = dict.fromkeys(filter(is_delivered, record.outbox))
    if replies:
        changes[key] = encode_entry(OutboxEntry([reply.to_json() for reply in replies], None, is_owed=True))
    return changes


def noting_upgrades(store: StateStore) -> Moved:
    """What keeps that a group has become a supergroup, if it can: Telegram tells of it in the chat, too.

    It waits for no lane: that of the group may be waiting for the reply that is being sent.
    """

    async def note(old: str, new: str) -> None:
        try:
            await upgrade_group(store, int(old), int(new))
        except Exception as error:  # whatever a driver raises
            reason = str(error) if isinstance(error, StateError) else type(error).__name__
            log.warning("not noted yet that a group is a supergroup", reason=reason)

    return note


async def completed(bot: Bot, reply: Reply) -> Reply | None:
    """A reply that waits in no record, with the contents of its files; `None` when one cannot be read."""
    try:
        return await with_files(bot, reply)
    except FileGone as error:
        _note_failure(reply, DeliveryFailed("unreachable", str(error)))
        return None


async def send(bot: Bot, reply: Reply, moved: Moved = stays_unknown) -> None:
    """Send a reply that is part of no update. What Telegram refuses for good is logged and counts as sent.

    Args:
        bot: sends it.
        reply: what to send.
        moved: see `deliver`.

    Raises:
        DeliveryFailed: Telegram could not be reached, or asks to wait for too long.
    """

    async def pause(seconds: float, _: int) -> None:
        await asyncio.sleep(seconds)

    try:
        await deliver(bot, reply, pause, moved=moved)
    except DeliveryFailed as error:
        _note_failure(reply, error)
        if error.kind not in ("refused", "blocked"):
            raise


async def deliver(
    bot: Bot, reply: Reply, pause: Pause, failures: int = 0, moved: Moved = stays_unknown
) -> None:
    """Send a reply, in parts where it is too long: again when that may help, later when Telegram asks for it.

    Args:
        bot: sends it.
        reply: what to send.
        pause: waits before another attempt.
        failures: how many attempts have failed already.
        moved: told of a group that became a supergroup: its old id and its new one.

    Raises:
        DeliveryFailed: it cannot be sent.
    """
    if rich := as_rich(bot, reply):
        try:
            await _deliver_part(bot, rich, pause, failures, moved, is_alone=True)
            return
        except DeliveryFailed as error:
            if error.kind != "refused":
                raise
            log.info("rich message refused, sent as text", reason=error.__cause__ or error)
            if isinstance(error.__cause__, TelegramNotFound) and isinstance(bot.session, Session):
                bot.session.takes_rich = False
    parts = split_reply(reply)
    for part in parts:
        try:
            await _deliver_part(bot, part, pause, failures, moved, is_alone=len(parts) == 1)
        except DeliveryFailed as error:
            # Too late to stop the button from spinning is not too late for the text.
            if part is parts[-1] or part.method != "answerCallbackQuery":
                raise
            _note_failure(part, error)
        failures = 0


async def _deliver_part(
    bot: Bot, reply: Reply, pause: Pause, failures: int, moved: Moved, *, is_alone: bool
) -> None:
    """Send what is one call, unless Telegram refuses its markup."""
    waited, tries, began = 0.0, 0, time.monotonic()
    while True:
        try:
            await bot(StoredCall(reply=reply), request_timeout=_time_for(bot, reply))
            return
        except TelegramRetryAfter as error:
            waited += error.retry_after
            if waited > LONGEST_WAIT:
                raise DeliveryFailed("busy", f"Telegram asks to wait for {error.retry_after} s") from error
            log.info("Telegram asks to slow down", seconds=error.retry_after)
            await pause(error.retry_after, failures)
        except TelegramMigrateToChat as error:
            chat, moved_to = reply.params.get("chat_id", ""), str(error.migrate_to_chat_id)
            if chat == moved_to:
                raise DeliveryFailed("refused", _reason(error)) from error
            reply, is_alone = replace(reply, params={**reply.params, "chat_id": moved_to}), False
            await moved(chat, moved_to)
        except Exception as error:
            if _is_refused(error, NO_CHANGE) and reply.method.startswith("edit"):
                return  # as after an attempt of which nobody knew how it ended
            if not QUOTES.isdisjoint(reply.params) and _is_refused(error, NO_QUOTE):
                log.info("what it replies to is gone, sent without")
                kept = {key: value for key, value in reply.params.items() if key not in QUOTES}
                reply = replace(reply, params=kept)
                continue
            if (
                (reply.anew or not is_alone)
                and _is_refused(error, NO_MESSAGE)
                and (anew := instead_of_edit(reply))
            ):
                log.info("what it edits is gone, sent anew")
                reply = anew
                continue
            if _is_refused(error, NO_MARKUP) and (plain := without_markup(reply)):
                log.warning("markup refused, sent as plain text", reason=error)
                await deliver(bot, plain, pause, moved=moved)
                return
            if not _may_pass(error):
                kind = "blocked" if isinstance(error, TelegramForbiddenError) else "refused"
                raise DeliveryFailed(kind, _reason(error)) from error
            if isinstance(error.__cause__, (ClientConnectorError, *PROXY_FAILED)):
                tries += 1
                delay = min(_delay(tries), AWAY_DELAY)
            else:
                failures += _cost(error, reply)
                delay = _delay(failures)
            if failures >= ATTEMPTS or time.monotonic() - began > AWAY_SECONDS:
                raise DeliveryFailed("unreachable", _reason(error)) from error
            await pause(delay, failures)


def _delay(failures: int) -> float:
    """Seconds before another attempt."""
    return FIRST_DELAY * 2.0 ** min(failures - 1, DOUBLINGS)


def _cost(error: Exception, reply: Reply) -> int:
    """For how many attempts this one counts."""
    if isinstance(error, TelegramServerError | TelegramUnauthorizedError):
        return 1
    if reply.method.startswith(("edit", "delete")):
        return 1  # done twice, it has the same effect
    return COST_OF_UPLOAD if reply.files else COST_OF_UNKNOWN


def _time_for(bot: Bot, reply: Reply) -> int:
    """Seconds that a call may take. Uploads get time by their size."""
    size = sum(len(content) for _, content in reply.files.values())
    return math.ceil(bot.session.timeout + size / UPLOAD_RATE)


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may help: the network, the server or its answer failed, not the reply."""
    passing = (
        TelegramNetworkError,
        TelegramServerError,
        TelegramUnauthorizedError,
        ClientDecodeError,
        ClientError,
        OSError,
        UnicodeDecodeError,
    )
    return isinstance(error, passing) and not isinstance(error, TelegramEntityTooLarge)


def _is_over(entry: OutboxEntry, now: float | None) -> bool:
    """Whether Telegram can no longer deliver the update again. `now` is by Telegram's clock, too."""
    return not entry.is_owed and entry.at is not None and now is not None and now - entry.at > OUTBOX_SECONDS


def _is_refused(error: Exception, words: re.Pattern[str]) -> bool:
    """Whether Telegram refuses a call with such words."""
    return isinstance(error, TelegramBadRequest) and bool(words.search(error.message))


def _note_failure(reply: Reply, error: DeliveryFailed) -> None:
    if reply.method == "answerCallbackQuery" and error.kind == "refused":
        log.info("too late to stop the button from spinning", reason=error.__cause__ or error)
        return
    metrics.GIVEN_UP.labels(error.kind).inc()
    log.warning("reply given up", method=reply.method, kind=error.kind, reason=error.__cause__ or error)


def _reason(error: Exception) -> str:
    return type(error).__name__
