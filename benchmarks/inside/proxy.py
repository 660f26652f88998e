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
        round_trips: how often a client spoke after the server, or first.
        port: where it listens, on 127.0.0.1.
    """

    def __init__(self, connect: Connect) -> None:
        """Stand before the server that `connect` reaches."""
        self._connect = connect
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

        async def up() -> None:
            nonlocal spoke_last
            while data := await reader.read(65_536):
                self.sent += len(data)
                self.round_trips += spoke_last == "server"
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
