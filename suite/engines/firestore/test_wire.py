"""What goes over the wire: how often, how much, and what happens when an answer is lost."""

import asyncio
from dataclasses import replace

import pytest
from grpc import StatusCode

from bot.runtime.engines.firestore.connection import PASSING, REFUSED
from bot.runtime.engines.firestore.store import FirestoreStore
from bot.runtime.errors import StateConflict, StateForeign, StateUnavailable
from bot.runtime.state.record import Message
from bot.runtime.state.store import Changes
from suite.engines.firestore.proxy import Proxy
from suite.engines.firestore.server import make_store

LOAD, COMMIT, QUERY = "BatchGetDocuments", "Commit", "RunQuery"

FULL = Changes(
    state={f"key {n}": b'"value"' for n in range(30)},
    fsm={"flow": b'{"state":"s"}'},
    messages=tuple(Message("user", f"message {n}", 1.0) for n in range(20)),
    keep_history=50,
    applied=(1,),
    outbox={1: b'{"replies":[],"at":1.0}'},
)


async def test_a_load_is_one_call_and_a_commit_another(proxied: FirestoreStore, proxy: Proxy) -> None:
    for number in range(3):
        record = await proxied.load("1")
        assert len(record.state) == min(number, 1) * 30
        assert proxy.calls == [LOAD]
        await proxied.commit("1", replace(FULL, token=f"{number}"), expect=record.version)
        assert proxy.calls == [LOAD, COMMIT]
        proxy.reset()


async def test_a_commit_without_a_load_before_takes_one(proxied: FirestoreStore, proxy: Proxy) -> None:
    version = await proxied.commit("1", FULL, expect=0)
    assert proxy.calls == [LOAD, COMMIT]
    proxy.reset()
    with pytest.raises(StateConflict):
        await proxied.commit("1", Changes(), expect=version - 1)
    assert proxy.calls == [LOAD]


async def test_of_many_records_loaded_the_newest_are_known(project: str, proxy: Proxy) -> None:
    store = make_store(proxy.host, project, turns=2)
    await store.connect()
    for user_id in ("1", "2", "3"):
        await store.load(user_id)
    for user_id, calls in (("1", [LOAD, COMMIT]), ("2", [COMMIT]), ("3", [COMMIT])):
        proxy.reset()
        await store.commit(user_id, Changes(state={"a": b"1"}), expect=0)
        assert proxy.calls == calls
    await store.close()


