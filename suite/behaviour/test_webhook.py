"""The webhook's answers, whatever is sent to it."""

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
import yarl

from bot.runtime import health
from bot.runtime.errors import OperatorError
from bot.runtime.telegram import receiver
from bot.runtime.telegram.receiver import BODY_LIMIT, SECRET_HEADER
from suite.behaviour.test_health import until
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Runtime

pytestmark = pytest.mark.clause("webhook.answers")


@pytest.fixture
async def bot(make_runtime: MakeRuntime) -> AsyncIterator[Runtime]:
    async with make_runtime("webhook") as bot:
        yield bot


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def post(
    http: aiohttp.ClientSession,
    bot: Runtime,
    body: bytes | io.BytesIO,
    *,
    secret: str | None = "",
    path: str = "/telegram",
) -> aiohttp.ClientResponse:
    """Deliver `body`; `secret=""` stands for the right one."""
    headers = {} if secret is None else {SECRET_HEADER: secret or bot.settings.secret}
    return await http.post(f"http://127.0.0.1:{bot.port}{path}", data=body, headers=headers)


def update(update_id: int = 7, **event: Any) -> bytes:
    """The body of a delivery."""
    return json.dumps({"update_id": update_id, **event}).encode()


async def test_it_is_registered_as_set(bot: Runtime, telegram: FakeTelegram) -> None:
    await telegram.wait_for(lambda: telegram.webhook)
    assert telegram.webhook
    assert telegram.webhook.url == "https://bot.example/telegram"
    assert telegram.webhook.secret_token == bot.settings.secret
    assert telegram.webhook.max_connections == 40
    assert telegram.allowed_updates == {"message", "callback_query", "stopped_message_generation"}
    assert telegram.drop_requests == 0


@pytest.mark.parametrize("secret", [None, "wrong", "ключ", "a" * 4_000, " "], ids=ascii)
async def test_a_wrong_secret(
    bot: Runtime, http: aiohttp.ClientSession, telegram: FakeTelegram, secret: str | None
) -> None:
    chat = {"id": 1, "type": "private", "first_name": "U"}
    person = {"id": 1, "is_bot": False, "first_name": "U"}
    message = {"message_id": 1, "date": 1, "chat": chat, "from": person, "text": "hi"}
    response = await post(http, bot, update(message=message), secret=secret)
    assert response.status == 401
    assert (await bot.record(1)).is_empty
    assert (await post(http, bot, update(message=message))).status == 200
    assert telegram.texts(1) == ["Processed: hi (#1)"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[]", 400),
        (b'"text"', 400),
        (b"{}", 400),
        (b'{"update_id": "7"}', 400),
        (b'{"update_id": true}', 400),
        (b"[" * 100_000, 400),
        (update(), 200),
        (update(kind_of_tomorrow={"x": 1}), 200),
        (update(message={"nonsense": 1}), 200),
        (update(message=None), 200),
        (update(update_id=2**70), 400),
    ],
    ids=lambda value: ascii(value)[:30],
)
async def test_bodies_of_all_kinds(
    bot: Runtime, http: aiohttp.ClientSession, body: bytes, status: int
) -> None:
    assert (await post(http, bot, body)).status == status


async def test_a_body_beyond_the_limit(bot: Runtime, http: aiohttp.ClientSession) -> None:
    assert (await post(http, bot, io.BytesIO(b" " * (BODY_LIMIT + 1)))).status == 413


async def test_a_body_that_is_too_slow(bot: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "BODY_SECONDS", 0.3)
    head = (
        f"POST /telegram HTTP/1.1\r\nHost: bot.example\r\n{SECRET_HEADER}: {bot.settings.secret}\r\n"
        "Content-Length: 100\r\n\r\n"
    )
    assert (await dripped(bot, head + "{")).startswith(b"HTTP/1.1 408 ")


async def test_a_head_that_is_too_slow(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "KEEPALIVE_SECONDS", 0.5)
    async with make_runtime("webhook") as bot:
        slow = [dripped(bot, start) for start in ("", "POST /telegram HTTP/1.1\r\nX: ")]
        answers = asyncio.gather(*slow)
        telegram.message("hi", user_id=1)
        await telegram.settled()
        assert not any(answer.startswith(b"HTTP/1.1 200") for answer in await answers)
        assert telegram.texts(1) == ["Processed: hi (#1)"]


