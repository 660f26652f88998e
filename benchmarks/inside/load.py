"""Telegram under load: delivers updates and takes replies, with as little work of its own as can be.

The strict fake Bot API of the tests keeps and checks everything, which would make it the slowest part. Here
bytes are counted and answered, on uvloop, in one process beside the bot's. As in Telegram, a user's next
update is delivered when the one before has been answered.

Prints its address; then each line of input is a load to make (JSON: port, users, seconds, secret), and each
line printed is what came of it.
"""

import asyncio
import itertools
import json
import sys
import time
from typing import Any, cast

import uvloop

SENT = {"message_id": 1, "date": 1, "chat": {"id": 1, "type": "private", "first_name": "A"}, "text": "ok"}
ME = {"id": 42, "is_bot": True, "first_name": "Bot", "username": "benchmark_bot"}

update_ids = itertools.count(100_000_000)


def answer(result: object) -> bytes:
    """An answer of the Bot API."""
    body = json.dumps({"ok": True, "result": result}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


ANSWERS = {"sendMessage": answer(SENT), "getMe": answer(ME)}
ANY_OTHER = answer(True)


class Messages(asyncio.Protocol):
    """Takes HTTP messages with a Content-Length apart."""

    def __init__(self) -> None:
        """Wait for the first."""
        self._buffer = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is of a class of its own
        self.begin()

    def data_received(self, data: bytes) -> None:
        """Hand on each message that is complete."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            _, _, rest = head.lower().partition(b"content-length:")
            length = int(rest.split(b"\r\n", 1)[0] or 0)
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self.message(head)

    def begin(self) -> None:
        """Say the first word, if it is this side's to say."""

    def message(self, head: bytes) -> None:
        """Deal with a message."""
        raise NotImplementedError


class Api(Messages):
    """The Bot API: takes whatever is sent."""

    replies = 0

    def message(self, head: bytes) -> None:
        """Answer a call, without a look at its parameters."""
        method = head.split(b" ", 2)[1].rpartition(b"/")[2].decode()
        if method == "sendMessage":
            Api.replies += 1
        self.transport.write(ANSWERS.get(method, ANY_OTHER))


class Load:
    """Updates to deliver until the time is over, and what became of them."""

    def __init__(self, secret: str, seconds: float) -> None:
        """Begin now."""
        self.secret = secret
        self.started = time.monotonic()
        self.until = self.started + seconds
        self.updates = 0
        self.refused = 0


class User(Messages):
    """A user who writes as soon as the last message was dealt with."""

    def __init__(self, load: Load, user_id: int) -> None:
        """Make a user of a load."""
        super().__init__()
        self._load = load
        self._user = {"id": user_id, "is_bot": False, "first_name": "A"}
        self._chat = {"id": user_id, "type": "private", "first_name": "A"}
        self.done = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        """Write."""
        update_id = next(update_ids)
        message = {
            "message_id": update_id,
            "date": 1_700_000_000,
            "chat": self._chat,
            "from": self._user,
            "text": "Hello, how are you today?",
        }
        body = json.dumps({"update_id": update_id, "message": message}).encode()
        head = (
            "POST /webhook HTTP/1.1\r\nHost: bot.example\r\nContent-Type: application/json\r\n"
            f"X-Telegram-Bot-Api-Secret-Token: {self._load.secret}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)

    def message(self, head: bytes) -> None:
        """Go on, or stop when the time is over."""
        self._load.updates += 1
        self._load.refused += not head.startswith(b"HTTP/1.1 200")
        if time.monotonic() < self._load.until:
            self.begin()
        else:
            self.transport.close()
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count what the bot broke off."""
        if not self.done.done():
            self._load.refused += 1
            self.done.set_result(None)


async def make_load(order: dict[str, Any]) -> dict[str, Any]:
    """Do what a line of input says."""
    loop = asyncio.get_running_loop()
    Api.replies = 0
    load = Load(order["secret"], order["seconds"])
    users = [User(load, user_id) for user_id in range(1, order["users"] + 1)]
    for user in users:
        await loop.create_connection(lambda user=user: user, "127.0.0.1", order["port"])  # type: ignore[misc]
    await asyncio.gather(*(user.done for user in users))
    return {
        "seconds": time.monotonic() - load.started,
        "updates": load.updates,
        "refused": load.refused,
        "replies": Api.replies,
    }


async def main() -> None:
    """Serve until the input ends."""
    server = await asyncio.get_running_loop().create_server(Api, "127.0.0.1", 0)
    print(json.dumps({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await make_load(json.loads(line))), flush=True)


uvloop.run(main())
