"""A proxy between a store and its server that counts round trips and cuts connections."""

import asyncio
import ssl
from typing import Self
from urllib.parse import urlsplit


class Proxy:
    """Passes bytes on, as a network does.

    Attributes:
        round_trips: how often the client spoke after the server, or first.
        sent: bytes from the client.
        received: bytes to the client.
        answers_to_lose: how many of the next answers are thrown away, with their connection.
        answers_to_pass: how many are passed on before.
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        target = urlsplit(url)
        self._tls = tls
        self._target = (target.hostname, target.port)
        self.round_trips = 0
        self.sent = 0
        self.received = 0
        self.answers_to_lose = 0
        self.answers_to_pass = 0
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_over = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._is_over.set()
        await asyncio.gather(*self._tasks)
        await self._server.wait_closed()

    def lose_after(self, passed: int, lost: int) -> None:
        """Pass some answers on, and lose some after them."""
        self.answers_to_pass, self.answers_to_lose = passed, lost

    def lead_to(self, url: str) -> None:
        """Lead connections that are opened from now on to another server, as an address that changed does."""
        target = urlsplit(url)
        self._target = (target.hostname, target.port)

    def reset(self) -> None:
        """Count from zero."""
        self.round_trips = self.sent = self.received = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        last = ""

        async def up() -> None:
            nonlocal last
            while chunk := await reader.read(2**20):
                self.round_trips += last != "up"
                self.sent += len(chunk)
                last = "up"
                server_writer.write(chunk)

        async def down() -> None:
            nonlocal last
            while chunk := await server_reader.read(2**20):
                if self.answers_to_pass:
                    self.answers_to_pass -= 1
                elif self.answers_to_lose:
                    self.answers_to_lose -= 1
                    return
                self.received += len(chunk)
                last = "down"
                writer.write(chunk)

        ways = [asyncio.create_task(way) for way in (up(), down(), self._is_over.wait())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        writer.close()
        server_writer.close()
        ends = (writer.wait_closed(), server_writer.wait_closed())
        await asyncio.gather(*ways, *ends, return_exceptions=True)
