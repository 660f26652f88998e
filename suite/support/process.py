"""A bot in a process of its own, whose agent counts, and a proxy that spreads deliveries over several."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import aiohttp
from aiohttp import web

from suite.bot_api import FakeTelegram
from suite.support import warm
from suite.support.command_line import BOT, environment


class BotProcess:
    """`bot run`; everything it writes goes into one file."""

    def __init__(
        self, folder: Path, telegram: FakeTelegram, module: str = "suite.counting_bot", **settings: str
    ) -> None:
        self._module = module
        self.log = folder / "written.log"
        self._folder = folder
        self._settings = {
            "BOT_TOKEN": telegram.token,
            "TELEGRAM_API_URL": telegram.url,
            "HOST": "127.0.0.1",
            "PORT": "0",
            **settings,
        }

    async def __aenter__(self) -> Self:
        """Start it, and wait until it listens."""
        await self.start()
        while not (line := re.search(r".*listening.*", self.written)):
            assert self.process.returncode is None, self.written
            await asyncio.sleep(0.02)
        port = re.search(r"port\W+(\d+)", line[0])
        assert port, line[0]
        self.url = f"http://127.0.0.1:{port[1]}"
        return self

    async def start(self) -> None:
        """Start it."""
        self._folder.mkdir(exist_ok=True)
        self.log.write_bytes(b"")
        with self.log.open("ab") as output:
            self.process = await warm.start(
                [*BOT[:-1], self._module, "run"],
                cwd=self._folder,
                env=environment(self._folder, **self._settings),
                stdout=output,
                stderr=output,
            )

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    @property
    def written(self) -> str:
        """Everything it has written."""
        return self.log.read_text("utf-8")

    async def stop(self, timeout: float = 60) -> int:
        """Stop it by SIGTERM; its exit code."""
        self.process.terminate()
        return await asyncio.wait_for(self.process.wait(), timeout)

    async def ready(self) -> None:
        """Wait until it is ready."""
        async with aiohttp.ClientSession() as http:
            for _ in range(6_000):
                async with http.get(f"{self.url}/readyz") as response:
                    if response.status == 200:
                        return
                await asyncio.sleep(0.02)
        raise TimeoutError(self.written)

    def memory(self) -> float:
        """Its resident memory now, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        size = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert size
        return int(size[1]) / 1024


@asynccontextmanager
async def spread(telegram: FakeTelegram, targets: list[BotProcess]) -> AsyncIterator[None]:
    """A proxy that hands deliveries to the targets in turn; the list may change meanwhile."""
    turns = itertools.count()

    async def deliver(request: web.Request) -> web.Response:
        target = targets[next(turns) % len(targets)]
        body = await request.read()
        try:
            async with http.post(target.url + request.path, data=body, headers=request.headers) as response:
                passed = {key: response.headers[key] for key in ("Retry-After",) if key in response.headers}
                return web.Response(status=response.status, headers=passed)
        except aiohttp.ClientError:
            return web.Response(status=502)

    app = web.Application()
    app.router.add_post("/{path:.*}", deliver)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    telegram.webhook_address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession() as http:
        yield
        await telegram.stop()
    await runner.cleanup()
