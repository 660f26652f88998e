"""What a test sees of it."""

import asyncio
import time

import pytest

from suite.bot_api import FakeTelegram
from suite.own.bot_api.client import Call

pytestmark = pytest.mark.clause("kit.telegram")


async def test_settled_says_what_is_missing(telegram: FakeTelegram, call: Call) -> None:
    update_id = telegram.message("x", user_id=1)
    await call("getUpdates")
    with pytest.raises(TimeoutError, match=rf"1 updates .* {update_id} \(1 attempts\)"):
        await telegram.settled(0.05)
    await call("getUpdates", offset=update_id + 1)
    await telegram.settled(0)


async def test_wait_for(telegram: FakeTelegram) -> None:
    with pytest.raises(TimeoutError):
        await telegram.wait_for(lambda: False, 0.02)
    asyncio.get_running_loop().call_later(0.05, telegram.block, 1)
    began = time.monotonic()
    await telegram.wait_for(lambda: 1 in telegram._blocked, 1)
    assert 0.05 <= time.monotonic() - began < 1
