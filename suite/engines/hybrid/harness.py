"""The hybrid engine under test: a namespace on the tests' Redis, and a schema on their PostgreSQL."""

import asyncio
import secrets

from bot.runtime.engines.hybrid.postgres import HybridPostgres
from bot.runtime.engines.hybrid.redis import HybridRedis
from bot.runtime.engines.hybrid.snapshot import HybridSettings
from bot.runtime.engines.hybrid.store import HybridStore
from bot.runtime.engines.postgres.connection import Database
from bot.runtime.engines.redis.connection import RedisConnection, RedisSettings
from bot.runtime.state.record import Limits
from bot.runtime.state.store import OperatorStore
from suite.contract.harness import Harness
from suite.engines.postgres.harness import PostgresHarness, server_url
from suite.engines.redis.server import shared_url


class HybridHarness:
    """A namespace and a schema that several stores share.

    Attributes:
        postgres: the means to do something to the tables.
        redis_url: the Redis of stores that are opened from now on.
        postgres_url: their PostgreSQL.
        patience: how many seconds they give it.
    """

    patience = 5.0

    def __init__(self) -> None:
        self.postgres = PostgresHarness()
        self.redis_url = ""
        self.postgres_url = ""
        self._namespace = f"t{secrets.token_hex(8)}"
        self._stores: list[HybridStore] = []

    async def open(self, limits: Limits | None = None, ttl: float | None = None) -> OperatorStore:
        return await self.make(limits, ttl)

    async def make(
        self, limits: Limits | None = None, ttl: float | None = None, **settings: object
    ) -> HybridStore:
        """A store; `settings` are the hybrid engine's own, without `hybrid_`."""
        name = (await asyncio.to_thread(self.postgres.settings))["DATABASE_SCHEMA"]
        own = {"flush_interval": 0.05, **settings}
        hybrid = HybridSettings.model_validate({f"hybrid_{key}": value for key, value in own.items()})
        url = self.redis_url or shared_url()
        redis = HybridRedis(
            RedisConnection(RedisSettings.model_validate({"redis_url": url})),
            self._namespace,
            limits,
            ttl,
            cache_ttl=hybrid.hybrid_cache_ttl,
            delay=hybrid.hybrid_flush_interval,
            waits=hybrid.waits,
        )
        database = Database(self.postgres_url or server_url(), pool_size=8, timeout=self.patience)
        store = HybridStore(redis, HybridPostgres(database, schema=name, limits=limits, ttl=ttl), hybrid)
        self._stores.append(store)
        await store.connect()
        return store

    def settings(self) -> dict[str, str]:
        return {
            **self.postgres.settings(),
            "REDIS_URL": self.redis_url or shared_url(),
            "NAMESPACE": self._namespace,
            "HYBRID_FLUSH_INTERVAL": "0.1",
        }

    async def expire(self, user_id: str) -> None:
        """In Redis and in PostgreSQL alike."""
        store = self._stores[0]
        await store.flush()
        if (await store.redis.connection.ask("EXISTS", store.redis._key(user_id, "meta"))) == 1:
            await store.redis.connection.ask("HSET", store.redis._key(user_id, "meta"), "expires", 1)
        await self.postgres.expire(user_id)

    async def corrupt(self, user_id: str) -> None:
        store = self._stores[0]
        await store.redis.connection.ask("HSET", store.redis._key(user_id, "state"), "broken", "{not json")

    async def close(self) -> None:
        if self._stores:
            connection = self._stores[0].redis.connection
            for store in self._stores:
                await store.close()
            async for key in connection.client.scan_iter(f"{self._namespace}:*", 1_000):
                await connection.ask("UNLINK", key)
            await connection.close()
        await self.postgres.close()


def make_harness() -> Harness:
    return HybridHarness()
