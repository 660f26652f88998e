"""What the tests of the hybrid engine do to it."""

from typing import Any

from bot.runtime.engines.hybrid.store import HybridStore
from bot.runtime.state.record import UserRecord
from bot.runtime.state.turn import Turn, mutate


async def put(store: HybridStore, user_id: str = "1", say: str = "", **state: Any) -> int:
    """Set keys of a user's state, and perhaps say something; the version after it."""

    async def change(turn: Turn) -> None:
        turn.state.update(state)
        if say:
            turn.remember("user", say)

    await mutate(store, user_id, change)
    return (await store.load(user_id)).version


async def evict(store: HybridStore, user_id: str = "1", *parts: str) -> None:
    """Take keys of a record out of Redis, or all, as eviction does with one that is clean."""
    assert not await is_dirty(store, user_id), "a dirty record is never evicted"
    keys = [store.redis._key(user_id, part) for part in parts or ("state", "history", "meta", "applied")]
    await store.redis.connection.ask("DEL", *keys)


async def is_dirty(store: HybridStore, user_id: str = "1") -> bool:
    return await store.redis.connection.ask("ZSCORE", store.redis._dirty, user_id) is not None


async def rested(store: HybridStore, user_id: str = "1") -> UserRecord:
    """The record as PostgreSQL holds it."""
    record, _ = await store.postgres.read(user_id)
    return record


async def messages_in_postgres(store: HybridStore, user_id: str = "1") -> int:
    """How many messages stand in PostgreSQL, whether they count or not."""
    statement = store.postgres._fill("SELECT count(*) FROM {schema}.user_message WHERE user_id = $1")
    count: int = await store.postgres.database.run(lambda c: c.fetchval(statement, user_id))
    return count
