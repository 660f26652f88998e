"""aiogram's conversation flows, kept in the user's record like everything else.

Inside an update they cost no round trip and are committed with the rest of the turn; outside one, each call
is atomic by itself. The chat-wide strategies (`CHAT`, `CHAT_TOPIC`) name the chat as the user, so those
flows live in a record of the chat's own.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, TypeVar

from aiogram.exceptions import DataNotDictLikeError
from aiogram.fsm.state import State
from aiogram.fsm.storage.base import BaseStorage, StateType, StorageKey

from bot.state.store import StateStore
from bot.state.turn import Turn, any_turn, mutate

T = TypeVar("T")


class RecordStorage(BaseStorage):
    """aiogram's FSM storage over the store's records."""

    def __init__(self, store: StateStore) -> None:
        """Make a storage; opening and closing the store is not its business."""
        self._store = store

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
        if not isinstance(data, Mapping):
            raise DataNotDictLikeError(f"Data must be a dict or dict-like object, got {type(data).__name__}")
        await self._change(key, lambda flow: flow.update(data=deepcopy(dict(data))))

    async def get_data(self, key: StorageKey) -> dict[str, Any]:
        """A copy of the data."""
        return deepcopy((await self._read(key)).get("data", {}))

    async def update_data(self, key: StorageKey, data: Mapping[str, Any]) -> dict[str, Any]:
        """Merge into the data, atomically.

        Returns:
            All of the data.

        Raises:
            DataNotDictLikeError: `data` is not a mapping.
        """
        if not isinstance(data, Mapping):
            raise DataNotDictLikeError(f"Data must be a dict or dict-like object, got {type(data).__name__}")

        def merge(flow: dict[str, Any]) -> Any:
            flow["data"] = {**flow.get("data", {}), **deepcopy(dict(data))}
            return deepcopy(flow["data"])

        return await self._change(key, merge)

    async def _read(self, key: StorageKey) -> dict[str, Any]:
        turn = _open_turn(key)
        flows = turn.fsm if turn else (await self._store.load(str(key.user_id))).fsm
        return flows.get(_flow_name(key), {})

    async def _change(self, key: StorageKey, change: Callable[[dict[str, Any]], T]) -> T:
        async def apply(turn: Turn) -> T:
            flow = turn.fsm.setdefault(_flow_name(key), {})
            result = change(flow)
            if flow.get("state") is None and not flow.get("data"):
                del turn.fsm[_flow_name(key)]
            return result

        if turn := _open_turn(key):
            return await apply(turn)
        earlier = any_turn()
        since = earlier.version if earlier and earlier.user_id == str(key.user_id) else None
        return await mutate(self._store, str(key.user_id), apply, since=since)


def _open_turn(key: StorageKey) -> Turn | None:
    turn = any_turn()
    if turn and turn.is_open and (turn.is_anonymous or turn.user_id == str(key.user_id)):
        return turn
    return None


def _flow_name(key: StorageKey) -> str:
    """aiogram's full identity of a flow, but for the user, whose record it is."""
    parts = (key.bot_id, key.chat_id, key.thread_id, key.business_connection_id, key.destiny)
    return ":".join("" if part is None else str(part) for part in parts)
