"""What the tests of the fake Bot API talk to it with, and its other end of a webhook."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from aiohttp import web

Json = dict[str, Any]
Call = Callable[..., Coroutine[Any, Any, tuple[int, Json]]]
"""A plain client: method and parameters -> status and answer."""

Answer = Callable[[Json], Awaitable[web.Response] | web.Response]


@contextlib.asynccontextmanager
async def hook(answer: Answer) -> AsyncIterator[str]:
    """A bot's end of a webhook; yields its address. `answer` gets the update and its headers."""

    async def handle(request: web.Request) -> web.Response:
        result = answer({**await request.json(), "headers": request.headers, "path": request.path})
        return result if isinstance(result, web.Response) else await result

    app = web.Application()
    app.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def ids(answer: tuple[int, Json]) -> list[int]:
    """The ids of the updates that were got."""
    status, body = answer
    assert status == 200, body
    return [update["update_id"] for update in body["result"]]


def refused(answer: tuple[int, Json], status: int, description: str) -> None:
    """The call was refused, in these words."""
    assert answer[0] == answer[1]["error_code"] == status
    assert answer[1]["ok"] is False
    assert description in answer[1]["description"]
