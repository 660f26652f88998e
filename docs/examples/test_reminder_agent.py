"""The agent that reminds."""

from datetime import UTC, datetime, timedelta

import pytest

from bot.reminder_agent import Agent
from bot.runtime.testing import Chat, OperatorStore, Owner, Restart

DAY = timedelta(days=1)


@pytest.fixture
def owner() -> Owner:
    return Owner(agent=Agent)


async def test_it_reminds_at_the_time_that_was_asked_for(chat: Chat) -> None:
    day = (datetime.now(UTC) + 2 * DAY).date()
    assert (await chat.say(f"{day} 12:00 passport"))[0].startswith("I will remind you at 12:00")
    assert await chat.wait(DAY) == []
    assert await chat.wait(2 * DAY) == ["You wanted to think of this: passport"]
    assert await chat.wait(DAY) == []


async def test_where_somebody_is_counts(chat: Chat) -> None:
    await chat.say("zone Asia/Tokyo")
    now = datetime.now(UTC)
    in_tokyo = now + timedelta(hours=9, minutes=5)
    await chat.say(f"{in_tokyo:%Y-%m-%d %H:%M} tea")
    assert await chat.wait(timedelta(minutes=6)) == ["You wanted to think of this: tea"]


async def test_it_writes_every_morning(chat: Chat) -> None:
    now = datetime.now(UTC)
    after_eight = (now + DAY).replace(hour=8, minute=5) - now
    await chat.say("digest")
    assert await chat.wait(after_eight) == ["Good morning, day 1. Nothing has happened."]
    assert await chat.wait(2 * DAY) == ["Good morning, day 2. Nothing has happened."], "not twice"
    job_id = (await chat.state())["digest"]
    assert await chat.say(f"cancel {job_id}") == ["Cancelled."]
    assert await chat.wait(DAY) == []


async def test_a_restart_does_not_matter(chat: Chat, store: OperatorStore, restart: Restart) -> None:
    day = (datetime.now(UTC) + DAY).date()
    await chat.say(f"{day} 12:00 passport")
    await restart()
    assert await chat.wait(2 * DAY) == ["You wanted to think of this: passport"]
