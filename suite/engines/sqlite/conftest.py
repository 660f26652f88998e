"""Fixtures of the tests of the SQLite engine."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from bot.runtime.engines.sqlite.connection import Database
from bot.runtime.engines.sqlite.store import SCHEMA, SqliteStore

Open = Callable[..., Awaitable[SqliteStore]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file will be."""
    return tmp_path / "kept" / "bot.sqlite3"


@pytest.fixture
async def open_store(path: Path) -> AsyncIterator[Open]:
    """Open a store on the file, or on another one; it is closed in the end."""
    stores: list[SqliteStore] = []

    async def open_store(
        file: Path = path, *, ttl: float | None = None, timeout: float = 2, sync: str = "full"
    ) -> SqliteStore:
        store = SqliteStore(Database(file, SCHEMA, timeout=timeout, sync=sync), ttl=ttl)
        stores.append(store)
        await store.connect()
        return store

    yield open_store
    for store in stores:
        await store.close()


@pytest.fixture
async def direct(open_store: Open) -> SqliteStore:
    """A store on the file."""
    return await open_store()
