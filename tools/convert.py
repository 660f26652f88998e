# /// script
# requires-python = ">=3.11"
# dependencies = ["redis>=6", "asyncpg>=0.30"]
# ///
"""Turn what another Telegram bot keeps about its users into JSON Lines for `bot state import`.

    uv run tools/convert.py strings redis://HOST:6379/0 users.jsonl           # user:<id>:state, JSON strings
    uv run tools/convert.py table postgresql://USER@HOST/DATABASE users.jsonl # user_state(user_id, state)
    uv run tools/convert.py fsm redis://HOST:6379/0 users.jsonl --bot-id 42   # aiogram's RedisStorage

Stop the other bot first, then import before the new one runs: `uv run bot state import --merge users.jsonl`.
The source is only read. A key that cannot be converted is named on standard error, and FILE has all others.

Exit code: 0 when everything was converted, 1 when something was not or the source cannot be read, 2 for
wrong arguments.
"""

import argparse
import asyncio
import json
import math
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

PAGE = 500
"""Keys or rows read at a time."""

MAX_DEPTH = 100
INTEGERS = range(-(2**63), 2**64)

Found = tuple[str, str, Callable[[], dict[str, Any]]]
"""Where something was found, the user's id, and what reads it: a state, or one of the user's flows."""


class UnusableError(ValueError):
    """Something cannot be imported. The text says why, without showing it."""


class SourceError(Exception):
    """The source cannot be read; the text is one line."""


