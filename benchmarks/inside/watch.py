"""Telegram as people see answers grow there: when the first piece is shown, and how many calls that takes.

Prints its address; then each line of input says how many people ask at once for an answer that grows, and how
many others ask for one that does not, meanwhile (JSON: port, secret, people, others, seconds), and each line
printed is what they saw: the seconds until the first piece, and until the answer, and how many calls it took.
"""

import asyncio
import itertools
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import uvloop
from load import ANSWERS, ANY_OTHER, SENT, Messages, answer, update_ids
from model import QUICK

PATIENCE = 300.0
BEGIN_SECONDS = 2.0
"""In which all begin, one after another; an answer is longer than that."""
message_ids = itertools.count(1_000)


@dataclass
class Person:
    """Who asks, and what they see."""

    asked: float = 0
    first: float = 0
    calls: int = 0
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    at: float = 0

    def saw(self, method: str, text: str) -> None:
        """Note a call that shows something in their chat."""
        self.calls += 1
        if not self.first and text.strip("…"):
            self.first = time.monotonic() - self.asked
        if method == "sendMessage":
            self.at = time.monotonic() - self.asked
            self.answered.set()


people: dict[int, Person] = {}


class Api(Messages):
    """The Bot API: takes whatever is sent, and shows it to whom it is for."""

    def message(self, head: bytes, body: bytes) -> None:
        """Answer a call."""
        method = head.split(b" ", 2)[1].rpartition(b"/")[2].decode()
        params: dict[str, Any] = {}
        if body.startswith(b"{"):
            params = json.loads(body)
        elif b"chat_id" in body:
            params = dict(parse_qsl(body.decode()))
        person = people.get(int(params["chat_id"])) if "chat_id" in params else None
        if person and method != "sendChatAction":
            person.saw(method, params.get("text", ""))
        if method == "sendMessage":
            sent = {**SENT, "message_id": next(message_ids)}
            self.transport.write(answer(sent))
        else:
            self.transport.write(ANSWERS.get(method, ANY_OTHER))


class Delivery(Messages):
    """A connection over which one message is delivered; closed when it was taken."""

    def message(self, head: bytes, body: bytes) -> None:
        """Take the bot's answer."""
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"not taken: {head!r}")
        self.transport.close()


async def ask(user_id: int, text: str, order: dict[str, Any]) -> Person:
    """Have somebody ask, and wait for the answer."""
    person = people[user_id] = Person()
    user = {"id": user_id, "is_bot": False, "first_name": "A"}
    update_id = next(update_ids)
    message = {
        "message_id": update_id,
        "date": int(time.time()),
        "chat": {"id": user_id, "type": "private", "first_name": "A"},
        "from": user,
        "text": text,
    }
    body = json.dumps({"update_id": update_id, "message": message}).encode()
    head = (
        "POST /webhook HTTP/1.1\r\nHost: bot.example\r\nContent-Type: application/json\r\n"
        f"X-Telegram-Bot-Api-Secret-Token: {order['secret']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    transport, _ = await asyncio.get_running_loop().create_connection(Delivery, "127.0.0.1", order["port"])
    person.asked = time.monotonic()
    transport.write(head.encode() + body)
    async with asyncio.timeout(PATIENCE):
        await person.answered.wait()
    return person


async def watch(order: dict[str, Any]) -> dict[str, Any]:
    """Do what a line of input says."""
    ids = itertools.count(order["first_id"])
    growing: list[asyncio.Task[Person]] = []
    others: list[asyncio.Task[Person]] = []
    for _ in range(order["people"]):
        growing.append(asyncio.create_task(ask(next(ids), "stream", order)))
        await asyncio.sleep(BEGIN_SECONDS / order["people"])
    for _ in range(order["others"]):
        others.append(asyncio.create_task(ask(next(ids), QUICK, order)))
        await asyncio.sleep(order["seconds"] / order["others"])
    grown, quick = await asyncio.gather(*growing), await asyncio.gather(*others)
    return {
        "first": [each.first for each in grown],
        "calls": [each.calls for each in grown],
        "quick": [each.at for each in quick],
        "whole": [each.at for each in grown],
    }


async def main() -> None:
    """Serve until the input ends."""
    server = await asyncio.get_running_loop().create_server(Api, "127.0.0.1", 0)
    print(json.dumps({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await watch(json.loads(line))), flush=True)


uvloop.run(main())
