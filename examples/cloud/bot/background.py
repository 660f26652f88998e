"""Work that goes on when the turn that began it is over."""

import asyncio
import time
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

import structlog

log = structlog.get_logger()

LAST_WORDS = 1.0
"""Seconds that cancelled work gets to clean up after itself."""


class Background:
    """Keeps hold of running work, tells of its errors, and ends it with the bot."""

    def __init__(self) -> None:
        """Have nothing to do."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], context: Context) -> None:
        """Run `work` in `context`, which knows the turn it belongs to. Its error, if it fails, is logged."""
        task = asyncio.create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def drain(self, timeout: float) -> None:
        """Wait for all work, also what it begins itself; cancel what is not done in time.

        Args:
            timeout: seconds.
        """
        if self._tasks:
            log.info("finishing background work", tasks=len(self._tasks))
        deadline = time.monotonic() + timeout
        while self._tasks and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait(self._tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if self._tasks:
            log.warning("background work given up", tasks=len(self._tasks))
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=LAST_WORDS)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("background work failed", exc_info=error)
