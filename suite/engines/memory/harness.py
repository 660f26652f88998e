"""The memory engine under test. Its stores share their rows, as if they were connections to one server."""

from bot.runtime.engines.memory.store import MemoryStore, _Row
from bot.runtime.state.record import Limits
from bot.runtime.state.store import OperatorStore
from suite.contract.harness import Harness


class MemoryHarness:
    """Rows that several stores share."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}

    async def open(self, limits: Limits | None = None, ttl: float | None = None) -> OperatorStore:
        store = MemoryStore(limits, ttl)
        store._rows = self._rows
        await store.connect()
        return store

    def settings(self) -> dict[str, str]:
        return {}

    async def expire(self, user_id: str) -> None:
        self._rows[user_id].expires = 0

    async def corrupt(self, user_id: str) -> None:
        self._rows.setdefault(user_id, _Row(version=1)).state["broken"] = b"{not json"

    async def close(self) -> None:
        self._rows.clear()


def make_harness() -> Harness:
    return MemoryHarness()
