"""The DynamoDB engine under test: each harness has a namespace of its own in the table that tests share."""

import asyncio
import secrets
from functools import cache

from bot.runtime.engines.dynamodb.item import EXPIRES, KEY
from bot.runtime.engines.dynamodb.store import DynamodbStore
from bot.runtime.state.record import Limits
from bot.runtime.state.store import OperatorStore
from suite.contract.harness import Harness
from suite.engines.dynamodb.server import environment_of, make_store, make_table, shared_url


@cache
def prepare() -> str:
    """The server's URL, once the table is there."""
    asyncio.run(make_table(shared_url()))
    return shared_url()


class DynamodbHarness:
    """A namespace that several stores share."""

    def __init__(self) -> None:
        self._namespace = f"t{secrets.token_hex(8)}"
        self._stores: list[DynamodbStore] = []

    async def open(self, limits: Limits | None = None, ttl: float | None = None) -> OperatorStore:
        # In a thread of its own: the first to come starts the server and an event loop.
        url = await asyncio.to_thread(prepare)
        store = make_store(url, self._namespace, limits, ttl)
        self._stores.append(store)
        await store.connect()
        return store

    def settings(self) -> dict[str, str]:
        return {**environment_of(prepare()), "NAMESPACE": self._namespace}

    async def expire(self, user_id: str) -> None:
        await self._set(user_id, EXPIRES, {"N": "1"})

    async def corrupt(self, user_id: str) -> None:
        await self._set(user_id, "state:broken", {"S": "{not json"})

    async def _set(self, user_id: str, name: str, value: dict[str, str]) -> None:
        store = self._stores[0]
        await store.client.call(
            "update_item",
            Key={KEY: {"S": store._user(user_id)}},
            UpdateExpression="SET #name = :value",
            ExpressionAttributeNames={"#name": name},
            ExpressionAttributeValues={":value": value},
        )

    async def close(self) -> None:
        if self._stores:
            store = self._stores[0]
            await store.connect()
            own = {"#id": KEY}, {":prefix": {"S": f"{self._namespace}:"}}
            page = await store.client.call(
                "scan",
                FilterExpression="begins_with(#id, :prefix)",
                ProjectionExpression="#id",
                ExpressionAttributeNames=own[0],
                ExpressionAttributeValues=own[1],
            )
            for key in page["Items"]:
                await store.client.call("delete_item", Key=key)
        for store in self._stores:
            await store.close()


def make_harness() -> Harness:
    return DynamodbHarness()