async def test_a_commit_sends_only_what_changed(proxied: FirestoreStore, proxy: Proxy) -> None:
    sent = []
    for user_id, count in (("1", 10), ("2", 1_000)):
        keys = {f"{n}": b'"some value"' for n in range(count)}
        messages = tuple(Message("user", "some text", 1.0) for _ in range(count // 10))
        await proxied.commit(user_id, Changes(state=keys, messages=messages), expect=0)
        version = (await proxied.load(user_id)).version
        proxy.reset()
        changes = Changes(
            state={"5": b'"another value"', "6": None}, messages=(Message("user", "one more", 2.0),)
        )
        await proxied.commit(user_id, changes, expect=version)
        sent.append(proxy.sent)
    assert abs(sent[1] - sent[0]) < 10, "the number of a message is longer"
    assert sent[1] < 600


async def test_a_commit_whose_answer_is_lost_is_applied_once(proxied: FirestoreStore, proxy: Proxy) -> None:
    for base in (0, None):
        record = await proxied.load("1")
        changes = Changes(messages=(Message("user", "once", 1.0),), applied=(7,))
        proxy.answers_to_lose = 1
        version = await proxied.commit("1", changes, expect=record.version if base == 0 else None)
        assert proxy.answers_to_lose == 0
        after = await proxied.load("1")
        assert (after.version, len(after.history)) == (version, len(record.history) + 1)


async def test_a_commit_that_was_applied_and_overtaken_is_no_conflict(
    proxied: FirestoreStore, direct: FirestoreStore, proxy: Proxy
) -> None:
    """A conflict means that nothing was written; here, something was."""
    version = await proxied.commit("1", Changes(), expect=0)
    await proxied.load("1")
    proxy.answers_to_lose = 1
    commit = asyncio.create_task(proxied.commit("1", Changes(applied=(7,)), expect=version))
    while 7 not in (await direct.load("1")).applied:  # noqa: ASYNC110 - in the server, not here
        await asyncio.sleep(0)
    await direct.commit("1", Changes(applied=(8,)), expect=None)
    with pytest.raises(StateUnavailable, match=r"^user 1: "):
        await commit
    assert (await direct.load("1")).applied == (7, 8)


async def test_who_is_due_is_one_call_and_a_claim_two(proxied: FirestoreStore, proxy: Proxy) -> None:
    seen = (await proxied.due(0, 1)).now
    await proxied.load("1")
    proxy.reset()
    await proxied.commit("1", Changes(state={"a": b"1"}, due=seen), expect=0)
    assert proxy.calls == [COMMIT], "when it is due is written with all else"
    proxy.reset()
    assert (await proxied.due(0, 100)).due == [("1", seen)]
    assert proxy.calls == [QUERY]
    proxy.reset()
    assert await proxied.claim("1", seen, seen + 1) == 1
    assert proxy.calls == [LOAD, COMMIT]


@pytest.mark.parametrize("until", [1, 0])
async def test_a_claim_of_a_record_whose_answer_is_lost(
    proxied: FirestoreStore, direct: FirestoreStore, proxy: Proxy, until: int
) -> None:
    """It recognises itself; and where nothing is left to recognise, nobody knows."""
    seen = (await proxied.due(0, 1)).now
    await proxied.commit("1", Changes(state={"a": b"1"}, due=seen), expect=0)
    proxy.only, proxy.answers_to_lose = COMMIT, 1
    if until:
        assert await proxied.claim("1", seen, seen + until) == 1
    else:
        with pytest.raises(StateUnavailable, match="nobody knows"):
            await proxied.claim("1", seen, until)
    assert proxy.answers_to_lose == 0
    assert (await direct.due(1, 9)).due == ([("1", seen + 1)] if until else [])


async def test_a_claim_whose_answer_is_lost_holds(proxied: FirestoreStore, proxy: Proxy) -> None:
    proxy.only, proxy.answers_to_lose = COMMIT, 1
    await proxied.bind(42)
    assert proxy.answers_to_lose == 0
    with pytest.raises(StateForeign, match="belongs to bot 42"):
        await proxied.bind(43)


async def test_a_claim_that_is_refused_is_none(proxied: FirestoreStore, proxy: Proxy) -> None:
    """Who may read and not write hears of that, and of no other bot."""
    proxy.only, proxy.refusals = COMMIT, [StatusCode.PERMISSION_DENIED]
    with pytest.raises(StateUnavailable, match=r"roles/datastore\.user"):
        await proxied.bind(42)


@pytest.mark.parametrize("method", [COMMIT, LOAD])
@pytest.mark.parametrize("code", [StatusCode.RESOURCE_EXHAUSTED, StatusCode.UNAVAILABLE, StatusCode.ABORTED])
async def test_a_claim_that_is_refused_for_now_is_made_later(
    proxied: FirestoreStore, proxy: Proxy, method: str, code: StatusCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as a bot that starts waits for a server that is away."""
    monkeypatch.setattr(proxied._client, "_seconds", 0.5)
    proxy.only, proxy.refusals = method, [code] * 1_000
    binding = asyncio.create_task(proxied.bind(42))
    await asyncio.sleep(1.5)
    assert not binding.done()
    proxy.refusals.clear()
    await binding
    await proxied.bind(42)
    with pytest.raises(StateForeign, match="belongs to bot 42"):
        await proxied.bind(43)


async def test_contention_is_no_lost_answer(
    proxied: FirestoreStore, direct: FirestoreStore, proxy: Proxy
) -> None:
    """What Firestore aborts, it has not written."""
    version = (await proxied.load("1")).version
    await direct.commit("1", Changes(applied=(8,)), expect=None)
    proxy.refusals = [StatusCode.ABORTED]
    with pytest.raises(StateConflict):
        await proxied.commit("1", Changes(applied=(7,)), expect=version)


@pytest.mark.parametrize("code", sorted(REFUSED, key=str), ids=lambda code: code.name)
async def test_a_precondition_that_does_not_hold_is_a_conflict(
    proxied: FirestoreStore, proxy: Proxy, code: StatusCode
) -> None:
    """The emulator has fewer words for that than Firestore."""
    version = (await proxied.load("1")).version
    proxy.only, proxy.refusals = COMMIT, [code]
    with pytest.raises(StateConflict):
        await proxied.commit("1", Changes(), expect=version)


@pytest.mark.parametrize("code", sorted(PASSING, key=str), ids=lambda code: code.name)
async def test_what_passes_is_tried_again(proxied: FirestoreStore, proxy: Proxy, code: StatusCode) -> None:
    proxy.refusals = [code]
    version = (await proxied.load("1")).version
    proxy.refusals = [code, code]
    await proxied.commit("1", Changes(state={"a": b"1"}), expect=version)
    proxy.refusals = [code]
    assert [user async for user in proxied.users()] == ["1"]
    assert proxy.calls.count(COMMIT) == 3


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (StatusCode.PERMISSION_DENIED, "roles/datastore.user"),
        (StatusCode.UNAUTHENTICATED, "GOOGLE_APPLICATION_CREDENTIALS"),
        (StatusCode.NOT_FOUND, "gcloud firestore databases create"),
        (StatusCode.FAILED_PRECONDITION, "Native mode"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_what_does_not_pass_is_said_at_once(
    proxied: FirestoreStore, proxy: Proxy, code: StatusCode, words: str
) -> None:
    proxy.refusals = [code] * 2
    with pytest.raises(StateUnavailable, match=words) as caught:
        await proxied.load("1")
    assert len(proxy.refusals) == 1
    assert "by the proxy" not in str(caught.value), "Firestore's own words may quote what is kept"


async def test_what_does_not_pass_in_time_is_given_up(proxied: FirestoreStore, proxy: Proxy) -> None:
    proxy.refusals = [StatusCode.RESOURCE_EXHAUSTED] * 1_000
    with pytest.raises(StateUnavailable, match="quota"):
        await proxied.ping()
    assert len(proxy.refusals) > 990
