"""Webhooks: one delivery at a time in each lane, again and again until the bot takes it."""

import asyncio
import re
import time
from collections import deque
from dataclasses import KW_ONLY, dataclass, field
from urllib.parse import urlsplit

import aiohttp

from suite.bot_api.call import Call, Json, integer, is_true
from suite.bot_api.errors import ApiError, bad_request
from suite.bot_api.polling import Polling
from suite.bot_api.updates import Owed

WEBHOOK_ACTIVE = (
    "Conflict: can't use getUpdates method while webhook is active; "
    "use deleteWebhook to delete the webhook first"
)


@dataclass(frozen=True)
class Webhook:
    url: str
    secret_token: str
    max_connections: int


@dataclass(eq=False, repr=False)
class Webhooks(Polling):
    """Delivers updates to the webhook while there is one, else to whoever polls."""

    _: KW_ONLY
    webhook_timeout: float = 60  # for how long an answer to a delivery is awaited
    webhook_address: str | None = None  # "http://127.0.0.1:8081": where the webhook really is
    first_delay: float = 0.05  # before the first redelivery; doubles each time ...
    max_delay: float = 1  # ... up to this
    max_retry_after: float = 1  # cap on the webhook's own Retry-After (Telegram's: 3600)
    allow_http_webhooks: bool = True  # False: https, ports 443, 80, 88, 8443, as in Telegram
    webhook: Webhook | None = field(default=None, init=False)
    last_webhook_error: tuple[int, str] | None = field(default=None, init=False)  # unix time, why

    def __post_init__(self) -> None:
        super().__post_init__()
        self._workers: set[asyncio.Task[None]] = set()
        self._connections = asyncio.Semaphore(1)
        self._session: aiohttp.ClientSession | None = None
        hook = "url certificate ip_address max_connections secret_token drop_pending_updates allowed_updates"
        self.method("setWebhook", hook)(self._set_webhook)
        self.method("deleteWebhook", "drop_pending_updates")(self._delete_webhook)
        self.method("getWebhookInfo", "")(self._webhook_info)

    async def start(self) -> None:
        await super().start()
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._start_delivery()

    async def stop(self) -> None:
        session, self._session = self._session, None
        self._stop_delivery()
        await asyncio.gather(*self._workers, return_exceptions=True)
        if session is not None:
            await session.close()
        await super().stop()

    def _enqueue(self, update: Owed) -> None:
        super()._enqueue(update)
        if self.webhook is not None:
            self._post_later(update)

    async def _get_updates(self, call: Call) -> list[Json]:
        if self.webhook is not None:
            raise ApiError(409, WEBHOOK_ACTIVE)
        return await super()._get_updates(call)

    def _start_delivery(self) -> None:
        if self.webhook is not None:
            self._connections = asyncio.Semaphore(self.webhook.max_connections)
            for update in self._pending:
                self._post_later(update)

    def _stop_delivery(self) -> None:
        """Cuts deliveries under way. Whether the bot got them nobody knows: they stay pending."""
        for worker in self._workers:
            worker.cancel()
        self._lanes.clear()

    def _post_later(self, update: Owed) -> None:
        if self._session is None:
            return  # stopped: start() looks at everything that is pending
        if update.lane in self._lanes:
            self._lanes[update.lane].append(update)
            return
        self._lanes[update.lane] = deque([update])
        worker = asyncio.get_running_loop().create_task(self._work(update.lane))
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    async def _work(self, lane: str) -> None:
        """One delivery at a time, in order; a lane waits while its first update is refused."""
        while self._lanes[lane]:
            update, delay = self._lanes[lane].popleft(), self.first_delay
            while update in self._pending and (retry_after := await self._post(update)) is not None:
                await asyncio.sleep(min(retry_after, self.max_retry_after) or delay)
                delay = min(delay * 2, self.max_delay)
            if update in self._pending:
                self._acknowledge(update)
        del self._lanes[lane]

    async def _post(self, update: Owed) -> float | None:
        """None when the bot took it, else its Retry-After (0: it did not say)."""
        assert self.webhook is not None
        assert self._session is not None
        secret = self.webhook.secret_token
        async with self._connections:
            address = urlsplit(self.webhook.url)
            if self.webhook_address is not None:
                real = urlsplit(self.webhook_address)
                address = address._replace(scheme=real.scheme, netloc=real.netloc)
            self.attempts[update.id] += 1
            try:
                async with self._session.post(
                    address.geturl(),
                    json=self.updates[update.id],
                    headers={"X-Telegram-Bot-Api-Secret-Token": secret} if secret else {},
                    timeout=aiohttp.ClientTimeout(total=self.webhook_timeout),
                    allow_redirects=False,
                ) as response:
                    await response.read()
                    if 200 <= response.status < 300:
                        return None
                    why = f"Wrong response from the webhook: {response.status} {response.reason}"
                    wait = response.headers.get("Retry-After", "")
            except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
                why, wait = f"Webhook connection failed: {type(error).__name__}", ""
            self.last_webhook_error = (int(time.time()), why)
            return float(wait) if wait.isdecimal() else 0

    async def _set_webhook(self, call: Call) -> bool:
        params = call.params
        if not params.get("url"):
            return await self._delete_webhook(call)
        check_webhook_url(params["url"], self.allow_http_webhooks)
        secret = params.get("secret_token", "")
        if len(secret) > 256:
            raise bad_request("secret token is too long")
        if not re.fullmatch(r"[A-Za-z0-9_-]*", secret):
            raise bad_request("secret token contains unallowed characters")
        webhook = Webhook(params["url"], secret, integer(params, "max_connections", 40, 1, 100))
        self._allow(params)
        drop = is_true(params.get("drop_pending_updates", ""))
        if webhook == self.webhook and not drop:
            return True  # "Webhook is already set": deliveries under way go on
        self._abort_poll("Conflict: terminated by setWebhook request")
        self._stop_delivery()
        if drop:
            self._drop(keep=0)
        self.webhook = webhook
        self._start_delivery()
        return True

    async def _delete_webhook(self, call: Call) -> bool:
        self.webhook = None
        self._stop_delivery()
        if is_true(call.params.get("drop_pending_updates", "")):
            self._drop(keep=0)
        return True

    async def _webhook_info(self, call: Call) -> Json:
        info: Json = {"url": "", "has_custom_certificate": False}
        info["pending_update_count"] = len(self._pending)
        if self.allowed_updates is not None:
            info["allowed_updates"] = sorted(self.allowed_updates)
        if self.webhook is not None:
            info |= {"url": self.webhook.url, "max_connections": self.webhook.max_connections}
            if self.last_webhook_error is not None:
                date, why = self.last_webhook_error
                info |= {"last_error_date": date, "last_error_message": why}
        return info


def check_webhook_url(url: str, allow_http: bool) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise bad_request("invalid webhook URL specified") from None
    if not parts.hostname or parts.scheme not in ("http", "https"):
        raise bad_request("invalid webhook URL specified")
    if allow_http:
        return
    if parts.scheme == "http":
        raise bad_request("bad webhook: An HTTPS URL must be provided for webhook")
    if port not in (80, 88, 443, 8443):
        raise bad_request("bad webhook: Webhook can be set up only on ports 80, 88, 443 or 8443")
