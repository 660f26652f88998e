"""Flushes dirty records from Redis to PostgreSQL: periodically, on demand, and before the bot stops."""

import asyncio
import random
import time
from contextlib import suppress

import structlog
from prometheus_client import Counter, Gauge

from bot.runtime.engines.hybrid.postgres import HybridPostgres
from bot.runtime.engines.hybrid.redis import LEASE_SECONDS, HybridRedis
from bot.runtime.engines.hybrid.snapshot import Backlog, Commit
from bot.runtime.errors import StateError, StateUnavailable
from bot.runtime.logs import Outage

WORKERS = 6
"""Records flushed at the same time: fewer than the pool has connections, as loading needs some, too."""

AWAY_SECONDS = 1.0
"""Delay before a flush is retried that failed because a server did not answer."""

REFUSED_SECONDS = 30.0
"""Delay before a flush is retried that PostgreSQL refused, or whose record cannot be read."""

FIRST_SECONDS = 2.0
"""Delay before the first flush: a short command such as `bot state show` need not flush others' records."""

STOP_SECONDS = 2.0
"""How long flushes in progress may take when the bot stops."""

ATTEMPTS = 5
"""How often a flush is repeated when the record changed meanwhile."""

BACKLOG = Gauge("bot_flush_backlog", "Users whose newest commit PostgreSQL may lack.")
BACKLOG_SECONDS = Gauge("bot_flush_backlog_seconds", "Age of the oldest commit that PostgreSQL may lack.")
FLUSHES = Counter("bot_flushes", "Records brought to PostgreSQL, by how it ended.", ["outcome"])
FLUSHED, AWAY, REFUSED = (FLUSHES.labels(outcome) for outcome in ("flushed", "away", "refused"))

log = structlog.get_logger(__name__)


class Flusher:
    """Flushes the records that this process has leased. Other processes lease the rest."""

    def __init__(
        self, redis: HybridRedis, postgres: HybridPostgres, *, interval: float, batch: int, waits: bool
    ) -> None:
        """Make it; `start` begins.

        Args:
            redis: from where.
            postgres: to where.
            interval: seconds that a record waits for further changes.
            batch: most users that one of the workers leases at a time.
            waits: whether only what PostgreSQL has counts.
        """
        self._redis = redis
        self._postgres = postgres
        self._interval = interval
        self._batch = batch
        self._waits = waits
        self._workers: list[asyncio.Task[None]] = []
        self._is_over = asyncio.Event()
        self._stuck = Outage("nothing can be flushed", "records are flushed again")
        self._away = Outage(
            "PostgreSQL takes no records: they wait in Redis", "PostgreSQL takes records again"
        )

    def start(self) -> None:
        """Flush in the background from now on."""
        self._is_over.clear()
        self._workers = self._workers or [asyncio.create_task(self._work()) for _ in range(WORKERS)]

    async def stop(self) -> None:
        """Stop flushing in the background, when the records under way are done or soon after."""
        self._is_over.set()
        workers, self._workers = self._workers, []
        if workers:
            await asyncio.wait(workers, timeout=STOP_SECONDS)
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def flush(self, user_id: str, commit: Commit | None = None) -> bool:
        """Flush a user's record, even if another process is flushing it.

        Args:
            user_id: whose.
            commit: what has to be in it.

        Returns:
            Whether PostgreSQL has it. `False`: Redis has lost it, or PostgreSQL has something else instead.

        Raises:
            StateUnavailable: a server did not answer.
            StateCorrupt: the record cannot be read, or PostgreSQL refuses it.
        """
        for _ in range(ATTEMPTS):
            began = time.time()
            snapshot = await self._redis.snapshot(user_id)
            if snapshot is None or (commit and not snapshot.has(commit)):
                return False
            if not snapshot.is_dirty:
                return True
            if await self._postgres.write(snapshot):
                await self._redis.mark_clean(snapshot, began)
                return True
            held = await self._postgres.held(user_id)
            if self._waits or not await self._redis.raise_above(snapshot, held):
                _, newer = await self._postgres.read(user_id)
                if await self._redis.replace(newer, Commit(snapshot.version, snapshot.lineage)):
                    log.warning(
                        "Redis has lost commits that PostgreSQL has; PostgreSQL's record is restored",
                        user_id=user_id,
                    )
                    return False
                continue
            log.warning("PostgreSQL held another record, which is replaced", user_id=user_id)
        raise StateUnavailable("the record changes faster than PostgreSQL can take it", user_id)

    async def retry_soon(self, user_id: str) -> None:
        """Let any process flush this user's record in a moment."""
        await self._postpone(user_id, AWAY_SECONDS)

    async def drain(self, seconds: float) -> Backlog:
        """Flush everything now.

        Args:
            seconds: give up when nothing has been flushed for so long.

        Returns:
            What is left.
        """
        deadline = time.monotonic() + seconds
        while True:
            rounds = await asyncio.gather(*(self._round(ahead=self._interval) for _ in range(WORKERS)))
            backlog = await self._redis.backlog()
            if any(rounds):
                deadline = time.monotonic() + seconds
            elif not backlog.users or time.monotonic() >= deadline:
                return backlog
            else:
                await asyncio.sleep(0.1)

    async def take_over(self) -> Backlog:
        """Flush also what other processes have leased: they may be gone.

        Returns:
            What is left.
        """
        while await self._round(ahead=self._interval + LEASE_SECONDS):
            pass
        return await self._redis.backlog()

    async def _work(self) -> None:
        pause = max(FIRST_SECONDS, self._interval)
        while not await self._is_told_to_stop(random.uniform(pause / 2, pause)):
            pause = self._interval
            try:
                if await self._round() == self._batch:
                    pause = 0
                self._stuck.ends()
            except StateError as error:
                self._stuck.goes_on(reason=str(error))
                pause += AWAY_SECONDS
            except Exception:
                log.exception("flushing failed")
                pause += AWAY_SECONDS

    async def _is_told_to_stop(self, seconds: float) -> bool:
        """Wait so long, or until it is."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_over.wait()
        return self._is_over.is_set()

    async def _round(self, ahead: float = 0) -> int:
        """Lease a batch and flush it; returns how many records were flushed."""
        users, backlog = await self._redis.lease(self._batch, ahead)
        BACKLOG.set(backlog.users)
        BACKLOG_SECONDS.set(backlog.seconds)
        flushed, is_away = 0, False
        for user_id in users:
            if is_away:
                await self._postpone(user_id, AWAY_SECONDS)
                continue
            try:
                await self.flush(user_id)
            except StateUnavailable as error:
                AWAY.inc()
                self._away.goes_on(reason=str(error))
                await self._postpone(user_id, AWAY_SECONDS)
                is_away = await self._is_away()
            except StateError as error:
                REFUSED.inc()
                log.error("record cannot be flushed; it is kept in Redis", reason=str(error))
                await self._postpone(user_id, REFUSED_SECONDS)
            else:
                self._away.ends()
                FLUSHED.inc()
                flushed += 1
        return flushed

    async def _is_away(self) -> bool:
        """Whether PostgreSQL is away: then the rest of the batch is postponed."""
        try:
            await self._postgres.ping()
        except StateError:
            return True
        return False

    async def _postpone(self, user_id: str, seconds: float) -> None:
        with suppress(StateUnavailable):  # then its lease ends by itself
            await self._redis.postpone(user_id, seconds)
