"""The agent that a shop calls."""

from datetime import timedelta

import pytest
from aiohttp import ClientSession

from bot.parcel_agent import Agent
from bot.runtime.testing import Chat, Owner

AGENTS: list[Agent] = []


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch) -> Owner:
    monkeypatch.setenv("PARCEL_PORT", "0")
    monkeypatch.setenv("PARCEL_SECRET", "of-the-shop")

    def make(token: str) -> Agent:
        AGENTS.append(Agent(token))
        return AGENTS[-1]

    return Owner(agent=make)


async def test_a_parcel_is_told_of_once(chat: Chat) -> None:
    url = f"http://127.0.0.1:{AGENTS[-1].server.addresses[0][1]}/parcels/1"
    async with ClientSession() as shop:
        for secret, status in (("wrong", 401), ("of-the-shop", 200), ("of-the-shop", 200)):
            headers = {"Authorization": f"Bearer {secret}"}
            async with shop.post(url, json={"number": "A7"}, headers=headers) as response:
                assert response.status == status
    assert await chat.wait(timedelta(0)) == ["Parcel A7 is here."]
    assert await chat.say("parcels?") == ["A7"]
