"""Receives updates, by webhook or by long polling: an update is acknowledged only when it is done."""

import asyncio
import hmac
import random
import time
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson
import structlog
from aiogram import Bot
from aiogram.exceptions import (
    ClientDecodeError,
    TelegramAPIError,
    TelegramBadRequest,
    TelegramConflictError,
    TelegramNotFound,
    TelegramRetryAfter,
    TelegramUnauthorizedError,
)
from aiogram.methods import DeleteWebhook, SetWebhook, TelegramMethod
from aiogram.types import BotCommand, BotCommandScopeAllPrivateChats
from aiohttp import web

from bot.runtime import metrics
from bot.runtime.config import Settings
from bot.runtime.errors import OperatorError
from bot.runtime.logs import Outage
from bot.runtime.telegram.calls import run_alongside
from bot.runtime.telegram.processor import NotAcknowledged, Processor
from bot.runtime.telegram.texts import TextTable
from bot.runtime.telegram.updates import LruDict

BODY_LIMIT = 1024 * 1024
"""Most bytes of a delivery. Telegram's are a few KB; a message has at most 4096 characters."""

BODY_SECONDS = 10.0
"""Seconds in which the body of a delivery has to arrive."""

RETRY_AFTER = "5"
"""Seconds after which Telegram shall deliver again."""

SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"

WATCH_SECONDS = 30.0
"""How often Telegram is asked how many updates are pending."""

ANNOUNCE_SECONDS = 5.0
"""How long asking for the bot's name and announcing its commands may take; then the bot goes on without."""

LONG_POLL_SECONDS = 30
SAME_OFFSET_SECONDS = 0.55
"""Telegram answers an offset repeated within 0.5 s with a single update."""
BUSY_SECONDS = 0.05
"""Least time between two requests while updates are being done, whatever the offset."""
CROWDED = 50
"""Unconfirmed updates beyond which none waits for a reply that cannot be sent at the moment."""
FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 30.0
RIVAL_SECONDS = 60.0
"""How long to wait for another poller to go away."""
RIVAL_PAUSE = 2.0

UNKNOWN_BOT = "Telegram does not know this bot: check BOT_TOKEN (and TELEGRAM_API_URL)"

log = structlog.get_logger()


class Receiver:
    """Gets updates from Telegram, by webhook or by long polling."""

    def __init__(
        self, bot: Bot, processor: Processor, settings: Settings, kinds: list[str], texts: TextTable
    ) -> None:
        """Make it; nothing is received yet.

        Args:
            bot: whose updates to receive.
            processor: to hand them to.
            settings: `WEBHOOK_URL` decides between webhook and long polling.
            kinds: the kinds of updates to ask Telegram for.
            texts: the commands to show in Telegram's menu.
        """
        self._bot = bot
        self._processor = processor
        self._settings = settings
        self._kinds = kinds
        self._texts = texts
        self._poller = Poller(bot, processor, kinds)
        self._is_registered = False

    @property
    def is_receiving(self) -> bool:
        """Whether updates can come in."""
        return self._is_registered or self._poller.is_running

    def add_routes(self, server: web.Application) -> None:
        """Have the bot's HTTP server take Telegram's deliveries, in webhook mode."""
        settings = self._settings
        if settings.webhook_url:
            webhook = Webhook(self._processor, settings.secret, settings.webhook_path)
            # Not by the path itself: what is written %XX there matches no route.
            server.router.add_post("/{path:.*}", webhook.deliver)

    async def run(self) -> None:
        """Receive until cancelled.

        Raises:
            OperatorError: Telegram refuses for good.
        """
        try:
            with run_alongside(0, self._watch):
                if self._settings.webhook_url:
                    await self._register_webhook()
                    await asyncio.Event().wait()
                with run_alongside(0, lambda: _announce(self._bot, self._texts)):
                    await self._processor.admission.learn_name()
                    await self._poller.run()
        finally:
            self._is_registered = self._poller.is_running = False

    async def _register_webhook(self) -> None:
        """Tell Telegram everything; then the bot is ready, and may be frozen while nothing comes in."""
        await register(self._bot, self._settings, self._kinds)
        await _announce(self._bot, self._texts)
        self._is_registered = True
        log.info("webhook registered", max_connections=self._settings.webhook_max_connections)

    async def _watch(self) -> None:
        """Ask Telegram, now and then, how many updates wait there and whether it still delivers here."""
        url = self._settings.webhook_url
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                info = await self._bot.get_webhook_info()
            except (TelegramAPIError, ClientDecodeError) as error:
                log.debug("Telegram does not say what is waiting", reason=type(error).__name__)
                continue
            metrics.PENDING.set(info.pending_update_count)
            if url:
                self._is_registered = is_same_address(info.url, url)
                if not self._is_registered:
                    log.warning("another webhook is set, or none: restart the bot to register its own again")

    async def close(self) -> None:
        """Confirm what was done since the last poll."""
        await self._poller.confirm()


