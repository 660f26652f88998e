"""The hybrid engine: Redis is a write-behind cache of PostgreSQL.

Turns commit in Redis, which marks the user as *dirty*: PostgreSQL may lack the commit. Flushers write dirty
records to PostgreSQL and mark them clean. A record that is not in Redis is *cold* and is loaded when needed.
What can go wrong, and what is done about it:

Commit, then flush     One script commits and marks. PostgreSQL accepts only higher versions, so a late flush
                       or a repeated one does no harm.
Commit during a flush  The record is marked clean only if it still has the version that was flushed.
Two flushers           A lease keeps others away. After it has run out they would write the same.
Eviction, expiry       Keys of dirty records have no expiry, so a volatile policy spares them; the record has
                       its own time of expiry. A clean record that lacks a key is removed, and so cold.
                       A commit to a cold record is refused until it is loaded.
Expiry while dirty     The record reads as empty and stays until it is flushed, as PostgreSQL may have an
                       older one.
Slow reader            Loading takes a lease before PostgreSQL is read. Every load and commit ends the lease,
                       so an outdated record is never put into Redis.
Forget                 PostgreSQL locks the user's row while Redis decides. A later flush is refused by the
                       marker's version. Without PostgreSQL, nothing is decided. Afterwards the marker is
                       dirty, so it is flushed whatever happens.
Redis restored older   Each record names the run of the server that wrote it; a failover begins another run. A
                       record from before this run is compared with PostgreSQL's first; the higher version
                       wins. While PostgreSQL is away it is used as it is, unless HYBRID_ACK=postgres.
Fork                   That can lead to two commits with one version. This run has acknowledged what Redis
                       has, so the version there is raised and flushed again. Tokens tell commits apart.
PostgreSQL restored    `bot state flush --all` marks all that is in Redis as dirty.
What is to be done     The index in Redis knows it, also of cold records, and decides who claims it. It goes
                       to PostgreSQL with the flush. PostgreSQL is asked now and then, and after a restart of
                       Redis: what that lost, or never had, is taken over, unless the record here is as new.
                       What PostgreSQL says of one that was done since is at most a hint.
Files of replies       They are written to Redis before the commit that refers to them, and brought to
                       PostgreSQL in the transaction that flushes it.

With HYBRID_ACK=postgres a commit returns when PostgreSQL is proven to have it, and `load` shows a record only
then: an update that was applied but not flushed is not acknowledged when it is delivered again either.

The proof              What is flushed, or clean, is of the commit's lineage (`scripts.lua`), at its version
                       or a later one. That a record is gone, or not listed as dirty, proves nothing.
Redis loses commits    PostgreSQL takes a record only in the place of the version it was made of (`base`). One
                       made of less than PostgreSQL has takes no place: PostgreSQL's is restored.
Loss during a flush    PostgreSQL may get what Redis no longer has. What is in its place is compared, and a
                       record that is just being loaded is loaded anew.
Eviction of what is    Each record says itself whether it is dirty; the list of the dirty ones may go. One
dirty                  that has lost a part goes as a whole: it was never acknowledged.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Self

import structlog

from bot.runtime.config import load
from bot.runtime.engines.hybrid.doctor import diagnose
from bot.runtime.engines.hybrid.flusher import Flusher
from bot.runtime.engines.hybrid.postgres import HybridPostgres
from bot.runtime.engines.hybrid.redis import LEASE_SECONDS, Cold, HybridRedis, NotReady, Warm
from bot.runtime.engines.hybrid.snapshot import Backlog, Commit, HybridSettings, Snapshot
from bot.runtime.engines.postgres.connection import DatabaseSettings
from bot.runtime.engines.postgres.dev_server import PostgresDevServer
from bot.runtime.engines.redis.connection import RedisConnection, RedisSettings
from bot.runtime.errors import OperatorError, StateConflict, StateCorrupt, StateError, StateUnavailable
from bot.runtime.state.record import HOME, Limits, UserRecord
from bot.runtime.state.store import NEVER, Agenda, Changes, Finding, check_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bot.runtime.config import Settings

ATTEMPTS = 5
"""How often a record is loaded into Redis for one load or commit: it may be evicted immediately."""

CLOSE_SECONDS = 8.0
"""How long flushing may take when the bot stops. What is left stays in Redis."""

ASK_SECONDS = 30.0
"""How often PostgreSQL is asked what there is to do, in seconds. Redis knows it, unless it has lost it."""

ASK_AHEAD = 60.0
"""How much further ahead it is asked than `due` looks, in seconds: more than until it is asked again."""

AWAY_SECONDS = 10.0
"""Delay before it is asked again when it did not answer."""

log = structlog.get_logger(__name__)


class HybridStore:
    """Keeps records in PostgreSQL, and those in use in Redis."""

    name: ClassVar[str] = "hybrid"
    survives_exit: ClassVar[bool] = True
    due_seconds: ClassVar[float] = 1.0

    def __init__(
        self,
        redis: HybridRedis,
        postgres: HybridPostgres,
        settings: HybridSettings,
    ) -> None:
        """Make a store that is not connected yet.

        Args:
            redis: where turns commit; the store owns it from now on.
            postgres: where records rest; the store owns it, too.
            settings: when a commit counts, and how records are flushed.
        """
        self.limits = redis.limits
        self.redis = redis
        self.postgres = postgres
        self.flusher = Flusher(
            redis,
            postgres,
            interval=settings.hybrid_flush_interval,
            batch=settings.hybrid_flush_batch,
            waits=settings.waits,
        )
        self._waits = settings.waits
        self._ask_again = 0.0
        self._is_connected = False
        self._has_committed = False
        self._reconnecting: asyncio.Task[None] | None = None

    @classmethod
    def from_settings(cls, settings: "Settings") -> Self:
        """Make the store that the settings describe.

        Raises:
            OperatorError: a setting is missing or cannot be used.
        """
        own, redis, database = load(HybridSettings), load(RedisSettings), load(DatabaseSettings)
        if redis.redis_cluster:
            raise OperatorError(CLUSTER)
        limits = Limits.from_settings(settings)
        ttl = settings.state_ttl or None
        return cls(
            HybridRedis(
                RedisConnection(redis),
                settings.namespace,
                limits,
                ttl,
                cache_ttl=own.hybrid_cache_ttl,
                delay=own.hybrid_flush_interval,
                waits=own.waits,
            ),
            HybridPostgres(
                database.database() or PostgresDevServer(),
                schema=database.database_schema,
                limits=limits,
                ttl=ttl,
            ),
            own,
        )

    async def connect(self) -> None:
        """Wait for both servers; a bot that was here before starts without PostgreSQL, too.

        Raises:
            StateUnavailable: a server does not answer.
            StateError: one of them cannot be used; the text says what to do.
        """
        if self._is_connected:
            return
        try:
            await self.redis.connect()
            if (await self.redis.connection.wait("INFO", "cluster")).get("cluster_enabled"):
                raise StateError(CLUSTER)
            try:
                await self.postgres.connect()
            except StateUnavailable as error:
                if not await self.redis.is_bound():
                    raise
                log.warning("started without PostgreSQL: only users in Redis are served", reason=str(error))
                self._reconnecting = asyncio.create_task(self._reconnect())
        except BaseException:
            await self._disconnect()
            raise
        self._is_connected = True
        self.flusher.start()

    async def close(self) -> None:
        """Flush what waits, if this process committed any of it, and close every connection."""
        if self._is_connected:
            self._is_connected = False
            reconnecting, self._reconnecting = self._reconnecting, None
            if reconnecting:
                reconnecting.cancel()
                await asyncio.gather(reconnecting, return_exceptions=True)
            await self.flusher.stop()
            if self._has_committed:
                await self._flush_at_last()
        await self._disconnect()

    async def ping(self) -> "Mapping[str, float]":
        """Check that Redis answers, and report how much is waiting to be flushed. See `StateStore.ping`."""
        backlog = await self.redis.backlog()
        return {"flush_backlog": backlog.users, "flush_backlog_seconds": round(backlog.seconds, 1)}

    async def migrate(self) -> str:
        """Bring PostgreSQL's tables to what this code needs. See `OperatorStore.migrate`."""
        return await self.postgres.migrate()

    async def diagnose(self) -> list[Finding]:
        """Look for what could cost records or keep the bot from running. See `OperatorStore.diagnose`."""
        return await diagnose(self.redis, self.postgres, waits=self._waits)

    async def bind(self, bot_id: int) -> None:
        """Note whose records these are, or refuse another bot. See `OperatorStore.bind`."""
        was_bound = await self.redis.is_bound()
        await self.redis.bind(bot_id)
        try:
            await self.postgres.bind(bot_id)
        except StateUnavailable:
            if not was_bound:
                raise

    async def load(self, user_id: str, conversation: str | None = HOME) -> UserRecord:
        """Read a record: one round trip when it is in Redis. See `StateStore.load`."""
        for _ in range(ATTEMPTS):
            found = await self.redis.look(user_id, conversation)
            if isinstance(found, Cold):
                record, snapshot = await self.postgres.read(user_id)
                if await self.redis.fill(snapshot, found.lease):
                    return record.at(conversation)
            elif not found.is_verified and await self._compare(user_id, found):
                continue
            else:
                is_proven = not (self._waits and found.is_dirty)
                if is_proven or await self._flush(user_id, Commit(found.record.version, found.lineage)):
                    return found.record
        raise StateUnavailable("the record could not be loaded into Redis", user_id)

    async def commit(self, user_id: str, changes: Changes, *, expect: int | None) -> int:
        """Write changes: one round trip with HYBRID_ACK=redis. See `StateStore.commit`."""
        check_size(user_id, changes, self.limits)
        self._has_committed = True
        await self.redis.write_files(user_id, changes.files)
        try:
            return await self._commit(user_id, changes, expect)
        except StateConflict:
            with suppress(StateUnavailable):  # they expire, too
                await self.redis.drop_files(user_id, changes.files)
            raise

    async def _commit(self, user_id: str, changes: Changes, expect: int | None) -> int:
        if changes.forget:
            return await self._forget(user_id, changes, expect)
        maybe_applied = trust = False
        for _ in range(ATTEMPTS):
            try:
                commit = await self.redis.commit_warm(
                    user_id,
                    changes,
                    expect,
                    lease=self._waits,
                    trust=trust,
                    maybe_applied=maybe_applied,
                )
            except NotReady as reason:
                maybe_applied = reason.maybe_applied
                trust = await self._bring(user_id)
            else:
                await self.redis.write_lost_files(user_id, changes.files)
                if self._waits and not await self._flush(user_id, commit):
                    raise StateUnavailable("Redis lost it before PostgreSQL had it", user_id)
                return commit.version
        raise StateUnavailable("the record could not be loaded into Redis", user_id)

    async def due(self, within: float, most: int) -> Agenda:
        """Which records have something to do. See `StateStore.due`.

        PostgreSQL is asked at first, after a restart of Redis, and every `ASK_SECONDS`. While it is away,
        what only it knows is not found.
        """
        agenda, run = await self.redis.due_here(within, most, ASK_SECONDS)
        if run is None or time.monotonic() < self._ask_again:
            return agenda
        latest = agenda.now + int((within + ASK_AHEAD) * 1e6)
        try:
            await self._adopt(latest)
        except StateUnavailable as error:
            self._ask_again = time.monotonic() + AWAY_SECONDS
            log.warning("PostgreSQL cannot be asked what there is to do", reason=str(error))
            return agenda
        await self.redis.note_asked(run, latest, agenda.now)
        agenda, _ = await self.redis.due_here(within, most, ASK_SECONDS)
        return agenda

    async def claim(self, user_id: str, seen: int, until: int, counts: int = 1) -> int:
        """Take what a record has to do, wherever it is. See `StateStore.claim`."""
        held = None
        if until == NEVER:
            with suppress(StateUnavailable):
                held = await self.postgres.held(user_id)
        claim = await self.redis.claim_here(user_id, seen, until, counts)
        if not (claim.version or claim.is_known) and (found := await self.postgres.waits(user_id)):
            await self.redis.due_here(0, 0, ASK_SECONDS)  # claims of this run count from here on
            await self.redis.adopt(found)
            claim = await self.redis.claim_here(user_id, seen, until, counts)
        if held and claim.claims and claim.version in (0, held):
            with suppress(StateUnavailable):  # then it is found once more
                await self.postgres.done(user_id, held)
        return claim.claims

    async def reindex(self) -> int:
        """Rebuild the index of what is here, and of what only PostgreSQL has. See `OperatorStore.reindex`."""
        return await self.redis.reindex() + await self._adopt(2**62)

    async def _adopt(self, latest: int) -> int:
        """Take over from PostgreSQL what is due up to a time; returns how much of it is not in Redis."""
        return sum([await self.redis.adopt(page) async for page in self.postgres.waiting(latest)])

    async def read_file(self, user_id: str, file: str) -> bytes | None:
        """Read a file of a reply from where it is. See `StateStore.read_file`."""
        content = await self.redis.read_file(user_id, file)
        return await self.postgres.read_file(user_id, file) if content is None else content

    async def drop_files(self, user_id: str, files: "Iterable[str]") -> None:
        """Delete files of replies in both places. See `StateStore.drop_files`."""
        files = list(files)
        await self.redis.drop_files(user_id, files)
        await self.postgres.drop_files(user_id, files)

    async def forget(self, user_id: str) -> bool:
        """Erase a user, leaving a marker in both places. See `StateStore.forget`."""
        try:
            record = await self.load(user_id)
            existed = record.version > 0 and not (record.forgotten and record.is_empty)
        except StateCorrupt:
            existed = True
        await self._forget(user_id, Changes(forget=True), None)
        return existed

    async def users(self) -> AsyncIterator[str]:
        """The ids of all users: those PostgreSQL may lack, then those it has. See `StateStore.users`."""
        dirty = await self.redis.dirty_users()
        for user_id, is_kept in dirty.items():
            if is_kept:
                yield user_id
        async for user_id in self.postgres.users():
            # One that was dirty, and of whom nothing was there, may have been flushed and evicted meanwhile.
            if user_id not in dirty or not (dirty[user_id] or await self.redis.is_here(user_id)):
                yield user_id

    async def raw(self, user_id: str) -> str:
        """What both hold for a user. See `OperatorStore.raw`."""
        return f"{await self.redis.raw(user_id)}\n{await self.postgres.raw(user_id)}"

    async def flush(self, *, everything: bool = False, seconds: float = 2 * LEASE_SECONDS) -> Backlog:
        """Bring all dirty records to PostgreSQL now.

        Args:
            everything: also those in Redis that it should have already: it may have come back older.
            seconds: give up when nothing has been flushed for so long.

        Returns:
            What is left.
        """
        if everything:
            async for user_id in self.redis.warm_users():
                await self.redis.mark_dirty(user_id)
        return await self.flusher.drain(seconds)

    async def _bring(self, user_id: str) -> bool:
        """Load the newest record into Redis. Returns whether an unverified one has to be accepted."""
        found = await self.redis.look(user_id)
        if isinstance(found, Cold):
            _, snapshot = await self.postgres.read(user_id)
            await self.redis.fill(snapshot, found.lease)
            return False
        return not (found.is_verified or await self._compare(user_id, found))

    async def _compare(self, user_id: str, found: Warm) -> bool:
        """Compare what Redis had when it started with what PostgreSQL has; the newer version wins.

        Returns:
            Whether Redis now holds the newest. `False` when PostgreSQL is away and HYBRID_ACK=redis.
        """
        record = found.record
        try:
            rested, snapshot = await self.postgres.read(user_id)
        except StateUnavailable:
            if self._waits:
                raise
            return False
        if rested.version > record.version and rested.token != record.token:
            await self.redis.replace(snapshot, Commit(record.version, found.lineage))
        else:
            await self.redis.verify(user_id, record.version, is_newer=rested.token != record.token)
        return True

    async def _forget(self, user_id: str, changes: Changes, expect: int | None) -> int:
        """Commit a change that forgets, on both servers or on neither.

        PostgreSQL holds the user's row while Redis decides. When it is away, Redis is not asked; when it goes
        away after that, the marker in Redis is dirty, and the flusher completes what has been decided.
        """
        try:
            await self.load(user_id)  # the ids of applied updates outlive the rest
        except StateCorrupt as error:
            log.warning("forgetting a record that cannot be read", reason=str(error))
        began = time.time()
        commit: Commit
        decided: Snapshot | None

        async def decide(held: Changes) -> Snapshot:
            nonlocal commit, decided
            try:
                commit = await self.redis.commit_warm(user_id, changes, expect)
            except NotReady:  # PostgreSQL's cannot be read, or Redis has just lost it again
                applied = tuple(dict.fromkeys((*held.applied, *changes.applied)))
                carried = replace(changes, applied=applied, marks={**held.marks, **changes.marks})
                commit = await self.redis.commit_warm(user_id, carried, expect, trust=True)
            decided = await self.redis.snapshot(user_id)
            if decided is None or not (decided.has(commit) or decided.content.token == changes.token):
                raise StateUnavailable("Redis lost it before PostgreSQL had it", user_id)
            return decided

        if await self.postgres.erase(user_id, decide):
            assert decided, "it stands in PostgreSQL"
            await self.redis.mark_clean(decided, began)
        elif not await self.flusher.flush(user_id, commit):
            raise StateUnavailable("PostgreSQL has something else instead", user_id)
        return commit.version

    async def _flush(self, user_id: str, commit: Commit) -> bool:
        """Flush a record, and say whether PostgreSQL has a commit; see `Flusher.flush`.

        Raises:
            StateUnavailable: it does not yet, whatever the reason; the flusher goes on trying.
        """
        try:
            return await self.flusher.flush(user_id, commit)
        except StateError as error:
            await self.flusher.retry_soon(user_id)
            raise StateUnavailable(f"in Redis, but not in PostgreSQL ({error})", user_id) from None

    async def _reconnect(self) -> None:
        """Retry until PostgreSQL answers."""
        while True:
            try:
                await self.postgres.connect()
            except StateError as error:
                log.debug("still without PostgreSQL", reason=str(error))
                await asyncio.sleep(1)
            else:
                log.info("PostgreSQL is there")
                return

    async def _flush_at_last(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                left = await self.flusher.drain(0)
                if left.users:
                    left = await self.flusher.take_over()
        except (StateError, TimeoutError) as error:
            log.warning("not everything could be flushed; it waits in Redis", reason=str(error))
        else:
            if left.users:
                log.warning("not everything could be flushed; it waits in Redis", users=left.users)

    async def _disconnect(self) -> None:
        await self.redis.close()
        await self.postgres.close()


CLUSTER = (
    "the hybrid engine does not run on a Redis Cluster, which cannot change a record and the list of what "
    "waits for PostgreSQL in one step: use a single Redis, or one behind Sentinels"
)
