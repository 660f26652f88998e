"""The files that `firebase deploy` takes say what they must."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import PermissionDenied
from google.cloud.firestore_v1.services.firestore import FirestoreAsyncClient
from google.cloud.firestore_v1.services.firestore.transports import FirestoreGrpcAsyncIOTransport

from bot.runtime.config import Settings
from bot.runtime.engines.firestore.doctor import EXEMPT
from bot.runtime.engines.firestore.document import Document
from bot.runtime.state.store import Changes
from suite.engines.firestore.server import Emulator, make_store

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def guarded() -> Iterator[Emulator]:
    """An emulator that obeys `firestore.rules`."""
    emulator = Emulator(options=[f"--rules={ROOT / 'firestore.rules'}"]).start()
    yield emulator
    emulator.end()


@pytest.fixture(scope="module")
def open_to_all() -> Iterator[Emulator]:
    """One that has no rules to obey."""
    emulator = Emulator().start()
    yield emulator
    emulator.end()


async def denied_to_anybody(host: str) -> dict[str, bool]:
    """What somebody with the app's public key, and no account, tries: whether it is denied."""
    denied = {}
    async with grpc.aio.insecure_channel(host) as channel:
        api = FirestoreAsyncClient(transport=FirestoreGrpcAsyncIOTransport(channel=channel))
        base = "projects/demo-bot/databases/(default)"
        name = f"{base}/documents/bot/1"
        parent = {"parent": f"{base}/documents", "collection_id": "bot"}

        async def commit(write: dict[str, Any]) -> None:
            await api.commit({"database": base, "writes": [write]}, retry=None)

        asked: dict[str, Any] = {
            "get": lambda: api.get_document({"name": name}, retry=None),
            "list": lambda: api.list_documents(parent, retry=None),
            "create": lambda: commit({"update": {"name": f"{base}/documents/bot/2"}}),
            "update": lambda: commit({"update": {"name": name}}),
            "delete": lambda: commit({"delete": name}),
        }
        for what, ask in asked.items():
            denied[what] = False
            try:
                await ask()
            except PermissionDenied:
                denied[what] = True
    return denied


@pytest.mark.rarely
async def test_the_rules_keep_everybody_out_but_the_bot(guarded: Emulator, open_to_all: Emulator) -> None:
    for emulator in (guarded, open_to_all):
        store = make_store(emulator.host, "demo-bot")
        await store.connect()
        await store.commit("1", Changes(state={"a": b"1"}), expect=0)
        assert (await store.load("1")).state == {"a": 1}
        assert [user async for user in store.users()] == ["1"]
        await store.close()
    denied = await denied_to_anybody(guarded.host)
    assert all(denied.values()), denied
    denied = await denied_to_anybody(open_to_all.host)
    assert not any(denied.values()), f"the rules are not what keeps them out: {denied}"


def test_what_no_query_goes_by_is_not_indexed() -> None:
    deployed = json.loads((ROOT / "firestore.indexes.json").read_text("utf-8"))
    assert deployed["indexes"] == []
    assert {each["collectionGroup"] for each in deployed["fieldOverrides"]} == {Settings().namespace}
    assert all(each["indexes"] == [] for each in deployed["fieldOverrides"])
    exempt = {each["fieldPath"] for each in deployed["fieldOverrides"]}
    assert exempt >= set(EXEMPT)
    one = {"a": ""}
    everything = Document(
        "t", one, one, {1: ""}, (1,), {1: ""}, 1, marks=one, said=one, talks=one, later=1
    ).fields()
    marker = Document("t", forgotten=1, expires=datetime.now(UTC)).fields()
    assert exempt == {path[0] for path in everything | marker} | {"content", "claims"}
    assert "due" not in exempt


def test_expired_records_are_deleted() -> None:
    deployed = json.loads((ROOT / "firestore.indexes.json").read_text("utf-8"))
    assert [each["fieldPath"] for each in deployed["fieldOverrides"] if each.get("ttl")] == ["expires_at"]


def test_firebase_is_told_of_both() -> None:
    named = json.loads((ROOT / "firebase.json").read_text("utf-8"))["firestore"]
    assert named == {"rules": "firestore.rules", "indexes": "firestore.indexes.json"}
