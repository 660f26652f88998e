"""`bot state adopt-fsm`: take over the steps and data of flows that aiogram's `RedisStorage` keeps.

What is under way goes on in this bot, whatever engine it has. The keys are only read. Each flow is put into
its user's record in one commit, which notes that this was done among the ids of the updates applied. So the
command may be cut off and run again: it does not undo what users did since, unless that is so much
(`APPLIED_LIMIT` updates of one user) that the note is gone.
"""

import hashlib
import json
import re
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import typer

from bot.runtime.errors import OperatorError
from bot.runtime.state.errors import StateConflict, StateTooLarge, StateValueError
from bot.runtime.state.store import Changes, StateStore
from bot.runtime.state.turn import COMMIT_ATTEMPTS, Turn

MARKS_FROM = 2**52
"""Where the numbers begin that note an adopted flow among the applied ids; Telegram's have 32 bits."""


def adopt_fsm(
    url: Annotated[
        str,
        typer.Argument(
            metavar="[REDIS_URL]",
            envvar="AIOGRAM_REDIS_URL",
            help="Where that Redis is, such as redis://:PASSWORD@HOST:6379/0.",
        ),
    ],
    prefix: Annotated[str, typer.Option(help="The `prefix` of its DefaultKeyBuilder.")] = "fsm",
    separator: Annotated[str, typer.Option(help="The `separator` of its DefaultKeyBuilder.")] = ":",
) -> None:
    """Take over the flows that aiogram's RedisStorage keeps. Stop that bot first; safe to repeat."""
    from bot.runtime.cli import _import_aiogram, _open_store, _run
    from bot.runtime.config import load_settings

    bot_id = load_settings().bot_id
    _import_aiogram()

    async def work() -> None:
        async with _open_store() as store:
            report = await adopt_all(store, KeyFormat(bot_id, prefix, separator), url)
        for line in report.left:
            print(line, file=sys.stderr)
        print(f"adopted {report.adopted} flows")
        if report.of_others:
            print(f"left {report.of_others} flows of other bots alone")
        if report.left:
            raise OperatorError(f"{len(report.left)} flows are not adopted, for the reasons above")

    _run(work())


@dataclass(slots=True)
class Report:
    """What came of it.

    Attributes:
        adopted: how many flows were put into records.
        of_others: how many belong to other bots, by their keys.
        left: a line for each flow that cannot be adopted.
    """

    adopted: int = 0
    of_others: int = 0
    left: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FoundFlow:
    """A flow that the keys name.

    Attributes:
        base: the keys' common part.
        user_id: whose record it goes into; of a chat-wide flow, the chat's.
        name: what it is called there, see `bot.runtime.state.fsm.flow_name`.
    """

    base: str
    user_id: int
    name: str

    @property
    def mark(self) -> int:
        """What notes among the applied ids that it was adopted."""
        digest = hashlib.blake2b(f"{self.user_id} {self.name}".encode(), digest_size=6).digest()
        return MARKS_FROM + int.from_bytes(digest)


class KeyFormat:
    """The keys that `DefaultKeyBuilder` makes, with and without bot id, business connection and destiny.

    These are told apart by what they look like: chats, threads and users are integers and the others are not,
    and no chat has the number of the bot itself. A destiny that is a number cannot be understood.
    """

    def __init__(self, bot_id: int, prefix: str, separator: str) -> None:
        """Describe the keys of a bot."""
        self._bot_id = bot_id
        self._prefix = prefix + separator
        self._separator = separator
        end = re.escape(separator)
        self._pattern = re.compile(
            rf"(?:{bot_id}{end})?"
            rf"(?:(?P<business>(?!-?\d+{end}).+?){end})?"
            rf"(?P<chat>-?\d+){end}"
            rf"(?:(?P<thread>\d+){end})?"
            rf"(?P<user>-?\d+)"
            rf"(?:{end}(?P<destiny>(?!-?\d+\Z).+))?"
        )

    @property
    def glob(self) -> str:
        """The keys to look at, as Redis matches names."""
        return re.sub(r"([\\*?\[\]])", r"\\\1", self._prefix) + "*"

    def split(self, key: str) -> tuple[str, str]:
        """What a key shares with the others of its flow, and its own part: `state`, `data` or `lock`."""
        base, _, part = key.rpartition(self._separator)
        return base, part

    def part(self, base: str, part: str) -> str:
        """The key of one part of a flow."""
        return f"{base}{self._separator}{part}"

    def read(self, base: str) -> FoundFlow | None:
        """The flow, or `None` when it is another bot's, or no flow.

        In a chat with a person, which has a positive number, nobody but that person has flows; where somebody
        else seems to, the first number is another bot's. A business connection lets its owner in, too.
        """
        from aiogram.fsm.storage.base import DEFAULT_DESTINY, StorageKey

        from bot.runtime.state.fsm import flow_name

        found = self._pattern.fullmatch(base.removeprefix(self._prefix))
        if found is None:
            return None
        chat, user = int(found["chat"]), int(found["user"])
        if chat > 0 and chat != user and not found["business"]:
            return None
        key = StorageKey(
            bot_id=self._bot_id,
            chat_id=chat,
            user_id=user,
            thread_id=int(found["thread"]) if found["thread"] else None,
            business_connection_id=found["business"],
            destiny=found["destiny"] or DEFAULT_DESTINY,
        )
        return FoundFlow(base, user, flow_name(key))


