"""The account's private key, like every other secret, is in nothing that the bot writes."""

import asyncio
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth.transport.grpc import AuthMetadataPlugin as GoogleProof
from google.auth.transport.requests import Request

from bot.runtime.engines.firestore.connection import FirestoreClient, FirestoreSettings, credentials
from bot.runtime.engines.firestore.store import FirestoreStore
from bot.runtime.errors import StateUnavailable
from suite.engines.firestore.server import Emulator, shared_host
from suite.support.command_line import run
from suite.support.runtime import Mode
from suite.support.secrecy import everything_written, expect_secret

pytestmark = pytest.mark.timeout(180)

SAID = "said-by-google"


class Refusing(BaseHTTPRequestHandler):
    """Gives no access tokens."""

    def do_POST(self) -> None:
        self.send_response(401)
        self.end_headers()
        self.wfile.write(json.dumps({"error": "invalid_grant", "error_description": SAID}).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/token"
    server.shutdown()
    server.server_close()


def key_file(folder: Path, token_uri: str, private_key: str) -> Path:
    """What Google gives for a service account."""
    file = folder / "key.json"
    content = {
        "type": "service_account",
        "project_id": "demo-bot",
        "private_key_id": "id-of-the-key",
        "private_key": private_key,
        "client_email": "bot@demo-bot.iam.gserviceaccount.com",
        "token_uri": token_uri,
    }
    file.write_text(json.dumps(content))
    return file


def new_key() -> str:
    key = rsa.generate_private_key(65537, 2048)
    kinds = serialization
    text = key.private_bytes(kinds.Encoding.PEM, kinds.PrivateFormat.PKCS8, kinds.NoEncryption())
    return text.decode()


async def test_no_secret_is_written(
    tmp_path: Path,
    mode: Mode,
    emulator: Emulator,
    refusing: str,
) -> None:
    key = new_key()
    account = {
        "FIRESTORE_EMULATOR_HOST": "",
        "GOOGLE_CLOUD_PROJECT": "demo-bot",
        "GOOGLE_APPLICATION_CREDENTIALS": str(key_file(tmp_path, refusing, key)),
    }
    written = await everything_written(
        tmp_path,
        mode,
        break_store=emulator.pause,
        mend_store=emulator.resume,
        broken=account,
        FIRESTORE_EMULATOR_HOST=emulator.host,
    )
    assert "the firestore store cannot be used" in written
    expect_secret(written, *key.splitlines()[1:-1], "id-of-the-key", SAID)


async def test_an_account_that_google_refuses(tmp_path: Path, project: str, refusing: str) -> None:
    """Told by gRPC in the words of the refusal, as if the server were away."""
    file = key_file(tmp_path, refusing, new_key())
    settings = {"google_cloud_project": project, "google_application_credentials": file}
    client = FirestoreClient(FirestoreSettings.model_validate(settings))
    proof = GoogleProof(credentials(client.settings), Request())  # type: ignore[no-untyped-call]
    client._make_channel = lambda: grpc.aio.secure_channel(  # type: ignore[method-assign]
        shared_host(),
        grpc.composite_channel_credentials(
            grpc.local_channel_credentials(), grpc.metadata_call_credentials(proof)
        ),
    )
    with pytest.raises(StateUnavailable, match="GOOGLE_APPLICATION_CREDENTIALS") as caught:
        await FirestoreStore(client, "bot").connect()
    assert SAID not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{}", "no JSON hunter2", "a key"])
async def test_a_key_file_that_is_none(tmp_path: Path, content: str) -> None:
    file = key_file(tmp_path, "https://oauth2.googleapis.com/token", "hunter2")
    if content != "a key":
        file.write_text(content)
    settings = {
        "FIRESTORE_EMULATOR_HOST": "",
        "GOOGLE_CLOUD_PROJECT": "demo-bot",
        "GOOGLE_APPLICATION_CREDENTIALS": str(file),
    }
    done = await asyncio.to_thread(run, tmp_path, "state", "show", "1", **settings)
    assert done.returncode == 1
    assert done.stderr.startswith("error: Google does not know who this is: ")
    assert done.stderr.count("\n") == 1
    assert "hunter2" not in done.stderr


async def test_no_key_at_all(tmp_path: Path) -> None:
    settings = {
        "FIRESTORE_EMULATOR_HOST": "",
        "GOOGLE_CLOUD_PROJECT": "demo-bot",
        "GCE_METADATA_HOST": "127.0.0.1:1",
        "GCE_METADATA_IP": "127.0.0.1:1",
        "NO_GCE_CHECK": "true",
        "GOOGLE_APPLICATION_CREDENTIALS": "",
    }
    done = await asyncio.to_thread(run, tmp_path, "state", "show", "1", **settings)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "gcloud auth application-default login" in done.stderr


async def test_an_emulator_host_that_is_none(tmp_path: Path) -> None:
    done = await asyncio.to_thread(
        run, tmp_path, "state", "show", "1", FIRESTORE_EMULATOR_HOST="http://user:hunter2@host/"
    )
    assert done.returncode == 1
    assert "FIRESTORE_EMULATOR_HOST" in done.stderr
    assert "hunter2" not in done.stderr
