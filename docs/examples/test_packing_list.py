"""A group with a packing list."""

import asyncio

import pytest

from bot.packing_list import Agent
from bot.runtime.testing import Chat, Owner


@pytest.fixture
def owner() -> Owner:
    """Have `chat` run this agent in place of the one in `bot/agent.py`."""
    return Owner(agent=Agent)


@pytest.fixture
async def group(chat: Chat) -> Chat:
    """Ann's side of a group."""
    return await chat.group("Trip", "Bob", "Cara")


async def test_all_write_to_one_list(group: Chat) -> None:
    assert await group.say("/pack tent") == ["Ann packs tent. That makes 1."]
    assert await group.person("Bob").say("/pack tent") == ["Ann packs tent already."]
    assert await group.person("Bob").say("/pack stove") == ["Bob packs stove. That makes 2."]
    assert await group.say("/list") == ["tent: Ann\nstove: Bob"]


async def test_nothing_is_lost_when_all_write_at_once(group: Chat) -> None:
    members = [group, group.person("Bob"), group.person("Cara")]
    await asyncio.gather(*(each.say(f"/pack {n}") for n in range(8) for each in members))
    assert sorted((await group.state())["things"]) == [str(n) for n in range(8)]
    packed = [text for text in group.texts if "That makes" in text]
    assert [text.rsplit(" ", 1)[1] for text in packed] == [f"{n}." for n in range(1, 9)]


async def test_what_comes_twice_counts_once(group: Chat) -> None:
    await group.say("/pack tent")
    await group.redeliver()
    assert (await group.state())["things"] == {"tent": "Ann"}


async def test_the_history_tells_who_wrote(group: Chat) -> None:
    await group.say("/pack tent")
    await group.person("Bob").say("/list")
    assert [said.author.name for said in await group.history() if said.author] == ["Ann", "Bob"]


async def test_what_is_said_in_private_stays_there(chat: Chat, group: Chat) -> None:
    await chat.say("/pack a present for Bob")
    assert await group.say("/list") == ["Nothing yet."]
    assert "present" not in str(await group.history())
    assert await chat.say("/list") == ["a present for Bob: Ann"]