async def adopt_all(store: StateStore, keys: KeyFormat, url: str) -> Report:
    """Take over every flow of the bot.

    Raises:
        OperatorError: that Redis cannot be read.
        StateError: the bot's own store fails.
    """
    report = Report()
    async with aclosing(_contents(keys, url)) as contents:
        async for base, state, data in contents:
            flow = keys.read(base)
            if flow is None:
                report.of_others += 1
                continue
            try:
                report.adopted += await _adopt(store, flow, state, data)
            except (StateValueError, StateTooLarge) as error:
                report.left.append(f"{base}: {error}")
    return report


async def _contents(keys: KeyFormat, url: str) -> AsyncGenerator[tuple[str, str | None, bytes | None], None]:
    """Every flow that Redis has: the common part of its keys, its step, and its data as JSON.

    Raises:
        OperatorError: it cannot be read.
    """
    try:
        from redis.asyncio import Redis
        from redis.exceptions import RedisError
    except ImportError:
        raise OperatorError("this takes the package redis, a development dependency: run `uv sync`") from None
    try:
        redis = Redis.from_url(url, socket_timeout=10, socket_connect_timeout=10)
    except ValueError:
        raise OperatorError("not an address of a Redis, which begins with redis:// or rediss://") from None
    try:
        async for raw in redis.scan_iter(keys.glob, count=500):
            base, part = keys.split(raw.decode(errors="surrogateescape"))
            if part == "data" and await redis.exists(keys.part(base, "state")):
                continue  # comes with its step
            if part in ("state", "data"):
                names = [keys.part(base, each).encode(errors="surrogateescape") for each in ("state", "data")]
                found: list[Any] = await redis.mget(names)  # bytes, or None
                state, data = found
                if state or data:
                    yield base, state.decode(errors="surrogateescape") if state else None, data
    except (RedisError, OSError) as error:
        raise OperatorError(
            f"that Redis cannot be read ({type(error).__name__}): check its address"
        ) from None
    finally:
        await redis.aclose()


async def _adopt(store: StateStore, found: FoundFlow, state: str | None, data: bytes | None) -> bool:
    """Put a flow into its record, unless it is or was there already, or its user was forgotten.

    Raises:
        StateValueError: the data is not the JSON of an object, or holds what cannot be kept.
        StateTooLarge: it does not fit into the record.
    """
    flow: dict[str, Any] = {"state": state, "data": _read(data), "at": time.time()}
    user_id = str(found.user_id)
    for _ in range(COMMIT_ATTEMPTS):
        record = await store.load(user_id)
        if record.forgotten or found.mark in record.applied or found.name in record.fsm:
            return False
        turn = Turn(record, store.limits)
        turn.fsm[found.name] = flow
        changes = turn.changes() or Changes()
        try:
            await store.commit(user_id, replace(changes, applied=(found.mark,)), expect=record.version)
        except StateConflict:
            continue
        return True
    raise StateConflict(f"others came between {COMMIT_ATTEMPTS} times", user_id)


def _read(data: bytes | None) -> dict[str, Any]:
    # Not orjson, which reads integers beyond 64 bits as floats.
    try:
        value = json.loads(data) if data else {}
    except ValueError:
        raise StateValueError("its data is not JSON") from None
    if not isinstance(value, dict):
        raise StateValueError("its data is not a JSON object")
    return value
