"""The agent with a model, against a server on this machine that stands in for the model."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from bot.llm_agent import Agent
from bot.runtime.testing import Chat, Owner


class ImpatientAgent(Agent):
    """Does not wait at all."""

    async def ask(self, messages: list[dict[str, str]]) -> tuple[str, int]:
        raise TimeoutError


class Model:
    """Answers like a chat completions interface, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, str]]] = []
        self.keys: set[str | None] = set()
        self.is_broken = False

    async def answer(self, request: web.Request) -> web.Response:
        body: dict[str, Any] = await request.json()
        self.asked.append(body["messages"])
        self.keys.add(request.headers.get("Authorization"))
        if self.is_broken:
            return web.Response(status=500)
        text = f"{body['model']} heard {len(body['messages'])} messages"
        return web.json_response(
            {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": {"total_tokens": 7}}
        )


@pytest.fixture
async def model(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Model]:
    """A model that listens, and the settings that lead to it."""
    model = Model()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", model.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    monkeypatch.setenv("LLM_URL", f"http://127.0.0.1:{port}/v1")
    monkeypatch.setenv("LLM_MODEL", "stand-in")
    monkeypatch.setenv("LLM_KEY", "a-key-of-ours")
    yield model
    await runner.cleanup()


@pytest.fixture
def owner(request: pytest.FixtureRequest, model: Model) -> Owner:
    """The agent, or the one that a test is parametrized with; the model is there before it starts."""
    return Owner(agent=getattr(request, "param", Agent))


async def test_the_model_is_sent_the_conversation(chat: Chat, model: Model) -> None:
    assert await chat.say("hi") == ["stand-in heard 2 messages"]
    assert await chat.say("again") == ["stand-in heard 4 messages"]
    system, *conversation = model.asked[-1]
    assert system["role"] == "system"
    assert [said["content"] for said in conversation] == ["hi", "stand-in heard 2 messages", "again"]
    assert [said["role"] for said in conversation] == ["user", "assistant", "user"]
    assert (await chat.state())["tokens"] == 14
    assert model.keys == {"Bearer a-key-of-ours"}


async def test_a_model_that_fails_changes_nothing(chat: Chat, model: Model) -> None:
    await chat.say("hi")
    before = await chat.state(), await chat.history()
    model.is_broken = True
    assert len(await chat.say("again")) == 1, "an apology"
    assert (await chat.state(), await chat.history()) == before


async def test_users_have_conversations_of_their_own(chat: Chat) -> None:
    await chat.say("hi")
    assert await chat.person("Bob").say("hi") == ["stand-in heard 2 messages"]


@pytest.mark.parametrize("owner", [ImpatientAgent], indirect=True)
async def test_a_user_who_waits_too_long_is_told_what_to_do(chat: Chat) -> None:
    assert await chat.say("hi") == ["The model takes too long just now. Please ask again in a minute."]
    assert await chat.history() == []
