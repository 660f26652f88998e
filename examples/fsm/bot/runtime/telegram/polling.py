"""Long polling that acknowledges an update only when it is done.

Telegram takes a requested offset as the confirmation of every update below it, so the offset moves only as
far as updates are done without a gap. What lies above is delivered again with every request and is known
by its id. Telegram shows at most 100 unconfirmed updates at a time; when many of them are shown, those that
are committed wait for their replies no longer, so that one chat that takes none does not fill the window.
"""

import asyncio
import random
import time
from typing import Any

import structlog
from aiogram import Bot
from aiogram.exceptions import (
    ClientDecodeError,
    TelegramAPIError,
    TelegramConflictError,
    TelegramNotFound,
    TelegramRetryAfter,
    TelegramUnauthorizedError,
)
from aiogram.methods import DeleteWebhook, TelegramMethod

from bot.runtime.errors import OperatorError
from bot.runtime.logs import Outage
from bot.runtime.telegram.processor import NotAcknowledged, Processor
from bot.runtime.telegram.updates import LruDict

LONG_POLL_SECONDS = 30
SAME_OFFSET_SECONDS = 0.55
"""Telegram answers an offset repeated within 0.5 s with a single update."""
BUSY_SECONDS = 0.05
"""Least time between two requests while updates are being done, whatever the offset."""
CROWDED = 50
"""Unconfirmed updates beyond which none waits for a reply that cannot be sent at the moment."""
FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 30.0
RIVAL_SECONDS = 60.0
"""How long to wait for another poller to go away."""
RIVAL_PAUSE = 2.0

UNKNOWN_BOT = "Telegram does not know this bot: check BOT_TOKEN (and TELEGRAM_API_URL)"

log = structlog.get_logger()


class _GetUpdates(TelegramMethod[list[dict[str, Any]]]):
    """`getUpdates`, unparsed: one update that cannot be parsed must not hold back the others."""

    __returning__ = list[dict[str, Any]]
    __api_method__ = "getUpdates"

    offset: int | None = None
    timeout: int = 0
    limit: int | None = None
    allowed_updates: list[str] | None = None


