"""Fixtures of the tests of the PostgreSQL engine."""

import secrets
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from bot.runtime.engines.postgres import schema as postgres_schema
from bot.runtime.engines.postgres.connection import Connection, Database
from suite.engines.postgres.harness import PostgresHarness, server_url
from suite.engines.postgres.pooler import pooler
from suite.engines.postgres.server import OwnServer

__all__ = ["connection", "empty_schema", "own_database", "own_server", "pooler", "postgres"]


@pytest.fixture
async def postgres() -> AsyncIterator[PostgresHarness]:
    """The harness by its own name, with what only PostgreSQL has."""
    harness = PostgresHarness()
    yield harness
    await harness.close()


@pytest.fixture
async def empty_schema() -> AsyncIterator[str]:
    """The name of a schema that is there and empty."""
    name = f"test_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(server_url())
    await connection.execute(f'CREATE SCHEMA "{name}"')
    yield name
    await connection.execute(f'DROP SCHEMA "{name}" CASCADE')
    await connection.close()


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    """A connection to the tests' server."""
    connection = await asyncpg.connect(server_url())
    yield connection
    await connection.close()


@pytest.fixture
def own_server() -> Iterator[OwnServer]:
    """A server that this test may break."""
    server = OwnServer()
    yield server
    server.remove()


@pytest.fixture
async def own_database(own_server: OwnServer) -> Database:
    """Its database, with the tables in it; time-outs are short."""
    database = Database(own_server.url, pool_size=5, timeout=3)
    await postgres_schema.migrate(database, "public")
    return database
