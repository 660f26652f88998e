"""What Firestore holds of a record, and what its own limits do to one."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.cloud.firestore_v1.async_client import AsyncClient

from bot.runtime.engines.firestore import document as documents
from bot.runtime.engines.firestore import store as engine
from bot.runtime.engines.firestore.store import FirestoreStore
from bot.runtime.errors import StateConflict, StateCorrupt, StateTooLarge
from bot.runtime.state.record import Limits, Message
from bot.runtime.state.store import FORGOTTEN_SECONDS, Changes
from bot.runtime.state.turn import Turn, mutate
from suite.engines.firestore.harness import put
from suite.engines.firestore.server import make_client, make_store, shared_host


@pytest.fixture
def google(project: str, monkeypatch: pytest.MonkeyPatch) -> AsyncClient:
    """Google's own client, as whoever writes a bot by hand uses it."""
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", shared_host())
    return AsyncClient(project=project)


async def raw(store: FirestoreStore, user_id: str) -> dict[str, object]:
    fields: dict[str, object] = json.loads(await store.raw(user_id))["fields"]
    return fields


async def test_read_modify_write_by_hand_loses_updates_and_ours_does_not(
    direct: FirestoreStore, google: AsyncClient
) -> None:
    reference = google.collection("by-hand").document("1")
    await reference.set({"count": 0})

    async def by_hand() -> None:
        state = (await reference.get()).to_dict() or {}
        await reference.set({"count": state["count"] + 1})

    async def count(turn: Turn) -> None:
        turn.state["count"] = turn.state.get("count", 0) + 1

    await asyncio.gather(*(by_hand() for _ in range(50)))
    kept = (await reference.get()).to_dict() or {}
    assert kept["count"] < 10, "of 50"

    for _ in range(10):  # an update that conflicts is tried again at most ten times
        await asyncio.gather(*(mutate(direct, "1", count) for _ in range(5)))
    assert (await direct.load("1")).state == {"count": 50}


async def test_a_document_shows_the_owners_keys(direct: FirestoreStore) -> None:
    changes = Changes(
        state={"name": b'"Ann"', "a.b`c\\": b"[1]", "": b"2", "__x__": b"3", "%": b"4"},
        messages=(Message("user", "hi", 1.0),),
        applied=(7,),
    )
    await direct.commit("1", changes, expect=0)
    fields = await raw(direct, "1")
    assert fields["state"] == {
        "mapValue": {
            "fields": {
                "name": {"stringValue": '"Ann"'},
                "a.b`c\\": {"stringValue": "[1]"},
                "%": {"stringValue": "2"},
                "%__x__": {"stringValue": "3"},
                "%%": {"stringValue": "4"},
            }
        }
    }
    assert fields.keys() == {"state", "history", "applied", "token"}
    record = await direct.load("1")
    assert record.state == {"name": "Ann", "a.b`c\\": [1], "": 2, "__x__": 3, "%": 4}
    removed = dict.fromkeys(("a.b`c\\", "", "__x__", "%"))
    await direct.commit("1", Changes(state=removed), expect=record.version)
    assert (await direct.load("1")).state == {"name": "Ann"}


@pytest.mark.parametrize(
    "user_id", ["1", "-100", ".", "..", "__a__", "_bot", "", "a/b", "%2F", "chat:-1:5", "ü 👋", "x" * 400]
)
async def test_any_id_is_a_documents(direct: FirestoreStore, user_id: str) -> None:
    await direct.bind(42)
    await direct.commit(user_id, Changes(state={"a": b"1"}), expect=0)
    await direct.commit("other", Changes(state={"a": b"2"}), expect=0)
    assert (await direct.load(user_id)).state == {"a": 1}
    assert {user async for user in direct.users()} == {user_id, "other"}
    now = (await direct.due(0, 1)).now
    await direct.commit(user_id, Changes(due=now), expect=None)
    assert (await direct.due(0, 9)).due == [(user_id, now)]
    assert await direct.reindex() == 1
    assert await direct.claim(user_id, now, now + 1) == 1
    assert {user async for user in direct.users()} == {user_id, "other"}
    assert await direct.forget(user_id) is True
    assert await direct.reindex() == 0
    await direct.bind(42)


async def test_the_version_is_when_firestore_wrote_it(direct: FirestoreStore, google: AsyncClient) -> None:
    version = await direct.commit("1", Changes(state={"a": b"1"}), expect=0)
    snapshot = await google.collection("bot").document("1").get()
    assert round(snapshot.update_time.timestamp() * 1e6) == version == (await direct.load("1")).version
    await google.collection("bot").document("1").update({"note": "by hand"})
    with pytest.raises(StateConflict):
        await direct.commit("1", Changes(state={"a": b"2"}), expect=version)


