"""A proxy that counts what a client and a server say to each other."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, Self

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class CountingProxy:
    """Passes bytes on between clients and a server, and counts them.

    Attributes:
        sent: bytes from clients so far.
        received: bytes to clients so far.
        round_trips: how often a client spoke after the server, or first; over HTTP/2, its requests.
        port: where it listens, on 127.0.0.1.
    """

    def __init__(self, connect: Connect, *, is_http2: bool = False) -> None:
        """Stand before the server that `connect` reaches.

        Args:
            connect: makes a connection to it.
            is_http2: whether they speak HTTP/2, where either side has a word in between.
        """
        self._connect = connect
        self._is_http2 = is_http2
        self._tasks: list[asyncio.Task[None]] = []
        self.sent = self.received = self.round_trips = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await self._connect()
        spoke_last: Literal["client", "server"] = "server"
        requests = Http2Requests() if self._is_http2 else None

        async def up() -> None:
            nonlocal spoke_last
            while data := await reader.read(65_536):
                self.sent += len(data)
                self.round_trips += requests.begun_in(data) if requests else spoke_last == "server"
                spoke_last = "client"
                far_writer.write(data)
            far_writer.close()

        async def down() -> None:
            nonlocal spoke_last
            while data := await far_reader.read(65_536):
                self.received += len(data)
                spoke_last = "server"
                writer.write(data)
            writer.close()

        self._tasks += [asyncio.create_task(up()), asyncio.create_task(down())]


class Http2Requests:
    """Counts the requests in what a client of HTTP/2 sends (RFC 9113, section 4.1: frames)."""

    PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    HEAD = 9
    HEADERS = 1

    def __init__(self) -> None:
        """Nothing was sent yet."""
        self._unread = b""
        self._greeted = False

    def begun_in(self, data: bytes) -> int:
        """The requests that begin with the next bytes: each has one frame of type HEADERS."""
        self._unread += data
        if not self._greeted:
            if len(self._unread) < len(self.PREFACE):
                return 0
            self._unread = self._unread.removeprefix(self.PREFACE)
            self._greeted = True
        begun = 0
        while len(self._unread) >= self.HEAD:
            end = self.HEAD + int.from_bytes(self._unread[:3])
            if len(self._unread) < end:
                break
            begun += self._unread[3] == self.HEADERS
            self._unread = self._unread[end:]
        return begun
