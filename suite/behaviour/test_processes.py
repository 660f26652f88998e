"""Several processes of one bot over one store, killed at any moment."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from bot.runtime.state.store import OperatorStore
from suite.behaviour.test_cli import environment
from suite.fake_telegram import FakeTelegram

pytestmark = pytest.mark.timeout(180)


class Replica:
    """A `bot run` in a process of its own, whose agent counts."""

    def __init__(self, folder: Path, telegram: FakeTelegram, **settings: str) -> None:
        self.port = 0
        self._folder = folder
        self._settings = {
            "BOT_TOKEN": telegram.token,
            "TELEGRAM_API_URL": telegram.url,
            "HOST": "127.0.0.1",
            "PORT": "0",
            **settings,
        }

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "suite.counting_bot",
            "run",
            cwd=self._folder,
            env=environment(self._folder, **self._settings),
            stderr=asyncio.subprocess.PIPE,
        )
        assert self._process.stderr
        while b"listening" not in (line := await self._process.stderr.readline()):
            assert line, "it ended"
        self.port = int(line.partition(b"port=")[2])
        self._log = asyncio.create_task(self._process.stderr.read())

    async def kill(self) -> None:
        """Kill it with SIGKILL, if it still runs."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._log


@asynccontextmanager
async def replicas(
    count: int, folder: Path, telegram: FakeTelegram, **settings: str
) -> AsyncIterator[list[Replica]]:
    """Several processes, killed in the end."""
    running = [Replica(folder, telegram, **settings) for _ in range(count)]
    await asyncio.gather(*(replica.start() for replica in running))
    try:
        yield running
    finally:
        await asyncio.gather(*(replica.kill() for replica in running))


@asynccontextmanager
async def balanced(telegram: FakeTelegram, targets: Sequence[Replica]) -> AsyncIterator[list[int]]:
    """A proxy that passes each delivery to a replica at random; tells how many went to which."""
    taken = [0] * len(targets)

    async def deliver(request: web.Request) -> web.Response:
        number = random.randrange(len(targets))
        url = f"http://127.0.0.1:{targets[number].port}{request.path}"
        try:
            async with http.post(url, data=await request.read(), headers=request.headers) as response:
                taken[number] += response.status == 200
                passed = {key: response.headers[key] for key in ("Retry-After",) if key in response.headers}
                return web.Response(status=response.status, headers=passed)
        except aiohttp.ClientError:
            return web.Response(status=502)

    app = web.Application()
    app.router.add_post("/{path:.*}", deliver)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    telegram.webhook_address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession() as http:
        yield taken
    await runner.cleanup()


@pytest.fixture
async def telegram() -> AsyncIterator[FakeTelegram]:
    async with FakeTelegram(max_retry_after=0.1) as telegram:
        yield telegram


async def test_fifty_quick_messages_of_one_user_split_over_two_processes(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    async with (
        replicas(2, tmp_path, telegram, WEBHOOK_URL="https://bot.example/hook") as two,
        balanced(telegram, two) as taken,
    ):
        await telegram.wait_for(lambda: telegram.webhook, timeout=20)
        for n in range(1, 51):
            telegram.message(f"m{n}", user_id=1)
        await telegram.settled(60)
    assert telegram.texts(1) == [f"Processed: m{n} (#{n})" for n in range(1, 51)]
    assert (await store.load("1")).state == {"last_message": "m50", "message_count": 50}
    assert min(taken) >= 5, "both had their share"


async def test_fifty_messages_of_one_user_in_many_chats_at_once(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    """Telegram orders by chat, so these come to both processes at the same moment."""
    async with (
        replicas(2, tmp_path, telegram, WEBHOOK_URL="https://bot.example/hook") as two,
        balanced(telegram, two) as taken,
    ):
        await telegram.wait_for(lambda: telegram.webhook, timeout=20)
        for n in range(50):
            telegram.message("hi", user_id=1, chat_id=-100 - n)
        await telegram.settled(60)
    said = [text for n in range(50) for text in telegram.texts(-100 - n)]
    assert sorted(said) == sorted(f"Processed: hi (#{n})" for n in range(1, 51))
    assert (await store.load("1")).state["message_count"] == 50
    assert min(taken) >= 5


async def test_a_process_killed_in_mid_window_loses_nothing(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    async with (
        replicas(2, tmp_path, telegram, WEBHOOK_URL="https://bot.example/hook") as two,
        balanced(telegram, two),
    ):
        await telegram.wait_for(lambda: telegram.webhook, timeout=20)
        for n, user in ((n, user) for n in range(1, 11) for user in range(1, 11)):
            telegram.message(f"m{n}", user_id=user)
        await until(telegram, 20)
        await two[0].kill()
        await telegram.settled(60)
    await expect_each_once(telegram, store, users=10, messages=10)


async def test_a_poller_killed_again_and_again_loses_nothing(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    for n, user in ((n, user) for n in range(1, 21) for user in range(1, 21)):
        telegram.message(f"m{n}", user_id=user)
    kills = 0
    while len(telegram.acknowledged) < 400:
        goal = min(len(telegram.acknowledged) + 90, 400)
        async with replicas(1, tmp_path, telegram):
            await until(telegram, goal)
        kills += 1
    assert kills > 2, "this test would not notice"
    await expect_each_once(telegram, store, users=20, messages=20)


async def until(telegram: FakeTelegram, acknowledged: int) -> None:
    """Wait until so many updates are acknowledged, and a moment longer."""
    await telegram.wait_for(lambda: len(telegram.acknowledged) >= acknowledged, timeout=30)
    await asyncio.sleep(random.uniform(0, 0.05))


async def expect_each_once(
    telegram: FakeTelegram, store: OperatorStore, *, users: int, messages: int
) -> None:
    """Every message was counted once; its reply came in order, at least once."""
    for user in range(1, users + 1):
        record = await store.load(str(user))
        assert record.state == {"last_message": f"m{messages}", "message_count": messages}
        said = telegram.texts(user)
        expected = [f"Processed: m{n} (#{n})" for n in range(1, messages + 1)]
        assert list(dict.fromkeys(said)) == expected, "each, in order; some perhaps twice"
