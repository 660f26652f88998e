"""Everything at once, in an order that chance decides: commits, forgetting, flushes, eviction, slow servers.

Each user has one writer, who knows what has been acknowledged, and readers, who must never see less.
PostgreSQL itself notes every row that goes backwards. With HYBRID_ACK=postgres Redis loses dirty ones, too.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import pytest

from bot.runtime.engines.hybrid.store import HybridStore
from bot.runtime.engines.redis import connection as redis_connection
from bot.runtime.errors import StateConflict, StateCorrupt, StateUnavailable
from bot.runtime.state.record import Message, UserRecord
from bot.runtime.state.store import Changes
from suite.engines.hybrid.harness import HybridHarness

pytestmark = pytest.mark.clause("engine.write-behind")

T = TypeVar("T")

SECONDS, PATIENCE = 6.0, 60.0
"""For how long, and for how long at most where a busy machine gets to little of it."""

LEAST = {"commit": 20, "evicted": 5, "read": 20}
"""How often something has to happen for a run to tell anything."""

USERS = [str(number) for number in range(1, 6)]

EVICT = """
local dirty, user, loses = KEYS[1], ARGV[1], ARGV[2] == '1'
if not loses and redis.call('ZSCORE', dirty, user) then return 0 end
return redis.call('DEL', unpack(KEYS, 2))
"""
"""Takes keys away of a record that is clean, as `volatile-lru` does, or of any, as `allkeys-lru` does."""

EMPTY = """
if ARGV[2] ~= '1' and redis.call('ZCARD', KEYS[1]) > 0 then return 0 end
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end
return 1
"""
"""Empties Redis when everything is clean, or in any case."""

WATCH = """
CREATE TABLE IF NOT EXISTS {schema}.backwards (user_id text, before bigint, after bigint);
DELETE FROM {schema}.backwards;
CREATE OR REPLACE FUNCTION {schema}.watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.version < OLD.version OR coalesce((NEW.state->>'count')::int, 0) < coalesce(
        (OLD.state->>'count')::int, 0) AND NEW.forgotten = OLD.forgotten
    THEN INSERT INTO {schema}.backwards VALUES (NEW.user_id, OLD.version, NEW.version); END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER watch BEFORE UPDATE ON {schema}.user_state
    FOR EACH ROW EXECUTE FUNCTION {schema}.watch();
