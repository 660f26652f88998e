"""The webhook: Telegram's deliveries, each answered 200 only when its update is done."""

import asyncio
import hmac
from typing import Any
from urllib.parse import urlsplit

import orjson
import structlog
from aiogram import Bot
from aiogram.exceptions import (
    ClientDecodeError,
    TelegramAPIError,
    TelegramBadRequest,
    TelegramNotFound,
    TelegramRetryAfter,
    TelegramUnauthorizedError,
)
from aiogram.methods import SetWebhook
from aiohttp import web

from bot.runtime.config import Settings
from bot.runtime.errors import OperatorError
from bot.runtime.telegram.polling import FIRST_BACKOFF, LONGEST_BACKOFF, UNKNOWN_BOT
from bot.runtime.telegram.processor import NotAcknowledged, Processor
from bot.runtime.telegram.updates import parse_update

BODY_LIMIT = 1024 * 1024
"""Most bytes of a delivery. Telegram's are a few KB; a message has at most 4096 characters."""

BODY_SECONDS = 10.0
"""Seconds in which the body of a delivery has to arrive."""

RETRY_AFTER = "5"
"""Seconds after which Telegram shall deliver again."""

SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"

log = structlog.get_logger()


class Webhook:
    """Answers Telegram's deliveries."""

    def __init__(self, bot: Bot, processor: Processor, secret: str) -> None:
        """Make a webhook.

        Args:
            bot: the bot whose updates arrive.
            processor: to hand updates to.
            secret: what each delivery has to bring along.
        """
        self._bot = bot
        self._processor = processor
        self._secret = secret.encode()

    async def deliver(self, request: web.Request) -> web.Response:
        """Deal with one delivery.

        Answers 401 to a wrong secret, 408 to a body that is too slow, 413 to one beyond the limit, 400 to
        what is not an update, 503 to an update that has to be delivered again, and 200 to one that is done.
        """
        given = request.headers.get(SECRET_HEADER, "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._secret):
            log.warning("delivery without the right secret", remote=request.remote)
            return web.Response(status=401)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await request.read()
        except TimeoutError:
            return web.Response(status=408, headers={"Connection": "close"})
        raw = _parse(body)
        if raw is None:
            return web.Response(status=400, text="not an update")
        update = parse_update(self._bot, raw)
        if update is None:
            return web.Response()
        try:
            await self._processor.process(update)
        except NotAcknowledged:
            return web.Response(status=503, headers={"Retry-After": RETRY_AFTER})
        return web.Response()


async def register(bot: Bot, settings: Settings, allowed_updates: list[str]) -> None:
    """Tell Telegram where to deliver. Pending updates are kept.

    Raises:
        OperatorError: Telegram refuses the token or the address.
    """
    method = SetWebhook(
        url=settings.webhook_url or "",
        secret_token=settings.secret,
        allowed_updates=allowed_updates,
        max_connections=settings.webhook_max_connections,
    )
    delay = FIRST_BACKOFF
    while True:
        try:
            await bot(method)
            return
        except (TelegramUnauthorizedError, TelegramNotFound) as error:
            raise OperatorError(UNKNOWN_BOT) from error
        except TelegramBadRequest as error:
            raise OperatorError(f"Telegram refuses WEBHOOK_URL: {error.message}") from error
        except (TelegramAPIError, ClientDecodeError) as error:  # the latter: a page of HTML
            if isinstance(error, TelegramRetryAfter):
                delay = error.retry_after
            log.warning("webhook not registered", reason=error.message, retry_in=delay)
        await asyncio.sleep(delay)
        delay = min(delay * 2, LONGEST_BACKOFF)


def is_same_address(one: str, other: str) -> bool:
    """Whether two addresses lead to the same place. Telegram writes `https://HOST/` for `https://HOST`."""
    parts = [urlsplit(each) for each in (one, other)]
    return len({(part.hostname, part.port or 443, part.path.rstrip("/"), part.query) for part in parts}) == 1


def _parse(body: bytes) -> dict[str, Any] | None:
    """The update, or `None` when the body is not one."""
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(raw, dict) or type(raw.get("update_id")) is not int:
        return None
    return raw
