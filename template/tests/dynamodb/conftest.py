"""Fixtures of the tests of the DynamoDB engine."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bot.state.dynamodb import DynamodbStore
from tests.dynamodb.server import Server, make_store, make_table
from tests.dynamodb.throttle import Throttle


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own."""
    server = Server(tmp_path / "server").start()
    yield server
    server.kill()


@pytest.fixture
async def direct(server: Server) -> AsyncIterator[DynamodbStore]:
    """A store on the test's own server."""
    await make_table(server.url)
    store = make_store(server.url)
    await store.connect()
    yield store
    await store.close()


@pytest.fixture
async def throttle(direct: DynamodbStore, server: Server) -> AsyncIterator[Throttle]:
    """What stands in front of the test's own server."""
    throttle = Throttle(lambda: server.url)
    await throttle.start()
    yield throttle
    await throttle.stop()


@pytest.fixture
async def proxied(throttle: Throttle) -> AsyncIterator[DynamodbStore]:
    """A store that speaks to the server by way of that."""
    store = make_store(throttle.url, dynamodb_timeout=3)
    await store.connect()
    throttle.reset()
    yield store
    await store.close()