def main(arguments: list[str] | None = None) -> int:
    """Convert one source; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        converted, left_out = asyncio.run(_convert(options))
    except (SourceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {converted} users to {options.file}", file=sys.stderr)
    if left_out:
        print(f"error: {left_out} left out, for the reasons above", file=sys.stderr)
    return 1 if left_out else 0


def _parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    strings = commands.add_parser("strings", help="Redis strings user:<id>:state, each a JSON object")
    table = commands.add_parser("table", help="a PostgreSQL table with columns user_id and state (JSON)")
    fsm = commands.add_parser("fsm", help="states and data of aiogram's RedisStorage")
    for command, what in ((strings, "redis://"), (table, "postgresql://"), (fsm, "redis://")):
        command.add_argument("url", metavar="URL", help=f"address of the source, {what}...")
        command.add_argument("file", metavar="FILE", type=Path, help="where to write; replaced if it exists")
    for command in (strings, fsm):
        command.add_argument("--cluster", action="store_true", help="URL names a node of a Redis Cluster")
    table.add_argument("--table", default="user_state", help="its name, with or without a schema")
    fsm.add_argument(
        "--bot-id", type=int, required=True, help="the bot's Telegram id, which its token begins with"
    )
    fsm.add_argument("--prefix", default="fsm", help="the prefix of its DefaultKeyBuilder")
    fsm.add_argument("--separator", default=":", help="the separator of its DefaultKeyBuilder")
    return parser


async def _convert(options: argparse.Namespace) -> tuple[int, int]:
    """Write FILE; how many users are in it, and how many keys or rows had to be left out."""
    source = {"strings": _strings, "table": _table, "fsm": _flows}[options.source]
    flows: dict[str, dict[str, Any]] = {}  # those of a user are found one by one
    count = left_out = 0
    unfinished = options.file.with_name(f"{options.file.name}.partial")
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as output:
            os.chmod(unfinished, 0o600)
            async for where, user_id, read in source(options):
                try:
                    _check(user_id, "the user's id")
                    value = read()
                    _check(value, "it")
                except UnusableError as error:
                    left_out += 1
                    print(f"{where}: {error}", file=sys.stderr)
                    continue
                if source is _flows:
                    flows.setdefault(user_id, {}).update(value)
                else:
                    output.write(_line(user_id, state=value))
                    count += 1
                _show_progress(count or len(flows))
            output.writelines(_line(user_id, fsm=value) for user_id, value in flows.items())
        unfinished.replace(options.file)
    finally:
        unfinished.unlink(missing_ok=True)
        _show_progress(None)
    return count or len(flows), left_out


def _line(user_id: str, **parts: Any) -> str:
    record = {"user_id": user_id, "state": {}, "history": [], "fsm": {}, "applied": [], "outbox": {}, **parts}
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"


def _show_progress(count: int | None) -> None:
    """Show how many users are converted, when somebody watches; `None` clears the line."""
    if sys.stderr.isatty() and (count is None or count % 100 == 0):
        print("\r" + ("\033[K" if count is None else f"{count} users"), end="", file=sys.stderr, flush=True)


# Sources


async def _strings(options: argparse.Namespace) -> AsyncIterator[Found]:
    for key, value in _read_redis(options, "user:*:state"):
        user_id = key.decode(errors="surrogateescape").removeprefix("user:").removesuffix(":state")
        yield _shown(key), user_id, partial(_state, value)


async def _table(options: argparse.Namespace) -> AsyncIterator[Found]:
    import asyncpg

    name = ".".join('"' + part.replace('"', '""') + '"' for part in options.table.split("."))
    url = options.url.replace("postgresql+asyncpg://", "postgresql://", 1)
    try:
        connection = await asyncpg.connect(url, timeout=10, statement_cache_size=0)
        try:
            async with connection.transaction(readonly=True):
                query = f"SELECT user_id::text AS user_id, state::text AS state FROM {name} ORDER BY 1"
                async for row in connection.cursor(query, prefetch=PAGE):
                    where = f"{options.table}, user {row['user_id']}"
                    yield where, row["user_id"] or "", partial(_state, row["state"])
        finally:
            await connection.close(timeout=5)
    except asyncpg.PostgresError as error:
        reason = "there is no such table" if isinstance(error, asyncpg.UndefinedTableError) else ""
        raise SourceError(f"cannot read {options.table}: {reason or type(error).__name__}") from None
    except (OSError, ValueError, asyncpg.InterfaceError) as error:
        raise SourceError(f"PostgreSQL cannot be reached ({type(error).__name__}): check URL") from None


async def _flows(options: argparse.Namespace) -> AsyncIterator[Found]:
    keys = FlowKeys(options.bot_id, options.prefix, options.separator)
    found: dict[bytes, dict[bytes, bytes]] = {}
    for key, value in _read_redis(options, keys.pattern):
        base, _, part = key.rpartition(options.separator.encode())
        if part in (b"state", b"data"):
            found.setdefault(base, {})[part] = value
    others = 0
    for base, parts in found.items():
        if flow := keys.read(base):
            user_id, name = flow
            yield _shown(base), user_id, partial(_flow, name, parts.get(b"state"), parts.get(b"data"))
        else:
            others += 1
    if others:
        print(f"ignored {others} flows that are not of bot {options.bot_id}", file=sys.stderr)


def _read_redis(options: argparse.Namespace, pattern: str) -> Iterator[tuple[bytes, bytes]]:
    """Every string whose key matches, once; keys of other types belong to something else."""
    import redis

    try:
        kind = redis.RedisCluster if options.cluster else redis.Redis
        client: Any = kind.from_url(options.url, socket_timeout=10, socket_connect_timeout=10)
    except (ValueError, redis.RedisError) as error:
        raise SourceError(f"Redis cannot be reached ({type(error).__name__}): check URL") from None
    seen: set[bytes] = set()
    try:
        page: list[bytes] = []
        for key in client.scan_iter(match=pattern, count=PAGE):
            if key in seen:  # SCAN may name a key twice
                continue
            seen.add(key)
            page.append(key)
            if len(page) == PAGE:
                yield from _values(client, page)
                page = []
        yield from _values(client, page)
    except (redis.RedisError, OSError) as error:
        raise SourceError(f"Redis cannot be read ({type(error).__name__}): check URL") from None
    finally:
        client.close()


def _values(client: Any, keys: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    import redis

    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.get(key)
    for key, value in zip(keys, pipeline.execute(raise_on_error=False) if keys else [], strict=True):
        if isinstance(value, redis.RedisError) and "WRONGTYPE" not in str(value):
            raise value
        if isinstance(value, bytes):
            yield key, value


class FlowKeys:
    """The keys that aiogram's `DefaultKeyBuilder` makes, with and without its optional parts.

    The parts are told apart by their form: chats, threads and users are integers, business connections and
    destinies are not. A destiny that is a number is not supported.
    """

    def __init__(self, bot_id: int, prefix: str, separator: str) -> None:
        """Describe the keys of a bot."""
        self._bot_id = bot_id
        self._prefix = prefix + separator
        end = re.escape(separator)
        self._form = re.compile(
            rf"(?:{bot_id}{end})?"
            rf"(?:(?P<business>(?!-?\d+{end}).+?){end})?"
            rf"(?P<chat>-?\d+){end}"
            rf"(?:(?P<thread>\d+){end})?"
            rf"(?P<user>-?\d+)"
            rf"(?:{end}(?P<destiny>(?!-?\d+\Z).+))?",
            re.DOTALL,
        )

    @property
    def pattern(self) -> str:
        """What SCAN looks for."""
        return re.sub(r"([\\*?\[\]])", r"\\\1", self._prefix) + "*"

    def read(self, base: bytes) -> tuple[str, str] | None:
        """The user's id and the name of the flow in their record; `None` for another bot's flow.

        In a private chat, which has the number of the person, only that person has flows; if the numbers
        differ, the first one is another bot's. Business connections are an exception.
        """
        found = self._form.fullmatch(base.decode(errors="surrogateescape").removeprefix(self._prefix))
        if found is None:
            return None
        if int(found["chat"]) > 0 and found["chat"] != found["user"] and not found["business"]:
            return None
        name = (found["chat"], found["thread"], found["business"], found["destiny"] or "default")
        return found["user"], ":".join([str(self._bot_id), *(part or "" for part in name)])


# Values


def _state(text: bytes | str | None) -> dict[str, Any]:
    value = _loads(text)
    if isinstance(value, str):  # a client with a JSON codec of its own encodes twice
        with suppress(UnusableError):
            value = _loads(value)
    if not isinstance(value, dict):
        raise UnusableError("not a JSON object")
    return value


def _flow(name: str, state: bytes | None, data: bytes | None) -> dict[str, Any]:
    value = _loads(data) if data else {}
    if not isinstance(value, dict):
        raise UnusableError("its data is not a JSON object")
    step = state.decode(errors="surrogateescape") if state else None
    return {name: {"state": step, "data": value, "at": time.time()}}


def _loads(text: bytes | str | None) -> Any:
    def refuse(_: str) -> NoReturn:
        raise UnusableError("holds NaN or infinity")

    try:
        return json.loads(text or "", parse_constant=refuse)
    except UnusableError:
        raise
    except (ValueError, RecursionError):
        raise UnusableError("not JSON") from None


def _check(value: Any, where: str, depth: int = 0) -> None:
    """Refuse what `bot state import` would refuse.

    Raises:
        UnusableError: the text names the kind of place, never the value or its keys.
    """
    match value:
        case str():
            if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
                raise UnusableError(f"{where} holds a NUL or bytes that are not UTF-8")
            if where == "the user's id" and not value:
                raise UnusableError("the user's id is empty")
        case bool() | None:
            pass
        case int() if value not in INTEGERS:
            raise UnusableError(f"{where} holds an integer beyond 64 bits")
        case float() if not math.isfinite(value):
            raise UnusableError(f"{where} holds a number that is too large")
        case list() | dict():
            if depth > MAX_DEPTH:
                raise UnusableError(f"{where} is nested more than {MAX_DEPTH} levels deep")
            items: Iterable[Any] = value
            if isinstance(value, dict):
                items = [*value.keys(), *value.values()]
            for item in items:
                _check(item, where, depth + 1)


def _shown(key: bytes) -> str:
    return key.decode(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
