"""getUpdates keeps the rules of tdlib/telegram-bot-api."""

import asyncio
import time

import pytest

from suite.bot_api import FakeTelegram
from suite.own.bot_api.client import Call, ids, refused

pytestmark = pytest.mark.clause("kit.telegram")


async def test_offset_confirms_what_is_below(telegram: FakeTelegram, call: Call) -> None:
    a, b, c = (telegram.message(x, user_id=1) for x in "abc")
    assert ids(await call("getUpdates")) == [a, b, c]
    assert telegram.acknowledged == {}
    assert ids(await call("getUpdates", offset=b)) == [b, c]
    assert list(telegram.acknowledged) == [a]
    assert ids(await call("getUpdates", offset=a, limit=1)) == [b]  # a is forgotten
    assert ids(await call("getUpdates", offset=c + 1)) == []
    assert list(telegram.acknowledged) == [a, b, c]
    assert telegram.attempts == {a: 1, b: 3, c: 2}
    assert telegram.dropped == []


async def test_at_most_100_at_once(telegram: FakeTelegram, call: Call) -> None:
    first = telegram.next_update_id
    for _ in range(150):
        telegram.message("x", user_id=1)
    assert ids(await call("getUpdates", offset=first)) == list(range(first, first + 100))
    assert ids(await call("getUpdates", offset=0, limit=7)) == list(range(first, first + 7))
    for limit in (0, 101, "many"):
        refused(await call("getUpdates", limit=limit), 400, "limit")


async def test_the_same_offset_at_once_again_gets_one(telegram: FakeTelegram, call: Call) -> None:
    a, b = (telegram.message(x, user_id=1) for x in "ab")
    assert ids(await call("getUpdates", offset=a)) == [a, b]
    assert ids(await call("getUpdates", offset=a)) == [a]
    await asyncio.sleep(0.51)
    assert ids(await call("getUpdates", offset=a)) == [a, b]


async def test_long_poll(telegram: FakeTelegram, call: Call) -> None:
    began = time.monotonic()
    assert ids(await call("getUpdates", timeout=1)) == []
    assert 0.95 < time.monotonic() - began < 2
    poll = asyncio.create_task(call("getUpdates", offset=1, timeout=50))
    await telegram.wait_for(lambda: len(telegram.calls) == 2)
    assert telegram.calls[1].status == 0
    update_id = telegram.message("x", user_id=1)
    assert ids(await asyncio.wait_for(poll, 1)) == [update_id]


async def test_the_older_poll_is_aborted(telegram: FakeTelegram, call: Call) -> None:
    older = asyncio.create_task(call("getUpdates", timeout=50))
    await telegram.wait_for(lambda: telegram.calls)
    newer = asyncio.create_task(call("getUpdates", offset=1, timeout=50))
    refused(await asyncio.wait_for(older, 1), 409, "Conflict: terminated by other getUpdates")
    update_id = telegram.message("x", user_id=1)
    assert ids(await asyncio.wait_for(newer, 1)) == [update_id]


async def test_no_polling_beside_a_webhook(telegram: FakeTelegram, call: Call) -> None:
    poll = asyncio.create_task(call("getUpdates", timeout=50))
    await telegram.wait_for(lambda: telegram.calls)
    await call("setWebhook", url="http://127.0.0.1:1/")
    refused(await asyncio.wait_for(poll, 1), 409, "Conflict: terminated by setWebhook request")
    refused(await call("getUpdates"), 409, "can't use getUpdates method while webhook is active")
    await call("deleteWebhook")
    assert ids(await call("getUpdates")) == []


async def test_negative_offset(telegram: FakeTelegram, call: Call) -> None:
    a, b, c = (telegram.message(x, user_id=1) for x in "abc")
    assert ids(await call("getUpdates", offset=-4)) == [a, b, c]
    assert ids(await call("getUpdates", offset=-1)) == [c]
    assert telegram.dropped == [a, b]
    assert telegram.acknowledged == {}


async def test_dropping_is_recorded(telegram: FakeTelegram, call: Call) -> None:
    a, b = (telegram.message(x, user_id=1) for x in "ab")
    await call("deleteWebhook")
    await call("deleteWebhook", drop_pending_updates=False)
    assert (telegram.dropped, telegram.drop_requests) == ([], 0)
    await call("deleteWebhook", drop_pending_updates=True)
    assert (telegram.dropped, telegram.drop_requests) == ([a, b], 1)
    assert ids(await call("getUpdates")) == []
    c = telegram.message("c", user_id=1)
    await call("setWebhook", url="http://127.0.0.1:1/", drop_pending_updates="True")
    await call("setWebhook", url="http://127.0.0.1:1/", drop_pending_updates="True")
    assert (telegram.dropped, telegram.drop_requests) == ([a, b, c], 3)
    await telegram.settled(0)


async def test_allowed_updates(telegram: FakeTelegram, call: Call) -> None:
    assert telegram.push({"chat_member": {"from": {"id": 1}}}) == 0  # opt-in
    a = telegram.push({"my_chat_member": {"from": {"id": 1}}})
    poll = await call("getUpdates", allowed_updates=["message", "chat_member"])
    assert ids(poll) == [a]  # made before, so still delivered
    assert telegram.callback("x", user_id=1) == 0
    b = telegram.push({"chat_member": {"from": {"id": 1}}})
    assert b == a + 1  # what was filtered took no id
    assert ids(await call("getUpdates", offset=b)) == [b]  # unset: as it was
    assert telegram.push({"hologram": {}}) == 0
    assert [next(iter(u)) for u in telegram.filtered] == [
        "chat_member",
        "callback_query",
        "hologram",
    ]
    await call("getUpdates", allowed_updates=[])
    assert telegram.callback("x", user_id=1) == b + 1
    for bad in ("message", '"message"', ["mesage"], [["message"]]):
        assert (await call("getUpdates", allowed_updates=bad))[0] == 400
