"""A language model on this machine: OpenAI's chat completions over HTTP, which says what a test wants.

Real clients talk to it. As real providers do, it refuses a conversation in which a call of a tool has no
result, or a result has no call, and notes that.
"""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import count
from typing import Any, Self

from aiohttp import web

Json = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """The model wants a tool to be called.

    Attributes:
        name: of the tool.
        arguments: for it.
        id: of the call; one that nobody has had, when it is empty.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True)
class Step:
    """How the server answers one request.

    Attributes:
        text: what the model says.
        calls: the tools that it calls.
        status: the HTTP status, with which nothing is said unless it is 200.
        retry_after: of a refusal, the header by that name.
        stalls: seconds before it answers.
        pause: seconds between two pieces of a stream.
        cut: pieces after which the connection is dropped; of an answer that is no stream, at once.
    """

    text: str = ""
    _: KW_ONLY
    calls: Sequence[Call] = ()
    status: int = 200
    retry_after: float | None = None
    stalls: float = 0
    pause: float = 0
    cut: int | None = None


Script = Callable[[Json], Step]
"""Chooses the answer to a request."""


def said_last(request: Json) -> str:
    """What the person wrote last."""
    return next(text_of(each) for each in reversed(request["messages"]) if each["role"] == "user")


def results_in(request: Json) -> list[str]:
    """What tools returned since the person wrote last, the first first."""
    results: list[str] = []
    for message in reversed(request["messages"]):
        if message["role"] == "user":
            break
        if message["role"] == "tool":
            results.insert(0, text_of(message))
    return results


def text_of(message: Json) -> str:
    """The text of a message, however the client puts it."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def orphans_in(messages: Sequence[Json]) -> list[str]:
    """The ids of calls that are not followed by their results, and of results without a call before them."""
    orphans, waiting = list[str](), set[str]()
    for message in messages:
        if message["role"] == "tool":
            call = message["tool_call_id"]
            orphans += [] if call in waiting else [call]
            waiting.discard(call)
            continue
        orphans += sorted(waiting)
        waiting = {call["id"] for call in message.get("tool_calls") or ()}
    return orphans + sorted(waiting)


def echo(request: Json) -> Step:
    """Say what the person wrote."""
    return Step(f"You said: {said_last(request)}")


class ModelServer:
    """Answers by what was put into `steps`, one for each request, and then by its script.

    Attributes:
        steps: what it does next.
        requests: what it was asked, as JSON.
        orphans: the ids that `orphans_in` found in requests; these were refused.
        before: waited for before a request is answered; is given its number, from 1.
        url: its address, for clients.
    """

    def __init__(self, script: Script = echo) -> None:
        self.script = script
        self.steps: deque[Step] = deque()
        self.requests: list[Json] = []
        self.orphans: list[str] = []
        self.before: Callable[[int], Awaitable[None]] | None = None
        self._ids = count(1)
        self._came, self._free = asyncio.Event(), asyncio.Event()
        self._free.set()

    async def __aenter__(self) -> Self:
        """Listen."""
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def then(self, *steps: Step | str) -> None:
        """Answer like this next; a text is what the model says."""
        self.steps += [Step(step) if isinstance(step, str) else step for step in steps]

    def hold(self) -> None:
        """Answer nothing until `go_on`."""
        self._free.clear()

    def go_on(self) -> None:
        """Answer what was held."""
        self._free.set()

    async def asked(self, times: int, seconds: float = 30) -> None:
        """Wait until it was asked so many times, all in all."""
        async with asyncio.timeout(seconds):
            while len(self.requests) < times:
                self._came.clear()
                await self._came.wait()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self._came.set()
        if self.before:
            await self.before(len(self.requests))
        if orphans := orphans_in(body["messages"]):
            self.orphans += orphans
            return _refusal(400, f"tool calls and their results do not fit together: {', '.join(orphans)}")
        step = self.steps.popleft() if self.steps else self.script(body)
        step = replace(
            step, calls=[replace(call, id=call.id or f"call_{next(self._ids)}") for call in step.calls]
        )
        await self._free.wait()
        await asyncio.sleep(step.stalls)
        if step.status != 200:
            return _refusal(step.status, "the model is busy", step.retry_after)
        if body.get("stream"):
            return await _stream(request, body, step)
        if step.cut is not None:
            return _drop(request)
        message: Json = {"role": "assistant", "content": step.text or None}
        if step.calls:
            message["tool_calls"] = [_call(call) for call in step.calls]
        choice = {"index": 0, "message": message, "finish_reason": _reason(step), "logprobs": None}
        return web.json_response(
            {**_head(body, "chat.completion"), "choices": [choice], "usage": _usage(body, step)}
        )


async def _stream(request: web.Request, body: Json, step: Step) -> web.StreamResponse:
    """The same in pieces."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    with suppress(ConnectionError):  # whoever asked is gone
        await response.prepare(request)
        for number, choice in enumerate(_pieces(step)):
            if number == step.cut:
                return _drop(request)
            await _send(response, {**_head(body, "chat.completion.chunk"), "choices": [choice]})
            await asyncio.sleep(step.pause)
        if step.cut is not None:
            return _drop(request)
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = {"choices": [], "usage": _usage(body, step)}
            await _send(response, {**_head(body, "chat.completion.chunk"), **usage})
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
    return response


def _pieces(step: Step) -> Iterator[Json]:
    """The pieces of an answer: its words one by one, its calls in two halves each."""

    def piece(delta: Json, reason: str | None = None) -> Json:
        return {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}

    yield piece({"role": "assistant", "content": ""})
    for number, word in enumerate(step.text.split(" ") if step.text else ()):
        yield piece({"content": f" {word}" if number else word})
    for number, call in enumerate(step.calls):
        whole = _call(call)
        arguments = whole["function"]["arguments"]
        half = len(arguments) // 2
        begin = {**whole, "index": number, "function": {"name": call.name, "arguments": arguments[:half]}}
        yield piece({"tool_calls": [begin]})
        yield piece({"tool_calls": [{"index": number, "function": {"arguments": arguments[half:]}}]})
    yield piece({}, _reason(step))


async def _send(response: web.StreamResponse, chunk: Json) -> None:
    await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")


def _drop(request: web.Request) -> web.StreamResponse:
    """Cut the connection."""
    if request.transport:
        request.transport.abort()
    return web.Response()


def _refusal(status: int, message: str, retry_after: float | None = None) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    error = {"message": message, "type": "error", "param": None, "code": None}
    return web.json_response({"error": error}, status=status, headers=headers)


def _head(body: Json, kind: str) -> Json:
    return {"id": "chatcmpl-1", "object": kind, "created": 1764115200, "model": body["model"]}


def _call(call: Call) -> Json:
    function = {"name": call.name, "arguments": json.dumps(dict(call.arguments))}
    return {"id": call.id, "type": "function", "function": function}


def _reason(step: Step) -> str:
    return "tool_calls" if step.calls else "stop"


def _usage(body: Json, step: Step) -> Json:
    """How many words went in and out, which are this model's tokens."""
    read = sum(len(text_of(message).split()) for message in body["messages"])
    said = len(step.text.split()) + len(step.calls)
    return {"prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said}
