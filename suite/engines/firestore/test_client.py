"""The channel, and whom it speaks for: when another takes its place, and what becomes of calls under way."""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google.auth
import pytest
from google.api_core.exceptions import DeadlineExceeded, ServiceUnavailable
from google.auth.credentials import AnonymousCredentials
from google.cloud.firestore_v1.services.firestore import FirestoreAsyncClient

from bot.runtime.engines.firestore.connection import FirestoreClient, FirestoreSettings
from bot.runtime.engines.firestore.store import FirestoreStore
from bot.runtime.errors import StateUnavailable
from suite.engines.firestore.server import free_port, make_client
from suite.engines.firestore.test_secrecy import key_file, new_key


class Silence:
    """Work that gets no answer for a number of attempts.

    Attributes:
        allowed: seconds that each attempt was given.
    """

    def __init__(self, attempts: int) -> None:
        self._left = attempts
        self.allowed: list[float] = []

    async def __call__(self, _: FirestoreAsyncClient, seconds: float) -> str:
        self.allowed.append(seconds)
        if self._left:
            self._left -= 1
            await asyncio.sleep(0)
            raise DeadlineExceeded("no answer")  # type: ignore[no-untyped-call]
        return "done"


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


async def test_who_asks_is_looked_up_once(tmp_path: Path) -> None:
    """A channel in another's place needs no metadata server, and no file that may be gone."""
    file = key_file(tmp_path, "https://oauth2.googleapis.com/token", new_key())
    settings = {"google_cloud_project": "demo-bot", "google_application_credentials": file}
    client = FirestoreClient(FirestoreSettings.model_validate(settings))
    await client.open()
    file.unlink()
    before = client.channel
    assert await client.call(Silence(1)) == "done"
    assert client.channel is not before
    await client.close()


async def test_looking_it_up_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(**_: object) -> tuple[AnonymousCredentials, None]:
        time.sleep(0.5)
        return AnonymousCredentials(), None  # type: ignore[no-untyped-call]

    monkeypatch.setattr(google.auth, "default", slow)
    client = FirestoreClient(FirestoreSettings.model_validate({"google_cloud_project": "demo-bot"}))
    opening = asyncio.create_task(client.open())
    ticks = 0
    while not opening.done():
        await asyncio.sleep(0.01)
        ticks += 1
    await opening
    assert ticks > 10
    await client.close()


async def test_of_many_who_find_a_channel_silent_one_replaces_it(monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client(f"127.0.0.1:{free_port()}", "demo-bot")
    await client.open()
    make, made = client._make_channel, []

    def make_another() -> Any:
        made.append(make())
        return made[-1]

    monkeypatch.setattr(client, "_make_channel", make_another)
    await asyncio.gather(*(client.call(Silence(1)) for _ in range(3)))
    assert made == [client.channel]
    await client.close()


async def test_a_last_attempt_without_time_says_nothing_of_the_channel() -> None:
    client = make_client(f"127.0.0.1:{free_port()}", "demo-bot", seconds=1.6, attempt_seconds=1.0)
    await client.open()
    before = client.channel
    silence = Silence(9)

    async def late(api: FirestoreAsyncClient, seconds: float) -> str:
        if seconds > 0.5:
            await asyncio.sleep(1.2)
            raise ServiceUnavailable("for a moment")  # type: ignore[no-untyped-call]
        return await silence(api, seconds)

    with pytest.raises(StateUnavailable, match="does not answer in time"):
        await client.call(late)
    assert silence.allowed
    assert client.channel is before
    # Whoever had little time from the start, as a ping has, did wait.
    await client.call(Silence(1), seconds=0.3)
    assert client.channel is not before
    await client.close()


async def test_calls_under_way_fail_when_the_store_is_closed(silent: str) -> None:
    """Only who was cancelled is told so."""
    store = FirestoreStore(make_client(silent, "demo-bot"), "bot")
    await store._client.open()
    loading = asyncio.create_task(store.load("1"))
    pinging = asyncio.create_task(store.ping())
    cancelled = asyncio.create_task(store.load("2"))
    await asyncio.sleep(0.2)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await store.close()
    for task in (loading, pinging):
        with pytest.raises(StateUnavailable, match="not connected"):
            await task
