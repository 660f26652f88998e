"""Compare ways to keep users in SQLite. Prints one line of JSON: rates and losses of each.

All write into files of the same folder, with a write-ahead log, and wait for the disk at every commit.
"""

import json
import os
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiosqlite
import apsw
import uvloop
from turn import (
    AT_ONCE,
    HISTORY,
    SECONDS,
    USERS,
    Keeper,
    OneKey,
    Ours,
    Rate,
    WholeDocument,
    commit_rates,
    lost,
    measure,
    rate_of,
    said,
)

from bot.runtime.engines.sqlite import store as engine
from bot.runtime.engines.sqlite.connection import Database, Patience
from bot.runtime.engines.sqlite.store import SCHEMA, SqliteStore
from bot.runtime.state.record import HOME, Limits, OutboxEntry, encode_entry
from bot.runtime.state.store import Changes
from bot.runtime.state.turn import Turn


class Sketch(WholeDocument):
    """The PostgreSQL sketch of the source document, on one connection of aiosqlite."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        """Keep users there."""
        self.connection = connection

    async def read(self, user_id: str) -> dict[str, Any]:
        """See `WholeDocument`."""
        query = "SELECT state FROM user_state WHERE user_id = ?"
        async with self.connection.execute(query, (user_id,)) as cursor:
            row = await cursor.fetchone()
        document: dict[str, Any] = json.loads(row[0]) if row else {}
        return document

    async def write(self, user_id: str, document: dict[str, Any]) -> None:
        """See `WholeDocument`."""
        await self.connection.execute(
            "INSERT INTO user_state (user_id, state, updated_at) VALUES (?, ?, ?)"
            " ON CONFLICT (user_id) DO UPDATE SET state = excluded.state, updated_at = excluded.updated_at",
            (user_id, json.dumps(document), time.time()),
        )
        await self.connection.commit()


class Once(Sketch):
    """The same, but that a turn writes all it keeps at once."""

    async def turn(self, user_id: str, number: int) -> None:
        """See `Keeper`."""
        document = await self.read(user_id)
        await self.write(user_id, {**document, **said(document, number)})


async def opened(path: Path, in_the_end: AsyncExitStack) -> aiosqlite.Connection:
    """A connection of aiosqlite to a new file."""
    connection = await in_the_end.enter_async_context(aiosqlite.connect(path))
    await connection.execute("PRAGMA journal_mode = wal")
    await connection.execute("PRAGMA synchronous = full")
    await connection.execute(
        "CREATE TABLE user_state (user_id TEXT PRIMARY KEY, state TEXT NOT NULL, updated_at REAL)"
    )
    await connection.commit()
    return connection


def without_asyncio(database: Database, at_once: int) -> Rate:
    """Turns of the same statements and the same JSON, so many in a transaction, in one thread."""
    connection = database.connect(Patience(10))
    number = 0

    async def rate() -> float:
        nonlocal number
        started = time.perf_counter()
        done = 0
        while time.perf_counter() - started < SECONDS:
            users = [str((done + place) % USERS) for place in range(at_once)]
            rows = [_load(connection, user) for user in users]
            connection.execute("BEGIN IMMEDIATE")
            for user, row in zip(users, rows, strict=True):
                number += 1
                _turn(connection, user, row, number)
            connection.execute("COMMIT")
            done += at_once
        return done / (time.perf_counter() - started)

    return rate


def _load(connection: apsw.Connection, user: str) -> Any:
    return connection.execute(vars(engine)["_LOAD"], (user, time.time(), HOME)).fetchone()


def _turn(connection: apsw.Connection, user: str, row: Any, number: int) -> None:
    record = vars(engine)["_decoded"](user, row, HOME)
    delivered = dict.fromkeys(record.outbox)
    turn = Turn(record, Limits())
    turn.state["message_count"] += 1
    turn.state["last_message"] = f"message {number}"
    turn.remember("user", f"message {number}")
    turn.remember("assistant", f"Processed: message {number}")
    changes = turn.changes()
    assert changes
    reply = {"method": "sendMessage", "params": {"chat_id": "1", "text": f"Processed: message {number}"}}
    noted = Changes(
        state=changes.state,
        messages=changes.messages,
        keep_history=HISTORY,
        size=changes.size,
        applied=(number,),
        outbox={**delivered, number: encode_entry(OutboxEntry([reply], time.time()))},
    )
    vars(engine)["_commit"](connection, user, noted, turn.version, None)


async def main() -> None:
    """Fill each, measure."""
    # On the disk that the project is on: a folder for temporary files may be in memory.
    with tempfile.TemporaryDirectory(dir=os.getcwd()) as name:
        async with AsyncExitStack() as in_the_end:
            print(json.dumps(await compared(Path(name), in_the_end)))


async def compared(folder: Path, in_the_end: AsyncExitStack) -> dict[str, Any]:
    """Everything there is to say."""
    stores = [SqliteStore(Database(folder / f"{name}.sqlite3", SCHEMA)) for name in ("ours", "batch")]
    for store in stores:
        await store.connect()
        in_the_end.push_async_callback(store.close)
    sketch = Sketch(await opened(folder / "sketch.sqlite3", in_the_end))
    once = Once(await opened(folder / "once.sqlite3", in_the_end))
    ours, batch = map(Ours, stores)
    keepers: dict[str, Keeper] = {"ours": ours, "sketch": sketch, "once": once, "batch": batch}
    for keeper in keepers.values():
        for user in range(USERS):
            await keeper.create(str(user))
    found: dict[str, Any] = {"rates": {}}
    for at_once in (1, AT_ONCE):
        rates = {name: rate_of(keepers[name].turn, at_once) for name in ("ours", "sketch", "once")}
        rates["one key"] = rate_of(OneKey(sketch).turn, at_once)
        rates["batch"] = without_asyncio(stores[1].database, at_once)
        found["rates"][at_once] = await measure(rates)
    found["lost"] = {name: await lost(keepers[name]) for name in ("ours", "sketch", "once")}
    found["commits"] = await commit_rates(stores[0])
    return found


if __name__ == "__main__":
    uvloop.run(main())
