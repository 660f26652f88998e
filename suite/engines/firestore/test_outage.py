"""The emulator is frozen, its network cut or silent, in mid-traffic: no update is lost or applied twice.

It keeps everything in memory, so unlike other engines' servers it is not killed: Firestore loses nothing.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bot.runtime.config import Settings
from bot.runtime.engines.firestore import store as firestore
from bot.runtime.engines.firestore.store import FirestoreStore
from bot.runtime.errors import StateUnavailable
from bot.runtime.logs import configure_logs
from bot.runtime.state.store import Changes
from bot.runtime.telegram import processor
from suite.bot_api import FakeTelegram
from suite.engines.firestore.server import Emulator, free_port, make_client, make_store
from suite.support.runtime import Mode, Runtime
from suite.torture.link import Link

USERS, MESSAGES = 10, 30
ATTEMPT, TIMEOUT, TROUBLE = 1.5, 3.0, 4.5
"""Seconds of patience, also on a busy machine, and the longer ones that each trouble lasts."""


class Network:
    """The way to an emulator, which may lead nowhere."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.is_away = False
        nobody = free_port()
        self.link = Link(lambda: ("127.0.0.1", nobody if self.is_away else emulator.port))


@pytest.fixture
async def network(emulator: Emulator) -> AsyncIterator[Network]:
    """An emulator that has worked before: its first calls take seconds."""
    warm = make_store(emulator.host, "demo-warm")
    await warm.connect()
    for user in range(20):
        await warm.commit(str(user), Changes(state={"a": b"1"}), expect=0)
    await warm.close()
    network = Network(emulator)
    async with network.link:
        yield network


@pytest.fixture
async def store(network: Network, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FirestoreStore]:
    """A store that soon loses patience."""
    monkeypatch.setattr(processor, "RETRY_DELAYS", (0.05, 0.3))
    host = f"127.0.0.1:{network.link.port}"
    store = FirestoreStore(make_client(host, "demo-bot", seconds=TIMEOUT, attempt_seconds=ATTEMPT), "bot")
    yield store
    await store.close()


async def freeze(network: Network) -> None:
    network.emulator.pause()
    await asyncio.sleep(TROUBLE)
    network.emulator.resume()


async def be_away(network: Network) -> None:
    network.is_away = True
    network.link.cut()
    await asyncio.sleep(TROUBLE)
    network.is_away = False


async def fall_silent(network: Network) -> None:
    """Half-open: what is sent on these connections goes nowhere, and nobody is told."""
    network.link.fall_silent(deaf=True)
    await asyncio.sleep(TROUBLE)


# How updates come makes no difference to the engine: each way has its share.
@pytest.mark.parametrize(
    ("trouble", "mode"),
    [
        (be_away, "webhook"),
        pytest.param(freeze, "polling", marks=pytest.mark.rarely),
        pytest.param(fall_silent, "polling", marks=pytest.mark.rarely),
    ],
)
async def test_in_mid_traffic(
    network: Network,
    store: FirestoreStore,
    trouble: Any,
    mode: Mode,
    capfd: pytest.CaptureFixture[str],
) -> None:
    configure_logs(Settings())
    async with FakeTelegram(max_retry_after=0.1, max_delay=0.3) as telegram, Runtime(telegram, store, mode):
        sending = asyncio.create_task(send(telegram))
        await asyncio.sleep(0.4)
        await trouble(network)
        await sending
        await telegram.settled(120)
        for user in range(1, USERS + 1):
            record = await store.load(str(user))
            assert record.state == {"last_message": f"m{MESSAGES}", "message_count": MESSAGES}
            expected = [f"Processed: m{n} (#{n})" for n in range(1, MESSAGES + 1)]
            assert list(dict.fromkeys(telegram.texts(user))) == expected, "each, in order"
    said = capfd.readouterr().err
    assert "updates are retried" in said or "fell silent" in said, "this test would not notice"


async def send(telegram: FakeTelegram) -> None:
    for n in range(1, MESSAGES + 1):
        for user in range(1, USERS + 1):
            telegram.message(f"m{n}", user_id=user)
        await asyncio.sleep(0.17)


async def test_a_half_open_connection_is_left(network: Network, store: FirestoreStore) -> None:
    await store.connect()
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    network.link.fall_silent(deaf=True)
    began = time.monotonic()
    assert (await store.load("1")).state == {"a": 1}
    assert time.monotonic() - began > ATTEMPT * 0.9, "the connection was not silent"


async def test_a_channel_that_cannot_be_replaced_stays(
    network: Network, store: FirestoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.connect()
    make = store._client._make_channel
    failures = [OSError("too many open files")]

    def make_later() -> Any:
        if failures:
            raise failures.pop()
        return make()

    monkeypatch.setattr(store._client, "_make_channel", make_later)
    network.link.fall_silent(deaf=True)
    with pytest.raises(OSError, match="too many"):
        await store.load("1")
    assert (await store.load("1")).version == 0


async def test_who_comes_back_is_noticed_at_once(network: Network, store: FirestoreStore) -> None:
    await store.connect()
    network.is_away = True
    network.link.cut()
    for _ in range(5):
        with pytest.raises(StateUnavailable, match=r"cannot be reached|does not answer"):
            await store.load("1")
    network.is_away = False
    began = time.monotonic()
    while True:
        try:
            await store.load("1")
            break
        except StateUnavailable:
            continue
    assert time.monotonic() - began < 5


async def test_connecting_waits_for_a_server_that_is_still_starting(
    network: Network, store: FirestoreStore
) -> None:
    network.is_away = True
    connecting = asyncio.create_task(store.connect())
    await asyncio.sleep(TIMEOUT + 1)
    assert not connecting.done()
    network.is_away = False
    await asyncio.wait_for(connecting, 30)


async def test_connecting_gives_up_in_one_line(
    network: Network, store: FirestoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firestore, "START_SECONDS", 1.0)
    network.is_away = True
    with pytest.raises(StateUnavailable, match=r"^Firestore (cannot be reached|does not answer in time)$"):
        await store.connect()
    assert store._client.channel is None, "it was left open"
