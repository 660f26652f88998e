"""The SQLite engine under test: each harness has a file of its own, which several stores share."""

import shutil
import tempfile
from pathlib import Path

import apsw

from bot.runtime.engines.sqlite.connection import Database
from bot.runtime.engines.sqlite.store import SCHEMA, SqliteStore
from bot.runtime.state.record import Limits
from bot.runtime.state.store import OperatorStore
from suite.contract.harness import Harness


class SqliteHarness:
    """A file that several stores share."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bot-sqlite-"))
        self.path = self.folder / "bot.sqlite3"
        self._stores: list[SqliteStore] = []

    async def open(self, limits: Limits | None = None, ttl: float | None = None) -> OperatorStore:
        store = SqliteStore(Database(self.path, SCHEMA), limits=limits, ttl=ttl)
        self._stores.append(store)
        await store.connect()
        return store

    def settings(self) -> dict[str, str]:
        return {"SQLITE_PATH": str(self.path)}

    def execute(self, query: str, *arguments: str) -> None:
        """Do something to the file that no store would do."""
        connection = apsw.Connection(str(self.path))
        connection.set_busy_timeout(10_000)
        connection.execute(query, arguments)
        connection.close()

    async def expire(self, user_id: str) -> None:
        self.execute("UPDATE record SET expires_at = 1 WHERE user = ?", user_id)

    async def corrupt(self, user_id: str) -> None:
        self.execute("INSERT OR IGNORE INTO record (user, version, token) VALUES (?, 1, '')", user_id)
        self.execute(
            "REPLACE INTO part SELECT id, 'state', 'broken', '{not json' FROM record WHERE user = ?",
            user_id,
        )

    async def close(self) -> None:
        for store in self._stores:
            await store.close()
        shutil.rmtree(self.folder)


def make_harness() -> Harness:
    return SqliteHarness()
