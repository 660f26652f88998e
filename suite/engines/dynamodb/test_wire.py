"""What goes over the wire, counted in front of the server: how often, and what when answers are lost."""

import asyncio
import random

import pytest

from bot.runtime.engines.dynamodb import connection as dynamodb_client
from bot.runtime.engines.dynamodb.item import AT_ONCE
from bot.runtime.engines.dynamodb.store import DynamodbStore
from bot.runtime.errors import StateConflict, StateTooLarge, StateUnavailable
from bot.runtime.state.record import Message
from bot.runtime.state.store import Changes
from bot.runtime.state.turn import Turn
from suite.engines.dynamodb.throttle import Throttle

THROTTLED = "ProvisionedThroughputExceededException"


async def test_one_request_to_load_and_one_to_commit(proxied: DynamodbStore, throttle: Throttle) -> None:
    for n in range(3):
        throttle.reset()
        turn = Turn(await proxied.load("1"), proxied.limits)
        assert throttle.seen == {"GetItem": 1}
        turn.state["n"] = n
        turn.remember("user", "hello")
        changes = turn.changes()
        assert changes
        await proxied.commit("1", changes, expect=turn.version)
        assert throttle.seen == {"GetItem": 1, "UpdateItem": 1}


async def test_who_is_due_and_each_claim_are_one_request(proxied: DynamodbStore, throttle: Throttle) -> None:
    seen = (await proxied.due(0, 1)).now
    await proxied.commit("1", Changes(state={"a": b"1"}, due=seen), expect=0)
    throttle.reset()
    assert (await proxied.due(0, 100)).due == [("1", seen)]
    assert await proxied.claim("1", seen, seen + 1) == 1
    assert throttle.seen == {"Query": 1, "UpdateItem": 1}
    assert throttle.last["Query"]["Limit"] == 100


async def test_more_than_a_page_of_them(proxied: DynamodbStore, throttle: Throttle) -> None:
    """DynamoDB's page has 1 MB at most, whatever was asked for."""
    now = (await proxied.due(0, 1)).now
    for n in range(5):
        await proxied.commit(str(n), Changes(state={"a": b"1"}, due=now + n), expect=0)
    pages = [page async for page in proxied._waiting(now + 9, Limit=2)]
    assert [len(page["Items"]) for page in pages][:3] == [2, 2, 1]
    assert [user for user, _ in (await proxied.due(1, 5)).due] == list("01234")


async def test_a_claim_that_came_after_the_load_outlives_the_commit(
    proxied: DynamodbStore, direct: DynamodbStore, throttle: Throttle
) -> None:
    """It does not change the version; and a whole item that is put would undo it."""
    seen = (await proxied.due(0, 1)).now
    for number, size in enumerate((1, AT_ONCE + 1), start=1):
        await proxied.commit("1", Changes(state={"a": b"1"}, due=seen), expect=None)
        version = (await proxied.load("1")).version
        assert await direct.claim("1", seen, seen + 1) == 1
        throttle.reset()
        version = await proxied.commit(
            "1", Changes(state={str(n): b"1" for n in range(size)}), expect=version
        )
        assert throttle.seen == ({"UpdateItem": 1} if size == 1 else {"PutItem": 2})
        assert await direct.claim("1", seen + 1, seen + 2) == 2
        # And one that says when it is due again ends it, also when it says the same as before.
        await proxied.load("1")
        await direct.claim("1", seen + 2, seen)
        await proxied.commit("1", Changes(state={"b": str(number).encode()}, due=seen + 2), expect=version)
        assert (await direct.due(1, 9)).due == [("1", seen + 2)]
        assert await direct.claim("1", seen + 2, seen + 3) == 1, "they are counted anew"


async def test_a_claim_that_forgetting_overtakes_leaves_nothing(
    proxied: DynamodbStore, direct: DynamodbStore
) -> None:
    seen = (await proxied.due(0, 1)).now
    await proxied.commit("1", Changes(state={"a": b"1"}, due=seen), expect=0)
    version = (await proxied.load("1")).version
    await direct.claim("1", seen, seen + 1)
    await proxied.commit("1", Changes(forget=True), expect=version)
    assert not {"due", "waiting", "claims"} & (await direct._read("1")).keys()
    assert await direct.claim("1", seen + 1, seen + 2) == 0


