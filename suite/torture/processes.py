"""The bot's processes, started again when they end, and what spreads deliveries over them."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
from aiohttp import web

from suite.support import warm

ROOT = Path(__file__).resolve().parents[2]

SECRET = "X-Telegram-Bot-Api-Secret-Token"


class BotEnded(Exception):
    """The bot ended where it should have begun to listen; the text has its last words."""


class _Process:
    """One process, from its start to its end. What it says is kept in a file."""

    def __init__(self, process: warm.Process | asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.is_expected_to_end = False
        self.ended = asyncio.create_task(self._follow())

    @property
    def is_listening(self) -> bool:
        return self.port.done() and not self.ended.done()

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def last_words(self) -> str:
        """The last line that it wrote."""
        return self._log.read_text(errors="replace").strip().rpartition("\n")[2]

    async def _follow(self) -> int:
        assert self._process.stderr
        with self._log.open("ab") as log:
            async for line in self._process.stderr:
                log.write(line)
                log.flush()
                if b"listening" in line and not self.port.done():
                    self.port.set_result(int(line.partition(b"port=")[2]))
        return await self._process.wait()


class Replica:
    """A place where the bot runs: whenever its process ends, a supervisor starts another.

    Attributes:
        surprises: how processes ended that nobody had told to end, or that did not end well.
    """

    def __init__(
        self, number: int, command: Sequence[str], folder: Path, settings: Mapping[str, str]
    ) -> None:
        """Make the place; no process runs yet.

        Args:
            number: tells it from others.
            command: what to run, in the project's folder.
            folder: where its processes leave what they say.
            settings: their environment.
        """
        self.number = number
        self.surprises: list[str] = []
        self._command = command
        self._folder = folder
        self._clock = folder / f"clock-{number}"
        self._clock.write_text("0")
        self._settings = settings
        self._starts = itertools.count(1)
        self._one_at_a_time = asyncio.Lock()
        self._process: _Process
        self._supervisor: asyncio.Task[None]

    @property
    def port(self) -> int | None:
        """Where it listens, if it does."""
        return self._process.port.result() if self._process.is_listening else None

    async def start(self) -> None:
        """Start a process, and its supervisor."""
        self._process = await self._launch()
        self._supervisor = asyncio.create_task(self._supervise())

    async def listens(self) -> None:
        """Wait until its first process listens.

        Raises:
            BotEnded: it did not begin.
        """
        process = self._process
        await _until_listening(process)
        if process.ended.done():
            last = process.last_words()
            raise BotEnded(f"the bot ended with {process.ended.result()}: {last} (more is in {self._folder})")

    async def kill(self) -> None:
        """Kill its process with SIGKILL."""
        async with self._one_at_a_time:
            self._process.is_expected_to_end = True
            self._process.send(signal.SIGKILL)
            await asyncio.wait([self._process.ended])

    async def terminate(self) -> None:
        """End its process with SIGTERM."""
        async with self._one_at_a_time:
            await self._end(self._process)

    async def replace(self) -> None:
        """Start a successor; when it listens, end its process with SIGTERM."""
        async with self._one_at_a_time:
            old = self._process
            if old.ended.done():
                return  # the supervisor is about to start its successor
            self._process = await self._launch()
            await _until_listening(self._process)
            await self._end(old)

    async def freeze(self, seconds: float) -> None:
        """Stop its process for a while, as a machine that swaps does."""
        process = self._process
        process.send(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        process.send(signal.SIGCONT)

    def set_clock(self, shift: float) -> None:
        """Set the clock of its processes `shift` seconds ahead of the right time."""
        self._clock.write_text(str(shift))
        if self._process.is_listening:
            self._process.send(signal.SIGUSR1)

    async def stop(self) -> None:
        """End it for good, with SIGTERM."""
        async with self._one_at_a_time:
            self._supervisor.cancel()
            await self._end(self._process)

    async def close(self) -> None:
        """End it for good, with SIGKILL if it still runs."""
        async with self._one_at_a_time:
            self._supervisor.cancel()
        await self.kill()

    async def _launch(self) -> _Process:
        own = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HOME": str(self._folder),
            "NO_COLOR": "1",
            "HOST": "127.0.0.1",
            "PORT": "0",
            "TORTURE_CLOCK": str(self._clock),
        }
        process = await warm.start(
            self._command, cwd=ROOT, env={**own, **self._settings}, stderr=asyncio.subprocess.PIPE
        )
        return _Process(process, self._folder / f"bot-{self.number}-{next(self._starts)}.log")

    async def _end(self, process: _Process) -> None:
        was_listening = process.is_listening
        process.is_expected_to_end = True
        process.send(signal.SIGTERM)
        await asyncio.wait([process.ended])
        code = process.ended.result()
        if was_listening and code != 0:
            self.surprises.append(f"replica {self.number} ended with {code} after SIGTERM")

    async def _supervise(self) -> None:
        while True:
            process = self._process
            await asyncio.wait([process.ended])
            if not process.is_expected_to_end:
                how = process.ended.result()
                self.surprises.append(f"replica {self.number} ended by itself with {how}")
            async with self._one_at_a_time:
                if process is self._process:
                    self._process = await self._launch()


async def _until_listening(process: _Process) -> None:
    await asyncio.wait([process.port, process.ended], return_when=asyncio.FIRST_COMPLETED)


@asynccontextmanager
async def balancer(replicas: Sequence[Replica]) -> AsyncIterator[str]:
    """Passes deliveries to the replicas in turn, and answers 502 for one that is not there; gives its URL."""
    turns = itertools.cycle(replicas)

    async def deliver(request: web.Request) -> web.Response:
        port = next(turns).port
        if port is None:
            return web.Response(status=502)
        headers = {key: value for key, value in request.headers.items() if key in (SECRET, "Content-Type")}
        url = f"http://127.0.0.1:{port}{request.path}"
        try:
            async with http.post(url, data=await request.read(), headers=headers) as response:
                kept = {key: value for key, value in response.headers.items() if key == "Retry-After"}
                return web.Response(status=response.status, headers=kept)
        except (aiohttp.ClientError, OSError):
            return web.Response(status=502)

    app = web.Application()
    app.router.add_post("/{path:.*}", deliver)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


@asynccontextmanager
async def running(count: int, make: Callable[[int], Replica]) -> AsyncIterator[list[Replica]]:
    """Several replicas, killed in the end."""
    replicas: list[Replica] = []
    try:
        for number in range(1, count + 1):
            replica = make(number)
            await replica.start()
            replicas.append(replica)
        await asyncio.gather(*(replica.listens() for replica in replicas))
        yield replicas
    finally:
        await asyncio.gather(*(replica.close() for replica in replicas))
