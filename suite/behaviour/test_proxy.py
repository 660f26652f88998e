"""The way to Telegram by a proxy: a setting, or the variables that other programs read."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiogram import Bot
from aiogram.exceptions import TelegramNetworkError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from bot.runtime.config import SECRETS, Settings
from bot.runtime.errors import OperatorError
from bot.runtime.telegram.calls import Session
from suite.bot_api import FakeTelegram
from suite.support.command_line import run

pytestmark = pytest.mark.clause("telegram.proxy")

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class Proxy:
    """An HTTP and SOCKS5 proxy that knows one place, by whatever name it is asked for."""

    def __init__(self, place: str) -> None:
        self._port = int(place.rpartition(":")[2])
        self.asked: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(1)
        if first == b"\x05":
            await reader.readexactly(ord(await reader.readexactly(1)))
            writer.write(b"\x05\x00")
            kind = (await reader.readexactly(4))[3]
            assert kind == 3, "names are resolved by the proxy"
            host = await reader.readexactly(ord(await reader.readexactly(1)))
            await reader.readexactly(2)
            self.asked.append(f"socks5 {host.decode()}")
            writer.write(b"\x05\x00\x00\x01" + struct.pack(">IH", 0, 0))
        else:
            head = first + await reader.readuntil(b"\r\n\r\n")
            self.asked.append(f"http {head.split()[1].partition(b':')[0].decode()}")
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._pass(reader, inner_writer), self._pass(inner_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()


@pytest.fixture
async def proxy(telegram: FakeTelegram) -> AsyncIterator[tuple[Proxy, str]]:
    proxy = Proxy(telegram.url)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    yield proxy, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


@pytest.fixture(autouse=True)
def no_proxy_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


async def ask(settings: Settings) -> None:
    """Ask Telegram who the bot is."""
    async with Bot("42:TEST", session=Session.of(settings, timeout=20)) as bot:
        await bot.get_me()


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h"])
async def test_a_proxy_that_is_set_is_used(proxy: tuple[Proxy, str], scheme: str) -> None:
    there, address = proxy
    await ask(Settings(telegram_api_url="http://telegram.example", telegram_proxy=f"{scheme}://{address}"))
    assert there.asked == [f"{scheme.removesuffix('h')} telegram.example"]


@pytest.mark.parametrize(
    ("name", "value"), [("HTTP_PROXY", "{}"), ("ALL_PROXY", "socks5://{}"), ("http_proxy", "http://{}")]
)
async def test_the_usual_variables(
    proxy: tuple[Proxy, str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    there, address = proxy
    monkeypatch.setenv(name, value.format(address))
    await ask(Settings(telegram_api_url="http://telegram.example"))
    assert len(there.asked) == 1


def test_which_variable_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one for the scheme; none for this machine, nor for what `NO_PROXY` names."""
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hunter2@proxy:3128")
    assert Settings().proxy == "http://me:hunter2@proxy:3128"
    assert "hunter2" in SECRETS
    assert Settings(telegram_api_url="http://localhost:8081").proxy is None
    assert Settings(telegram_api_url="https://127.0.0.1:8081").proxy is None
    assert Settings(telegram_api_url="http://other.example").proxy is None
    monkeypatch.setenv("NO_PROXY", "api.telegram.org")
    assert Settings().proxy is None
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HTTPS_PROXY", "ftp://proxy:1")
    with pytest.raises(OperatorError, match=r"^HTTPS_PROXY or ALL_PROXY: must be an address"):
        _ = Settings().proxy


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_that_fails_is_a_network_that_does(scheme: str) -> None:
    """So whatever waits for Telegram waits for the proxy, too."""
    with pytest.raises(TelegramNetworkError):
        await ask(Settings(telegram_api_url="http://x.example", telegram_proxy=f"{scheme}://127.0.0.1:9"))


async def test_doctor_goes_the_same_way(tmp_path: Path, proxy: tuple[Proxy, str]) -> None:
    there, address = proxy
    settings = {"BOT_TOKEN": "42:TEST", "TELEGRAM_API_URL": "http://telegram.example"}
    done = await asyncio.to_thread(run, tmp_path, "doctor", **settings, TELEGRAM_PROXY=f"socks5://{address}")
    assert "Telegram knows this bot as @" in done.stdout
    assert there.asked


def test_certificates_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`SSL_CERT_FILE` is read, besides what is always trusted."""
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(variable, raising=False)
    usual = Session.of(Settings())._connector_init["ssl"].cert_store_stats()["x509_ca"]
    key = rsa.generate_private_key(65_537, 2_048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "own.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem"))
    assert Session.of(Settings())._connector_init["ssl"].cert_store_stats()["x509_ca"] == usual + 1
