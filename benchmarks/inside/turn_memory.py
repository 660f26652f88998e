"""Compare ways to keep users in the process. Prints one line of JSON: rates and losses of each."""

import asyncio
import json
from typing import Any

import uvloop
from aiogram.fsm.storage.base import StorageKey
from aiogram.fsm.storage.memory import MemoryStorage
from turn import USERS, Keeper, OneKey, Ours, WholeDocument, lost, measure, rate_of, said

from bot.runtime.engines.memory.store import MemoryStore
from bot.runtime.state.record import UserRecord


class Sketch(WholeDocument):
    """The source document's `user_state`: a dict per user."""

    def __init__(self) -> None:
        """Keep users here."""
        self._users: dict[str, dict[str, Any]] = {}

    async def read(self, user_id: str) -> dict[str, Any]:
        """See `WholeDocument`."""
        return self._users.get(user_id, {})

    async def write(self, user_id: str, document: dict[str, Any]) -> None:
        """See `WholeDocument`."""
        self._users[user_id] = document


class Aiogram(WholeDocument):
    """aiogram's own storage."""

    def __init__(self) -> None:
        """Keep users there."""
        self._storage = MemoryStorage()

    async def read(self, user_id: str) -> dict[str, Any]:
        """See `WholeDocument`."""
        return await self._storage.get_data(_key(user_id))

    async def write(self, user_id: str, document: dict[str, Any]) -> None:
        """See `WholeDocument`."""
        await self._storage.set_data(_key(user_id), document)

    async def turn(self, user_id: str, number: int) -> None:
        """See `Keeper`: `get_data`, then one `update_data`."""
        document = await self.read(user_id)
        await self._storage.update_data(_key(user_id), said(document, number))


def _key(user_id: str) -> StorageKey:
    number = hash(user_id)
    return StorageKey(bot_id=42, chat_id=number, user_id=number)


# A dict answers without letting anybody else run, which an agent that awaits anything does not. So losses are
# counted with agents that wait a moment between reading and writing; with servers they wait anyway.


class WaitingStore(MemoryStore):
    """Ours, for such an agent."""

    async def load(self, user_id: str, conversation: str | None = "") -> UserRecord:
        """See `StateStore`."""
        record = await super().load(user_id, conversation)
        await asyncio.sleep(0)
        return record


class WaitingSketch(Sketch):
    """The sketch, for such an agent."""

    async def turn(self, user_id: str, number: int) -> None:
        """See `Keeper`."""
        changed = said(await self.read(user_id), number)
        await asyncio.sleep(0)
        for key, value in changed.items():
            await self.update(user_id, key, value)


class WaitingAiogram(Aiogram):
    """aiogram's storage, for such an agent."""

    async def read(self, user_id: str) -> dict[str, Any]:
        """See `WholeDocument`."""
        document = await super().read(user_id)
        await asyncio.sleep(0)
        return document


async def main() -> None:
    """Fill each, measure."""
    sketch, store = Sketch(), MemoryStore()
    keepers: dict[str, Keeper] = {"ours": Ours(store), "sketch": sketch, "aiogram": Aiogram()}
    for keeper in keepers.values():
        for user in range(USERS):
            await keeper.create(str(user))
    rates = {name: rate_of(keeper.turn, 1) for name, keeper in keepers.items()}
    rates["one key"] = rate_of(OneKey(sketch).turn, 1)
    waiting: dict[str, Keeper] = {
        "ours": Ours(WaitingStore()),
        "sketch": WaitingSketch(),
        "aiogram": WaitingAiogram(),
    }
    found = {
        "rates": {1: await measure(rates)},
        "lost": {name: await lost(keeper) for name, keeper in waiting.items()},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    uvloop.run(main())