async def test_of_a_claim_whose_answer_is_lost_nobody_knows(
    proxied: DynamodbStore, throttle: Throttle
) -> None:
    """Nobody else has it, so it is not said that another process was first."""
    seen = (await proxied.due(0, 1)).now
    await proxied.commit("1", Changes(state={"a": b"1"}, due=seen), expect=0)
    throttle.lose_answers(1)
    with pytest.raises(StateUnavailable, match=r"^user 1: nobody knows whether it was claimed"):
        await proxied.claim("1", seen, seen + 1)
    assert (await proxied.due(1, 9)).due == [("1", seen + 1)]


async def test_a_busy_server_is_asked_again_who_is_due(
    proxied: DynamodbStore, hasty: DynamodbStore, throttle: Throttle
) -> None:
    throttle.refuse_next(THROTTLED, "InternalServerError")
    assert (await proxied.due(0, 1)).due == []
    throttle.refuse_next(*[THROTTLED] * 1_000)
    with pytest.raises(StateUnavailable, match="the table's throughput is exceeded"):
        await hasty.due(0, 1)


async def test_who_may_not_ask_the_index_is_told(proxied: DynamodbStore, throttle: Throttle) -> None:
    throttle.refuse_next("AccessDeniedException")
    with pytest.raises(StateUnavailable, match="do not permit dynamodb:Query on the table"):
        await proxied.due(0, 1)


async def test_what_is_read_is_what_was_written_last(proxied: DynamodbStore, throttle: Throttle) -> None:
    """DynamoDB's other kind of read, at half the price, may be a second old; no server here shows that."""
    await proxied.load("1")
    assert [user async for user in proxied.users()] == []
    for operation in ("GetItem", "Scan"):
        assert throttle.last[operation]["ConsistentRead"] is True


async def test_a_small_change_of_a_large_state_is_a_small_request(
    proxied: DynamodbStore, throttle: Throttle
) -> None:
    await proxied.commit("1", Changes(state={str(n): b'"xxxx"' for n in range(1_000)}), expect=0)
    record = await proxied.load("1")
    throttle.reset()
    await proxied.commit("1", Changes(state={"7": b"1"}), expect=record.version)
    assert throttle.seen == {"UpdateItem": 1}
    assert throttle.sent["UpdateItem"] < 600


async def test_a_commit_without_a_load_takes_one_more(proxied: DynamodbStore, throttle: Throttle) -> None:
    version = await proxied.commit("1", Changes(), expect=0)
    throttle.reset()
    await proxied.commit("1", Changes(), expect=version)
    assert throttle.seen == {"GetItem": 1, "UpdateItem": 1}


async def test_a_commit_whose_answer_is_lost_is_applied_once(
    proxied: DynamodbStore, throttle: Throttle
) -> None:
    await proxied.commit("1", Changes(), expect=0)
    record = await proxied.load("1")
    changes = Changes(messages=(Message("user", "once", 1.0),), applied=(7,))
    throttle.reset()
    throttle.lose_answers(1)
    version = await proxied.commit("1", changes, expect=record.version)
    assert throttle.seen["UpdateItem"] == 2
    record = await proxied.load("1")
    assert (record.version, record.applied, len(record.history)) == (version, (7,), 1)


async def test_a_large_first_commit_whose_answer_is_lost(proxied: DynamodbStore, throttle: Throttle) -> None:
    """A whole item is put in place of an update."""
    throttle.before = lambda operation: throttle.lose_answers(1) if throttle.seen["PutItem"] == 1 else None
    await proxied.commit("1", Changes(state={str(n): b"1" for n in range(500)}, applied=(7,)), expect=0)
    assert throttle.seen["PutItem"] == 2
    record = await proxied.load("1")
    assert (record.applied, len(record.state)) == ((7,), 500)


@pytest.mark.parametrize("error", ["InternalServerError", "ServiceUnavailable"])
async def test_a_commit_that_was_applied_though_the_server_failed(
    proxied: DynamodbStore, throttle: Throttle, error: str
) -> None:
    await proxied.load("1")
    throttle.refuse_next(error, is_executed=True)
    await proxied.commit("1", Changes(messages=(Message("user", "once", 1.0),)), expect=0)
    assert len((await proxied.load("1")).history) == 1


