"""A replica of an older version, which does to user 1 what it reads: `python -m suite.old_replica`.

A line each: `say TEXT`, `forget`, `flush`, `recall`; it answers each with one, and ends with its input.
"""

import asyncio
import json
import sys

from bot.runtime.config import load_settings
from bot.runtime.engines import create_store
from bot.runtime.logs import configure_logs
from bot.runtime.state.turn import mutate

USER = "1"


async def do(store, command, text):
    """Do what one line says."""

    async def say(turn):
        turn.state["last"] = text
        turn.remember("user", text)

    match command:
        case "say":
            await mutate(store, USER, say)
        case "forget":
            await store.forget(USER)
        case "flush" if hasattr(store, "flush"):
            return (await store.flush(everything=True, seconds=5)).users
        case "recall":
            return [message.text for message in (await store.load(USER)).history]
    return None


async def main():
    """Migrate as far as this version does, and do as told."""
    settings = load_settings()
    configure_logs(settings)  # to standard error
    store = create_store(settings)
    await store.migrate()
    await store.connect()
    print(json.dumps("ready"), flush=True)
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        command, _, text = line.partition(" ")
        print(json.dumps(await do(store, command, text)), flush=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main())
