"""Fixtures of the tests of the Redis engine."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bot.runtime.engines.redis.store import RedisStore
from suite.dev_servers.conftest import server as dev_server
from suite.engines.redis.proxy import Proxy
from suite.engines.redis.server import Server, make_store

__all__ = ["dev_server"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own."""
    server = Server(tmp_path / "server").start()
    yield server
    server.end()


@pytest.fixture(scope="module")
def lasting_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for tests that leave it as it is, but for its records."""
    server = Server(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.end()


@pytest.fixture
async def direct(server: Server) -> AsyncIterator[RedisStore]:
    """A store on the test's own server."""
    store = make_store(server.url)
    await store.connect()
    yield store
    await store.close()


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    """A proxy in front of the test's own server."""
    async with Proxy(server.url) as proxy:
        yield proxy


@pytest.fixture
async def proxied(proxy: Proxy) -> AsyncIterator[RedisStore]:
    """A store that speaks to the server through the proxy, with its connection open and its scripts known."""
    store = make_store(proxy.url)
    await store.connect()
    await store.forget("warm-up")
    await store.load("warm-up")
    yield store
    await store.close()
