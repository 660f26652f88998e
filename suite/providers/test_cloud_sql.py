"""PostgreSQL at Cloud SQL: Google's own connector, before a Google and an instance on this machine.

What it asks Google for is answered here: the token of a service account, where the instance is and who
vouches for it, a certificate of the bot's with that token's rights. The instance takes only clients with one.
"""

import asyncio
import datetime
import json
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from bot.runtime.cloud.cloud_sql import CloudSqlStore
from bot.runtime.config import Settings
from bot.runtime.engines.postgres.connection import Connection
from bot.runtime.errors import OperatorError, StateUnavailable
from bot.runtime.state.store import Changes
from suite.engines.postgres.server import OwnServer
from suite.engines.postgres.tls import NOWHERE, Authority, TlsServer, problems
from suite.support.command_line import run

pytestmark = pytest.mark.clause("provider.connects")

INSTANCE = "my-project:europe-west3:bot"


class Google:
    """The endpoints that the connector uses, on a thread of their own: it waits for some of them in the loop.

    Attributes:
        url: where they are.
        authority: who signs the instance's certificate.
        asked: the paths that were asked for.
        refusal: what the Admin API says in place of an answer.
        broken: the path at which it only says that it cannot answer now.
        hang_ups: how often it goes away without any, before it answers again.
        addresses: those of the instance, by their kind.
        certificates_last: how long those do that it signs.
    """

    def __init__(self) -> None:
        self.authority = Authority()
        self.asked: list[str] = []
        self.refusal: tuple[int, str] | None = None
        self.hang_ups = 0
        self.broken = ""
        self.addresses = {"PRIMARY": "127.0.0.1"}
        self.certificates_last = datetime.timedelta(hours=1)
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Google Cloud SQL Client CA")])
        google = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                is_json = "json" in self.headers["Content-Type"]
                self._answer(json.loads(body) if is_json else {})

            def _answer(self, body: dict[str, Any]) -> None:
                if google.hang_ups and self.path != "/token":
                    google.hang_ups -= 1
                    self.close_connection = True
                    return
                status, answer = google.answer(self.path, self.headers["Authorization"], body)
                payload = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(
        self, path: str, authorization: str | None, body: dict[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        self.asked.append(path)
        if path == "/token":
            return 200, {
                "access_token": f"token {len(self.asked)}",
                "expires_in": 3600,
                "token_type": "Bearer",
            }
        if path == self.broken:
            return 503, {}
        assert authorization
        assert authorization.startswith("Bearer token ")
        if self.refusal:
            status, message = self.refusal
            return status, {"error": {"message": message}}
        if path.endswith("/connectSettings"):
            return 200, {
                "region": "europe-west3",
                "databaseVersion": "POSTGRES_18",
                "ipAddresses": [{"type": kind, "ipAddress": ip} for kind, ip in self.addresses.items()],
                "serverCaCert": {"cert": self.authority.pem},
            }
        assert path.endswith(":generateEphemeralCert")
        assert body["access_token"].startswith("token ")  # signing in by IAM
        return 200, {"ephemeralCert": {"cert": self._sign(body["public_key"])}}

    def signed(self) -> int:
        """How many certificates it signed."""
        return len([path for path in self.asked if path.endswith(":generateEphemeralCert")])

    def trusted_by(self, context: ssl.SSLContext) -> None:
        """Have a server take only clients with a certificate from here."""
        context.load_verify_locations(cadata=self._certificate(self._key.public_key(), is_authority=True))
        context.verify_mode = ssl.CERT_REQUIRED

    def _sign(self, public_key: str) -> str:
        key = serialization.load_pem_public_key(public_key.encode())
        assert isinstance(key, rsa.RSAPublicKey)
        return self._certificate(key, is_authority=False)

    def _certificate(self, key: rsa.RSAPublicKey, *, is_authority: bool) -> str:
        now = datetime.datetime.now(datetime.UTC)
        client = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(self._name if is_authority else client)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + (datetime.timedelta(days=1) if is_authority else self.certificates_last))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        signed = builder.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Google]:
    """Google, and the key of a service account in the environment."""
    google = Google()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "client_email": "bot@my-project.iam.gserviceaccount.com",
        "private_key": pem.decode(),
        "token_uri": f"{google.url}/token",
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project")
    monkeypatch.setattr("google.cloud.sql.connector.connector._DEFAULT_SCHEME", "")
    monkeypatch.setattr("google.cloud.sql.connector.connector._SQLADMIN_HOST_TEMPLATE", google.url)
    monkeypatch.setenv("INSTANCE_CONNECTION_NAME", INSTANCE)
    monkeypatch.setenv("DB_IAM_USER", "bot@my-project.iam")
    monkeypatch.setenv("DB_NAME", "postgres")
    yield google
    google.close()


