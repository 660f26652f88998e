"""getUpdates: an offset confirms what is below it, and a newer poll ends an older one."""

import asyncio
import itertools
import time
from dataclasses import dataclass

from suite.bot_api.call import Call, Json, integer
from suite.bot_api.errors import ApiError
from suite.bot_api.server import CONFLICT
from suite.bot_api.updates import Owed, Updates


@dataclass(eq=False, repr=False)
class Polling(Updates):
    """Hands out updates to whoever asks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._poll: asyncio.Future[None] | None = None  # the long poll that waits
        self._last_poll = (0, float("-inf"))  # its offset, when (monotonic)
        self.method("getUpdates", "offset limit timeout allowed_updates")(self._get_updates)

    def _enqueue(self, update: Owed) -> None:
        super()._enqueue(update)
        if self._poll is not None and not self._poll.done():
            self._poll.set_result(None)

    async def _get_updates(self, call: Call) -> list[Json]:
        offset = integer(call.params, "offset", 0)
        limit = integer(call.params, "limit", 100, 1, 100)
        timeout = integer(call.params, "timeout", 0, 0)
        self._allow(call.params)
        last_offset, last_time = self._last_poll
        self._last_poll = (offset, time.monotonic())
        if offset == last_offset and time.monotonic() < last_time + 0.5:
            limit = 1
        self._abort_poll(CONFLICT)
        if offset < 0:
            self._drop(keep=-offset)
        if offset > self._next_update_id + 10:
            offset = 0  # tdlib: an offset from the future starts at the head and confirms nothing
        self._confirm(offset)
        if timeout and not self._batch(offset, limit):
            await self._long_poll(min(timeout, 50))
        batch = self._batch(offset, limit)
        for update in batch:
            update.shown = True
            self.attempts[update.id] += 1
        return [self.updates[update.id] for update in batch]

    async def _long_poll(self, seconds: float) -> None:
        self._poll = poll = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(poll, seconds)
        except TimeoutError:
            pass
        finally:
            if self._poll is poll:
                self._poll = None

    def _abort_poll(self, description: str) -> None:
        if self._poll is not None and not self._poll.done():
            self._poll.set_exception(ApiError(409, description))

    def _confirm(self, offset: int) -> None:
        while self._pending:
            first = next(iter(self._pending))
            if first.id >= offset or (first.again and not first.shown):
                return
            self._acknowledge(first)

    def _batch(self, offset: int, limit: int) -> list[Owed]:
        owed = (u for u in self._pending if u.id >= offset or (u.again and not u.shown))
        return sorted(itertools.islice(owed, limit), key=lambda update: update.rank)
