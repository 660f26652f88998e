"""A Telegram Bot API server for tests, over real HTTP, on this machine.

Any client may talk to it: ``AiohttpSession(api=TelegramAPIServer.from_base(telegram.url))`` in
this process, or a bot in another process that is killed half way. It keeps Telegram's rules on
delivery (tdlib/telegram-bot-api is the model), is strict about what it is sent, and fails on
demand.

    async with FakeTelegram() as telegram:
        update_id = telegram.message("hello", user_id=1)   # ... the bot under test runs ...
        await telegram.settled()
        assert telegram.texts(1) == ["Hello!"]

All times are in seconds. Nothing is forgotten by ``stop()``: ``start()`` goes on from there.
"""

import asyncio
import itertools
import json
import random
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from suite.bot_api import (
    ACTIONS,
    ApiError,
    BadGatewayError,
    Call,
    Json,
    bad_request,
    check_webhook_url,
    command_scope,
    formatted,
    integer,
    is_true,
    json_list,
    markup_of,
    read_call,
    shown_markup,
    words,
)

OPT_IN_KINDS = words("chat_member message_reaction message_reaction_count")
KINDS = OPT_IN_KINDS | words(
    """message edited_message channel_post edited_channel_post business_connection business_message
    edited_business_message deleted_business_messages guest_message inline_query
    chosen_inline_result callback_query shipping_query pre_checkout_query purchased_paid_media
    poll poll_answer my_chat_member chat_join_request chat_boost removed_chat_boost managed_bot
    stopped_message_generation subscription"""
)
MESSAGE_KINDS = words("message edited_message channel_post edited_channel_post")
TERMINATED = "Conflict: terminated by other getUpdates request"
CONFLICT = f"{TERMINATED}; make sure that only one bot instance is running"
WEBHOOK_ACTIVE = (
    "Conflict: can't use getUpdates method while webhook is active; "
    "use deleteWebhook to delete the webhook first"
)
QUERY_TOO_OLD = "query is too old and response timeout expired or query ID is invalid"
NOT_MODIFIED = (
    "message is not modified: specified new message content and reply markup are "
    "exactly the same as a current content and reply markup of the message"
)
BLOCKED = "Forbidden: bot was blocked by the user"
DESCRIPTIONS = {400: "Bad Request", 401: "Unauthorized", 403: BLOCKED, 409: CONFLICT}


@dataclass(eq=False)
class Sent:
    """One accepted call that a person sees: messages, edits, answers to pressed buttons."""

    method: str
    params: dict[str, str]
    files: dict[str, bytes]  # file name -> content
    chat_id: int
    message_id: int
    text: str  # as shown, tags gone; of a file its caption
    ok: bool = True  # False: done, but the bot was not told (drop_answer)
    at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Webhook:
    url: str
    secret_token: str
    max_connections: int


@dataclass(eq=False)
class _Update:
    """A delivery still owed. A repeated one (`again`) is shown once, whatever the offset."""

    id: int
    lane: str
    rank: float
    again: bool = False
    shown: bool = False


@dataclass
class _Fault:
    kind: Literal["error", "cut"]
    times: int
    after: int = 0
    error: ApiError = field(default_factory=lambda: ApiError(500, "Internal Server Error"))


Handler = Callable[[Call], Awaitable[Any]]
Method = tuple[str, Handler, frozenset[str]]


