"""Fixtures of the tests of the DynamoDB engine."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bot.runtime.engines.dynamodb import connection
from bot.runtime.engines.dynamodb.store import DynamodbStore
from suite.dev_servers.conftest import server as dev_server
from suite.engines.dynamodb.harness import prepare
from suite.engines.dynamodb.server import Server, make_store
from suite.engines.dynamodb.throttle import Throttle

__all__ = ["dev_server"]
"""The fixture of another folder that this one uses, too."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own."""
    server = Server(tmp_path / "server").start()
    yield server
    server.kill()


@pytest.fixture
async def url() -> str:
    """The server that the tests share; their table is there."""
    return await asyncio.to_thread(prepare)


@pytest.fixture
def fresh() -> str:
    """The name of a table that is not there yet."""
    return f"fresh-{secrets.token_hex(4)}"


@pytest.fixture
async def throttle(url: str) -> AsyncIterator[Throttle]:
    """What stands in front of the shared server."""
    throttle = Throttle(lambda: url)
    await throttle.start()
    yield throttle
    await throttle.stop()


@pytest.fixture
async def direct(url: str) -> AsyncIterator[DynamodbStore]:
    """A store in a namespace of the test's own."""
    store = make_store(url, f"t{secrets.token_hex(8)}")
    await store.connect()
    yield store
    await store.close()


@pytest.fixture
async def hasty(throttle: Throttle) -> AsyncIterator[DynamodbStore]:
    """A store that gives up after three seconds, by way of the throttle."""
    store = make_store(throttle.url, f"t{secrets.token_hex(8)}", dynamodb_timeout=3)
    await store.connect()
    yield store
    await store.close()


@pytest.fixture
async def proxied(
    throttle: Throttle, direct: DynamodbStore, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DynamodbStore]:
    """A store of the same namespace that goes by way of the throttle. It asks again for no want of time."""
    for name in ("CONNECT_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(connection, name, 100.0)
    store = make_store(throttle.url, direct._namespace, dynamodb_timeout=100)
    await store.connect()
    throttle.reset()
    yield store
    await store.close()
