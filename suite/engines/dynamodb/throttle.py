"""What stands before a server and answers some requests itself, with DynamoDB's own errors in real HTTP."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import aiohttp
from aiohttp import web

STATUS = {"InternalServerError": 500, "ServiceUnavailable": 503}
"""The others are 400."""

TYPE = "com.amazonaws.dynamodb.v20120810#"


class Throttle:
    """Passes requests on, but for those it refuses, or whose answers it loses.

    Attributes:
        port: where it listens, on 127.0.0.1.
        seen: how many requests came, by operation.
        sent: bytes of their bodies, by operation.
        last: what the last one asked for, by operation.
        before: called with each operation before it is passed on.
    """

    def __init__(self, server: Callable[[], str]) -> None:
        """Make it; it does not listen yet.

        Args:
            server: tells the server's URL.
        """
        self._server = server
        self._errors: list[tuple[str, bool]] = []
        self._share = 0.0
        self._error = ""
        self._chance = Random()
        self._answers_to_lose = 0
        self.port = 0
        self.seen: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.last: dict[str, dict[str, Any]] = {}
        self.before: Callable[[str], Any] = lambda _: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def refuse_next(self, *errors: str, is_executed: bool = False) -> None:
        """Answer the next requests with these errors; the server has executed them, or not."""
        self._errors += [(error, is_executed) for error in errors]

    def refuse(self, share: float, error: str, chance: Random) -> None:
        """Refuse a share of all requests, until told otherwise."""
        self._share, self._error, self._chance = share, error, chance

    def refuse_no_more(self) -> None:
        """Pass all requests on."""
        self._share = 0.0

    def lose_answers(self, count: int) -> None:
        """Have the next requests executed, and break the connection instead of answering."""
        self._answers_to_lose = count

    def reset(self) -> None:
        """Count from zero."""
        self.seen.clear()
        self.sent.clear()

    async def start(self) -> None:
        """Listen."""
        app = web.Application(client_max_size=20 * 2**20)
        app.router.add_post("/", self._serve)
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Listen no more."""
        await self._runner.cleanup()
        await self._http.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        operation = request.headers["X-Amz-Target"].partition(".")[2]
        body = await request.read()
        self.seen[operation] += 1
        self.sent[operation] += len(body)
        self.last[operation] = json.loads(body)
        self.before(operation)
        error, is_executed = self._errors.pop(0) if self._errors else ("", True)
        if not error and self._chance.random() < self._share:
            error, is_executed = self._error, self._error in STATUS and self._chance.random() < 0.5
        if not is_executed:
            return self._refusal(error)
        try:
            answer = await self._pass_on(request, body)
        except (aiohttp.ClientError, OSError):
            return self._break(request)
        if self._answers_to_lose:
            self._answers_to_lose -= 1
            return self._break(request)
        return self._refusal(error) if error else answer

    async def _pass_on(self, request: web.Request, body: bytes) -> web.Response:
        kept = {name: value for name, value in request.headers.items() if name.startswith("X-Amz")}
        kept |= {name: request.headers[name] for name in ("Authorization", "Content-Type")}
        async with self._http.post(self._server(), data=body, headers=kept) as response:
            passed = {
                name: value
                for name, value in response.headers.items()
                if name.lower().startswith("x-amz") or name == "Date"
            }
            answer = await response.read()
            kind = response.headers["Content-Type"]
            return web.Response(status=response.status, body=answer, headers={**passed, "Content-Type": kind})

    def _refusal(self, error: str) -> web.Response:
        text = json.dumps({"__type": f"{TYPE}{error}", "message": "Slow down, please."})
        return web.Response(
            status=STATUS.get(error, 400), text=text, content_type="application/x-amz-json-1.0"
        )

    def _break(self, request: web.Request) -> web.Response:
        if request.transport:  # unless the client is gone
            request.transport.abort()
        raise asyncio.CancelledError
