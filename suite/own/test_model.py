"""The kit's language model: it says what it is told to, fails as it is told to, and takes no half calls."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession
from orjson import loads

from suite.support.model import Call, ModelServer, Step, orphans_in, results_in, said_last
from suite.torture.test_model import problems_of

pytestmark = pytest.mark.clause("kit.model")

CALLED = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}, {"id": "2"}]}
RESULTS = [{"role": "tool", "tool_call_id": each, "content": f"r{each}"} for each in ("2", "1")]
USER = {"role": "user", "content": [{"type": "text", "text": "hi"}]}


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as model:
        yield model


async def ask(model: ModelServer, *messages: dict[str, Any], **more: Any) -> tuple[int, str]:
    body = {"model": "m", "messages": messages or [USER], **more}
    async with (
        ClientSession() as http,
        http.post(f"{model.url}/chat/completions", json=body) as response,
    ):
        return response.status, await response.text()


async def test_it_says_what_it_is_told_to(model: ModelServer) -> None:
    model.then("first", Step("second", calls=[Call("tool", {"a": 1})]))
    said = [loads((await ask(model))[1])["choices"][0]["message"] for _ in range(3)]
    assert [each["content"] for each in said] == ["first", "second", "You said: hi"]
    (call,) = said[1]["tool_calls"]
    assert call["function"] == {"name": "tool", "arguments": '{"a": 1}'}
    assert len(model.requests) == 3


async def test_in_pieces_it_says_the_same(model: ModelServer) -> None:
    model.then(Step("a b c", calls=[Call("tool", {"a": 1})]))
    _, text = await ask(model, stream=True, stream_options={"include_usage": True})
    *chunks, usage, end, _ = text.split("\n\n")
    deltas = [loads(chunk.removeprefix("data: "))["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == "a b c"
    calls = [call["function"] for delta in deltas for call in delta.get("tool_calls", ())]
    assert "".join(call["arguments"] for call in calls) == '{"a": 1}'
    assert loads(usage.removeprefix("data: "))["usage"]["total_tokens"] == 5
    assert end == "data: [DONE]"


async def test_it_fails_as_it_is_told_to(model: ModelServer) -> None:
    model.then(Step(status=500), Step(status=429, retry_after=2), Step("x", cut=0), Step("a b c", cut=2))
    assert (await ask(model))[0] == 500
    assert (await ask(model))[0] == 429
    for stream in (False, True):
        with pytest.raises(ClientError):
            await ask(model, stream=stream)


@pytest.mark.parametrize(
    ("messages", "orphans"),
    [
        ([USER, CALLED, *RESULTS], []),
        ([USER, CALLED, RESULTS[0]], ["1"]),
        ([USER, CALLED, RESULTS[0], USER, RESULTS[1]], ["1", "1"]),
        ([USER, *RESULTS], ["2", "1"]),
        ([USER, CALLED, CALLED, *RESULTS], ["1", "2"]),
    ],
)
async def test_calls_have_results(
    model: ModelServer, messages: list[dict[str, Any]], orphans: list[str]
) -> None:
    assert orphans_in(messages) == orphans
    status, text = await ask(model, *messages)
    assert status == (400 if orphans else 200), text
    assert model.orphans == orphans


def test_scripts_go_by_what_was_said_and_returned_last() -> None:
    assert said_last({"messages": [USER, CALLED, *RESULTS]}) == "hi"
    assert results_in({"messages": [CALLED, *RESULTS, USER, CALLED, *RESULTS]}) == ["r2", "r1"]


WRITTEN = ["note 1x0", "mail 1x1", "remind 1x2", "note 1x3"]
STATE = {"notes": ["1x0"], "mails": ["1x1"], "reminded": ["1x2"]}
TEXTS = ["Let me see.\n\n1x0 is done", "1x1 is done", "1x2 is done", "1x2 reminded", "note 1x3 sorry"]


@pytest.mark.clause("kit.torture")
@pytest.mark.parametrize(
    ("state", "texts"),
    [
        ({**STATE, "notes": []}, TEXTS),
        ({**STATE, "notes": ["1x0", "1x0"]}, TEXTS),
        ({**STATE, "notes": ["1x0", "1x3"]}, TEXTS),
        ({**STATE, "mails": ["1x1", "2x1"]}, TEXTS),
        (STATE, TEXTS[1:]),
        (STATE, TEXTS[:-1]),
        (STATE, [*TEXTS, "1x3 is done"]),
        (STATE, [text for text in TEXTS if "reminded" not in text]),
        ({**STATE, "notes": ["1x3", "1x0"]}, [*TEXTS[:-1], "1x3 is done"]),
    ],
)
def test_books_of_agents_with_a_model_notice(state: dict[str, Any], texts: list[str]) -> None:
    assert problems_of(1, WRITTEN, TEXTS, STATE) == []
    assert problems_of(1, WRITTEN, texts, state) != []
