"""The network between the bots and a server: a TCP proxy that can be slow, broken, or silent."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, Self

Address = tuple[str, int] | str
"""Host and port, or the path of a Unix socket."""


class Link:
    """Passes on what is sent, each way.

    Attributes:
        port: where the server seems to be, on 127.0.0.1.
        latency: seconds that each packet takes, each way.
    """

    def __init__(self, server: Callable[[], Address]) -> None:
        """Make a link that is not open yet.

        Args:
            server: tells where the server is now.
        """
        self._server = server
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._losses: list[Literal["request", "answer"]] = []
        self.latency = 0.0
        self.port = 0

    def cut(self) -> None:
        """Break every connection, now."""
        for connection in self._connections:
            connection.break_off()

    def lose_requests(self, count: int) -> None:
        """Break the connection of each of the next requests before the server sees it."""
        self._losses += ["request"] * count

    def lose_answers(self, count: int) -> None:
        """Break the connection of each of the next requests when the server answers it."""
        self._losses += ["answer"] * count

    def lose_no_more(self) -> None:
        """Forget what was still to be lost."""
        self._losses.clear()

    def fall_silent(self, deaf: bool) -> None:
        """Pass no more answers on every connection there is, and if `deaf` no requests; none is closed."""
        for connection in self._connections:
            connection.is_mute, connection.is_deaf = True, deaf

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()
        await asyncio.gather(*self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        address = self._server()
        try:
            if isinstance(address, str):
                above, up = await asyncio.open_unix_connection(address)
            else:
                above, up = await asyncio.open_connection(*address)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, up)
        self._connections.add(connection)
        ways = [
            asyncio.create_task(self._pass_up(connection, reader, up)),
            asyncio.create_task(self._pass_down(connection, above, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._connections.discard(connection)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            connection.break_off()

    async def _pass_up(
        self, connection: "_Connection", reader: asyncio.StreamReader, up: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if self._losses:
                    if self._losses.pop() == "request":
                        return
                    connection.loses_answer = True
                await asyncio.sleep(self.latency)
                if not connection.is_deaf:
                    up.write(data)

    async def _pass_down(
        self, connection: "_Connection", above: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await above.read(65_536):
                if connection.loses_answer:
                    return
                await asyncio.sleep(self.latency)
                if not connection.is_mute:
                    writer.write(data)


class _Connection:
    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self._writers = writers
        self.is_deaf = False
        self.is_mute = False
        self.loses_answer = False

    def break_off(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