class Webhook:
    """Answers Telegram's deliveries."""

    def __init__(self, processor: Processor, secret: str, path: str) -> None:
        """Make a webhook.

        Args:
            processor: to hand updates to.
            secret: the secret that each delivery has to carry.
            path: under which they arrive, as `WEBHOOK_URL` writes it.
        """
        self._path = unquote(path)
        self._processor = processor
        self._secret = secret.encode()

    async def deliver(self, request: web.Request) -> web.Response:
        """Deal with one delivery.

        Answers 404 to another path, 401 to a wrong secret, 408 to a body that is too slow, 413 to one beyond
        the limit, 400 to what is no update or cannot be decoded, 503 to an update that has to be delivered
        again, and 200 to one that is done.
        """
        if unquote(request.rel_url.raw_path) != self._path:
            return web.Response(status=404)
        given = request.headers.get(SECRET_HEADER, "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._secret):
            log.warning("delivery without the right secret", remote=request.remote)
            return web.Response(status=401)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await request.read()
        except TimeoutError:
            return web.Response(status=408, headers={"Connection": "close"})
        except web.RequestPayloadError:
            return web.Response(status=400, text="not encoded as it says", headers={"Connection": "close"})
        raw = _parse(body)
        if raw is None:
            return web.Response(status=400, text="not an update")
        try:
            await self._processor.process_raw(raw)
        except NotAcknowledged:
            return web.Response(status=503, headers={"Retry-After": RETRY_AFTER})
        return web.Response()


class _GetUpdates(TelegramMethod[list[dict[str, Any]]]):
    """`getUpdates`, unparsed: one update that cannot be parsed must not hold back the others."""

    __returning__ = list[dict[str, Any]]
    __api_method__ = "getUpdates"

    offset: int | None = None
    timeout: int = 0
    limit: int | None = None
    allowed_updates: list[str] | None = None


class Poller:
    """Long polling: fetches updates, hands them to the processor, and confirms what is done.

    Telegram takes a requested offset as the confirmation of every update below it, so the offset moves
    only as far as updates are done without a gap. What lies above is delivered again with every request
    and is known by its id. Telegram shows at most 100 unconfirmed updates at a time; when many of them
    are shown, those that are committed wait for their replies no longer, so that one chat that takes none
    does not fill the window.
    """

    def __init__(self, bot: Bot, processor: Processor, allowed_updates: list[str]) -> None:
        """Make a poller.

        Args:
            bot: to fetch with.
            processor: to hand updates to.
            allowed_updates: the kinds to ask Telegram for.
        """
        self._bot = bot
        self._processor = processor
        self._allowed_updates = allowed_updates
        self._tasks: set[asyncio.Task[None]] = set()
        self._window: dict[int, bool] = {}
        self._confirmable: LruDict[bool] = LruDict(1_000)
        self._offset: int | None = None
        self._advanced = asyncio.Event()
        self._rival_since: float | None = None
        self._outage = Outage(
            "updates cannot be fetched: Telegram is asked again", "updates are fetched again"
        )
        self.is_running = False

    async def run(self) -> None:
        """Poll until cancelled.

        Raises:
            OperatorError: the token is refused, or another poller does not go away.
        """
        backoff = FIRST_BACKOFF
        asked_at = answered_at = 0.0
        asked_offset = None
        while True:
            await self._pause(asked_at, answered_at, asked_offset)
            asked_at, asked_offset = time.monotonic(), self._offset
            try:
                fetched = await self._fetch()
            except TelegramAPIError as error:
                self.is_running = False
                await self._recover(error, backoff)
                backoff = min(backoff * 2, LONGEST_BACKOFF)
            except ClientDecodeError:
                self._outage.goes_on(reason="its answer was not understood", retry_in=backoff)
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, LONGEST_BACKOFF)
            else:
                self.is_running = True
                self._rival_since = None
                self._outage.ends()
                backoff = FIRST_BACKOFF
                answered_at = time.monotonic()
                for raw in fetched:
                    self._take(raw)

    async def confirm(self) -> None:
        """Confirm once more what is done, after polling has ended."""
        if self._offset is None:
            return
        try:
            await self._bot(_GetUpdates(offset=self._offset, limit=1), request_timeout=5)
        except (TelegramAPIError, ClientDecodeError) as error:
            log.warning(
                "not confirmed; updates that are delivered again are recognised by their ids",
                reason=error,
            )

    async def _fetch(self) -> list[dict[str, Any]]:
        # The first request, and the first after a failure, does not wait: its answer tells that it works.
        request = _GetUpdates(
            offset=self._offset,
            timeout=LONG_POLL_SECONDS if self.is_running else 0,
            allowed_updates=self._allowed_updates,
        )
        return await self._bot(request, request_timeout=LONG_POLL_SECONDS + 15)

    async def _pause(self, asked_at: float, answered_at: float, asked_offset: int | None) -> None:
        """Wait until another request is worth while: all is done, or the offset moved, or time passed."""
        if not self._window:
            if self._offset == asked_offset:
                await asyncio.sleep(asked_at + SAME_OFFSET_SECONDS - time.monotonic())
            return
        await asyncio.sleep(answered_at + BUSY_SECONDS - time.monotonic())
        while self._window and self._offset == asked_offset:
            self._advanced.clear()
            left = answered_at + SAME_OFFSET_SECONDS - time.monotonic()
            try:
                async with asyncio.timeout(left):
                    await self._advanced.wait()
            except TimeoutError:
                return

    def _take(self, raw: dict[str, Any]) -> None:
        """Begin with an update, unless it is under way or was done while Telegram was answering."""
        update_id: int = raw["update_id"]
        if update_id in self._window or update_id in self._confirmable:
            return
        self._window[update_id] = False
        self._processor.set_crowded(len(self._window) > CROWDED)
        task = asyncio.create_task(self._work(raw))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, raw: dict[str, Any]) -> None:
        try:
            await self._processor.process_raw(raw, keep_trying=True)
        except NotAcknowledged as error:
            log.info("update left to Telegram", update_id=raw["update_id"], reason=str(error))
        else:
            self._finish(raw["update_id"])

    def _finish(self, update_id: int) -> None:
        """Note an update as done and move the offset up to the first that is not."""
        self._window[update_id] = True
        waiting = [each for each, is_done in self._window.items() if not is_done]
        offset = min(waiting) if waiting else max(self._window) + 1
        for each in [each for each in self._window if each < offset]:
            del self._window[each]
            self._confirmable.set(each, True)
        self._processor.set_crowded(len(self._window) > CROWDED)
        if offset != self._offset:
            self._offset = offset
            self._advanced.set()

    async def _recover(self, error: TelegramAPIError, backoff: float) -> None:
        """Wait, repair or give up, depending on the error.

        Raises:
            OperatorError: waiting will not help.
        """
        if isinstance(error, TelegramUnauthorizedError | TelegramNotFound):
            raise OperatorError(UNKNOWN_BOT) from error
        if isinstance(error, TelegramConflictError):
            await self._resolve_conflict(error)
            return
        delay = backoff * random.uniform(0.8, 1.2)
        if isinstance(error, TelegramRetryAfter):
            delay = error.retry_after
        self._outage.goes_on(reason=error, retry_in=round(delay, 1))
        await asyncio.sleep(delay)

    async def _resolve_conflict(self, error: TelegramConflictError) -> None:
        if "webhook" in error.message:
            log.warning("a webhook is still set: removing it, its pending updates are kept")
            try:
                await self._bot(DeleteWebhook(drop_pending_updates=False))
            except TelegramAPIError as failure:
                log.warning("webhook not removed", reason=failure)
                await asyncio.sleep(RIVAL_PAUSE)
            return
        now = time.monotonic()
        self._rival_since = self._rival_since or now
        if now - self._rival_since > RIVAL_SECONDS:
            raise OperatorError(
                "another program polls with this BOT_TOKEN: stop it, or use a token of your own"
            ) from error
        self._outage.goes_on(reason="another program polls with this token")
        await asyncio.sleep(RIVAL_PAUSE)


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
    delay, outage = (
        FIRST_BACKOFF,
        Outage("webhook not registered: Telegram is asked again", "Telegram answers"),
    )
    while True:
        try:
            await bot(method)
            outage.ends()
            return
        except (TelegramUnauthorizedError, TelegramNotFound) as error:
            raise OperatorError(UNKNOWN_BOT) from error
        except TelegramBadRequest as error:
            raise OperatorError(f"Telegram refuses WEBHOOK_URL, set another: {error.message}") from error
        except (TelegramAPIError, ClientDecodeError) as error:  # the latter: a page of HTML
            if isinstance(error, TelegramRetryAfter):
                delay = error.retry_after
            outage.goes_on(reason=error, retry_in=delay)
        await asyncio.sleep(delay)
        delay = min(delay * 2, LONGEST_BACKOFF)


