"""Compare one group, whose members share a record, with as many people who have one each.

Usage: group.py SERVER...   (servers of `storage.py`, those the project's engine works with)

Prints JSON: what is missing here to start a server, or turns per second of each, round by round.
"""

import json
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop
from storage import SERVERS, MissingError, opened
from turn import AT_ONCE, USERS, Ours, measure, rate_of

from bot.runtime.config import Settings
from bot.runtime.logs import configure_logs
from bot.runtime.state.record import Author
from bot.runtime.state.store import StateStore
from bot.runtime.state.turn import KeyedLock

GROUP = "-100"


async def rates(store: StateStore) -> dict[str, list[float]]:
    """Turns per second: of the members of a group, one after another in its lane, and of people."""
    people, group, lanes = Ours(store), Ours(store, Author(4815162342, "A. Member")), KeyedLock()
    await group.create(GROUP)
    for user in range(USERS):
        await people.create(str(user))

    async def in_group(_: str, number: int) -> None:
        async with lanes.hold(GROUP):
            await group.turn(GROUP, number)

    return await measure({"group": rate_of(in_group, AT_ONCE), "people": rate_of(people.turn, AT_ONCE)})


async def main(names: list[str]) -> None:
    """Start servers and measure."""
    configure_logs(Settings(log_level="WARNING", _env_file=None))
    servers = {name: SERVERS[name]() for name in names}
    with tempfile.TemporaryDirectory(prefix="group-") as folder:
        async with AsyncExitStack() as in_the_end:
            settings: dict[str, str] = {}
            for name, server in servers.items():
                try:
                    await server.start(Path(folder) / name)
                except MissingError as missing:
                    print(json.dumps({"missing": str(missing)}))
                    return
                in_the_end.push_async_callback(server.stop)
                settings |= server.settings()
            print(json.dumps(await rates(await in_the_end.enter_async_context(opened(settings)))))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1:]))
