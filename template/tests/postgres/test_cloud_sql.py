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

from bot.cloud.cloud_sql import CloudSqlStore
from bot.config import Settings
from bot.errors import OperatorError
from bot.state.postgres_database import Connection
from bot.state.store import Changes, StateUnavailable
from tests.postgres.server import OwnServer
from tests.postgres.tls import NOWHERE, Authority, TlsServer, problems
from tests.test_cli import run

INSTANCE = "my-project:europe-west3:bot"


class Google:
    """The endpoints that the connector uses, on a thread of their own: it waits for some of them in the loop.

    Attributes:
        url: where they are.
        authority: who signs the instance's certificate.
        asked: the paths that were asked for.
        refusal: what the Admin API says in place of an answer.
    """

    def __init__(self) -> None:
        self.authority = Authority()
        self.asked: list[str] = []
        self.refusal: tuple[int, str] | None = None
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
        assert authorization
        assert authorization.startswith("Bearer token ")
        if self.refusal:
            status, message = self.refusal
            return status, {"error": {"message": message}}
        if path.endswith("/connectSettings"):
            return 200, {
                "region": "europe-west3",
                "databaseVersion": "POSTGRES_18",
                "ipAddresses": [{"type": "PRIMARY", "ipAddress": "127.0.0.1"}],
                "serverCaCert": {"cert": self.authority.pem},
            }
        assert path.endswith(":generateEphemeralCert")
        assert body["access_token"].startswith("token ")  # signing in by IAM
        return 200, {"ephemeralCert": {"cert": self._sign(body["public_key"])}}

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
            .not_valid_after(now + datetime.timedelta(hours=1))
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
    assert problems(await store.examine()) == []
    # Once for `migrate`, once for the rest: connections share what Google said.
    assert len([path for path in google.asked if path.endswith(":generateEphemeralCert")]) == 2
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
