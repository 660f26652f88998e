"""Fixtures of the tests of the hybrid engine."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from suite.engines.hybrid.harness import HybridHarness
from suite.engines.postgres.server import OwnServer
from suite.engines.redis.server import Server


@pytest.fixture
async def hybrid() -> AsyncIterator[HybridHarness]:
    """The harness by its own name, with what only this engine has."""
    harness = HybridHarness()
    yield harness
    await harness.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Server]:
    """A Redis that this test may break."""
    server = Server(tmp_path / "redis").start()
    yield server
    server.end()


@pytest.fixture
def own_postgres() -> Iterator[OwnServer]:
    """A PostgreSQL that this test may break."""
    server = OwnServer()
    yield server
    server.remove()