class Poller:
    """Fetches updates, hands them to the processor, and confirms what is done."""

    def __init__(self, bot: Bot, processor: Processor, allowed_updates: list[str]) -> None:
        """Make a poller.

        Args:
            bot: to fetch with.
            processor: to hand updates to.
            allowed_updates: the kinds to ask Telegram for.
        """
        self._bot = bot
        self._processor = processor
        self._allowed_updates = allowed_updates
        self._tasks: set[asyncio.Task[None]] = set()
        self._window: dict[int, bool] = {}
        self._confirmable: LruDict[bool] = LruDict(1_000)
        self._offset: int | None = None
        self._advanced = asyncio.Event()
        self._rival_since: float | None = None
        self._outage = Outage(
            "updates cannot be fetched: Telegram is asked again", "updates are fetched again"
        )
        self.is_running = False

    async def run(self) -> None:
        """Poll until cancelled.

        Raises:
            OperatorError: the token is refused, or another poller does not go away.
        """
        backoff = FIRST_BACKOFF
        asked_at = answered_at = 0.0
        asked_offset = None
        while True:
            await self._pause(asked_at, answered_at, asked_offset)
            asked_at, asked_offset = time.monotonic(), self._offset
            try:
                fetched = await self._fetch()
            except TelegramAPIError as error:
                self.is_running = False
                await self._recover(error, backoff)
                backoff = min(backoff * 2, LONGEST_BACKOFF)
            except ClientDecodeError:
                self._outage.goes_on(reason="its answer was not understood", retry_in=backoff)
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, LONGEST_BACKOFF)
            else:
                self.is_running = True
                self._rival_since = None
                self._outage.ends()
                backoff = FIRST_BACKOFF
                answered_at = time.monotonic()
                for raw in fetched:
                    self._take(raw)

    async def confirm(self) -> None:
        """Confirm once more what is done, after polling has ended."""
        if self._offset is None:
            return
        try:
            await self._bot(_GetUpdates(offset=self._offset, limit=1), request_timeout=5)
        except (TelegramAPIError, ClientDecodeError) as error:
            log.warning(
                "not confirmed; updates that are delivered again are recognised by their ids",
                reason=error,
            )

    async def _fetch(self) -> list[dict[str, Any]]:
        # The first request, and the first after a failure, does not wait: its answer tells that it works.
        request = _GetUpdates(
            offset=self._offset,
            timeout=LONG_POLL_SECONDS if self.is_running else 0,
            allowed_updates=self._allowed_updates,
        )
        return await self._bot(request, request_timeout=LONG_POLL_SECONDS + 15)

    async def _pause(self, asked_at: float, answered_at: float, asked_offset: int | None) -> None:
        """Wait until another request is worth while: all is done, or the offset moved, or time passed."""
        if not self._window:
            if self._offset == asked_offset:
                await asyncio.sleep(asked_at + SAME_OFFSET_SECONDS - time.monotonic())
            return
        await asyncio.sleep(answered_at + BUSY_SECONDS - time.monotonic())
        while self._window and self._offset == asked_offset:
            self._advanced.clear()
            left = answered_at + SAME_OFFSET_SECONDS - time.monotonic()
            try:
                async with asyncio.timeout(left):
                    await self._advanced.wait()
            except TimeoutError:
                return

    def _take(self, raw: dict[str, Any]) -> None:
        """Begin with an update, unless it is under way or was done while Telegram was answering."""
        update_id: int = raw["update_id"]
        if update_id in self._window or update_id in self._confirmable:
            return
        self._window[update_id] = False
        self._processor.set_crowded(len(self._window) > CROWDED)
        task = asyncio.create_task(self._work(raw))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, raw: dict[str, Any]) -> None:
        try:
            await self._processor.process_raw(raw, keep_trying=True)
        except NotAcknowledged as error:
            log.info("update left to Telegram", update_id=raw["update_id"], reason=str(error))
        else:
            self._finish(raw["update_id"])

    def _finish(self, update_id: int) -> None:
        """Note an update as done and move the offset up to the first that is not."""
        self._window[update_id] = True
        waiting = [each for each, is_done in self._window.items() if not is_done]
        offset = min(waiting) if waiting else max(self._window) + 1
        for each in [each for each in self._window if each < offset]:
            del self._window[each]
            self._confirmable.set(each, True)
        self._processor.set_crowded(len(self._window) > CROWDED)
        if offset != self._offset:
            self._offset = offset
            self._advanced.set()

    async def _recover(self, error: TelegramAPIError, backoff: float) -> None:
        """Wait, repair or give up, depending on the error.

        Raises:
            OperatorError: waiting will not help.
        """
        if isinstance(error, TelegramUnauthorizedError | TelegramNotFound):
            raise OperatorError(UNKNOWN_BOT) from error
        if isinstance(error, TelegramConflictError):
            await self._resolve_conflict(error)
            return
        delay = backoff * random.uniform(0.8, 1.2)
        if isinstance(error, TelegramRetryAfter):
            delay = error.retry_after
        self._outage.goes_on(reason=error, retry_in=round(delay, 1))
        await asyncio.sleep(delay)

    async def _resolve_conflict(self, error: TelegramConflictError) -> None:
        if "webhook" in error.message:
            log.warning("a webhook is still set: removing it, its pending updates are kept")
            try:
                await self._bot(DeleteWebhook(drop_pending_updates=False))
            except TelegramAPIError as failure:
                log.warning("webhook not removed", reason=failure)
                await asyncio.sleep(RIVAL_PAUSE)
            return
        now = time.monotonic()
        self._rival_since = self._rival_since or now
        if now - self._rival_since > RIVAL_SECONDS:
            raise OperatorError(
                "another program polls with this BOT_TOKEN: stop it, or use a token of your own"
            ) from error
        self._outage.goes_on(reason="another program polls with this token")
        await asyncio.sleep(RIVAL_PAUSE)
