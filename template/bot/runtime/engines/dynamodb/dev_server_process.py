"""moto's DynamoDB as a server that keeps its data: `embedded_dynamodb_server.py FOLDER PORT`.

moto holds everything in memory, and loses updates when several threads ask it at once. So one thread asks it,
and each request that changed something is appended to a journal before it is answered. At start, the journal
is replayed, and written anew without what was overwritten. A killed server has lost nothing that it answered;
a power failure may take the last seconds. Whoever can connect may read and write: it listens on this machine
only.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.test import Client

from bot.runtime.engines.dev_server import HOST

PREFIX = "DynamoDB_20120810."
OF_ITEMS = {"PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "TransactWriteItems"}
OF_TABLES = {"CreateTable", "UpdateTable", "DeleteTable", "UpdateTimeToLive", "UpdateContinuousBackups"}

LARGEST_REQUEST = 20 * 2**20

AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=development/20260101/us-east-1/dynamodb/aws4_request, "
    "SignedHeaders=host, Signature=none"
)
"""moto keeps tables apart by region and account. Here, everybody sees the same ones."""


class Database:
    """moto, and the journal beside it."""

    def __init__(self, folder: Path) -> None:
        """Read the journal of a folder."""
        self._moto = Client(DomainDispatcherApplication(create_backend_app))
        self._path = folder / "journal.jsonl"
        self._of_tables: list[bytes] = []
        self._replay()
        self._journal = self._path.open("ab")

    def ask(self, operation: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Execute a request; what it changed is in the journal when this returns."""
        answer = self._execute(operation, body)
        if answer[0] == 200 and operation in OF_ITEMS | OF_TABLES:
            self._journal.write(_line(operation, body))
            self._journal.flush()
        return answer

    def _execute(self, operation: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        headers = {
            "X-Amz-Target": f"{PREFIX}{operation}",
            "Content-Type": "application/x-amz-json-1.0",
            "Authorization": AUTHORIZATION,
        }
        response = self._moto.post("/", data=body, headers=headers)
        kept = {name: value for name, value in response.headers.items() if name.lower().startswith("x-amz")}
        return response.status_code, response.get_data(), kept

    def _replay(self) -> None:
        written = self._path.read_bytes() if self._path.exists() else b""
        for line in written.splitlines(keepends=True):
            if line.endswith(b"\n"):  # else it was cut off, and not answered
                entry = orjson.loads(line)
                self._execute(entry["operation"], entry["body"].encode())
                if entry["operation"] in OF_TABLES:
                    self._of_tables.append(line)
        shorter = self._path.with_suffix(".new")
        with shorter.open("wb") as file:
            file.writelines(self._of_tables)
            file.writelines(self._items())
            file.flush()
            os.fsync(file.fileno())
        shorter.replace(self._path)

    def _items(self) -> Iterator[bytes]:
        """A line for each item of each table."""
        for table in self._read("ListTables")["TableNames"]:
            request: dict[str, Any] = {"TableName": table}
            while True:
                page = self._read("Scan", **request)
                for item in page["Items"]:
                    yield _line("PutItem", orjson.dumps({"TableName": table, "Item": item}))
                if "LastEvaluatedKey" not in page:
                    break
                request["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def _read(self, operation: str, **request: Any) -> Any:
        return orjson.loads(self._execute(operation, orjson.dumps(request))[1])


async def serve(folder: Path, port: int) -> None:
    """Serve the data of a folder until the process ends."""
    database = Database(folder)
    name = os.fsencode(folder.absolute())  # noqa: ASYNC240 - before anybody waits

    async def execute(request: web.Request) -> web.Response:
        operation = request.headers.get("X-Amz-Target", "").removeprefix(PREFIX)
        status, body, headers = database.ask(operation, await request.read())
        return web.Response(
            status=status, body=body, headers=headers, content_type="application/x-amz-json-1.0"
        )

    async def tell(_: web.Request) -> web.Response:
        return web.Response(body=name)

    app = web.Application(client_max_size=LARGEST_REQUEST)
    app.router.add_post("/", execute)
    app.router.add_get("/", tell)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    await asyncio.Event().wait()


def main() -> None:
    """Serve until whoever started this has ended, or ends it."""
    sys.setrecursionlimit(100_000)  # moto reads expressions recursively

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))


def _line(operation: str, body: bytes) -> bytes:
    return orjson.dumps({"operation": operation, "body": body.decode()}) + b"\n"


if __name__ == "__main__":
    main()