"""
UNWATCH = """
DROP TRIGGER watch ON {schema}.user_state;
DROP FUNCTION {schema}.watch();
DROP TABLE {schema}.backwards;
"""


class Chaos:
    """Several stores over the same records, and what happens to them.

    Attributes:
        acknowledged: per user, the count that was acknowledged last.
        stale: reads that saw less than had been acknowledged when they began.
        loses: whether Redis loses also what is dirty.
        did: how often what happened.
    """

    def __init__(self, stores: list[HybridStore], seed: int, *, loses: bool) -> None:
        self.stores = stores
        self.loses = loses
        self.random = random.Random(seed)
        self.acknowledged = dict.fromkeys(USERS, 0)
        self.generation = dict.fromkeys(USERS, 0)
        self.stale: list[str] = []
        self.did: Counter[str] = Counter()
        self.is_over = False

    async def nap(self, most: float) -> None:
        await asyncio.sleep(self.random.uniform(0, most))

    def slow(self, work: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        """A server that takes its time before and after."""

        async def slow_work(*arguments: Any, **options: Any) -> T:
            if self.random.random() < 0.5:
                await self.nap(0.05)
            result = await work(*arguments, **options)
            if self.random.random() < 0.5:
                await self.nap(0.05)
            return result

        return slow_work

    async def certainly(self, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Do something, again where Redis may have lost it."""
        while True:
            try:
                return await work(*arguments)
            except StateUnavailable:
                assert self.loses

    async def load(self, store: HybridStore, user_id: str) -> UserRecord:
        return await self.certainly(store.load, user_id)

    async def write(self, user_id: str) -> None:
        """Count up, in the order of a user's turns; now and then forget the user, and begin again."""
        update_id = 1
        while not self.is_over:
            store = self.random.choice(self.stores)
            record = await self.load(store, user_id)
            if update_id in record.applied:  # which was not known
                self.acknowledged[user_id] += 1
                update_id += 1
            count = record.state.get("count", 0)
            if count != self.acknowledged[user_id]:
                self.stale.append(f"writer of {user_id}: {count}, not {self.acknowledged[user_id]}")
            if self.random.random() < 0.05:
                self.generation[user_id] += 1
                self.acknowledged[user_id] = 0
                update_id += 1
                await self.certainly(store.forget, user_id)
                self.did["forgotten"] += 1
                continue
            changes = Changes(
                state={"count": str(count + 1).encode()},
                messages=(Message("user", f"{count + 1}", 1.0),),
                keep_history=5,
                applied=(update_id,),
            )
            try:
                await store.commit(user_id, changes, expect=record.version)
            except StateConflict:  # raised, or evicted
                self.did["conflict"] += 1
                continue
            except StateUnavailable:
                assert self.loses
                self.did["unknown"] += 1
                continue
            update_id += 1
            self.acknowledged[user_id] = count + 1
            self.did["commit"] += 1
            # Now and then for long enough that the record is flushed: only what is clean is evicted.
            await self.nap(0.02 if self.random.random() < 0.9 else 0.5)

    async def read(self) -> None:
        while not self.is_over:
            user_id = self.random.choice(USERS)
            generation, least = self.generation[user_id], self.acknowledged[user_id]
            record = await self.load(self.random.choice(self.stores), user_id)
            self.did["read"] += 1
            if self.generation[user_id] == generation:
                if record.state.get("count", 0) < least:
                    self.stale.append(f"reader of {user_id}: {record.state}, not {least}")
                texts = [int(message.text) for message in record.history]
                if texts and texts != list(range(texts[-1] - len(texts) + 1, texts[-1] + 1)):
                    self.stale.append(f"history of {user_id}: {texts}")

    async def evict(self) -> None:
        redis = self.stores[0].redis
        while not self.is_over:
            user_id = self.random.choice(USERS)
            keys = self.random.sample(redis._keys(user_id), self.random.randint(1, 4))
            if self.loses and self.random.random() < 0.2:
                keys = [redis._dirty, redis._due]
            number, loses = 1 + len(keys), int(self.loses)
            taken = await redis.connection.ask("EVAL", EVICT, number, redis._dirty, *keys, user_id, loses)
            self.did["evicted"] += bool(taken)
            if self.random.random() < 0.02:
                what = (redis._dirty, f"{redis._namespace}:*", loses)
                self.did["emptied"] += await redis.connection.ask("EVAL", EMPTY, 1, *what)
            await self.nap(0.01)

    async def flush_again(self) -> None:
        """Late and double flushes, as by replicas whose lease has run out."""
        while not self.is_over:
            user_id = self.random.choice(USERS)
            store = self.random.choice(self.stores)
            snapshot = None
            with suppress(StateCorrupt):  # evicted in part
                snapshot = await store.redis.snapshot(user_id)
            if snapshot and snapshot.is_dirty and snapshot.version:
                await self.nap(0.1)
                with suppress(StateUnavailable):
                    if await store.postgres.write(snapshot):
                        await store.redis.mark_clean(snapshot, 0)
                        self.did["flushed late"] += 1
            await self.nap(0.02)

    async def run(self) -> None:
        works = [self.write(user_id) for user_id in USERS]
        works += [self.read(), self.read(), self.evict(), self.flush_again()]
        tasks = [asyncio.ensure_future(work) for work in works]
        started = time.monotonic()
        while time.monotonic() < started + SECONDS or (
            time.monotonic() < started + PATIENCE and any(self.did[name] < LEAST[name] for name in LEAST)
        ):
            if (await asyncio.wait(tasks, timeout=0.5, return_when=asyncio.FIRST_EXCEPTION))[0]:
                break
        self.is_over = True
        await asyncio.gather(*tasks)


@pytest.fixture
async def watched(hybrid: HybridHarness, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HybridHarness]:
    """PostgreSQL that notes which rows went backwards. It and Redis may be slow, as on a busy machine."""
    monkeypatch.setattr(redis_connection, "SOCKET_SECONDS", PATIENCE)
    hybrid.patience = PATIENCE
    await hybrid.make()
    await hybrid.postgres.execute(WATCH)
    yield hybrid
    await hybrid.postgres.execute(UNWATCH)


@pytest.mark.parametrize("ack", ["redis", "postgres"])
async def test_nothing_is_lost_stale_or_turned_back(
    watched: HybridHarness, ack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.randrange(2**32)
    stores = [await watched.make(flush_interval=0.02, ack=ack) for _ in range(2)]
    chaos = Chaos(stores, seed, loses=ack == "postgres")
    for store in stores:
        monkeypatch.setattr(store.postgres, "read", chaos.slow(store.postgres.read))
        monkeypatch.setattr(store.postgres, "write", chaos.slow(store.postgres.write))
    await chaos.run()
    print(f"seed {seed}: {dict(chaos.did)}")
    assert not chaos.stale
    assert all(chaos.did[name] >= LEAST[name] for name in LEAST), chaos.did

    assert (await stores[0].flush()).users == 0
    for user_id in USERS:
        record = await chaos.load(stores[0], user_id)
        chaos.acknowledged[user_id] += record.state.get("count", 0) > chaos.acknowledged[user_id]
        record, _ = await stores[0].postgres.read(user_id)
        assert record.state.get("count", 0) == chaos.acknowledged[user_id]
        await stores[0].redis.connection.ask("DEL", *stores[0].redis._keys(user_id))
        assert (await stores[1].load(user_id)).state.get("count", 0) == chaos.acknowledged[user_id]
    await watched.postgres.execute("SELECT 1 / (1 - count(*)::int::bool::int) FROM {schema}.backwards")
