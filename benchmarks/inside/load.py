"""Telegram under load: delivers updates and takes replies, with as little work of its own as can be.

The strict fake Bot API of the tests keeps and checks everything, which would make it the slowest part. Here
bytes are counted and answered, on uvloop, in one process beside the bot's. As in Telegram, a user's next
update is delivered when the one before has been answered.

Prints its address; then each line of input is a load to make (JSON: ports, users, seconds, secret and, unless
as many as can be, a rate in updates per second), and each line printed is what came of it. Deliveries of one
user go to the ports in turn.
"""

import asyncio
import itertools
import json
import random
import re
import sys
import time
from collections import defaultdict, deque
from functools import partial
from typing import Any, cast

import uvloop

SENT = {"message_id": 1, "date": 1, "chat": {"id": 1, "type": "private", "first_name": "A"}, "text": "ok"}
ME = {"id": 42, "is_bot": True, "first_name": "Bot", "username": "benchmark_bot"}

CHAT = re.compile(rb'chat_id(?:=|":")(\d+)')
NUMBER = re.compile(rb"(?:%23|#)(\d+)")  # "(#1)" at the end of a reply, in a form or JSON
SILENCE = 2.0
"""Seconds without a reply after which those that are missing are taken for lost."""

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

    def data_received(self, data: bytes) -> None:
        """Hand on each message that is complete."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            _, _, rest = head.lower().partition(b"content-length:")
            length = int(rest.split(b"\r\n", 1)[0] or 0)
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            self.message(head, body)

    def message(self, head: bytes, body: bytes) -> None:
        """Deal with a message."""
        raise NotImplementedError


class Api(Messages):
    """The Bot API: takes whatever is sent."""

    load: "Load | None" = None

    def message(self, head: bytes, body: bytes) -> None:
        """Answer a call; of its parameters, look at whom it is for and how many messages it has counted."""
        method = head.split(b" ", 2)[1].rpartition(b"/")[2].decode()
        if method == "sendMessage" and Api.load:
            chat, number = CHAT.search(body), NUMBER.search(body)
            Api.load.replied(int(chat[1]) if chat else 0, int(number[1]) if number else 0)
        self.transport.write(ANSWERS.get(method, ANY_OTHER))


class Load:
    """Updates to deliver until the time is over, and what became of them."""

    def __init__(self, order: dict[str, Any]) -> None:
        """Begin now."""
        self.secret: str = order["secret"]
        self.started = time.monotonic()
        self.until: float = self.started + order["seconds"]
        self.pause: float = order["users"] / order["rate"] if order.get("rate") else 0
        self.updates = self.refused = self.replies = 0
        self.last_reply = self.started
        self.latencies: list[float] = []
        self.under_way: defaultdict[int, deque[float]] = defaultdict(deque)
        self._counts: dict[int, tuple[int, int]] = {}

    def replied(self, user_id: int, number: int) -> None:
        """Note a reply, and the lowest and the highest number to which the bot has counted in this load."""
        self.replies += 1
        self.last_reply = time.monotonic()
        if self.under_way[user_id]:
            self.latencies.append(self.last_reply - self.under_way[user_id].popleft())
        lowest, highest = self._counts.get(user_id, (number, number))
        self._counts[user_id] = min(lowest, number), max(highest, number)

    @property
    def effects(self) -> int:
        """How many updates the bot has counted."""
        return sum(highest - lowest + 1 for lowest, highest in self._counts.values())


class User:
    """A user who writes as soon as the last message was dealt with, or when it is time."""

    def __init__(self, load: Load, user_id: int) -> None:
        """Make a user of a load."""
        self._load = load
        self._id = user_id
        self._user = {"id": user_id, "is_bot": False, "first_name": "A"}
        self._chat = {"id": user_id, "type": "private", "first_name": "A"}
        self._due = load.started + random.random() * load.pause
        self._connections: itertools.cycle[Delivery]
        self.done = asyncio.get_running_loop().create_future()

    async def run(self, ports: list[int]) -> None:
        """Write until the time is over."""
        loop = asyncio.get_running_loop()
        make = partial(Delivery, self)
        opened = [(await loop.create_connection(make, "127.0.0.1", port))[1] for port in ports]
        self._connections = itertools.cycle(opened)
        loop.call_later(max(0, self._due - time.monotonic()), self.write)
        await self.done
        for connection in opened:
            connection.transport.close()

    def write(self) -> None:
        """Write a message."""
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
        self._load.under_way[self._id].append(time.monotonic())
        next(self._connections).transport.write(head.encode() + body)

    def answered(self, is_taken: bool) -> None:
        """Go on, or stop when the time is over."""
        self._load.updates += 1
        self._load.refused += not is_taken
        now = time.monotonic()
        if now >= self._load.until:
            self.end()
            return
        self._due = max(now, self._due + self._load.pause)
        if self._due > now:
            asyncio.get_running_loop().call_later(self._due - now, self.write)
        else:
            self.write()

    def end(self) -> None:
        """Write no more."""
        if not self.done.done():
            self.done.set_result(None)


class Delivery(Messages):
    """A connection over which a user's messages are delivered."""

    def __init__(self, user: User) -> None:
        """Make a connection of a user's."""
        super().__init__()
        self._user = user

    def message(self, head: bytes, body: bytes) -> None:
        """Take the bot's answer."""
        self._user.answered(head.startswith(b"HTTP/1.1 200"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Count what the bot broke off."""
        if not self._user.done.done():
            self._user.answered(is_taken=False)
            self._user.end()


async def make_load(order: dict[str, Any]) -> dict[str, Any]:
    """Do what a line of input says."""
    Api.load = load = Load(order)
    users = [User(load, user_id) for user_id in range(1, order["users"] + 1)]
    await asyncio.gather(*(user.run(order["ports"]) for user in users))
    answered = time.monotonic()
    while load.replies < load.updates and time.monotonic() - max(answered, load.last_reply) < SILENCE:
        await asyncio.sleep(0.01)
    latencies = sorted(load.latencies) or [0.0]
    return {
        "seconds": max(answered, load.last_reply) - load.started,
        "updates": load.updates,
        "refused": load.refused,
        "replies": load.replies,
        "effects": load.effects,
        "p50": latencies[len(latencies) // 2],
        "p99": latencies[len(latencies) * 99 // 100],
    }


async def main() -> None:
    """Serve until the input ends."""
    server = await asyncio.get_running_loop().create_server(Api, "127.0.0.1", 0)
    print(json.dumps({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await make_load(json.loads(line))), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
