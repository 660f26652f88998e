"""Fixtures of the tests of the Firestore engine."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from bot.runtime.engines.firestore.store import FirestoreStore
from suite.dev_servers.conftest import server as dev_server
from suite.engines.firestore.proxy import Proxy
from suite.engines.firestore.server import Emulator, clear, make_store, new_project, shared_host

__all__ = ["dev_server"]
"""The fixture of another folder that this one uses, too."""


@pytest.fixture
def project() -> Iterator[str]:
    """A project of the test's own in the shared emulator."""
    project = new_project()
    yield project
    clear(shared_host(), project)


@pytest.fixture
async def direct(project: str) -> AsyncIterator[FirestoreStore]:
    """A store."""
    store = make_store(await asyncio.to_thread(shared_host), project)
    await store.connect()
    yield store
    await store.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy in front of the shared emulator."""
    async with Proxy(await asyncio.to_thread(shared_host)) as proxy:
        yield proxy


@pytest.fixture
async def proxied(proxy: Proxy, project: str) -> AsyncIterator[FirestoreStore]:
    """A store that speaks to the emulator through the proxy."""
    store = make_store(proxy.host, project)
    await store.connect()
    proxy.reset()
    yield store
    await store.close()


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """An emulator of the test's own."""
    emulator = Emulator().start()
    yield emulator
    emulator.end()