@dataclass(eq=False, repr=False)
class FakeTelegram:
    """Telegram, as one bot sees it: settings, then what may be observed, then its own memory."""

    token: str = "42:TEST"  # the part before the colon is the bot's user id
    port: int = 0  # 0 takes a free one, which later starts keep
    _: KW_ONLY
    query_life: float = 150  # for how long a callback query may be answered
    webhook_timeout: float = 60  # for how long an answer to a delivery is awaited
    webhook_address: str | None = None  # "http://127.0.0.1:8081": where the webhook really is
    first_delay: float = 0.05  # before the first redelivery; doubles each time ...
    max_delay: float = 1  # ... up to this
    max_retry_after: float = 1  # cap on the webhook's own Retry-After (Telegram's: 3600)
    allow_http_webhooks: bool = True  # False: https, ports 443, 80, 88, 8443, as in Telegram

    calls: list[Call] = field(default_factory=list, init=False)
    sent: list[Sent] = field(default_factory=list, init=False)
    updates: dict[int, Json] = field(default_factory=dict, init=False)  # all ever made, by id
    acknowledged: dict[int, float] = field(default_factory=dict, init=False)  # id -> monotonic
    attempts: Counter[int] = field(default_factory=Counter, init=False)  # deliveries, by update id
    dropped: list[int] = field(default_factory=list, init=False)  # forgotten at the bot's request
    drop_requests: int = field(default=0, init=False)  # such requests, though nothing was pending
    filtered: list[Json] = field(default_factory=list, init=False)  # not among allowed_updates
    messages: dict[tuple[int, int], Json] = field(default_factory=dict, init=False)  # chat id, id
    commands: dict[tuple[str, str], list[Json]] = field(default_factory=dict, init=False)
    webhook: Webhook | None = field(default=None, init=False)
    allowed_updates: set[str] | None = field(default=None, init=False)
    last_webhook_error: tuple[int, str] | None = field(default=None, init=False)  # unix time, why

    def __post_init__(self) -> None:
        self._methods = self._method_table()
        self._message_ids = itertools.count(1)
        self._next_update_id = random.randint(10**8, 9 * 10**8)
        self._chats: dict[int, Json] = {}
        self._blocked: set[int] = set()
        self._queries: dict[str, tuple[float, Json]] = {}  # not answered yet: made at, message
        self._texts: defaultdict[int, list[str]] = defaultdict(list)
        self._faults: defaultdict[str, deque[_Fault]] = defaultdict(deque)
        self._delays: dict[str, tuple[float, float]] = {}  # method -> seconds, times left

        self._pending: dict[_Update, None] = {}  # in order of delivery
        self._poll: asyncio.Future[None] | None = None  # the long poll that waits
        self._last_poll = (0, float("-inf"))  # its offset, when (monotonic)
        self._lanes: dict[str, deque[_Update]] = {}  # webhook: one delivery at a time in each
        self._workers: set[asyncio.Task[None]] = set()
        self._connections = asyncio.Semaphore(1)
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None

    def _method_table(self) -> dict[str, Method]:
        """Lower-case name -> the name, what does it, the parameters it takes."""
        at = "business_connection_id chat_id "
        markup = "reply_markup parse_mode "
        send = f"""{at} {markup} message_thread_id direct_messages_topic_id disable_notification
            protect_content allow_paid_broadcast message_effect_id suggested_post_parameters
            reply_parameters """
        text = "text entities link_preview_options "
        file = send + "caption caption_entities "
        document = file + "document thumbnail disable_content_type_detection"
        edit = f"{at} message_id inline_message_id reply_markup "
        scope = "scope language_code "
        query = "callback_query_id text show_alert url cache_time"
        hook = "url certificate ip_address max_connections secret_token "
        drop = "drop_pending_updates "
        rows: list[tuple[str, Handler, str]] = [
            ("getMe", self._get_me, ""),
            ("sendMessage", self._send_message, send + text),
            ("sendDocument", self._send_file, document),
            ("sendPhoto", self._send_file, file + "photo show_caption_above_media has_spoiler"),
            ("sendChatAction", self._chat_action, at + "message_thread_id action"),
            ("editMessageText", self._edit_text, edit + text + markup),
            ("editMessageReplyMarkup", self._edit_markup, edit),
            ("deleteMessage", self._delete_message, "chat_id message_id"),
            ("answerCallbackQuery", self._answer_query, query),
            ("setMyCommands", self._set_commands, scope + "commands"),
            ("getMyCommands", self._get_commands, scope),
            ("deleteMyCommands", self._delete_commands, scope),
            ("getUpdates", self._get_updates, "offset limit timeout allowed_updates"),
            ("setWebhook", self._set_webhook, hook + drop + "allowed_updates"),
            ("deleteWebhook", self._delete_webhook, drop),
            ("getWebhookInfo", self._webhook_info, ""),
        ]
        return {name.lower(): (name, do, words(params)) for name, do, params in rows}

    # --- The server ---------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._start_delivery()

    async def stop(self) -> None:
        """Goes away at once, as in an outage: open requests are cut, nothing is forgotten."""
        session, self._session = self._session, None
        self._stop_delivery()
        await asyncio.gather(*self._workers, return_exceptions=True)
        if session is not None and self._runner is not None:
            await session.close()
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _handle(self, request: web.Request) -> web.Response:
        path = re.fullmatch(r"/bot([^/]+)/(\w+)", request.path)
        token, name = path.groups() if path else ("", request.path)
        method = self._methods.get(name.lower())
        call = Call(method[0] if method else name)
        self.calls.append(call)
        try:
            if path and token != self.token:
                raise ApiError(401, "Unauthorized")
            if method is None:
                raise ApiError(404, "Not Found: method not found" if path else "Not Found")
            await read_call(request, call)
            await self._misbehave(call)
            attached = {f for f in call.uploads if f"attach://{f}" in call.params.values()}
            if unknown := (call.params.keys() | call.uploads.keys() - attached) - method[2]:
                raise bad_request(f"{call.method} has no parameter {min(unknown)!r}")
            response = web.json_response({"ok": True, "result": await method[1](call)})
        except ApiError as error:
            response = error.response()
        call.status = response.status
        if call.cut and request.transport is not None:
            request.transport.abort()
        return response

    # --- Traffic from people ------------------------------------------------------------------

    @property
    def next_update_id(self) -> int:
        return self._next_update_id

    @next_update_id.setter
    def next_update_id(self, value: int) -> None:
        """Telegram restarts the ids at random after a quiet week, so only on an empty queue."""
        if self._pending and value < self._next_update_id:
            raise RuntimeError("ids go back only while nothing is pending")
        self._next_update_id = value

    def message(
        self,
        text: str | None,
        *,
        user_id: int,
        chat_id: int | None = None,
        **fields: Any,
    ) -> int:
        """Someone writes, in private or (negative `chat_id`) in a supergroup.

        `fields` are further fields of the Message; None removes one. Returns the update's id, or 0
        when the bot did not ask for messages (so do all that follow).
        """
        chat_id = user_id if chat_id is None else chat_id
        content = {"from": _person(user_id), **_text_fields(text), **fields}
        return self.push({"message": self._new_message(chat_id, content)})

    def channel_post(self, text: str | None, chat_id: int, **fields: Any) -> int:
        """A post in a channel: it has no user."""
        channel = {"id": chat_id, "type": "channel", "title": "Channel"}
        channel = self._chats.setdefault(chat_id, channel)
        content = {"sender_chat": channel, **_text_fields(text), **fields}
        return self.push({"channel_post": self._new_message(chat_id, content)})

    def edit(self, update_id: int, text: str, **fields: Any) -> int:
        """The author changes the message (or channel post) which that update brought."""
        kind, old = self._content(update_id)
        old = {key: value for key, value in old.items() if key != "entities"}
        message = old | _text_fields(text) | {"edit_date": int(time.time())} | fields
        self.messages[message["chat"]["id"], message["message_id"]] = message
        return self.push({f"edited_{kind.removeprefix('edited_')}": message})

    def callback(
        self,
        data: str,
        *,
        user_id: int,
        message: Sent | int | None = None,
        chat_id: int | None = None,
    ) -> int:
        """Someone presses a button.

        `message` is what the button is under: its id, or what is in `sent`. An unknown id arrives
        as an inaccessible message, as old ones do; for None the bot has just sent one.
        """
        chat_id = user_id if chat_id is None else chat_id
        if isinstance(message, Sent):
            chat_id, message = message.chat_id, message.message_id
        if message is None:
            keyboard = {"inline_keyboard": [[{"text": data, "callback_data": data}]]}
            content = {"from": self._me(), "text": "?", "reply_markup": keyboard}
            under = self._new_message(chat_id, content)
        else:
            gone = {"chat": self._chat(chat_id), "message_id": message, "date": 0}
            under = self.messages.get((chat_id, message), gone)
        query_id = str(random.getrandbits(62))
        self._queries[query_id] = (time.monotonic(), under)
        query = {"id": query_id, "from": _person(user_id), "message": under, "data": data}
        return self.push({"callback_query": query | {"chat_instance": "1"}})

    def press(self, sent: Sent, row: int, column: int, *, user_id: int) -> int:
        """Presses that button of the message as it is now."""
        markup = self.messages[sent.chat_id, sent.message_id]["reply_markup"]
        data: str = markup["inline_keyboard"][row][column]["callback_data"]
        return self.callback(data, user_id=user_id, message=sent)

    def push(self, update_fields: Json) -> int:
        """Any other update: one field, named for its kind, whether the bot knows it or not."""
        ((kind, content),) = update_fields.items()
        allowed = self.allowed_updates
        if (kind in OPT_IN_KINDS) if allowed is None else (kind not in allowed):
            self.filtered.append(update_fields)
            return 0
        update_id = self._next_update_id
        self._next_update_id += 1
        # A copy: what was delivered does not change when the message does.
        self.updates[update_id] = {"update_id": update_id, **json.loads(json.dumps(update_fields))}
        self._enqueue(_Update(update_id, _lane(kind, content, update_id), update_id))
        return update_id

    def block(self, chat_id: int) -> None:
        """From now on everything sent there is 403, until `unblock`."""
        self._blocked.add(chat_id)

    def unblock(self, chat_id: int) -> None:
        self._blocked.discard(chat_id)

    def _content(self, update_id: int) -> tuple[str, Json]:
        """The kind of an update, and what it brings."""
        update = self.updates[update_id]
        (kind,) = update.keys() - {"update_id"}
        return kind, update[kind]

    # --- Faults on demand ---------------------------------------------------------------------

    def fail(
        self,
        method: str,
        *,
        status: int = 500,
        times: int = 1,
        retry_after: int | None = None,
        description: str | None = None,
        after: int = 0,
    ) -> None:
        """Refuses `times` calls of the method, once `after` of them went through.

        Faults of one method queue up: each has its turn when the one before is used up.
        """
        if status == 429:
            retry_after = 1 if retry_after is None else retry_after
            description = description or f"Too Many Requests: retry after {retry_after}"
        description = description or DESCRIPTIONS.get(status, "Internal Server Error")
        error = ApiError(status, description, retry_after)
        self._faults[self._known(method)].append(_Fault("error", times, after, error))

    def bad_gateway(self, method: str, times: int = 1) -> None:
        """Answers 502 with a page of HTML."""
        error = BadGatewayError(502, "Bad Gateway")
        self._faults[self._known(method)].append(_Fault("error", times, error=error))

    def drop_answer(self, method: str, times: int = 1) -> None:
        """Does what is asked, then cuts the connection instead of answering."""
        self._faults[self._known(method)].append(_Fault("cut", times))

    def delay(self, method: str, seconds: float, times: int | None = None) -> None:
        """Waits before doing what is asked, `times` times (None: always; 0 seconds ends it)."""
        self._delays[self._known(method)] = (seconds, float("inf") if times is None else times)

    def repeat(self, update_id: int) -> None:
        """Delivers an update once more, acknowledged or not."""
        lane = _lane(*self._content(update_id), update_id)
        self._enqueue(_Update(update_id, lane, update_id, again=True))

    def reorder(self, seed: int) -> None:
        """Shuffles what is pending: within each answer to getUpdates, within each webhook lane.

        Which updates an answer holds stays as it is: an offset confirms everything below it.
        """
        ranks = [update.rank for update in self._pending]
        random.Random(seed).shuffle(ranks)
        for update, rank in zip(self._pending, ranks, strict=True):
            update.rank = rank
        for lane, queue in self._lanes.items():
            self._lanes[lane] = deque(sorted(queue, key=lambda update: update.rank))

    def _known(self, method: str) -> str:
        return self._methods[method.lower()][0]  # KeyError: no such method here

    async def _misbehave(self, call: Call) -> None:
        seconds, times = self._delays.get(call.method, (0, 0))
        if times > 0:
            self._delays[call.method] = (seconds, times - 1)
            await asyncio.sleep(seconds)
        faults = self._faults[call.method]
        if not faults:
            return
        fault = faults[0]
        if fault.after > 0:
            fault.after -= 1
            return
        fault.times -= 1
        if fault.times <= 0:
            faults.popleft()
        if fault.kind == "error":
            raise fault.error
        call.cut = True

    # --- Observation --------------------------------------------------------------------------

    def texts(self, chat_id: int) -> list[str]:
        """Texts of the messages sent to the chat, in order (edits and captions are in `sent`)."""
        return list(self._texts[chat_id])

    async def settled(self, timeout: float = 30) -> None:
        """Waits until every update was acknowledged; TimeoutError says which were not."""
        try:
            await self.wait_for(lambda: not self._pending, timeout)
        except TimeoutError as error:
            late = [f"{u.id} ({self.attempts[u.id]} attempts)" for u in self._pending]
            shown = ", ".join(late[:20])
            raise TimeoutError(f"{len(late)} updates not acknowledged {error}: {shown}") from None

    async def wait_for(
        self,
        predicate: Callable[[], object],
        timeout: float = 30,
    ) -> None:
        """Looks every 10 ms whether `predicate()` is true; TimeoutError after `timeout`."""
        deadline = time.monotonic() + timeout
        while not predicate():
            if time.monotonic() > deadline:
                raise TimeoutError(f"within {timeout} s")
            await asyncio.sleep(0.01)

    # --- Delivery -----------------------------------------------------------------------------

    def _enqueue(self, update: _Update) -> None:
        self._pending[update] = None
        if self.webhook is not None:
            self._post_later(update)
        elif self._poll is not None and not self._poll.done():
            self._poll.set_result(None)

    def _acknowledge(self, update: _Update) -> None:
        del self._pending[update]
        self.acknowledged.setdefault(update.id, time.monotonic())

    def _drop(self, keep: int) -> None:
        """Forgets all but the last `keep` updates, unread."""
        self.drop_requests += 1
        for update in list(self._pending)[: max(0, len(self._pending) - keep)]:
            del self._pending[update]
            self.dropped.append(update.id)

    def _allow(self, params: dict[str, str]) -> None:
        """Applies to updates made from now on; without the parameter all stays as it was."""
        if "allowed_updates" in params:
            wanted = json_list(params, "allowed_updates")
            if unknown := [kind for kind in wanted if str(kind) not in KINDS]:
                raise bad_request(f"unknown update kind {unknown[0]!r}")
            self.allowed_updates = set(wanted) or None

    async def _get_updates(self, call: Call) -> list[Json]:
        if self.webhook is not None:
            raise ApiError(409, WEBHOOK_ACTIVE)
        offset = integer(call.params, "offset", 0)
        limit = integer(call.params, "limit", 100, 1, 100)
        timeout = integer(call.params, "timeout", 0, 0)
        self._allow(call.params)
        last_offset, last_time = self._last_poll
        self._last_poll = (offset, time.monotonic())
        if offset == last_offset and time.monotonic() < last_time + 0.5:
            limit = 1
        self._abort_poll(CONFLICT)
        if offset < 0:
            self._drop(keep=-offset)
        if offset > self._next_update_id + 10:
            offset = 0  # tdlib: an offset from the future starts at the head and confirms nothing
        self._confirm(offset)
        if timeout and not self._batch(offset, limit):
            await self._long_poll(min(timeout, 50))
        batch = self._batch(offset, limit)
        for update in batch:
            update.shown = True
            self.attempts[update.id] += 1
        return [self.updates[update.id] for update in batch]

    async def _long_poll(self, seconds: float) -> None:
        self._poll = poll = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(poll, seconds)
        except TimeoutError:
            pass
        finally:
            if self._poll is poll:
                self._poll = None

    def _abort_poll(self, description: str) -> None:
        if self._poll is not None and not self._poll.done():
            self._poll.set_exception(ApiError(409, description))

    def _confirm(self, offset: int) -> None:
        while self._pending:
            first = next(iter(self._pending))
            if first.id >= offset or (first.again and not first.shown):
                return
            self._acknowledge(first)

    def _batch(self, offset: int, limit: int) -> list[_Update]:
        owed = (u for u in self._pending if u.id >= offset or (u.again and not u.shown))
        return sorted(itertools.islice(owed, limit), key=lambda update: update.rank)

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

    def _post_later(self, update: _Update) -> None:
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
            while (retry_after := await self._post(update)) is not None:
                await asyncio.sleep(min(retry_after, self.max_retry_after) or delay)
                delay = min(delay * 2, self.max_delay)
            self._acknowledge(update)
        del self._lanes[lane]

    async def _post(self, update: _Update) -> float | None:
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

    # --- Messages -----------------------------------------------------------------------------

    def _me(self) -> Json:
        bot_id = int(self.token.partition(":")[0])
        return {"id": bot_id, "is_bot": True, "first_name": "Test bot", "username": "test_bot"}

    async def _get_me(self, call: Call) -> Json:
        abilities = words(
            """can_join_groups can_read_all_group_messages supports_inline_queries
            can_connect_to_business has_main_web_app"""
        )
        return self._me() | dict.fromkeys(abilities, False)

    def _chat(self, chat_id: int) -> Json:
        if chat_id not in self._chats:
            private = {"id": chat_id, "type": "private", "first_name": f"User {chat_id}"}
            group = {"id": chat_id, "type": "supergroup", "title": f"Group {chat_id}"}
            self._chats[chat_id] = private if chat_id > 0 else group
        return self._chats[chat_id]

    def _new_message(self, chat_id: int, content: Json) -> Json:
        message_id = next(self._message_ids)
        message = {"message_id": message_id, "date": int(time.time()), "chat": self._chat(chat_id)}
        message |= {key: value for key, value in content.items() if value is not None}
        self.messages[chat_id, message_id] = message
        return message

    def _writable(self, call: Call) -> int:
        """The chat id, if the bot may write there."""
        value = call.params.get("chat_id", "")
        if not value:
            raise bad_request("chat_id is empty")
        if not re.fullmatch(r"-?[1-9]\d*", value):
            raise bad_request("chat not found")
        if int(value) in self._blocked:
            raise ApiError(403, BLOCKED)
        return int(value)

    def _own_message(self, call: Call, purpose: str) -> Json:
        chat_id, message_id = self._writable(call), integer(call.params, "message_id", 0)
        message = self.messages.get((chat_id, message_id))
        if message is None:
            raise bad_request(f"message to {purpose} not found")
        if purpose == "edit" and message.get("from") != self._me():
            raise bad_request("message can't be edited")
        return message

    def _record(self, call: Call, message: Json, text: str) -> Json:
        chat_id, message_id = message["chat"]["id"], message["message_id"]
        ok = not call.cut
        sent = Sent(call.method, call.params, call.files, chat_id, message_id, text, ok)
        self.sent.append(sent)
        if call.method == "sendMessage":
            self._texts[chat_id].append(text)
        return message

    async def _send_message(self, call: Call) -> Json:
        chat_id = self._writable(call)
        content = formatted(call.params, "text", 4096)
        message = {"from": self._me(), **content, "reply_markup": shown_markup(call.params)}
        if "message_thread_id" in call.params:
            thread_id = integer(call.params, "message_thread_id", 0, 1)
            message |= {"message_thread_id": thread_id, "is_topic_message": True}
        return self._record(call, self._new_message(chat_id, message), content["text"])

    async def _send_file(self, call: Call) -> Json:
        chat_id = self._writable(call)
        kind = call.method.removeprefix("send").lower()
        name = call.uploads.get(call.params.get(kind, kind).removeprefix("attach://"))
        if name is None:
            raise bad_request(f"there is no {kind} in the request")
        if not call.files[name]:
            raise bad_request("file must be non-empty")
        file_id, size = f"{kind}-{len(self.messages)}", len(call.files[name])
        file: Json = {"file_id": file_id, "file_unique_id": file_id, "file_size": size}
        content = formatted(call.params, "caption", 1024) if "caption" in call.params else {}
        if kind == "document":
            content[kind] = file | {"file_name": name}
        else:
            content[kind] = [file | {"width": 1, "height": 1}]
        message = {"from": self._me(), **content, "reply_markup": shown_markup(call.params)}
        return self._record(call, self._new_message(chat_id, message), content.get("caption", ""))

    async def _chat_action(self, call: Call) -> bool:
        self._writable(call)
        if call.params.get("action") not in ACTIONS:
            raise bad_request("wrong parameter action in request")
        return True

    async def _edit_text(self, call: Call) -> Json:
        message = self._own_message(call, "edit")
        content = formatted(call.params, "text", 4096)
        if "text" not in message:
            raise bad_request("there is no text in the message to edit")
        return self._change(call, message, content)

    async def _edit_markup(self, call: Call) -> Json:
        return self._change(call, self._own_message(call, "edit"))

    def _change(self, call: Call, message: Json, content: Json | None = None) -> Json:
        """Puts new content (None: as it was) and new buttons (none: no buttons) in a message."""
        if (markup := markup_of(call.params)) is not None and "inline_keyboard" not in markup:
            raise bad_request("inline keyboard expected")
        old = {key: value for key, value in message.items() if key != "edit_date"}
        removed = {"reply_markup"} if content is None else {"reply_markup", "entities"}
        new = {key: value for key, value in old.items() if key not in removed} | (content or {})
        if markup and markup["inline_keyboard"]:
            new["reply_markup"] = markup
        if new == old:
            raise bad_request(NOT_MODIFIED)
        new["edit_date"] = int(time.time())
        self.messages[message["chat"]["id"], message["message_id"]] = new
        return self._record(call, new, new.get("text", ""))

    async def _delete_message(self, call: Call) -> bool:
        message = self._own_message(call, "delete")
        del self.messages[message["chat"]["id"], message["message_id"]]
        return True

    async def _answer_query(self, call: Call) -> bool:
        text, query_id = call.params.get("text", ""), call.params.get("callback_query_id", "")
        if len(text) > 200:
            raise bad_request("MESSAGE_TOO_LONG")
        made, message = self._queries.pop(query_id, (float("-inf"), {}))
        if time.monotonic() > made + self.query_life:
            raise bad_request(QUERY_TOO_OLD)
        self._record(call, message, text)
        return True

    async def _set_commands(self, call: Call) -> bool:
        commands = json_list(call.params, "commands")
        if len(commands) > 100:
            raise bad_request("BOT_COMMANDS_TOO_MUCH")
        for command in commands:
            if not isinstance(command, dict) or not {"command", "description"} <= command.keys():
                raise bad_request("can't parse BotCommand")
            if not re.fullmatch(r"[a-z0-9_]{1,32}", str(command["command"])):
                raise bad_request("BOT_COMMAND_INVALID")
            if not 1 <= len(str(command["description"])) <= 256:
                raise bad_request("BOT_COMMAND_DESCRIPTION_INVALID")
        self.commands[command_scope(call.params)] = commands
        return True

    async def _get_commands(self, call: Call) -> list[Json]:
        return self.commands.get(command_scope(call.params), [])

    async def _delete_commands(self, call: Call) -> bool:
        self.commands.pop(command_scope(call.params), None)
        return True


def _lane(kind: str, content: Json, update_id: int) -> str:
    """What reaches a webhook one after another: the messages of a chat, the queries of a user."""
    if kind in MESSAGE_KINDS:
        return f"chat:{content['chat']['id']}"
    owner = content.get("from" if kind == "callback_query" else "chat") or content.get("from") or {}
    return f"{kind}:{owner['id']}" if "id" in owner else f"update:{update_id}"


def _person(user_id: int) -> Json:
    return {"id": user_id, "is_bot": False, "first_name": f"User {user_id}"}


def _text_fields(text: str | None) -> Json:
    """The text and what Telegram marks in it: a command at its start."""
    if text is None:
        return {}
    command = re.match(r"/[A-Za-z0-9_]{1,64}(@\w+)?", text)
    if command is None:
        return {"text": text}
    entity = {"type": "bot_command", "offset": 0, "length": len(command[0])}
    return {"text": text, "entities": [entity]}
