"""What a turn is, for all that `turn_redis.py` and `turn_postgres.py` compare; and how often it is done.

A user has a counter, a last message and 30 other keys, and a conversation of which 20 messages are kept. A
turn reads all that, counts, notes the message and appends it and its answer.
"""

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from proxy import CountingProxy

from bot.runtime.errors import StateConflict
from bot.runtime.state.record import Author, OutboxEntry, UserRecord, encode_entry
from bot.runtime.state.store import Changes, StateStore
from bot.runtime.state.turn import Incoming, Turn

USERS = 500
AT_ONCE = 50
"""Turns under way at the same time, each of another user."""
SECONDS, ROUNDS = (0.2, 1) if os.environ.get("QUICK") else (1.0, 5)
HISTORY = 20
KEYS = {f"key_{number}": f"value number {number}, as an owner might keep it" for number in range(30)}
CONVERSATION = [
    {
        "role": role,
        "text": f"What was said {number} messages ago, in about a line of text.",
        "at": 1.7e9 + number,
    }
    for number in range(HISTORY // 2)
    for role in ("user", "assistant")
]
Do = Callable[[str, int], Awaitable[object]]
"""Does something for a user, with a number that was not there before."""

Rate = Callable[[], Awaitable[float]]
"""Measures once how often per second something can be done."""

QUICK = 50
"""Messages of one user at once: how many of them does a store lose?"""


class Keeper(Protocol):
    """A way to keep users."""

    async def create(self, user_id: str) -> None:
        """Put a user there as the module's text has it."""

    async def turn(self, user_id: str, number: int) -> None:
        """Do one turn."""

    async def count(self, user_id: str) -> int:
        """What the user's counter says."""


class Ours:
    """A store of this project, as `bot.runtime.telegram.transaction` uses it."""

    def __init__(self, store: StateStore, author: Author | None = None) -> None:
        """Keep users there; with an author, messages say that they are of that one."""
        self.store = store
        self.author = author

    async def create(self, user_id: str) -> None:
        """See `Keeper`."""
        record = await self.store.load(user_id)
        turn = Turn(record, self.store.limits)
        turn.state.update(KEYS, message_count=0, last_message="")
        for message in CONVERSATION:
            turn.remember(message["role"], message["text"])  # type: ignore[arg-type]
        await self._commit(record, turn, 0)

    async def turn(self, user_id: str, number: int) -> None:
        """See `Keeper`; again, when another came between, as the bot does."""
        while True:
            record = await self.store.load(user_id)
            turn = Turn(record, self.store.limits, incoming=Incoming(author=self.author))
            turn.state["message_count"] += 1
            turn.state["last_message"] = f"message {number}"
            turn.remember("user", f"message {number}")
            turn.remember("assistant", f"Processed: message {number}")
            with suppress(StateConflict):
                return await self._commit(record, turn, number)

    async def count(self, user_id: str) -> int:
        """See `Keeper`."""
        count: int = (await self.store.load(user_id)).state["message_count"]
        return count

    async def _commit(self, record: UserRecord, turn: Turn, number: int) -> None:
        changes = turn.changes()
        assert changes
        reply = {"method": "sendMessage", "params": {"chat_id": "1", "text": f"Processed: message {number}"}}
        delivered = dict.fromkeys(record.outbox)
        outbox = {**delivered, number: encode_entry(OutboxEntry([reply], time.time()))}
        noted = Changes(
            state=changes.state,
            messages=changes.messages,
            keep_history=HISTORY,
            size=changes.size,
            applied=(number,),
            outbox=outbox,
        )
        await self.store.commit(turn.user_id, noted, expect=turn.version)


class WholeDocument:
    """One JSON document per user, read and written as a whole: the way of the source document's sketches."""

    async def read(self, user_id: str) -> dict[str, Any]:
        """The document."""
        raise NotImplementedError

    async def write(self, user_id: str, document: dict[str, Any]) -> None:
        """Put another in its place."""
        raise NotImplementedError

    async def update(self, user_id: str, key: str, value: Any) -> None:
        """Change one key."""
        document = await self.read(user_id)
        document[key] = value
        await self.write(user_id, document)

    async def create(self, user_id: str) -> None:
        """See `Keeper`."""
        document = KEYS | {"message_count": 0, "last_message": "", "history": CONVERSATION}
        await self.write(user_id, document)

    async def turn(self, user_id: str, number: int) -> None:
        """See `Keeper`: all three things that a turn keeps, each as the sketches keep one."""
        for key, value in said(await self.read(user_id), number).items():
            await self.update(user_id, key, value)

    async def count(self, user_id: str) -> int:
        """See `Keeper`."""
        count: int = (await self.read(user_id))["message_count"]
        return count


def said(document: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What of a document a turn changes."""
    now = time.time()
    messages = [{"role": "user", "text": f"message {number}", "at": now}]
    messages.append({"role": "assistant", "text": f"Processed: message {number}", "at": now})
    return {
        "last_message": f"message {number}",
        "message_count": document["message_count"] + 1,
        "history": [*document["history"], *messages][-HISTORY:],
    }


class OneKey:
    """A sketch to the letter: it keeps the last message, and nothing else of the turn."""

    def __init__(self, sketch: WholeDocument) -> None:
        """Share a sketch's users."""
        self._sketch = sketch

    async def turn(self, user_id: str, number: int) -> None:
        """Read, then read again and write."""
        await self._sketch.read(user_id)
        await self._sketch.update(user_id, "last_message", f"message {number}")


def rate_of(do: Do, at_once: int) -> Rate:
    """Measure how often something can be done, `at_once` at the same time."""
    numbers = itertools.count(1)

    async def rate() -> float:
        started = time.perf_counter()
        done = 0

        async def worker(place: int) -> None:
            nonlocal done
            for user in itertools.cycle(range(place, USERS, at_once)):
                await do(str(user), next(numbers))
                done += 1
                if time.perf_counter() - started > SECONDS:
                    return

        await asyncio.gather(*map(worker, range(at_once)))
        return done / (time.perf_counter() - started)

    return rate


async def measure(rates: Mapping[str, Rate]) -> dict[str, list[float]]:
    """Measure each in turns, round by round, after a first round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in rates}
    order = list(rates)
    for name in order:
        await rates[name]()
    for _ in range(ROUNDS):
        for name in order:
            found[name].append(await rates[name]())
        order.reverse()
    return found


async def bytes_per_turn(keeper: Keeper, proxy: CountingProxy) -> float:
    """Bytes that a turn takes both ways, on average over every user; the keeper reaches its server so."""
    await keeper.turn("0", 10**6)
    before = proxy.sent + proxy.received
    for user in range(USERS):
        await keeper.turn(str(user), 10**6 + user)
    return (proxy.sent + proxy.received - before) / USERS


async def lost(keeper: Keeper) -> int:
    """How many of `QUICK` turns of one user at the same time are gone afterwards."""
    await keeper.create("quick")
    await asyncio.gather(*(keeper.turn("quick", number) for number in range(1, QUICK + 1)))
    return QUICK - await keeper.count("quick")


async def commit_rates(store: StateStore) -> dict[str, list[float]]:
    """Commits per second that change one key, of users with ten keys and of users with a thousand."""
    versions: dict[str, int] = {}

    def of_size(keys: int) -> Callable[[str, int], Awaitable[None]]:
        async def commit(user: str, number: int) -> None:
            user_id = f"{keys}-{user}"
            state: dict[str, bytes | None] = {"key_7": str(number).encode()}
            if user_id not in versions:
                state = {f"key_{key}": b'"some value"' for key in range(keys)}
            changes = Changes(state=state)
            versions[user_id] = await store.commit(user_id, changes, expect=versions.get(user_id, 0))

        return commit

    wide, narrow = of_size(1_000), of_size(10)
    for user in map(str, range(USERS)):  # however slow the machine, none is created while it is measured
        await wide(user, 0)
        await narrow(user, 0)
    return await measure({"wide": rate_of(wide, 1), "narrow": rate_of(narrow, 1)})
