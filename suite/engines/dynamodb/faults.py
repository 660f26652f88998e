"""The DynamoDB engine's server: moto in a process of its own, with a journal, throttling now and then.

AWS' own service has no operator who restarts or kills it: to a bot, its faults look like those of the network
and like refusals. The server's faults happen here all the same, since its journal keeps what it answered. A
server that TEST_DYNAMODB_URL names is used instead, and left alone.
"""

import asyncio
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import ClassVar

from suite.engines.dynamodb.server import Server as Moto
from suite.engines.dynamodb.server import environment_of, make_table
from suite.engines.dynamodb.throttle import Throttle
from suite.torture.backend import Server, Trouble
from suite.torture.clock import ServerClock
from suite.torture.faults import OF_SERVERS
from suite.torture.link import Address, Link

GIVEN = os.environ.get("TEST_DYNAMODB_URL")


class DynamodbServer:
    """moto, in a folder of its own; or the server that is given."""

    name = "DynamoDB"

    def __init__(self, folder: Path) -> None:
        self._own = None if GIVEN else Moto(folder / "dynamodb")
        self.clock = ServerClock(folder / "dynamodb.clock")
        self.throttle = Throttle(self.server_url)

    def server_url(self) -> str:
        return self._own.url if self._own else str(GIVEN)

    def address(self) -> Address:
        return "127.0.0.1", self.throttle.port

    def pids(self) -> list[int]:
        return [self._own.pid] if self._own else []

    def start(self) -> None:
        if self._own:
            with self.clock.rules():
                self._own.start()

    def stop(self) -> None:
        if self._own:
            self._own.stop()

    def kill(self) -> None:
        if self._own:
            self._own.kill()


class DynamodbBackend:
    """One server, before which requests are refused now and then, as beyond a table's throughput."""

    label: ClassVar[str] = ""
    survives_exit: ClassVar[bool] = True
    spared: ClassVar[Mapping[str, str]] = (
        dict.fromkeys(OF_SERVERS, "the server is another's") if GIVEN else {}
    )

    def __init__(self, folder: Path) -> None:
        self._server = DynamodbServer(folder)
        self._table = f"torture-{secrets.token_hex(4)}"
        self.servers: Sequence[Server] = [self._server]

    async def open(self) -> None:
        await asyncio.to_thread(self._server.start)
        await self._server.throttle.start()
        await make_table(self._server.server_url(), self._table)

    def settings(self, links: Sequence[Link]) -> dict[str, str]:
        (link,) = links
        # A bot that starts while the server is away shall wait for it, not end and be started again: a busy
        # machine takes more than a minute to read the journal.
        return {
            **environment_of(f"http://127.0.0.1:{link.port}", self._table),
            "DYNAMODB_CONNECT_TIMEOUT": "300",
        }

    def troubles(self) -> Mapping[str, Trouble]:
        return {"DynamoDB: throttled": self._throttle, "DynamoDB: errors of its own": self._fail}

    async def _throttle(self, chance: Random) -> None:
        """Refuse most requests for a while."""
        await self._refuse(0.9, "ProvisionedThroughputExceededException", chance)

    async def _fail(self, chance: Random) -> None:
        """Answer with errors of its own for a while, half of the requests executed, half not."""
        await self._refuse(0.5, "InternalServerError", chance)

    async def _refuse(self, share: float, error: str, chance: Random) -> None:
        self._server.throttle.refuse(share, error, chance)
        await asyncio.sleep(chance.uniform(1, 3))
        self._server.throttle.refuse_no_more()

    async def close(self) -> None:
        await self._server.throttle.stop()
        await asyncio.to_thread(self._server.kill)


BACKEND = DynamodbBackend
