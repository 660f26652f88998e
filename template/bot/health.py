"""The bot's own HTTP server: health, metrics and, in webhook mode, Telegram's deliveries."""

from collections.abc import Callable

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from bot.errors import OperatorError
from bot.state.store import StateError, StateStore

log = structlog.get_logger()


def make_server(
    store: StateStore, is_receiving: Callable[[], bool], *, body_limit: int = 1024
) -> web.Application:
    """Make the server's application with `/healthz`, `/readyz` and `/metrics`.

    Args:
        store: asked for a sign of life by `/readyz`.
        is_receiving: whether updates can come in: the poller polls, or the webhook is registered.
        body_limit: most bytes of a request's body.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def readyz(_: web.Request) -> web.Response:
        faults, numbers = [], None
        try:
            numbers = await store.ping()
        except StateError as error:
            log.warning("store does not answer", reason=str(error))
            faults.append("the store does not answer")
        if not is_receiving():
            faults.append("updates are not coming in")
        status = "not ready" if faults else "ready"
        body = {"status": status, "faults": faults, **(numbers or {})}
        return web.json_response(body, status=503 if faults else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application(client_max_size=body_limit)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


async def listen(app: web.Application, host: str, port: int) -> web.AppRunner:
    """Serve the application.

    Args:
        app: what to serve.
        host: address to listen on.
        port: port to listen on; 0 for any.

    Raises:
        OperatorError: the port is taken.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise OperatorError(f"cannot listen on {host}:{port} ({error.strerror}): set HOST or PORT") from error
    return runner
