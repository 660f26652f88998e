"""The bot's own HTTP server: health, metrics and, in webhook mode, Telegram's deliveries."""

import asyncio
import hmac
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from bot.runtime import metrics
from bot.runtime.errors import OperatorError, StateError
from bot.runtime.logs import Outage
from bot.runtime.state.store import StateStore

BEAT_SECONDS = 1.0
LAG_LIMIT = 5.0
"""Seconds by which the event loop may be late before `/healthz` says so."""

READY_SECONDS = 2.0
"""Seconds the store may take to answer `/readyz`."""

KEEPALIVE_SECONDS = 75
"""Seconds a connection may be idle, or take for the head of a request; nginx gives idle ones up after 60."""


class Pulse:
    """Measures how late the event loop is for what it has to do.

    A loop that is stuck answers nothing, which is what a probe's time-out is for. This tells of one that
    comes round, but late: code that blocks, again and again, or too little processor time.
    """

    def __init__(self) -> None:
        """Take it that the loop is on time."""
        self._due = time.monotonic() + BEAT_SECONDS
        self._last = 0.0

    @property
    def lag(self) -> float:
        """Seconds by which the loop was late last, or is late already."""
        return max(self._last, time.monotonic() - self._due)

    async def beat(self) -> None:
        """Measure until cancelled."""
        while True:
            self._due = time.monotonic() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            self._last = max(0.0, time.monotonic() - self._due)
            metrics.LOOP_LAG.observe(self._last)


def make_server(
    store: StateStore, is_receiving: Callable[[], bool], outage: Outage, *, body_limit: int = 1024
) -> web.Application:
    """Make the server's application with `/healthz`, `/readyz` and `/metrics`.

    Args:
        store: checked by `/readyz`.
        is_receiving: whether updates can come in: the poller polls, or the webhook is registered.
        outage: told whether the store answers.
        body_limit: most bytes of a request's body.
    """
    pulse = Pulse()

    async def healthz(_: web.Request) -> web.Response:
        lag = pulse.lag
        status = "alive" if lag < LAG_LIMIT else "late"
        return web.json_response(
            {"status": status, "lag_seconds": round(lag, 3)}, status=200 if status == "alive" else 503
        )

    async def readyz(_: web.Request) -> web.Response:
        faults, numbers = [], None
        try:
            async with asyncio.timeout(READY_SECONDS):
                numbers = await store.ping()
                outage.ends()
        except (StateError, TimeoutError) as error:
            outage.goes_on(reason=str(error) or f"not within {READY_SECONDS} s")
            faults.append("the store does not answer")
        if not is_receiving():
            faults.append("updates are not coming in")
        status = "not ready" if faults else "ready"
        body = {"status": status, "faults": faults, **(numbers or {})}
        return web.json_response(body, status=503 if faults else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def beating(_: web.Application) -> AsyncIterator[None]:
        beat = asyncio.create_task(pulse.beat())
        yield
        beat.cancel()
        with suppress(asyncio.CancelledError):
            await beat

    app = web.Application(client_max_size=body_limit)
    app.cleanup_ctx.append(beating)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


def add_jobs(app: web.Application, run_once: Callable[[], Awaitable[Counter[str]]], secret: str) -> None:
    """Add `POST /jobs`, which does what is due, for platforms that wake a bot up.

    It answers 401 without `Authorization: Bearer <secret>`, and 503 when the store does not answer.

    Args:
        app: the server's application.
        run_once: does what is due; how many jobs ended how.
        secret: what whoever calls it has to know.
    """
    expected = f"Bearer {secret}".encode()

    async def run_jobs(request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, expected):
            return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})
        try:
            outcomes = await run_once()
        except StateError:
            return web.Response(status=503, text="the store does not answer")
        return web.json_response({"jobs": outcomes.total()})

    app.router.add_post("/jobs", run_jobs)


async def listen(app: web.Application, host: str, port: int) -> web.AppRunner:
    """Serve the application.

    Args:
        app: what to serve.
        host: address to listen on.
        port: port to listen on; 0 for any.

    Raises:
        OperatorError: the port is taken.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, keepalive_timeout=KEEPALIVE_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise OperatorError(f"cannot listen on {host}:{port} ({error.strerror}): set HOST or PORT") from error
    return runner