async def test_a_commit_that_was_applied_and_overtaken_is_no_conflict(
    proxied: DynamodbStore, direct: DynamodbStore, throttle: Throttle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conflict means that nothing was written; here, something was."""
    monkeypatch.setattr(dynamodb_client, "FIRST_DELAY", 1.0)
    monkeypatch.setattr(random, "uniform", lambda _, most: most)
    await proxied.commit("1", Changes(), expect=0)
    record = await proxied.load("1")
    throttle.lose_answers(1)
    commit = asyncio.create_task(proxied.commit("1", Changes(applied=(7,)), expect=record.version))
    while 7 not in (await direct.load("1")).applied:  # noqa: ASYNC110 - in the server, not here
        await asyncio.sleep(0)
    await direct.commit("1", Changes(applied=(8,)), expect=None)
    with pytest.raises(StateUnavailable, match=r"^user 1: the answer was lost"):
        await commit
    assert (await direct.load("1")).applied == (7, 8)


async def test_a_throttled_commit_that_came_too_late_is_a_conflict(
    proxied: DynamodbStore, direct: DynamodbStore, throttle: Throttle
) -> None:
    """What was throttled was not executed, so that is certain."""
    record = await proxied.load("1")
    await direct.commit("1", Changes(), expect=0)
    throttle.refuse_next(THROTTLED)
    with pytest.raises(StateConflict):
        await proxied.commit("1", Changes(), expect=record.version)


@pytest.mark.parametrize("error", [*dynamodb_client.THROTTLED, "InternalServerError", "ServiceUnavailable"])
async def test_a_busy_server_is_asked_again(proxied: DynamodbStore, throttle: Throttle, error: str) -> None:
    throttle.refuse_next(error, error)
    record = await proxied.load("1")
    throttle.refuse_next(error, error, error)
    await proxied.commit("1", Changes(messages=(Message("user", "once", 1.0),)), expect=record.version)
    assert throttle.seen == {"GetItem": 3, "UpdateItem": 4}
    assert len((await proxied.load("1")).history) == 1


async def test_a_record_that_is_not_valid_is_not_tried_for_ever(
    proxied: DynamodbStore, throttle: Throttle
) -> None:
    """As one with a key of more than 64 KB, which the servers here take."""
    record = await proxied.load("1")
    throttle.refuse_next("ValidationException")
    with pytest.raises(StateTooLarge, match=r"^user 1: DynamoDB does not take it"):
        await proxied.commit("1", Changes(state={"k": b"1"}), expect=record.version)


async def test_a_server_that_stays_busy_is_unavailable_in_bounded_time(
    hasty: DynamodbStore, throttle: Throttle
) -> None:
    throttle.reset()
    throttle.refuse_next(*[THROTTLED] * 1_000)
    with pytest.raises(StateUnavailable, match=r"^user 1: the table's throughput is exceeded$"):
        await asyncio.wait_for(hasty.load("1"), 60)
    assert 3 < throttle.seen["GetItem"] < 40, "with pauses between"


async def test_forgetting_with_a_lost_answer_says_that_there_was_something(
    proxied: DynamodbStore, throttle: Throttle
) -> None:
    await proxied.commit("1", Changes(state={"a": b"1"}), expect=0)
    throttle.reset()
    throttle.before = lambda operation: throttle.lose_answers(operation == "UpdateItem")
    forgetting = asyncio.create_task(proxied.forget("1"))
    while throttle.seen["UpdateItem"] < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    throttle.before = lambda _: None
    throttle.lose_answers(0)
    assert await forgetting is True
    assert (await proxied.load("1")).is_empty


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("AccessDeniedException", "these credentials do not permit dynamodb:GetItem"),
        ("UnrecognizedClientException", "check AWS_ACCESS_KEY_ID"),
        ("InvalidSignatureException", "check AWS_SECRET_ACCESS_KEY"),
        ("ExpiredTokenException", "have expired"),
        ("NewException", r"DynamoDB refuses \(NewException\)"),
    ],
)
async def test_what_is_refused_for_good_is_not_asked_again(
    proxied: DynamodbStore, throttle: Throttle, error: str, reason: str
) -> None:
    throttle.refuse_next(error)
    with pytest.raises(StateUnavailable, match=f"^user 1: .*{reason}"):
        await proxied.load("1")
    assert throttle.seen == {"GetItem": 1}
