"""The HTTP server: which methods there are, and what goes wrong with them on demand."""

import asyncio
import math
import re
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass, field
from http import HTTPStatus
from typing import Any, Self

from aiohttp import web

from suite.bot_api.call import Call, read_call, words
from suite.bot_api.errors import ApiError, BadGatewayError, bad_request

BLOCKED = "Forbidden: bot was blocked by the user"
TERMINATED = "Conflict: terminated by other getUpdates request"
CONFLICT = f"{TERMINATED}; make sure that only one bot instance is running"
DESCRIPTIONS = {400: "Bad Request", 401: "Unauthorized", 403: BLOCKED, 409: CONFLICT}

Handler = Callable[[Call], Awaitable[Any]]
"""Does what a method is for, and returns its result; raises ApiError."""

Fault = Callable[[Call], Awaitable[None]]
"""Comes before a call is done: may wait, raise ApiError, or set `call.cut`."""


@dataclass(frozen=True)
class Method:
    """A method of the API: its name as documented, what does it, and the parameters it takes (None: any)."""

    name: str
    do: Handler
    parameters: frozenset[str] | None


@dataclass
class Planned:
    """A fault whose turn comes after so many calls went through, for so many calls.

    Attributes:
        felt: the calls that met it so far.
    """

    fault: Fault
    times: int
    after: int = 0
    chat_id: int | None = None
    felt: int = 0

    def concerns(self, call: Call) -> bool:
        return self.chat_id is None or call.params.get("chat_id") == str(self.chat_id)


SHOWING = re.compile(r"(?P<draft>send(Rich)?MessageDraft)|(send(?!ChatAction)|edit|copy)\w+")
"""The methods of which a chat takes so many at a time."""


