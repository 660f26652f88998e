"""The least aiogram bot there is, by webhook: bare_webhook.py echo | count.

`count` counts each user's messages in aiogram's own storage: in the Redis that STORAGE_URL names, by way of
aiosqlite in the file STORAGE_FILE, or else in memory. A delivery is answered when its update is handled; with
BACKGROUND=1 before that, as aiogram does by default.
"""

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.fsm.context import FSMContext
from aiogram.fsm.storage.base import BaseStorage, StorageKey
from aiogram.fsm.storage.memory import MemoryStorage
from aiogram.types import Message
from aiogram.webhook.aiohttp_server import SimpleRequestHandler
from aiohttp import web


async def echo(message: Message) -> None:
    """Say the same, by a call of its own."""
    await message.answer(message.text or "")


async def count(message: Message, state: FSMContext) -> None:
    """Count the message, and say so by a call of its own."""
    data = await state.get_data()
    number = data.get("message_count", 0) + 1
    await state.update_data(message_count=number, last_message=message.text)
    await message.answer(f"Processed: {message.text} (#{number})")


class FileStorage(MemoryStorage):
    """Data in a SQLite file, as a few lines of aiosqlite do it; a commit waits for the disk."""

    def __init__(self, path: str) -> None:
        """Keep them there."""
        super().__init__()
        self._path = path
        self._connection: Any = None

    async def _opened(self) -> Any:
        if self._connection is None:
            import aiosqlite

            self._connection = aiosqlite.connect(self._path, timeout=30)
            await self._connection
            for line in (
                "PRAGMA journal_mode = wal",
                "PRAGMA synchronous = full",
                "CREATE TABLE IF NOT EXISTS data (key TEXT PRIMARY KEY, data TEXT NOT NULL)",
            ):
                await self._connection.execute(line)
        return self._connection

    async def get_data(self, key: StorageKey) -> dict[str, Any]:
        """See `BaseStorage`."""
        connection = await self._opened()
        query = "SELECT data FROM data WHERE key = ?"
        async with connection.execute(query, (f"{key.chat_id}:{key.user_id}",)) as cursor:
            row = await cursor.fetchone()
        data: dict[str, Any] = json.loads(row[0]) if row else {}
        return data

    async def set_data(self, key: StorageKey, data: Mapping[str, Any]) -> None:
        """See `BaseStorage`."""
        connection = await self._opened()
        row = f"{key.chat_id}:{key.user_id}", json.dumps(data)
        await connection.execute("REPLACE INTO data VALUES (?, ?)", row)
        await connection.commit()

    async def update_data(self, key: StorageKey, data: Mapping[str, Any]) -> dict[str, Any]:
        """See `BaseStorage`: read, change, write."""
        changed = {**await self.get_data(key), **data}
        await self.set_data(key, changed)
        return changed


def make_storage() -> BaseStorage:
    """Aiogram's storage for what STORAGE_URL or STORAGE_FILE says."""
    if path := os.environ.get("STORAGE_FILE"):
        return FileStorage(path)
    if url := os.environ.get("STORAGE_URL"):
        from aiogram.fsm.storage.redis import RedisStorage

        return RedisStorage.from_url(url)
    return MemoryStorage()


async def healthz(_: web.Request) -> web.Response:
    """Tell that it listens."""
    return web.Response()


def main() -> None:
    """Serve until killed."""
    dispatcher = Dispatcher(storage=make_storage())
    dispatcher.message.register({"echo": echo, "count": count}[sys.argv[1]])
    session = AiohttpSession(api=TelegramAPIServer.from_base(os.environ["TELEGRAM_API_URL"]))
    bot = Bot(os.environ["BOT_TOKEN"], session=session)
    app = web.Application()
    app.router.add_get("/healthz", healthz)
    handler = SimpleRequestHandler(
        dispatcher,
        bot,
        handle_in_background=os.environ.get("BACKGROUND") == "1",
        secret_token=os.environ["WEBHOOK_SECRET"],
    )
    handler.register(app, path="/webhook")
    web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), print=None)


main()
