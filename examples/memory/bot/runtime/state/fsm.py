"""aiogram's conversation flows, kept in the user's record like everything else.

Inside an update they cost no round trip and are committed with the rest of the turn; outside one, each call
is atomic by itself. A flow lives in the record that `Agent.record_of` chooses for its place. The chat-wide
strategies (`CHAT`, `CHAT_TOPIC`) name the chat as the user: unless another one is chosen, those flows live in
a record of the chat's own, beside the transaction of an update that changes a person's.

A group that becomes a supergroup gets another id. What its own record has moves to that of the new chat,
which notes the old one; a person's flow follows when the person next writes there, as nobody knows whose
records have one.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, TypeVar

from aiogram.exceptions import DataNotDictLikeError
from aiogram.fsm.state import State
from aiogram.fsm.storage.base import BaseStorage, StateType, StorageKey

from bot.runtime.state.jobs import JOB, jobs_in
from bot.runtime.state.record import (
    UPGRADED_FROM,
    UPGRADED_TO,
    Place,
    RecordId,
    UserRecord,
    chat,
    merged_history,
    merged_others,
)
from bot.runtime.state.store import StateStore
from bot.runtime.state.turn import KeyedLock, Turn, current_turn, mutate

T = TypeVar("T")

SUPERGROUPS = -(10**12)
"""Ids of supergroups and channels are below, those of groups above."""

Flow = dict[str, Any]
"""One conversation: `state`, its step; `data`; `at`, when either was last set, in seconds since 1970
by Telegram's clock.
What is missing was never set."""


class RecordStorage(BaseStorage):
    """aiogram's FSM storage over the store's records.

    Outside an update, every method raises `StateError` as `StateStore.load` and `mutate` do.
    """

    def __init__(
        self,
        store: StateStore,
        ttl: float | None = None,
        lanes: KeyedLock | None = None,
        record_of: Callable[[Place], RecordId | None] = lambda _: None,
    ) -> None:
        """Make a storage; opening and closing the store is not its business.

        Args:
            store: where the records are.
            ttl: seconds after it was last set that a flow is dropped, step and data together; `None` or 0:
                it stays as long as the record.
            lanes: see `mutate`.
            record_of: chooses the record; the person's or, where a strategy names it, the chat's, if it
                chooses none.
        """
        self._store = store
        self._record_of = record_of
        self._lanes = lanes
        self._ttl = ttl
        self._ahead: float | None = None
        """How far Telegram's time is ahead of this machine's monotonic clock, which nobody sets."""

    async def close(self) -> None:
        """Do nothing: the store is closed by whoever opened it."""

    async def set_state(self, key: StorageKey, state: StateType = None) -> None:
        """Set the step; `None` ends the flow's steps and keeps its data."""
        name = state.state if isinstance(state, State) else state
        await self._change(key, lambda flow: flow.update(state=name))

    async def get_state(self, key: StorageKey) -> str | None:
        """The step, or `None`."""
        state: str | None = (await self._read(key)).get("state")
        return state

    async def set_data(self, key: StorageKey, data: Mapping[str, Any]) -> None:
        """Replace the data.

        Raises:
            DataNotDictLikeError: it is not a mapping.
        """
        fresh = _own_copy(data)
        await self._change(key, lambda flow: flow.update(data=fresh))

    async def get_data(self, key: StorageKey) -> dict[str, Any]:
        """A copy of the data."""
        return deepcopy((await self._read(key)).get("data", {}))

    async def update_data(self, key: StorageKey, data: Mapping[str, Any]) -> dict[str, Any]:
        """Merge into the data, atomically.

        Returns:
            A copy of all the data.

        Raises:
            DataNotDictLikeError: `data` is not a mapping.
        """
        fresh = _own_copy(data)

        def merge(flow: Flow) -> dict[str, Any]:
            flow["data"] = flow.get("data", {}) | fresh
            return deepcopy(flow["data"])

        return await self._change(key, merge)

    async def _read(self, key: StorageKey) -> Flow:
        record = self._record(key)
        turn = _turn_of(key, record) or Turn(await self._store.load(record), self._store.limits)
        await self._follow(turn, key)
        return self._live(turn, key)

    async def _change(self, key: StorageKey, change: Callable[[Flow], T]) -> T:
        async def apply(turn: Turn) -> T:
            turn.check_may_change()
            await self._follow(turn, key)
            flow = self._live(turn, key)
            result = change(flow)
            if flow.get("state") is None and not flow.get("data"):
                turn.fsm.pop(_name_in(turn, key), None)
            else:
                turn.fsm[_name_in(turn, key)] = flow | {"at": self._now(turn)}
            return result

        record = self._record(key)
        if turn := _turn_of(key, record):
            return await apply(turn)
        earlier = current_turn()
        since = earlier.version if earlier and earlier.user_id == record else None
        return await mutate(self._store, record, apply, since=since, lanes=self._lanes)

    def _record(self, key: StorageKey) -> str:
        """The record that a flow is in."""
        person = key.user_id if key.user_id > 0 else None
        place = Place(key.chat_id, key.thread_id, key.business_connection_id, person)
        return self._record_of(place) or str(key.user_id)

    async def _follow(self, turn: Turn, key: StorageKey) -> None:
        """Bring along a flow from the group that the supergroup was. It costs only who has one in a group."""
        name = _name_in(turn, key)
        if key.chat_id > SUPERGROUPS or name in turn.fsm or not any(map(_is_in_a_group, turn.fsm)):
            return
        if noted := (await self._store.load(str(key.chat_id))).fsm.get(UPGRADED_FROM):
            before = _name_in(turn, replace(key, chat_id=noted["data"]["chat_id"]))
            if before in turn.fsm:
                turn.fsm[name] = turn.fsm.pop(before)

    def _now(self, turn: Turn) -> float:
        """Telegram's time, as the dates of updates tell it; before the first of them, this machine's.

        Replicas, and a bot that was down, so agree on it. A pressed button has no date of its own.
        """
        if turn.at is None:
            return time.time() if self._ahead is None else time.monotonic() + self._ahead
        ahead = turn.at - time.monotonic()
        self._ahead = ahead if self._ahead is None else max(ahead, self._ahead)
        return turn.at

    def _live(self, turn: Turn, key: StorageKey) -> Flow:
        """The flow; one that has expired is dropped, for good if this is a turn that is committed."""
        flow: Flow = turn.fsm.get(_name_in(turn, key), {})
        now = self._now(turn)
        # Telegram's dates are rounded down to seconds: what may still be in time is.
        is_rounded = turn.at is not None
        if flow and self._ttl and now - flow["at"] >= self._ttl + is_rounded:
            del turn.fsm[_name_in(turn, key)]
            return {}
        return flow


