"""Have many users write once, and count what the bot holds afterwards.

One line of input says how many (JSON: users); one line printed says what was found: per kind how many
there were before and after, and bytes by what holds them.
"""

import asyncio
import gc
import json
import sys
import tracemalloc
from collections import Counter

from bot.runtime.telegram.fast_import import import_aiogram

import_aiogram()

from bot.runtime.app import open_app  # noqa: E402
from bot.runtime.config import Settings  # noqa: E402
from bot.runtime.engines.memory.store import MemoryStore  # noqa: E402
from bot.runtime.logs import configure_logs  # noqa: E402
from suite.behaviour.test_idle import Yes, write_once  # noqa: E402

WARM_UP = 1_000
"""Users who write before the first count: caches fill, models are built."""

ALLOWANCE = 200
"""Objects of one type that may come and go with caches, without regard to the number of users."""


def objects() -> Counter[str]:
    """How many objects of each type there are, of those that can hold others."""
    gc.collect()
    return Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())


async def main() -> None:
    """Count, write, count."""
    users: int = json.loads(sys.stdin.readline())["users"]
    settings = Settings(bot_token="42:TEST", _env_file=None)
    configure_logs(settings)
    store = MemoryStore.from_settings(settings)
    async with open_app(settings, session=Yes(), token=settings.token, store=store) as app:
        processor = app.processor
        sent, finished = processor._transaction.outbox._sent, processor._done
        await write_once(app, range(1, WARM_UP + 1))
        store._rows.clear()
        before = objects(), len(asyncio.all_tasks()), len(processor._lanes)
        tracemalloc.start()
        await write_once(app, range(WARM_UP + 1, WARM_UP + users + 1))
        gc.collect()
        everything, _ = tracemalloc.get_traced_memory()
        assert len(store._rows) == users, "every user has a record"
        store._rows.clear()
        after = objects(), len(asyncio.all_tasks()), len(processor._lanes)
        without_records, _ = tracemalloc.get_traced_memory()
        sent._values.clear()
        finished._values.clear()
        processor._transaction._began._values.clear()
        gc.collect()
        rest, _ = tracemalloc.get_traced_memory()
    grown = {kind: count - before[0][kind] for kind, count in after[0].items()}
    per_user = {kind: count for kind, count in grown.items() if count > ALLOWANCE}
    print(per_user, file=sys.stderr)
    found = {
        "counts": {
            "asyncio tasks": [before[1], after[1]],
            "users in the order of updates": [before[2], after[2]],
            "objects of any type that grew with the users": [0, sum(per_user.values())],
        },
        "bytes": {
            "records of the memory engine": everything - without_records,
            f"ids of recent updates (the last {finished._limit:,})": without_records - rest,
            "anything else": rest,
        },
    }
    print(json.dumps(found), flush=True)


asyncio.run(main())
