"""A server of a test's own, which may be stopped, frozen and killed, and a proxy in front of a server."""

import asyncio
import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

from bot.runtime.engines.postgres.dev_server import PostgresDevServer


@cache
def new_data() -> Path:
    """The data of a server that nobody has used, to be copied: that is quicker than making them."""
    folder = Path(tempfile.mkdtemp(prefix="bot-tests-")) / "postgres"
    server = PostgresDevServer(folder)
    server.start_now()
    server.stop_now()
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    return folder


class OwnServer:
    """PostgreSQL in a temporary folder."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bot-tests-")) / "postgres"
        self.folder.parent.chmod(0o711)  # run by root, the server is somebody else's
        subprocess.run(["cp", "-a", new_data(), self.folder], check=True)  # with its owner
        self.embedded = PostgresDevServer(self.folder)
        self.url = self.embedded.start_now()

    @property
    def pid(self) -> int:
        return int((self.folder / "postmaster.pid").read_text().partition("\n")[0])

    def restart(self) -> None:
        """Stop and start it, as an operator does."""
        self.embedded.stop_now()
        self.embedded.start_now()

    def pause(self) -> None:
        """Freeze every process of it for a while, as a machine that swaps or migrates."""
        pids = [self.pid, *self._children()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def crash(self) -> None:
        """Kill it and start it again, which recovers from its log."""
        pids = [self.pid, *self._children()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
        self.embedded.start_now()

    def remove(self) -> None:
        self.embedded.stop_now()
        shutil.rmtree(self.folder.parent)

    def _children(self) -> list[int]:
        import psutil

        return [child.pid for child in psutil.Process(self.pid).children()]


class Proxy:
    """Passes bytes between clients and a server, counts round trips and can lose answers.

    Attributes:
        round_trips: how often a client spoke after the server had.
        url: the server's address by way of this proxy.
    """

    def __init__(self, url: str) -> None:
        self._upstream = url
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._lose_answer_to = b""
        self._meanwhile: Callable[[], Awaitable[object]] | None = None
        self.round_trips = 0
        self.url = ""

    def lose_answer_to(self, part: bytes, meanwhile: Callable[[], Awaitable[object]] | None = None) -> None:
        """Cut the connection when the server answers what holds `part`, once; do `meanwhile` before."""
        self._lose_answer_to, self._meanwhile = part, meanwhile

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        parts = urlsplit(self._upstream)
        user = f"{parts.netloc.rpartition('@')[0] or 'postgres'}@"
        self.url = f"postgresql://{user}127.0.0.1:{port}{parts.path}?sslmode=disable"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self._upstream)
        if folder := parse_qs(parts.query).get("host"):
            return await asyncio.open_unix_connection(f"{folder[0]}/.s.PGSQL.{parts.port or 5432}")
        return await asyncio.open_connection(parts.hostname, parts.port or 5432)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        above, below = await self._connect()
        has_answered = True
        is_losing = False

        async def up() -> None:
            nonlocal has_answered, is_losing
            while data := await reader.read(65_536):
                self.round_trips += has_answered
                has_answered = False
                if self._lose_answer_to and self._lose_answer_to in data:
                    self._lose_answer_to, is_losing = b"", True
                below.write(data)

        async def down() -> None:
            nonlocal has_answered
            while data := await above.read(65_536):
                if is_losing:
                    if self._meanwhile:
                        await self._meanwhile()
                    return
                has_answered = True
                writer.write(data)

        ways = [asyncio.ensure_future(up()), asyncio.ensure_future(down())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            below.close()
            writer.close()
