"""The inbox: updates of a slow agent are kept, acknowledged, and handled when their turn comes.

They wait in a record beside the one that they change, so that what comes in gives a running agent no reason
to run again. They are taken out when the record itself says that they were applied.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from aiogram import Bot
from aiogram.types import Update

from bot.runtime.errors import StateConflict, StateError
from bot.runtime.state.codec import dumps
from bot.runtime.state.jobs import FULL, STOP, UPDATE, Claim, Timetable, next_number, updates_in
from bot.runtime.state.record import UserRecord, waiting_for
from bot.runtime.state.store import NEVER, Changes, StateStore
from bot.runtime.state.turn import COMMIT_ATTEMPTS, give_way
from bot.runtime.telegram.updates import Stops, is_later, parse_update, said_in

MOST_UPDATES = 100
MOST_BYTES = 1024 * 1024
"""Most updates that wait for one record, and most bytes of them as JSON."""

ENTRY_BYTES = 128
"""Bytes of an update that waits, beside itself; rather too many."""

Handle = Callable[[Update, Exception | None, Callable[[], Awaitable[bool]]], Awaitable[None]]
"""Handles an update to its end, as long as the last argument says that this process is to; with an exception,
apologises for it instead."""

log = structlog.get_logger()


class InboxFull(Exception):
    """No more updates of a record are taken.

    Attributes:
        is_told: whether its person knows.
    """

    def __init__(self, *, is_told: bool) -> None:
        """Refuse one."""
        super().__init__("too much waits already")
        self.is_told = is_told


class Inbox:
    """Keeps updates until they are handled."""

    def __init__(
        self,
        bot: Bot,
        store: StateStore,
        timetable: Timetable,
        handle: Handle,
        stop: Callable[[int], None],
    ) -> None:
        """Make it.

        Args:
            bot: whose updates they are.
            store: where to keep them.
            timetable: the store's time; told of what waits.
            handle: called with each when its turn comes.
            stop: called before that with the ids of those whose answer was stopped.
        """
        self._bot, self._store, self._timetable = bot, store, timetable
        self._handle, self._stop = handle, stop

    async def put(
        self, record: str, update_id: int, raw: Mapping[str, Any], stops: Stops | None = None
    ) -> None:
        """Keep an update. The same one again stays as it is.

        Args:
            record: which record it changes.
            update_id: its id.
            raw: it, as Telegram sent it.
            stops: which answers it stops: to those that wait, or are just being handled somewhere.

        Raises:
            InboxFull: so much waits already that it is dropped.
            StateConflict: others were first, too often in a row.
            StateUnavailable: nobody knows whether it is kept.
        """
        inbox, name = waiting_for(record), f"{UPDATE}{update_id}"
        own = len(dumps(raw, "update")) + ENTRY_BYTES
        for attempt in range(COMMIT_ATTEMPTS):
            kept = await self._store.load(inbox)
            waiting = _updates(kept)
            if update_id in waiting:
                return
            entry = {
                "raw": raw,
                "at": self._timetable.now(),
                "number": next_number(kept.fsm),
                "bytes": own,  # noted, for nobody to write all of them again in order to count
            }
            content = dumps({"data": entry}, "update")
            size = own + sum(kept.fsm[f"{UPDATE}{each}"]["data"].get("bytes", 0) for each in waiting)
            due = None if waiting else self._timetable.now()
            stopped = self._stopped(waiting, stops) if stops else {}
            changes = Changes(fsm={name: content, FULL: None, **stopped}, due=due, size=size)
            is_full = len(waiting) >= MOST_UPDATES or size > min(MOST_BYTES, self._store.limits.max_bytes)
            if is_full and waiting:
                if (is_told := FULL in kept.fsm) and not stopped:
                    raise InboxFull(is_told=is_told)
                changes = Changes(fsm={FULL: b'{"data":{}}', **stopped})
            try:
                await self._store.commit(inbox, changes, expect=kept.version)
            except StateConflict:
                await give_way(attempt)
                continue
            if is_full and waiting:
                raise InboxFull(is_told=is_told or bool(stopped))
            self._timetable.note_commit(inbox, due, owes=False)
            return
        raise StateConflict(f"others committed first, {COMMIT_ATTEMPTS} times in a row", record)

    def _stopped(self, waiting: Mapping[int, dict[str, Any]], stops: Stops) -> dict[str, bytes | None]:
        """Notes on those that wait and are stopped. What came to its end needs none."""
        stopped: dict[str, bytes | None] = {}
        for update_id, raw in waiting.items():
            update = parse_update(self._bot, raw)
            said = said_in(update) if update else None
            if said and stops(update_id, said.chat.id):
                stopped[f"{STOP}{update_id}"] = b'{"data":{}}'
        return stopped

    async def drop(self, record: str, forgetting: int) -> None:
        """Drop what waited for a record when its person was forgotten, and would be without effect.

        The first of it may be under way: whoever is at it ends it, and takes away what it has shown.

        Args:
            record: whose.
            forgetting: the update that had them forgotten. What came later stays.
        """
        with suppress(StateError):
            kept = await self._store.load(inbox := waiting_for(record))
            older = [each for each in list(_updates(kept))[1:] if is_later(forgetting, each)]
            if older:
                gone = {f"{kind}{each}": None for each in older for kind in (UPDATE, STOP)}
                await self._store.commit(inbox, Changes(fsm=gone), expect=None)

    async def empty(self, claim: Claim) -> None:
        """Handle what waits, one after another, until nothing does or the claim is somebody else's.

        Raises:
            StateError: as the store does; what is left is due again when the claim ends.
        """
        while claim.is_held:
            kept = await self._store.load(claim.record)
            waiting = _updates(kept)
            if not waiting:
                await claim.leave(NEVER)
                return
            update_id = next(iter(waiting))
            if f"{STOP}{update_id}" in kept.fsm:
                self._stop(update_id)
            if update := parse_update(self._bot, waiting[update_id]):
                await self._handle(update, claim.poison, claim.holds)
            is_last = await self._take_out(claim, kept, update_id)
            if is_last:
                return
            if claim.is_brief:
                now = self._timetable.now()
                self._timetable.note(claim.record, now)
                return await claim.leave(now, -1)

    async def _take_out(self, claim: Claim, kept: UserRecord, update_id: int) -> bool:
        """Drop an update that is applied; whether it was the last, so that nothing is to be done any more."""
        for attempt in range(COMMIT_ATTEMPTS):
            others = _updates(kept).keys() - {update_id}
            done: dict[str, bytes | None] = {f"{UPDATE}{update_id}": None, f"{STOP}{update_id}": None}
            if not others:
                done[FULL] = None
            commit = partial(self._commit, kept, done)
            try:
                await (claim.renew(commit) if others else commit(NEVER))
                return not others
            except StateConflict:
                await give_way(attempt)
                kept = await self._store.load(kept.user_id)
        raise StateConflict(f"others committed first, {COMMIT_ATTEMPTS} times in a row", kept.user_id)

    async def _commit(self, kept: UserRecord, done: Mapping[str, bytes | None], due: int) -> None:
        # What comes in meanwhile is in nobody's way, unless nothing else waits: that is to be found.
        expect = kept.version if due == NEVER else None
        await self._store.commit(kept.user_id, Changes(fsm=done, due=due), expect=expect)


def _updates(kept: UserRecord) -> dict[int, dict[str, Any]]:
    """What waits, by id, in the order in which it was kept."""
    return {raw["update_id"]: raw for _, _, raw in updates_in(kept.fsm)}