@pytest.fixture
async def instance(
    own_server: OwnServer, google: Google, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[TlsServer]:
    """An instance with the bot's user in it."""
    connection: Connection = await asyncpg.connect(own_server.url)
    await connection.execute('CREATE ROLE "bot@my-project.iam" LOGIN')
    await connection.execute('GRANT CREATE, USAGE ON SCHEMA public TO "bot@my-project.iam"')
    await connection.close()
    context = google.authority.server("bot.europe-west3.my-project")
    google.trusted_by(context)
    async with TlsServer(own_server.url, context, is_direct=True) as server:
        monkeypatch.setattr("google.cloud.sql.connector.asyncpg.SERVER_PROXY_PORT", server.port)
        yield server


async def test_through_the_connector(instance: TlsServer, google: Google) -> None:
    store = CloudSqlStore.from_settings(Settings())
    assert (await store.migrate()).startswith("migrated")
    await store.connect()
    commits = (store.commit(str(n), Changes(state={"n": b"1"}), expect=0) for n in range(30))
    await asyncio.gather(*commits)
    assert (await store.load("7")).state == {"n": 1}
    assert problems(await store.diagnose()) == []
    # Once for `migrate`, once for the rest: connections share what Google said.
    assert google.signed() == 2
    await store.close()


async def test_connections_that_were_cut(instance: TlsServer, google: Google) -> None:
    store = CloudSqlStore.from_settings(Settings())
    await store.migrate()
    await store.connect()
    version = await store.commit("1", Changes(state={"n": b"1"}), expect=0)
    instance.cut()
    await store.commit("1", Changes(state={"n": b"2"}), expect=version)
    assert (await store.load("1")).state == {"n": 2}
    await store.close()


@pytest.mark.parametrize("what", ["another authority", "expired"])
async def test_a_server_that_is_not_the_one(
    google: Google, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Names are not compared: each instance has an authority of its own, which the Admin API names."""
    signer = Authority() if what == "another authority" else google.authority
    context = signer.server("bot.europe-west3.my-project", has_expired=what == "expired")
    async with TlsServer(NOWHERE, context, is_direct=True) as server:
        monkeypatch.setattr("google.cloud.sql.connector.asyncpg.SERVER_PROXY_PORT", server.port)
        store = CloudSqlStore.from_settings(Settings())
        async with asyncio.timeout(10):
            with pytest.raises(StateUnavailable, match="certificate"):
                await store.connect()


async def test_google_refuses(google: Google) -> None:
    google.refusal = (403, "boss::NOT_AUTHORIZED: Not authorized to access resource.")
    store = CloudSqlStore.from_settings(Settings())
    with pytest.raises(StateUnavailable, match=r"Admin API refuses \(403 .*DEPLOY\.md"):
        await store.connect()


async def test_google_is_away_for_a_moment(instance: TlsServer, google: Google) -> None:
    """While the certificate is renewed, and several connections wait for it."""
    store = CloudSqlStore.from_settings(Settings())
    await store.migrate()
    google.hang_ups = 3
    await store.connect()
    google.certificates_last = datetime.timedelta(minutes=1)  # the next ones: each is renewed when used
    version = await store.commit("1", Changes(state={"n": b"1"}), expect=0)
    await store.close()
    await store.connect()
    instance.cut()
    google.hang_ups = 4
    await asyncio.gather(*(store.load(str(n)) for n in range(5)))
    instance.cut()
    google.hang_ups = 2
    await store.commit("1", Changes(state={"n": b"2"}), expect=version)
    assert google.hang_ups == 0
    await store.close()


async def test_a_certificate_that_is_about_to_expire_is_renewed(instance: TlsServer, google: Google) -> None:
    """By the connector's own clock: four minutes before the end. Here they last a second longer."""
    google.certificates_last = datetime.timedelta(minutes=4, seconds=1)
    store = CloudSqlStore.from_settings(Settings())
    await store.migrate()
    await store.connect()
    before = google.signed()
    google.certificates_last = datetime.timedelta(hours=1)
    await asyncio.sleep(1.1)
    for _ in range(2):
        instance.cut()
        await store.load("1")
    assert google.signed() == before + 1
    await store.close()


async def test_google_is_away_for_longer(google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.runtime.engines.postgres.connection.START_SECONDS", 3)
    google.hang_ups = 1_000
    store = CloudSqlStore.from_settings(Settings())
    with pytest.raises(StateUnavailable, match="Google's side: ServerDisconnectedError"):
        await store.connect()


async def test_an_instance_without_a_private_address(
    instance: TlsServer, google: Google, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIVATE_IP", "true")
    store = CloudSqlStore.from_settings(Settings())
    async with asyncio.timeout(5):
        with pytest.raises(StateUnavailable, match="no private address: PRIVATE_IP"):
            await store.connect()
    google.addresses = {"PRIVATE": "127.0.0.1"}
    await store.migrate()
    monkeypatch.setenv("PRIVATE_IP", "false")
    with pytest.raises(StateUnavailable, match="no public address: PRIVATE_IP"):
        await CloudSqlStore.from_settings(Settings()).connect()


@pytest.mark.parametrize("is_there", [False, True])
async def test_who_hands_out_tokens_is_away(
    instance: TlsServer, google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """It cannot be reached, and says so: which may pass, and wants no login."""
    monkeypatch.setattr("bot.runtime.engines.postgres.connection.START_SECONDS", 0.5)
    file = tmp_path / "account.json"
    address = f"{google.url}/tokens-no-more" if is_there else "http://127.0.0.1:1/token"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"token_uri": address}))
    google.broken = "/tokens-no-more"
    store = CloudSqlStore.from_settings(Settings())
    with pytest.raises(StateUnavailable, match="Google's side: "):
        await store.connect()


async def test_credentials_that_are_none(
    google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "is-not-there.json"))
    store = CloudSqlStore.from_settings(Settings())
    with pytest.raises(StateUnavailable, match="application-default login"):
        await store.connect()


async def test_two_databases_are_one_too_many(google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://bot@127.0.0.1/bot")
    with pytest.raises(OperatorError, match="unset one"):
        CloudSqlStore.from_settings(Settings())


async def test_an_instance_without_a_user(google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DB_IAM_USER")
    with pytest.raises(OperatorError, match="DB_IAM_USER is not set"):
        CloudSqlStore.from_settings(Settings())


def test_a_server_elsewhere(tmp_path: Path, harness: object) -> None:
    result = run(tmp_path, "doctor")
    assert "INSTANCE_CONNECTION_NAME is not set" in result.stdout