def is_same_address(one: str, other: str) -> bool:
    """Whether two addresses lead to the same place. Telegram writes `https://HOST/` for `https://HOST`."""
    parts = [urlsplit(each) for each in (one, other)]
    return len({(part.hostname, part.port or 443, part.path.rstrip("/"), part.query) for part in parts}) == 1


async def _announce(bot: Bot, texts: TextTable) -> None:
    """Say which bot this is, and show its commands in Telegram's menu, in each language. It works without."""
    try:
        async with asyncio.timeout(ANNOUNCE_SECONDS):
            name = (await bot.me()).username
            log.info("this bot is here", name=f"@{name}", link=f"https://t.me/{name}")
            for number, language in enumerate(texts.texts):
                # The first language is for everybody for whom there is no other.
                code = language.partition("-")[0] if number else None
                for scope in (None, BotCommandScopeAllPrivateChats()):
                    menu = texts.menu(language, is_private=scope is not None)
                    commands = [BotCommand(command=name, description=text) for name, text in menu.items()]
                    await bot.set_my_commands(commands, scope=scope, language_code=code)
    except (TelegramAPIError, ClientDecodeError, TimeoutError) as error:
        log.debug("name and commands not announced", reason=type(error).__name__)


def _parse(body: bytes) -> dict[str, Any] | None:
    """The update, or `None` when the body is not one."""
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(raw, dict) or type(raw.get("update_id")) is not int:
        return None
    return raw
