"""Several processes of one bot, and a proxy that spreads deliveries over them at random."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from suite.bot_api import FakeTelegram
from suite.support import warm
from suite.support.command_line import environment


class Replica:
    """A `bot run` in a process of its own, whose agent counts."""

    def __init__(self, folder: Path, telegram: FakeTelegram, module: str, **settings: str) -> None:
        self.port = 0
        self._module = module
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
        self._process = await warm.start(
            [sys.executable, "-m", self._module, "run"],
            cwd=self._folder,
            env=environment(self._folder, **self._settings),
            stderr=asyncio.subprocess.PIPE,
        )
        assert self._process.stderr
        while b"listening" not in (line := await self._process.stderr.readline()):
            assert line, "it ended"
        self.port = int(line.partition(b"port=")[2])
        self._log = asyncio.create_task(self._process.stderr.read())

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._process.returncode is not None

    async def kill(self) -> None:
        """Kill it with SIGKILL, if it still runs."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._log


@asynccontextmanager
async def replicas(
    count: int,
    folder: Path,
    telegram: FakeTelegram,
    module: str = "suite.counting_bot",
    **settings: str,
) -> AsyncIterator[list[Replica]]:
    """Several processes, killed in the end."""
    running = [Replica(folder, telegram, module, **settings) for _ in range(count)]
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
