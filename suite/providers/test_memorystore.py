"""Memorystore: an instance's own authority, its failover, and what `bot doctor` says."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis import Redis

from bot.runtime.chosen import NAMESPACE
from bot.runtime.cloud.memorystore import MemorystoreStore
from bot.runtime.config import Settings
from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.errors import OperatorError, StateUnavailable
from bot.runtime.state.store import Changes
from suite.engines.redis.proxy import Proxy
from suite.engines.redis.server import Server, make_store
from suite.engines.redis.tls import UNCHECKED, Certificate, behind_tls, issue, named
from suite.support.command_line import run

pytestmark = pytest.mark.clause("provider.connects")

ADDRESS = "127.0.0.1"
"""An instance is known by its address alone."""


def issue_as_google_does(folder: Path) -> Certificate:
    """A certificate whose common name is the address, without an authority key identifier."""
    now = datetime.now(UTC)

    def sign(subject: str, key: Any, issuer: str, issuer_key: Any, is_ca: bool) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .sign(issuer_key, hashes.SHA256())
        )

    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = sign("an instance's own", authority_key, "an instance's own", authority_key, True)
    certificate = sign(ADDRESS, key, "an instance's own", authority_key, False)
    encoding = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(authority.public_bytes(encoding))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "server.pem").write_bytes(
        key.private_bytes(encoding, *form) + certificate.public_bytes(encoding)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem")
    return Certificate(folder / "ca.pem", context)


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates are looked at as they are from Python 3.13 on."""
    make = ssl.create_default_context

    def make_strict(*arguments: Any, **options: Any) -> ssl.SSLContext:
        context = make(*arguments, **options)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", make_strict)


@pytest.fixture
async def instance(
    server: Server, direct: RedisStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Proxy]:
    """An instance with AUTH and TLS."""
    await direct.connection.ask("CONFIG", "SET", "requirepass", "sesame")
    certificate = issue_as_google_does(tmp_path)
    async with behind_tls(server.url, certificate) as proxy:
        monkeypatch.setenv("REDIS_URL", named(proxy, ADDRESS, ":sesame@"))
        monkeypatch.setenv("REDIS_CA_FILE", str(certificate.ca_file))
        monkeypatch.setenv("REDIS_CONNECT_TIMEOUT", "0.5")
        yield proxy


async def works(store: RedisStore) -> None:
    await store.connect()
    await store.commit("1", Changes(state={"city": b'"Oslo"'}), expect=0)
    assert (await store.load("1")).state == {"city": "Oslo"}
    await store.close()


