"""The agent whose answers grow, against a server on this machine that stands in for the model."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from bot.runtime.testing import Chat, Owner
from bot.streaming_agent import Agent


class Model:
    """Streams like a chat completions interface."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.was_left = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for piece in ("Once ", "upon ", "a time"):
                content = json.dumps({"choices": [{"delta": {"content": piece}}]})
                await response.write(f"data: {content}\n\n".encode())
                await self.goes_on.wait()
        except asyncio.CancelledError:
            self.was_left = True
            raise
        await response.write(b"data: [DONE]\n\n")
        return response


@pytest.fixture
async def model(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Model]:
    """A model that listens, and the settings that lead to it."""
    model = Model()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", model.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("LLM_URL", f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
    monkeypatch.setenv("LLM_MODEL", "stand-in")
    yield model
    await runner.cleanup()


@pytest.fixture
def owner(model: Model) -> Owner:
    """The agent; the model is there before it starts."""
    return Owner(agent=Agent)


async def test_it_says_what_the_model_says_while_it_says_it(chat: Chat) -> None:
    assert await chat.say("Tell me a story") == ["Once upon a time"]
    assert chat.frames == ["Once ", "Once upon ", "Once upon a time"]
    assert [said.text for said in await chat.history()] == ["Tell me a story", "Once upon a time"]
    assert await chat.state() == {"answers": 1}


async def test_stop_leaves_the_model(chat: Chat, model: Model) -> None:
    model.goes_on.clear()
    saying = asyncio.create_task(chat.say("Tell me a story"))
    while not chat.frames:  # noqa: ASYNC110 - there is nothing to wait for
        await asyncio.sleep(0.01)
    await chat.stop()
    assert await saying == ["Once "]
    async with asyncio.timeout(5):
        while not model.was_left:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
