"""`bot broadcast`: one text to everybody, once each, however often the command is killed and run again.

Who has it stands in records of the broadcast's own, so nobody's own record changes and no agent runs again.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b

from aiogram import Bot
from aiogram.methods import SendMessage

from bot.runtime.app import open_app
from bot.runtime.config import Settings
from bot.runtime.errors import OperatorError, StateConflict, StateError
from bot.runtime.state.codec import dumps
from bot.runtime.state.record import BROADCAST, is_person
from bot.runtime.state.store import Changes, StateStore
from bot.runtime.telegram.calls import Reply, Session, prepare
from bot.runtime.telegram.outbox import DeliveryFailed, deliver, noting_upgrades

A_SECOND = 25
"""Most messages a second; Telegram takes about 30: https://core.telegram.org/bots/faq#broadcasting-to-users"""

AT_ONCE = 20
"""Most messages under way: so many may come twice after a kill."""

PARTS = 256
"""Records that share the people who have it."""

LEASE_SECONDS = 60
"""Seconds after which another process may go on where this one was killed."""


class Broadcast:
    """Sends one text to everybody.

    Attributes:
        sent: how many have it.
        blocked: how many of the others have blocked the bot, or are gone.
        failed: how many could not be reached; they are tried again next time.
        skipped: how many had it already.
    """

    def __init__(self, bot: Bot, store: StateStore, name: str, text: str, *, groups: bool = False) -> None:
        """Make it; nothing is sent yet.

        Args:
            bot: sends it.
            store: where the records are.
            name: tells it from others; a broadcast of the same name goes on where it was.
            text: what to say.
            groups: whether it is for groups that have a record of their own, too.
        """
        self.sent = self.blocked = self.failed = self.skipped = 0
        self._bot, self._store, self._text, self._groups = bot, store, text, groups
        self._record = f"{BROADCAST}{name}"
        self._done: dict[str, set[str]] = {}
        self._version = 0
        self._next = 0.0

    async def run(self, progress: Callable[[], None]) -> None:
        """Send it to all who do not have it yet.

        Args:
            progress: called after each.

        Raises:
            OperatorError: another process is at it, it is over, or a text of this name says something else.
            StateError: as the store does; then it is to be run again.
        """
        await self._begin()
        is_over = asyncio.Event()
        keeping = asyncio.create_task(self._keep_lease(is_over))
        try:
            async with asyncio.TaskGroup() as group:
                slots = asyncio.Semaphore(AT_ONCE)
                async for record in self._store.users():
                    if keeping.done():
                        break  # and say why, below
                    if is_person(record) or (self._groups and record.lstrip("-").isdecimal()):
                        await slots.acquire()
                        task = group.create_task(self._send(record, progress))
                        task.add_done_callback(lambda _: slots.release())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            is_over.set()
            with suppress(OperatorError, StateError):  # then the lease ends by itself
                await keeping
                await self._note(until=0, is_over=False)
        if keeping.done() and not keeping.cancelled() and (error := keeping.exception()):
            raise error
        if not self.failed:
            await self._note(until=0, is_over=True)
            for part in range(PARTS):
                if (await self._store.load(self._part(part))).version:
                    await self._store.forget(self._part(part))

    async def _begin(self) -> None:
        now = (await self._store.due(0, 1)).now
        record = await self._store.load(self._record)
        about = record.state.get("about", {})
        if about and about["text"] != self._digest:
            raise OperatorError("a broadcast of this name says something else: choose another --name")
        if about.get("over"):
            raise OperatorError("this broadcast is over: choose another --name for another one")
        if about.get("until", 0) > now:
            raise OperatorError("another process is sending this: run it again when that one has ended")
        self._version = record.version
        await self._note(until=now + LEASE_SECONDS * 1_000_000, is_over=False)

    async def _keep_lease(self, is_over: asyncio.Event) -> None:
        while not is_over.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(is_over.wait(), LEASE_SECONDS / 4)
            now = (await self._store.due(0, 1)).now
            await self._note(until=now + LEASE_SECONDS * 1_000_000, is_over=False)

    async def _note(self, *, until: int, is_over: bool) -> None:
        about = {"text": self._digest, "until": until, "over": is_over}
        changes = Changes(state={"about": dumps(about, "about")})
        try:
            self._version = await self._store.commit(self._record, changes, expect=self._version)
        except StateConflict:
            raise OperatorError("another process is sending this by now: leave it to that one") from None

    @property
    def _digest(self) -> str:
        return blake2b(self._text.encode(), digest_size=16).hexdigest()

    def _part(self, number: int) -> str:
        return f"{self._record}:{number}"

    async def _send(self, record: str, progress: Callable[[], None]) -> None:
        part = self._part(blake2b(record.encode(), digest_size=1).digest()[0])
        if part not in self._done:
            self._done[part] = set((await self._store.load(part)).state)
        if record in self._done[part]:
            self.skipped += 1
            return progress()
        reply = await prepare(self._bot, SendMessage(chat_id=int(record), text=self._text))
        outcome = "sent"
        try:
            await self._deliver(reply)
        except DeliveryFailed as error:
            if error.kind in ("unreachable", "busy"):
                self.failed += 1
                return progress()
            outcome = "blocked"
        await self._store.commit(part, Changes(state={record: dumps(outcome, outcome)}), expect=None)
        if outcome == "sent":
            self.sent += 1
        else:
            self.blocked += 1
        progress()

    async def _deliver(self, reply: Reply) -> None:
        await self._wait_for_turn()

        async def pause(seconds: float, _: int) -> None:
            # Telegram's limit is one of the bot, not of this person.
            self._next = max(self._next, time.monotonic() + seconds)
            await self._wait_for_turn()

        await deliver(self._bot, reply, pause, moved=noting_upgrades(self._store))

    async def _wait_for_turn(self) -> None:
        now = time.monotonic()
        begin = max(now, self._next)
        self._next = begin + 1 / A_SECOND
        await asyncio.sleep(begin - now)


class Progress:
    """Shows on standard error how far a broadcast is."""

    def __init__(self, work: Broadcast) -> None:
        """Show nothing yet."""
        self._work, self._shown = work, 0.0
        self._is_terminal = sys.stderr.isatty()

    def __call__(self) -> None:
        """Show it, unless that was done just now."""
        if time.monotonic() - self._shown > (0.2 if self._is_terminal else 10):
            self.show()

    def show(self) -> None:
        """Show it."""
        self._shown, work = time.monotonic(), self._work
        text = f"{work.sent:,} sent, {work.blocked:,} blocked the bot"
        text += f", {work.failed:,} not reached" if work.failed else ""
        text += f", {work.skipped:,} had it already" if work.skipped else ""
        print(
            f"\r{text}" if self._is_terminal else text, end="" if self._is_terminal else "\n", file=sys.stderr
        )
        sys.stderr.flush()


async def broadcast(settings: Settings, name: str, text: str, *, groups: bool) -> Broadcast:
    """Send a text to everybody, and show how far it is.

    Raises:
        OperatorError: see `Broadcast.run`.
    """
    opening = open_app(settings, session=Session.of(settings), token=settings.token, bot_id=settings.bot_id)
    async with opening as app:
        work = Broadcast(app.bot, app.store, name, text, groups=groups)
        progress = Progress(work)
        try:
            await work.run(progress)
        finally:
            progress.show()
        return work
