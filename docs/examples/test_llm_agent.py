"""The agent with a model, against a server on this machine that stands for the model."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientResponseError, web

from bot.llm_agent import Agent
from bot.state.store import StateStore
from tests.e2e.conftest import MakeRuntime
from tests.fake_telegram import FakeTelegram


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
async def agent(model: Model, store: StateStore) -> AsyncIterator[Agent]:
    """The agent over the project's own store."""
    agent = Agent("", store)
    await agent.connect()
    yield agent
    await agent.close()


async def test_the_model_is_sent_the_conversation(agent: Agent, model: Model) -> None:
    assert await agent.handle_message("1", "hi") == "stand-in heard 2 messages"
    await agent.update_user_state("1", "facts", ["likes tea"])
    assert await agent.handle_message("1", "again") == "stand-in heard 4 messages"
    system, *conversation = model.asked[-1]
    assert "likes tea" in system["content"]
    assert [said["content"] for said in conversation] == ["hi", "stand-in heard 2 messages", "again"]
    assert [said["role"] for said in conversation] == ["user", "assistant", "user"]
    assert (await agent.get_user_state("1"))["tokens"] == 14
    assert model.keys == {"Bearer a-key-of-ours"}


async def test_a_model_that_fails_changes_nothing(agent: Agent, model: Model) -> None:
    await agent.handle_message("1", "hi")
    before = await agent.store.load("1")
    model.is_broken = True
    with pytest.raises(ClientResponseError):
        await agent.handle_message("1", "again")
    after = await agent.store.load("1")
    assert (after.state, after.history) == (before.state, before.history)


async def test_users_have_conversations_of_their_own(agent: Agent, model: Model) -> None:
    await agent.handle_message("1", "hi")
    assert await agent.handle_message("2", "hi") == "stand-in heard 2 messages"


async def test_whoever_waits_too_long_is_told_what_to_do(
    agent: Agent, model: Model, make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with make_runtime("webhook", agent_class=ImpatientAgent) as bot:
        telegram.message("hi", user_id=1)
        await telegram.settled()
        assert telegram.texts(1) == ["The model takes too long just now. Please ask again in a minute."]
        assert (await bot.record(1)).history == []