def flow_name(key: StorageKey) -> str:
    """aiogram's full identity of a flow, but for the user, whose record it is."""
    parts = (key.bot_id, key.chat_id, key.thread_id, key.business_connection_id, key.destiny)
    return ":".join("" if part is None else str(part) for part in parts)


async def upgrade_group(
    store: StateStore,
    group: int,
    supergroup: int,
    lanes: KeyedLock | None = None,
    held: str | None = None,
) -> None:
    """Move the record of a group that has become a supergroup: once, and completely. Safe to repeat.

    The old record first notes where it moves, from when on updates of the old chat change the new record.

    Args:
        store: where the records are.
        group: its id so far.
        supergroup: its id from now on.
        lanes: see `mutate`.
        held: the lane that the caller is in.

    Raises:
        StateError: as `mutate` says; then it is to be repeated.
    """

    async def change(record: str, apply: Callable[[Turn], Awaitable[None]]) -> None:
        await mutate(store, record, apply, lanes=None if record == held else lanes, conversation=None)

    async def note(turn: Turn) -> None:
        turn.fsm[UPGRADED_TO] = {"data": {"chat_id": supergroup}}

    async def arrive(turn: Turn) -> None:
        for job in jobs_in(before.fsm):  # some may have come to the old record since
            place = replace(job.place, chat=supergroup) if job.place.chat == group else job.place
            turn.hear(replace(job, place=place))
        if UPGRADED_FROM in turn.fsm:
            return
        turn.fsm[UPGRADED_FROM] = {"data": {"chat_id": group}}
        for name, flow in before.fsm.items():
            if name != UPGRADED_TO and not name.startswith(JOB):
                turn.fsm.setdefault(name.replace(f":{group}:", f":{supergroup}:", 1), flow)
        turn.state |= before.state | turn.state
        turn.history[:] = merged_history(before.history, turn.history)
        others = {
            name.replace(f"{group}:", f"{supergroup}:", 1): said for name, said in before.others.items()
        }
        turn.replace_others(merged_others(others, turn.others))

    async def leave(turn: Turn) -> None:
        noted = turn.fsm.get(UPGRADED_TO)
        turn.reset()
        turn.fsm.clear()
        turn.replace_others({})
        if noted:
            turn.fsm[UPGRADED_TO] = noted

    old, new = chat(group), chat(supergroup)
    before = await store.load(old, None)
    if not before.is_empty:
        await change(old, note)
        before = await store.load(old, None)
    await change(new, arrive)
    if before.state or before.history or before.others or before.fsm.keys() - {UPGRADED_TO}:
        await change(old, leave)


def moved_to(record: UserRecord) -> int | None:
    """The supergroup that the group became whose record this was."""
    if noted := record.fsm.get(UPGRADED_TO):
        supergroup: int = noted["data"]["chat_id"]
        return supergroup
    return None


def _name_in(turn: Turn, key: StorageKey) -> str:
    """What a flow is called in a record: in one that is not the person's, with who it is of."""
    is_own = key.user_id < 0 or turn.user_id == str(key.user_id) or turn.is_anonymous
    return flow_name(key) if is_own else f"{flow_name(key)}:{key.user_id}"


def _is_in_a_group(name: str) -> bool:
    """Whether a flow is in a group that is no supergroup."""
    return name.count(":") > 1 and SUPERGROUPS < int(name.split(":")[1]) < 0


def _turn_of(key: StorageKey, record: str) -> Turn | None:
    """The turn that the flow is part of, if there is one.

    When nobody is behind an update, whatever it does to a person's flow stays in its turn, and is not kept.
    Ids of persons are positive; those of groups and channels, whose flows are chat-wide, are negative.
    """
    turn = current_turn()
    if turn is None:
        return None
    is_its_own = turn.is_open and turn.user_id == record
    return turn if is_its_own or (turn.is_anonymous and key.user_id > 0) else None


def _own_copy(data: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise DataNotDictLikeError(f"Data must be a dict or dict-like object, got {type(data).__name__}")
    return deepcopy(dict(data))
