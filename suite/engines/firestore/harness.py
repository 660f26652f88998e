"""The Firestore engine under test: each harness has a project of its own in the emulator tests share."""

import asyncio
from typing import Any

from google.cloud.firestore_v1.types import CommitRequest

from bot.runtime.engines.firestore import document as documents
from bot.runtime.engines.firestore.connection import FirestoreClient
from bot.runtime.engines.firestore.store import FirestoreStore
from bot.runtime.state.record import Limits
from bot.runtime.state.store import OperatorStore
from suite.contract.harness import Harness
from suite.engines.firestore.server import clear, make_client, new_project, shared_host


class FirestoreHarness:
    """A project that several stores share."""

    def __init__(self) -> None:
        self.host = shared_host()
        self.project = new_project()
        self._stores: list[FirestoreStore] = []

    async def open(self, limits: Limits | None = None, ttl: float | None = None) -> OperatorStore:
        store = FirestoreStore(make_client(self.host, self.project), "bot", limits, ttl)
        self._stores.append(store)
        await store.connect()
        return store

    def settings(self) -> dict[str, str]:
        return {
            "FIRESTORE_EMULATOR_HOST": self.host,
            "GOOGLE_CLOUD_PROJECT": self.project,
            "NAMESPACE": "bot",
        }

    async def expire(self, user_id: str) -> None:
        await self.put(user_id, expires_at={"timestamp_value": {"seconds": 1}})

    async def corrupt(self, user_id: str) -> None:
        await self.put(user_id, outbox={"string_value": "[]"})

    async def put(self, user_id: str, **fields: Any) -> None:
        """Write some fields of a user's document as no store would."""
        client = make_client(self.host, self.project)
        await put(client, f"bot/{documents.document_id(user_id)}", **fields)

    async def close(self) -> None:
        for store in self._stores:
            await store.close()
        await asyncio.to_thread(clear, self.host, self.project)


async def put(client: FirestoreClient, name: str, **fields: Any) -> None:
    """Write some fields of a document, whatever there is."""
    await client.open()
    request = CommitRequest(
        {
            "database": client.database,
            "writes": [
                {
                    "update": {"name": f"{client.database}/documents/{name}", "fields": fields},
                    "update_mask": {"field_paths": list(fields)},
                }
            ],
        }
    )
    await client.call(lambda api, _: api.commit(request, metadata=client.metadata))
    await client.close()


def make_harness() -> Harness:
    return FirestoreHarness()
