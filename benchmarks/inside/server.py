"""The development server of an engine (redis or postgres), in the folder that the arguments name after it.

Prints its address as JSON; a line of input stops it, which another line of output confirms.
"""

import json
import os
import sys
from pathlib import Path


def main(engine: str, folder: Path) -> None:
    """Serve until told to stop."""
    os.chdir(folder)  # where no other project's package `bot` is found
    if engine == "redis":
        from bot.state.embedded_redis import EmbeddedRedis

        redis = EmbeddedRedis(folder / "data")
        redis.join()
        url, stop = f"unix://{redis.socket.absolute()}", redis.leave
    else:
        from bot.state.embedded_postgres import EmbeddedPostgres

        postgres = EmbeddedPostgres(folder / "data")
        url, stop = postgres.start_now(), postgres.stop_now
    print(json.dumps({"url": url}), flush=True)
    sys.stdin.readline()
    stop()
    print(json.dumps({"stopped": True}), flush=True)


main(sys.argv[1], Path(sys.argv[2]))
