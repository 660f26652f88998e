"""`bot state adopt`: take over what a bot written by hand left in Redis, one JSON string per user.

Such a bot keeps a user's state under `user:<id>:state`. Nothing touches those keys before this command runs.
It puts each into the user's record, where keys that are there already stay as they are, and only then removes
it: so it may be cut off and run again.
"""

import json
import sys
from contextlib import suppress
from typing import Any

from bot.runtime.engines.redis.connection import Script
from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.errors import OperatorError
from bot.runtime.state.errors import StateForgotten, StateTooLarge, StateValueError
from bot.runtime.state.turn import Turn, mutate

PATTERN = "user:*:state"

REMOVE = Script("redis_remove.lua")


def adopt() -> None:
    """Take over every state and say how many; what cannot be taken over is named and left alone.

    Raises:
        OperatorError: something is left, or the server does not answer.
    """
    from bot.runtime.cli import _open_store, _run

    async def work() -> None:
        async with _open_store() as store:
            assert isinstance(store, RedisStore)
            adopted, left = await adopt_all(store)
            for line in left:
                print(line, file=sys.stderr)
            print(f"adopted {adopted} users")
            if left:
                raise OperatorError(f"{len(left)} keys are left alone, for the reasons above")

    _run(work())


async def adopt_all(store: RedisStore) -> tuple[int, list[str]]:
    """Take over every state there is.

    Returns:
        How many were, and a line for each that could not be.

    Raises:
        StateError: the server does not answer, or a record of ours cannot be read.
    """
    adopted, left = 0, []
    for server in await store.connection.servers():
        cursor = None
        while cursor != 0:
            scan = ("SCAN", cursor or 0, "MATCH", PATTERN, "COUNT", 500, "TYPE", "string")
            cursor, keys = await store.connection.ask(*scan, server=server)
            for key in keys:
                try:
                    adopted += await _adopt(store, key)
                except (ValueError, StateTooLarge) as error:
                    left.append(f"{key.decode(errors='replace')}: {error}")
    return adopted, left


async def _adopt(store: RedisStore, key: bytes) -> bool:
    """Take over one state, and remove its key unless that changed meanwhile.

    Raises:
        ValueError: it is not the JSON of an object, or holds what cannot be kept.
        StateTooLarge: it does not fit into a record.
    """
    text = await store.connection.ask("GET", key)
    if text is None:  # another run was faster
        return False
    state = _read(text)

    async def merge(turn: Turn) -> None:
        turn.state |= {name: value for name, value in state.items() if name not in turn.state}

    user_id = key.decode().removeprefix("user:").removesuffix(":state")
    # Since the beginning of time: a user who was forgotten meanwhile is not brought back.
    with suppress(StateForgotten):
        await mutate(store, user_id, merge, since=0)
    await store.connection.evaluate(REMOVE, [key.decode()], [text])
    return True


def _read(text: bytes) -> dict[str, Any]:
    # Not orjson, which reads integers beyond 64 bits as floats.
    try:
        state = json.loads(text)
    except ValueError:
        raise StateValueError("it is not JSON") from None
    if not isinstance(state, dict):
        raise StateValueError("it is not a JSON object")
    return state
