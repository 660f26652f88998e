"""The model that the settings name: the real package, before a server on this machine."""

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiohttp import web
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError

from bot.runtime.config import SECRETS, Settings, describe_settings, load
from bot.runtime.doctor import diagnose
from bot.runtime.engines.memory.store import MemoryStore
from bot.runtime.errors import OperatorError
from bot.runtime.frameworks.llm import LlmSettings, make_model
from bot.runtime.logs import configure_logs

pytestmark = pytest.mark.clause("settings.model")

KEY = "sk-of-the-owner"


@pytest.fixture
async def server() -> AsyncIterator[str]:
    """Knows one model, and refuses to say anything without the key, which it repeats."""

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            error = {"message": f"not your key: {request.headers.get('Authorization')}"}
            return web.json_response({"error": error}, status=401)
        message = {"role": "assistant", "content": f"{body['model']} says hello"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        about = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        return web.json_response({**about, "choices": [choice], "usage": usage})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is set, not even for this machine."""
    for name in ("LLM_MODEL", "LLM_KEY", "LLM_URL", "LLM_TRACE", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("bot.runtime.doctor.create_store", lambda _: MemoryStore())
    before = set(SECRETS)
    yield
    SECRETS.intersection_update(before)


@pytest.mark.parametrize("name", ["qwen3", "openai-chat:qwen3", "ollama:qwen3"])
async def test_a_server_of_ones_own(server: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for variable, value in {"LLM_MODEL": name, "LLM_URL": server, "LLM_KEY": KEY}.items():
        monkeypatch.setenv(variable, value)
    async with make_model(load(LlmSettings)) as model:
        result = await Agent(model).run("hi")
    assert result.output == "qwen3 says hello"
    assert result.usage.total_tokens == 7


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"LLM_MODEL": "gpt-5"}, "LLM_MODEL names no model that can be used: Unknown model: gpt-5"),
        (
            {"LLM_MODEL": "nobody:gpt-5"},
            "LLM_MODEL names no model that can be used: Unknown provider: nobody",
        ),
        ({"LLM_MODEL": "openai:gpt-5"}, "LLM_KEY is not set, and openai wants a key"),
        ({"LLM_MODEL": "anthropic:x"}, "LLM_KEY is not set, and anthropic wants a key"),
        ({"LLM_DAILY_TOKENS": "-1"}, "LLM_DAILY_TOKENS: "),
    ],
)
async def test_what_is_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], reason: str
) -> None:
    """At the start, in `bot doctor` and in `bot settings`."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OperatorError) as raised:
        load(LlmSettings)
    assert str(raised.value).startswith(f"bad settings: {reason}")
    assert "\n" not in str(raised.value)
    found = [finding async for finding in diagnose(Settings(), "")]
    assert str(raised.value) in [finding.text for finding in found if finding.level == "error"]
    (group,) = (group for group in describe_settings() if group.title.startswith("The language model"))
    problems = [group.problem, *(f"{each.name}: {each.problem}" for each in group.settings)]
    assert any(problem.startswith(reason) for problem in problems)


async def test_doctor_tells_that_there_is_no_model() -> None:
    found = [finding async for finding in diagnose(Settings(), "")]
    assert "LLM_MODEL is not set" in next(each for each in found if each.level == "warning").text


async def test_without_a_model_a_stand_in_repeats() -> None:
    async with Agent(make_model(load(LlmSettings))).run_stream("hi") as run:
        assert (await run.get_output()).endswith("only repeat: hi")


@pytest.mark.parametrize("name", ["LLM_KEY", "OPENAI_API_KEY"])
async def test_a_key_is_in_no_log(
    server: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """Also where the server repeats it, and everything is logged."""

    configure_logs(Settings(log_level="DEBUG", log_content=True))
    wrong = "sk-wrong-and-secret"
    for variable, value in {"LLM_MODEL": "openai-chat:m", "LLM_URL": server, name: wrong}.items():
        monkeypatch.setenv(variable, value)
    async with make_model(load(LlmSettings)) as model:
        with pytest.raises(ModelHTTPError) as raised:
            await Agent(model).run("hi")
    assert wrong in str(raised.value)
    logging.getLogger("somebody").exception("failed", exc_info=raised.value)
    written = "".join(capfd.readouterr())
    assert "401" in written
    assert wrong not in written


@pytest.mark.parametrize("installed", [True, False])
def test_tracing_needs_what_keeps_a_trace(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    """Neither prompts nor answers are in it."""
    monkeypatch.setenv("LLM_TRACE", "true")
    there = {"opentelemetry.sdk"} if installed else set[str]()
    monkeypatch.setattr("bot.runtime.frameworks.llm.find_spec", lambda name: name in there or None)
    asked: list[Any] = []
    monkeypatch.setattr(Agent, "instrument_all", asked.append)
    if not installed:
        with pytest.raises(OperatorError, match="uv add logfire"):
            make_model(load(LlmSettings))
    else:
        make_model(load(LlmSettings))
        (settings,) = asked
        assert not settings.include_content
        assert not settings.include_binary_content