async def test_what_a_record_has_to_do_is_a_document_of_its_own(
    direct: FirestoreStore, google: AsyncClient
) -> None:
    """As long as there is something: the field is indexed, and a claim must not be a new version."""
    due = google.collection("bot").document("_due_1")
    version = await direct.commit("1", Changes(state={"a": b"1"}, due=5), expect=0)
    assert (await due.get()).to_dict() == {"due": 5}
    assert (await raw(direct, "1"))["later"] == {"integerValue": "5"}
    await direct.claim("1", 5, 6)
    kept = (await due.get()).to_dict() or {}
    assert (kept["due"], kept["claims"]) == (6, 1)
    await direct.commit("1", Changes(state={"b": b"1"}), expect=version)
    assert (await due.get()).to_dict() == kept
    await direct.commit("1", Changes(due=0), expect=None)
    assert not (await due.get()).exists
    assert "later" not in await raw(direct, "1")
    await direct.commit("1", Changes(due=5), expect=None)
    await direct.forget("1")
    assert not (await due.get()).exists


async def test_users_come_in_pages(direct: FirestoreStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.runtime.engines.firestore.store.PAGE", 3)
    await direct.bind(42)
    for user in range(10):
        await direct.commit(str(user), Changes(state={"a": b"1"}), expect=0)
    for user in (0, 4, 5, 6):
        await direct.forget(str(user))
    assert sorted([user async for user in direct.users()]) == ["1", "2", "3", "7", "8", "9"]


# --- Time -----------------------------------------------------------------------------------------


async def test_a_record_expires(direct: FirestoreStore, project: str) -> None:
    store = make_store(shared_host(), project, ttl=1)
    await store.connect()
    version = await store.commit("1", Changes(state={"a": b"1", "b": b"1"}), expect=0)
    assert (await store.load("1")).state == {"a": 1, "b": 1}
    await asyncio.sleep(1.1)
    # What is known since that load has expired meanwhile, too.
    with pytest.raises(StateConflict):
        await store.commit("1", Changes(state={"a": b"2"}), expect=version)
    record = await direct.load("1")
    assert (record.version, record.is_empty) == (0, True)
    assert await direct.forget("1") is False
    await store.commit("2", Changes(state={"a": b"1", "b": b"1"}), expect=0)
    await asyncio.sleep(1.1)
    await direct.commit("2", Changes(state={"b": b"2"}), expect=0)
    assert (await direct.load("2")).state == {"b": 2}
    assert "expires_at" not in await raw(direct, "2")
    await store.close()


async def test_a_record_that_expires_while_it_is_committed_to_leaves_nothing(project: str) -> None:
    store = make_store(shared_host(), project, ttl=1)
    await store.connect()
    await store.commit("1", Changes(state={"a": b"1"}, applied=(7,)), expect=0)
    before = await store._read("1")
    assert before.document.applied == (7,)
    await asyncio.sleep(1.1)
    await store._commit("1", before, Changes(state={"b": b"2"}), 0)
    record = await store.load("1")
    assert (record.state, record.applied) == ({"b": 2}, ())
    await store.close()


async def test_a_document_that_is_gone_conflicts(direct: FirestoreStore, google: AsyncClient) -> None:
    """Firestore deletes what has expired, also between a load and its commit."""
    version = await direct.commit("1", Changes(state={"a": b"1"}), expect=0)
    await direct.load("1")
    await google.collection("bot").document("1").delete()
    with pytest.raises(StateConflict):
        await direct.commit("1", Changes(state={"a": b"2"}), expect=version)
    assert (await direct.load("1")).version == 0


async def test_expiry_goes_by_the_servers_clock(
    direct: FirestoreStore, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of this machine may be wrong by days: here it is behind by one."""
    store = make_store(shared_host(), project, ttl=3600)
    await store.connect()
    asked = store._get

    async def a_day_ahead(*args: Any, **options: Any) -> Any:
        answer = await asked(*args, **options)
        answer.read_time.seconds += 86_400
        return answer

    monkeypatch.setattr(store, "_get", a_day_ahead)
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    assert (await store.load("1")).state == {"a": 1}
    (expires,) = dict(await raw(direct, "1"))["expires_at"].values()  # type: ignore[attr-defined]
    left = datetime.fromisoformat(expires) - datetime.now(UTC)
    assert abs(left.total_seconds() - 86_400 - 3600) < 60
    await store.close()


async def test_who_is_forgotten_leaves_a_marker_that_expires(
    direct: FirestoreStore, google: AsyncClient
) -> None:
    await direct.commit("1", Changes(state={"a": b"1"}, applied=(7,)), expect=0)
    await google.collection("bot").document("1").update({"note": "by somebody else"})
    await direct.forget("1")
    snapshot = await google.collection("bot").document("1").get()
    fields = snapshot.to_dict() or {}
    assert fields.keys() == {"token", "applied", "forgotten", "marker", "expires_at"}
    assert fields["applied"] == "[7]"
    left = fields["expires_at"] - snapshot.update_time
    assert abs(left.total_seconds() - FORGOTTEN_SECONDS) < 5
    forgotten = (await direct.load("1")).version
    await direct.commit("1", Changes(state={"a": b"2"}), expect=forgotten)
    record = await direct.load("1")
    assert (record.forgotten, record.applied) == (forgotten, (7,))
    assert not {"marker", "expires_at"} & (await raw(direct, "1")).keys()


# --- Limits ---------------------------------------------------------------------------------------


async def test_a_document_as_large_as_may_be_is_taken_and_one_byte_more_is_refused(
    project: str, google: AsyncClient
) -> None:
    store = make_store(shared_host(), project, limits=Limits(max_bytes=2_000_000))
    await store.connect()
    base = await store.commit("1", Changes(state={"a": b'""', "b": b'""', "c": b'""'}), expect=0)
    empty = documents.Document("t" * 16, {"a": '""', "b": '""', "c": '""'}).fields()
    room = documents.MAX_DOCUMENT_BYTES - documents.document_size("bot/1", empty)
    halves = {"a": b'"%s"' % (b"x" * 500_000), "b": '"{}"'.format("é" * ((room - 500_000) // 2)).encode()}
    odd = b"1" * (room % 2) + b'""' if room % 2 == 0 else b'"1"'
    with pytest.raises(StateTooLarge) as caught:
        await store.commit("1", Changes(state={**halves, "c": b'"22"'}), expect=base)
    assert caught.value.user_id == "1"
    assert "xxx" not in str(caught.value)
    await store.commit("1", Changes(state={**halves, "c": odd}), expect=base)
    assert len((await store.load("1")).state["a"]) == 500_000
    await store.close()


async def test_a_key_that_is_no_fields_name_is_refused(direct: FirestoreStore) -> None:
    await direct.commit("1", Changes(state={"k" * 1_490: b"1"}), expect=0)
    with pytest.raises(StateTooLarge, match="a key"):
        await direct.commit("1", Changes(state={"k" * 1_500: b"1"}), expect=None)
    assert len((await direct.load("1")).state) == 1


async def test_what_firestore_itself_refuses_is_too_large(
    direct: FirestoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 10**9)
    with pytest.raises(StateTooLarge, match="Firestore refuses it"):
        await direct.commit("1", Changes(state={"a": b'"%s"' % (b"x" * 1_100_000)}), expect=0)


# --- Records that are none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"token": {"integer_value": 1}},
        {"applied": {"string_value": "[true]"}},
        {"applied": {"string_value": "no JSON"}},
        {"state": {"string_value": "{}"}},
        {"state": {"map_value": {"fields": {"a": {"integer_value": 1}}}}},
        {"state": {"map_value": {"fields": {"a": {"string_value": "{"}}}}},
        {"history": {"map_value": {"fields": {"one": {"string_value": "{}"}}}}},
        {"history": {"map_value": {"fields": {"1": {"string_value": "[]"}}}}},
        {"expires_at": {"string_value": "soon"}},
    ],
    ids=str,
)
async def test_what_a_commit_does_not_write_is_corrupt(
    direct: FirestoreStore, project: str, fields: dict[str, object]
) -> None:
    version = await direct.commit("1", Changes(state={"a": b'"hunter2"'}, applied=(7,)), expect=0)
    await put(make_client(shared_host(), project), "bot/1", **fields)
    with pytest.raises(StateCorrupt) as caught:
        await direct.load("1")
    assert "hunter2" not in str(caught.value)
    with pytest.raises((StateCorrupt, StateConflict)):
        await direct.commit("1", Changes(state={"a": b"2"}), expect=version)
    assert "7" in await direct.raw("1") or "applied" in fields
    assert [user async for user in direct.users()] == ["1"]
    assert await direct.forget("1") is True
    assert (await direct.load("1")).applied == (() if "applied" in fields else (7,))


@pytest.mark.clause("engine.layout")
async def test_the_first_layout_holds_the_private_conversation(
    direct: FirestoreStore, google: AsyncClient
) -> None:
    document = {
        "token": "abc",
        "applied": "[]",
        "state": {"a": "1"},
        "history": {"1": '{"role":"user","text":"my PIN is 1234","at":1.5}'},
    }
    await google.collection(direct._namespace).document("1").set(document)
    record = await direct.load("1", None)
    assert [message.text for message in record.history] == ["my PIN is 1234"]
    assert (record.state, record.conversations, record.others) == ({"a": 1}, {}, {})
    assert (await direct.load("1", "-100::")).history == []

    async def change(turn: Turn) -> None:
        turn.remember("user", "hello")

    for conversation in ("", "-100::"):
        await mutate(direct, "1", change, conversation=conversation)
    record = await direct.load("1", None)
    assert [message.text for message in record.history] == ["my PIN is 1234", "hello"]
    assert [message.text for message in record.others["-100::"]] == ["hello"]


async def test_the_time_is_that_of_the_answer(direct: FirestoreStore) -> None:
    """And not the one that an answer told which came late: nothing that is made due then shall be early."""
    direct._clock = engine._Loaded(0, datetime.now(UTC) - timedelta(seconds=5))
    before = time.time()
    agenda = await direct.due(0, 1)
    assert before - 0.1 < agenda.now / 1e6 < time.time() + 0.1
