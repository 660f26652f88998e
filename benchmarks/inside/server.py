"""The development servers of a project's engine, in the folder that the argument names.

Prints the settings that lead a bot to them as JSON; a line of input stops them, which another line of output
confirms.
"""

import json
import os
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path


def main(folder: Path) -> None:
    """Serve until told to stop."""
    os.chdir(folder)  # where no other project's package `bot` is found
    settings: dict[str, str] = {}
    with ExitStack() as in_the_end:
        if find_spec("bot.runtime.engines.redis.dev_server"):
            from bot.runtime.engines.redis.dev_server import RedisDevServer

            redis = RedisDevServer(folder / "redis")
            redis.join()
            in_the_end.callback(redis.leave)
            settings["REDIS_URL"] = f"unix://{redis.address}"
        if find_spec("bot.runtime.engines.postgres.dev_server"):
            from bot.runtime.engines.postgres.dev_server import PostgresDevServer

            postgres = PostgresDevServer(folder / "postgres")
            settings["DATABASE_URL"] = postgres.start_now()
            in_the_end.callback(postgres.stop_now)
        print(json.dumps(settings), flush=True)
        sys.stdin.readline()
    print(json.dumps({"stopped": True}), flush=True)


main(Path(sys.argv[1]))