async def dripped(bot: Runtime, start: str) -> bytes:
    """What the bot answers to a request of which a byte comes now and then, until it has had enough."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bot.port)
    writer.write(start.encode())
    received = b""

    async def receive() -> None:
        nonlocal received
        with suppress(ConnectionError):  # whoever writes to what is closed is told so, after the answer
            while chunk := await reader.read(2**16):
                received += chunk

    answer = asyncio.create_task(receive())
    async with asyncio.timeout(60):
        while not answer.done():
            if start:
                writer.write(b"x")
            await asyncio.sleep(0.02)
    writer.close()
    return received


async def test_a_hundred_connections_at_once(bot: Runtime, telegram: FakeTelegram) -> None:
    chat = {"id": 1, "type": "private", "first_name": "U"}
    person = {"id": 1, "is_bot": False, "first_name": "U"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def deliver(number: int) -> int:
            who = {"chat": {**chat, "id": number}, "from": {**person, "id": number}}
            message = {"message_id": 1, "date": 1, **who, "text": "sleep 0.5"}
            return (await post(http, bot, update(number, message=message))).status

        started = time.monotonic()
        assert await asyncio.gather(*map(deliver, range(1, 101))) == [200] * 100
        assert time.monotonic() - started < 25, "beside one another, not one after the other in 50 s"
    assert all(telegram.texts(number) == ["Processed: sleep 0.5 (#1)"] for number in range(1, 101))


async def test_other_paths_and_methods(bot: Runtime, http: aiohttp.ClientSession) -> None:
    for path in ("/", "/telegram/", "/telegram/more", "//telegram", "/Telegram"):
        assert (await post(http, bot, update(), path=path)).status == 404
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
        assert (await http.request(method, f"http://127.0.0.1:{bot.port}/telegram")).status == 405


async def test_a_delivery_during_shutdown_is_put_off(
    make_runtime: MakeRuntime, telegram: FakeTelegram, http: aiohttp.ClientSession
) -> None:
    bot = await make_runtime("webhook").start()
    slow = telegram.message("sleep 1", user_id=1)
    await telegram.wait_for(lambda: telegram.attempts[slow])
    await asyncio.sleep(0.2)  # it is on its way
    bot._stop.set()
    late = telegram.message("hi", user_id=2)
    await telegram.wait_for(lambda: telegram.attempts[late])
    response = await post(http, bot, update(1_000))
    assert response.status == 503
    assert response.headers["Retry-After"] == "5"
    await bot.ended()
    assert slow in telegram.acknowledged
    assert late not in telegram.acknowledged
    async with bot:
        await telegram.settled()
    assert telegram.texts(2) == ["Processed: hi (#1)"]


async def test_telegram_that_gives_up_waiting_meets_the_same_work(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    telegram.webhook_timeout = 0.3
    async with make_runtime("webhook") as bot:
        update_id = telegram.message("sleep 1", user_id=1)
        await telegram.settled()
        assert telegram.attempts[update_id] > 1
        assert telegram.texts(1) == ["Processed: sleep 1 (#1)"]
        assert (await bot.record(1)).state["message_count"] == 1


async def test_health(bot: Runtime, http: aiohttp.ClientSession, telegram: FakeTelegram) -> None:
    base = f"http://127.0.0.1:{bot.port}"
    await telegram.wait_for(lambda: telegram.webhook)
    telegram.message("hi", user_id=1)
    await telegram.settled()
    assert (await http.get(f"{base}/healthz")).status == 200
    await until(http, bot, "/readyz", 200)
    metrics = await (await http.get(f"{base}/metrics")).text()
    assert 'bot_updates_total{kind="message",outcome="handled"}' in metrics
    assert telegram.token not in metrics


async def test_not_ready_until_updates_can_come_in(
    make_runtime: MakeRuntime, telegram: FakeTelegram, http: aiohttp.ClientSession
) -> None:
    telegram.fail("setWebhook", status=500, times=1)
    telegram.bad_gateway("setWebhook")
    async with make_runtime("webhook") as bot:
        response = await http.get(f"http://127.0.0.1:{bot.port}/readyz")
        assert response.status == 503
        assert "updates are not coming in" in await response.text()
        await until(http, bot, "/readyz", 200)
        assert telegram.webhook


@pytest.mark.parametrize("trouble", ["slow", "limited", "a page of HTML"])
async def test_ready_also_when_the_commands_cannot_be_announced(
    make_runtime: MakeRuntime,
    telegram: FakeTelegram,
    http: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    monkeypatch.setattr(receiver, "ANNOUNCE_SECONDS", 0.3)
    if trouble == "slow":
        telegram.delay("setMyCommands", 60)
    elif trouble == "limited":
        telegram.fail("setMyCommands", status=429, times=10)
    else:
        telegram.bad_gateway("setMyCommands", times=10)
    async with make_runtime("webhook") as bot:
        await until(http, bot, "/readyz", 200)
        assert not telegram.commands


async def test_an_address_telegram_refuses_ends_the_bot(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    telegram.allow_http_webhooks = False
    bot = make_runtime("webhook", webhook_url="http://bot.example/telegram")
    with pytest.raises(OperatorError, match="refuses WEBHOOK_URL"):
        async with bot:
            await bot.ended()


async def test_a_port_that_is_taken(make_runtime: MakeRuntime, bot: Runtime) -> None:
    with pytest.raises(OperatorError, match="set HOST or PORT"):
        await make_runtime("webhook", port=bot.port).start()


@pytest.mark.parametrize("path", ["/a%20b", "/%D0%BA", "/%2B%3F", "/a%2Fb", "/~x/:y"])
async def test_a_path_that_is_not_plain(
    make_runtime: MakeRuntime, http: aiohttp.ClientSession, path: str
) -> None:
    """Telegram delivers to the address as it was registered; whoever writes it another way means the same."""
    async with make_runtime("webhook", webhook_url=f"https://bot.example{path}") as bot:
        url = yarl.URL(f"http://127.0.0.1:{bot.port}{path}", encoded=True)
        async with http.post(url, data=update(), headers={SECRET_HEADER: bot.settings.secret}) as response:
            assert response.status == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_encoded_as_it_says(
    bot: Runtime, http: aiohttp.ClientSession, encoding: str
) -> None:
    headers = {SECRET_HEADER: bot.settings.secret, "Content-Encoding": encoding}
    url = f"http://127.0.0.1:{bot.port}/telegram"
    async with http.post(url, data=b"nonsense", headers=headers, skip_auto_headers=[]) as response:
        assert response.status == 400