@dataclass(eq=False, repr=False)
class ApiServer:
    """Answers calls of methods that it was taught.

    Attributes:
        calls: every call, in order.
        limits: how many of them a chat takes in how many seconds, by what that is: "group" and "private", of
            messages that are sent or edited, and "draft". More are 429. Telegram documents 20 a minute for
            groups and one a second for private chats, with bursts; of drafts and edits it says nothing, so
            edits count as messages here. None unless a test says so.
    """

    token: str = "42:TEST"  # the part before the colon is the bot's user id
    port: int = 0  # 0 takes a free one, which later starts keep
    _: KW_ONLY
    calls: list[Call] = field(default_factory=list, init=False)
    limits: dict[str, tuple[int, float]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._methods: dict[str, Method] = {}
        self._faults: defaultdict[str, deque[Planned]] = defaultdict(deque)
        self._delays: dict[str, tuple[float, float]] = {}  # method -> seconds, times left
        self._recent: defaultdict[tuple[str, str], deque[float]] = defaultdict(deque)
        self._runner: web.AppRunner | None = None

    # --- Methods ------------------------------------------------------------------------------

    def method(self, name: str, parameters: str | None = None) -> Callable[[Handler], Handler]:
        """Teaches a method, or another way to do one that is known.

        Args:
            name: as Telegram documents it, such as "sendDice".
            parameters: their names, separated by spaces; a call with any other is refused. None takes all.

        Returns:
            A decorator for what does it.
        """

        def teach(do: Handler) -> Handler:
            known = None if parameters is None else words(parameters)
            self._methods[name.lower()] = Method(name, do, known)
            return do

        return teach

    def methods(self) -> dict[str, Method]:
        """The methods it knows, by their names."""
        return {method.name: method for method in self._methods.values()}

    # --- Faults on demand ---------------------------------------------------------------------

    def fault(
        self, method: str, fault: Fault, *, times: int = 1, after: int = 0, chat_id: int | None = None
    ) -> Planned:
        """Has `times` calls of the method go through `fault`, once `after` of them went well.

        Faults of one method queue up: each has its turn when the one before is used up. One with a `chat_id`
        is left out for calls to other chats. Downloads of files are calls of "downloadFile".
        """
        planned = Planned(fault, times, after, chat_id)
        self._faults[self._known(method)].append(planned)
        return planned

    def fail(
        self,
        method: str,
        *,
        status: int = 500,
        times: int = 1,
        retry_after: int | None = None,
        description: str | None = None,
        after: int = 0,
        chat_id: int | None = None,
    ) -> Planned:
        """Refuses `times` calls of the method (to a chat), once `after` of them went through."""
        if status == 429:
            retry_after = 1 if retry_after is None else retry_after
            description = description or f"Too Many Requests: retry after {retry_after}"
        description = description or DESCRIPTIONS.get(status, "Internal Server Error")
        fault = _raises(ApiError(status, description, retry_after))
        return self.fault(method, fault, times=times, after=after, chat_id=chat_id)

    def bad_gateway(
        self, method: str, times: int = 1, *, status: int = 502, chat_id: int | None = None
    ) -> Planned:
        """Answers 502, or another status, with a page of HTML."""
        error = BadGatewayError(status, HTTPStatus(status).phrase)
        return self.fault(method, _raises(error), times=times, chat_id=chat_id)

    def drop_answer(self, method: str, times: int = 1) -> Planned:
        """Does what is asked, then cuts the connection instead of answering; a download half way through."""
        return self.fault(method, _cuts, times=times)

    def delay(self, method: str, seconds: float, times: int | None = None) -> None:
        """Waits before doing what is asked, `times` times (None: always; 0 seconds ends it)."""
        self._delays[self._known(method)] = (seconds, float("inf") if times is None else times)

    def _known(self, method: str) -> str:
        return self._methods[method.lower()].name  # KeyError: no such method here

    async def _misbehave(self, call: Call) -> None:
        seconds, times = self._delays.get(call.method, (0, 0))
        if times > 0:
            self._delays[call.method] = (seconds, times - 1)
            await asyncio.sleep(seconds)
        faults = self._faults[call.method]
        planned = next((each for each in faults if each.concerns(call)), None)
        if planned is None:
            return
        if planned.after > 0:
            planned.after -= 1
            return
        planned.times -= 1
        planned.felt += 1
        if planned.times <= 0:
            faults.remove(planned)
        await planned.fault(call)

    def _check_flood(self, call: Call) -> None:
        """Refuse what a chat takes no more of for now. What is refused does not count."""
        method, chat = SHOWING.fullmatch(call.method), call.params.get("chat_id", "")
        if not self.limits or not method or not chat:
            return
        kind = "draft" if method["draft"] else "group" if chat.startswith("-") else "private"
        most, seconds = self.limits.get(kind, (math.inf, 0.0))
        recent, now = self._recent[kind, chat], time.monotonic()
        while recent and recent[0] <= now - seconds:
            recent.popleft()
        if len(recent) >= most:
            wait = math.ceil(recent[0] + seconds - now)
            raise ApiError(429, f"Too Many Requests: retry after {wait}", wait)
        recent.append(now)

    # --- The server ---------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_get("/file/bot{token}/{path:.*}", self._serve_file)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Goes away at once, as in an outage: open requests are cut, nothing is forgotten."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _serve(self, request: web.Request) -> web.Response:
        path = re.fullmatch(r"/bot([^/]+)/(\w+)", request.path)
        token, name = path.groups() if path else ("", request.path)
        method = self._methods.get(name.lower())
        call = Call(method.name if method else name)

        async def answer() -> web.Response:
            if path and token != self.token:
                raise ApiError(401, "Unauthorized")
            if method is None or method.name == "downloadFile":
                raise ApiError(404, "Not Found: method not found" if path else "Not Found")
            await read_call(request, call)
            await self._misbehave(call)
            given = call.params.keys() | call.uploads.keys() - call.attached
            if method.parameters is not None and (unknown := given - method.parameters):
                raise bad_request(f"{call.method} has no parameter {min(unknown)!r}")
            self._check_flood(call)
            return web.json_response({"ok": True, "result": await method.do(call)})

        return await self._answered(request, call, answer())

    async def _serve_file(self, request: web.Request) -> web.Response:
        call = Call("downloadFile", {"file_path": request.match_info["path"]})

        async def answer() -> web.Response:
            if request.match_info["token"] != self.token:
                raise ApiError(401, "Unauthorized")
            await self._misbehave(call)
            content: bytes = await self._methods["downloadfile"].do(call)
            if call.cut:
                await _send_half(request, content)
            return web.Response(body=content, content_type="application/octet-stream")

        return await self._answered(request, call, answer())

    async def _answered(
        self, request: web.Request, call: Call, answer: Awaitable[web.Response]
    ) -> web.Response:
        self.calls.append(call)
        try:
            response = await answer
        except ApiError as error:
            response = error.response()
        call.status = response.status
        if call.cut and request.transport is not None:
            request.transport.abort()
        return response


def _raises(error: ApiError) -> Fault:
    async def fault(call: Call) -> None:
        raise error

    return fault


async def _cuts(call: Call) -> None:
    call.cut = True


async def _send_half(request: web.Request, content: bytes) -> None:
    """Begins to answer with the content, so that the client knows how much is missing."""
    response = web.StreamResponse()
    response.content_length = len(content)
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