@pytest.mark.usefixtures("strict", "instance")
async def test_the_certificate_of_an_instance() -> None:
    await works(MemorystoreStore.from_settings(Settings()))
    plain = RedisStore.from_settings(Settings())
    with pytest.raises(StateUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await plain.connect()  # this test would not notice otherwise
    await plain.close()


@pytest.mark.parametrize("flaw", ["another authority", "expired"])
async def test_a_certificate_that_is_not_to_be_believed(
    instance: Proxy, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flaw: str
) -> None:
    certificate = issue(tmp_path, ADDRESS, flaw)
    async with behind_tls(server.url, certificate) as proxy:
        monkeypatch.setenv("REDIS_URL", named(proxy, ADDRESS, ":sesame@"))
        store = MemorystoreStore.from_settings(Settings())
        with pytest.raises(StateUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await store.connect()
        await store.close()


async def test_an_authority_that_everyone_trusts_does_not_vouch_for_an_instance(
    instance: Proxy, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No name is asked, so whoever has a certificate of any name could pass for the instance."""
    (tmp_path / "public").mkdir()
    public = issue(tmp_path / "public", "elsewhere.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(public.ca_file))  # stands for what the machine trusts
    async with behind_tls(server.url, public) as proxy:
        monkeypatch.setenv("REDIS_URL", named(proxy, ADDRESS, ":sesame@"))
        store = MemorystoreStore.from_settings(Settings())
        with pytest.raises(StateUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await store.connect()
        await store.close()
    monkeypatch.setenv("REDIS_URL", named(instance, ADDRESS, ":sesame@"))
    await works(MemorystoreStore.from_settings(Settings()))


async def test_a_file_of_two_authorities(
    instance: Proxy, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an authority gives way to the next one, the file has both."""
    (tmp_path / "next").mkdir()
    following = issue(tmp_path / "next", ADDRESS)
    both = tmp_path / "both.pem"
    both.write_bytes((tmp_path / "ca.pem").read_bytes() + following.ca_file.read_bytes())
    monkeypatch.setenv("REDIS_CA_FILE", str(both))
    await works(MemorystoreStore.from_settings(Settings()))
    async with behind_tls(server.url, following) as proxy:
        monkeypatch.setenv("REDIS_URL", named(proxy, ADDRESS, ":sesame@"))
        store = MemorystoreStore.from_settings(Settings())
        await store.connect()
        await store.close()


async def test_a_file_without_certificates_is_one_line(
    instance: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.pem").write_text("none", "utf-8")
    monkeypatch.setenv("REDIS_CA_FILE", str(tmp_path / "empty.pem"))
    store = MemorystoreStore.from_settings(Settings())
    with pytest.raises(StateUnavailable, match="REDIS_CA_FILE"):
        await store.connect()
    await store.close()


async def test_names_count_unless_the_authority_is_the_instance_s_own(
    instance: Proxy, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only of whom REDIS_CA_FILE trusts is no name asked; whom everyone trusts has to show it."""
    certificate = issue(tmp_path, ADDRESS, "another name")
    async with behind_tls(server.url, certificate) as proxy:
        monkeypatch.setenv("REDIS_URL", named(proxy, ADDRESS, ":sesame@"))
        await works(MemorystoreStore.from_settings(Settings()))
        monkeypatch.delenv("REDIS_CA_FILE")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.ca_file))
        store = MemorystoreStore.from_settings(Settings())
        with pytest.raises(StateUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await store.connect()
        await store.close()


@pytest.mark.parametrize("weakness", UNCHECKED)
def test_an_address_that_believes_every_certificate(monkeypatch: pytest.MonkeyPatch, weakness: str) -> None:
    monkeypatch.setenv("REDIS_URL", f"rediss://:sesame@{ADDRESS}:6379/0?{weakness}")
    with pytest.raises(OperatorError, match="turns checks of the server's certificate off") as caught:
        MemorystoreStore.from_settings(Settings())
    assert "\n" not in str(caught.value)
    assert "sesame" not in str(caught.value)


async def test_a_failover_behind_the_address(instance: Proxy, server: Server, tmp_path: Path) -> None:
    """The replica takes the address over; the old master comes back as a replica that takes no writes."""
    replica = Server(tmp_path / "replica", masterauth="sesame").start()
    with Redis.from_url(replica.url) as admin:
        admin.config_set("requirepass", "sesame")
    login = "redis://:sesame@127.0.0.1"
    old, new = (
        make_store(f"{login}:{each.port}", NAMESPACE, redis_ca_file=None) for each in (server, replica)
    )
    try:
        await old.connection.ask("CONFIG", "SET", "masterauth", "sesame")
        await new.connection.ask("REPLICAOF", "127.0.0.1", server.port)
        store = MemorystoreStore.from_settings(Settings())
        await store.connect()
        version = await store.commit("1", Changes(state={"n": b"1"}), expect=0)
        for _ in range(200):
            if (await new.load("1")).version == version:
                break
            await asyncio.sleep(0.05)

        instance.lead_to(replica.url)
        await new.connection.ask("REPLICAOF", "NO", "ONE")
        await old.connection.ask("REPLICAOF", "127.0.0.1", replica.port)
        await store.commit("1", Changes(state={"n": b"2"}, applied=(2,)), expect=version)
        record = await new.load("1")
        assert (record.state, record.applied) == ({"n": 2}, (2,))
        await store.close()
    finally:
        await old.close()
        await new.close()
        replica.end()


async def test_what_doctor_says_of_an_instance(instance: Proxy, direct: RedisStore, tmp_path: Path) -> None:
    replica = Server(tmp_path / "replica", masterauth="sesame").start()
    follower = make_store(replica.url, redis_ca_file=None)
    store = MemorystoreStore.from_settings(Settings())
    await store.connect()

    async def texts(level: str) -> list[str]:
        return [finding.text for finding in await store.diagnose() if finding.level == level]

    (basic,) = await texts("warning")
    assert "no replica" in basic
    await direct.connection.ask("CONFIG", "SET", "maxmemory-policy", "volatile-lru", "appendonly", "no")
    assert "evicts users (volatile-lru" in (await texts("warning"))[1]
    await direct.connection.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await follower.connection.ask("REPLICAOF", "127.0.0.1", direct.connection.address.hosts[0][1])
    for _ in range(100):
        if not await texts("warning"):
            break
        await asyncio.sleep(0.1)
    assert await texts("warning") == await texts("error") == []
    assert any("last snapshot" in text for text in await texts("ok"))
    await direct.connection.ask("ACL", "SETUSER", "default", "-config", "-info")
    (silent,) = await texts("warning")
    assert "does not say how it is set up" in silent
    assert "sesame" not in str(await store.diagnose())
    await store.close()
    await follower.close()
    replica.end()


async def test_an_instance_that_is_open(server: Server, tmp_path: Path) -> None:
    result = await asyncio.to_thread(run, tmp_path, "doctor", REDIS_URL=server.url)
    assert "--transit-encryption-mode=server-authentication" in result.stdout
    assert "--enable-auth" in result.stdout
