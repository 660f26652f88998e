"""PostgreSQL as a provider serves it: by TLS, under the provider's name, signed by a throw-away authority."""

import asyncio
import contextlib
import datetime
import socket
import ssl
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

from bot.runtime.state.store import Finding

NOWHERE = "postgresql://postgres@127.0.0.1:1/postgres"
"""The upstream of a server that clients must not get past."""

SSL_REQUEST = bytes.fromhex("0000000804d2162f")


class Authority:
    """One that signs certificates, or a stranger with the same manners."""

    def __init__(self) -> None:
        self._authority = trustme.CA()
        self.pem = self._authority.cert_pem.bytes().decode()

    def write(self, file: Path) -> Path:
        """Put its own certificate where clients look for it."""
        file.write_text(self.pem)
        return file

    def server(self, name: str, *, has_expired: bool = False) -> ssl.SSLContext:
        """What a server of that name shows."""
        day = datetime.timedelta(days=1)
        now = datetime.datetime.now(datetime.UTC)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        until = now - day if has_expired else now + day
        certificate = self._authority.issue_cert(name, not_before=now - 2 * day, not_after=until)
        certificate.configure_cert(context)
        return context

    def trusted_by(self, context: ssl.SSLContext) -> None:
        """Have a server ask clients for certificates that this authority signed."""
        self._authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED


class TlsServer:
    """Takes off the encryption, and passes what was inside on to a server without any.

    Attributes:
        upstream: that server's address; it may be changed, as by a failover.
        port: where it listens.
        is_direct: whether TLS is spoken from the first byte, as to Cloud SQL's proxy.
    """

    def __init__(self, upstream: str, context: ssl.SSLContext, *, is_direct: bool = False) -> None:
        self.upstream = upstream
        self.is_direct = is_direct
        self.port = 0
        self._context = context
        self._is_silent = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        tls = self._context if self.is_direct else None
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """End every connection, as a machine that goes away."""
        for task in self._tasks:
            task.cancel()

    def fall_silent(self) -> None:
        """Pass nothing on any more, and keep every connection open, as a network that drops packets."""
        self._is_silent = True

    async def admit(self, startup: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Look at a client's first packet, and raise if it may not go on."""

    def passed_on(self, startup: bytes) -> bytes:
        """What the server is told of a client's first packet."""
        return startup

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, EOFError, PermissionError, asyncio.CancelledError):
            try:
                if not self.is_direct:
                    if await reader.readexactly(8) != SSL_REQUEST:
                        raise PermissionError("not encrypted")
                    writer.write(b"S")
                    await writer.start_tls(self._context)
                size = await reader.readexactly(4)
                startup = size + await reader.readexactly(int.from_bytes(size) - 4)
                await self.admit(startup, reader, writer)
                await self._pass_on(self.passed_on(startup), reader, writer)
            finally:
                writer.close()

    async def _pass_on(
        self, startup: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        above, below = await _connect(self.upstream)
        below.write(startup)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                if not self._is_silent:
                    target.write(data)

        ways = [asyncio.ensure_future(copy(reader, below)), asyncio.ensure_future(copy(above, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            below.close()


class Names:
    """Which names lead where, in place of the network's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ports: dict[tuple[str, int], int] = {}
        self._look_up = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._answer)

    def lead(self, name: str, port: int, to: int) -> None:
        """Have a port of a name be one of this machine."""
        self._ports[name, port] = to

    def _answer(self, host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if (host, port) in self._ports:
            host, port = "127.0.0.1", self._ports[host, port]
        return self._look_up(host, port, *arguments, **options)


def problems(findings: list[Finding], *besides: str) -> list[str]:
    """What is not well, but for those of which the test makes no point."""
    texts = [finding.text for finding in findings if finding.level != "ok"]
    return [text for text in texts if not any(part in text for part in besides)]


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    if folder := parse_qs(parts.query).get("host"):
        return await asyncio.open_unix_connection(f"{folder[0]}/.s.PGSQL.{parts.port or 5432}")
    return await asyncio.open_connection(parts.hostname, parts.port or 5432)
