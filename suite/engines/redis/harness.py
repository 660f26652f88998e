"""The Redis engine under test: each harness has a namespace of its own on the server that all tests share."""

import secrets

from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.state.record import Limits
from bot.runtime.state.store import OperatorStore
from suite.contract.harness import Harness
from suite.engines.redis.server import make_store, shared_url


class RedisHarness:
    """A namespace that several stores share."""

    def __init__(self) -> None:
        self._namespace = f"t{secrets.token_hex(8)}"
        self._stores: list[RedisStore] = []

    async def open(self, limits: Limits | None = None, ttl: float | None = None) -> OperatorStore:
        store = make_store(shared_url(), self._namespace, limits=limits, ttl=ttl)
        self._stores.append(store)
        await store.connect()
        return store

    def settings(self) -> dict[str, str]:
        return {"REDIS_URL": shared_url(), "NAMESPACE": self._namespace}

    async def expire(self, user_id: str) -> None:
        store = self._stores[0]
        for key in store._keys(user_id):
            await store.connection.ask("PEXPIREAT", key, 1)

    async def corrupt(self, user_id: str) -> None:
        store = self._stores[0]
        await store.connection.ask("HSET", store._key(user_id, "state"), "broken", "{not json")

    async def close(self) -> None:
        if self._stores:
            connection = self._stores[0].connection
            for key in [key async for key in connection.client.scan_iter(f"{self._namespace}:*", 1_000)]:
                await connection.ask("UNLINK", key)
        for store in self._stores:
            await store.close()


def make_harness() -> Harness:
    return RedisHarness()
