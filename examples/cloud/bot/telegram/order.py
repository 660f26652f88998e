"""Order: the updates of one user run one after another, as they came."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Queue:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class KeyedOrder:
    """First come, first served, per key. Keeps nothing about a key that nobody holds or waits for."""

    def __init__(self) -> None:
        """Make an order in which nobody waits."""
        self._queues: dict[str, _Queue] = {}

    def __len__(self) -> int:
        """How many keys are held at this moment."""
        return len(self._queues)

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Wait for one's turn and keep it until the end of the block."""
        queue = self._queues.setdefault(key, _Queue())
        queue.waiting += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.waiting -= 1
            if not queue.waiting:
                del self._queues[key]
