"""`transfer`: memory of `bot state import` and `bot state export` with a million users, beside a thousand."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from measuring import Row, compared, reduced
from workshop import Workshop

from support import clean_env

FEW, MANY = 1_000, 1_000_000
LINE = (
    '{"user_id":"%d","state":{"message_count":%d,"last_message":"hello from %d"},"history":['
    '{"role":"user","text":"hello","at":1.7e9},{"role":"assistant","text":"Processed: hello","at":1.7e9}],'
    '"fsm":{},"applied":[],"outbox":{}}\n'
)


def measure(workshop: Workshop) -> Iterator[Row]:
    """On the development server that the command itself starts; each number of users on one of its own."""
    many_users = reduced(MANY, 5_000)
    for engine in ("redis", "postgres"):
        bot = workshop.rendered(engine) / ".venv" / "bin" / "bot"
        few, many = (
            _transferred(bot, workshop.folder / f"{engine}-{users}", users) for users in (FEW, many_users)
        )
        for what in ("import", "export"):
            name = f"transfer, {engine}: most memory of {what}, {many_users:,} users beside {FEW:,}"
            yield compared(name, "MiB", [(many[what][0], few[what][0])], ("<=", 1.1))
            per_second = many_users / many[what][1], FEW / few[what][1]
            yield compared(f"transfer, {engine}: {what}", "users/s", [per_second])


def _transferred(bot: Path, folder: Path, users: int) -> dict[str, tuple[float, float]]:
    """Import users and export them; per command its most memory in MiB, and seconds."""
    folder.mkdir()
    source = folder / "users.jsonl"
    with source.open("w", encoding="utf-8") as file:
        file.writelines(LINE % (user, user, user) for user in range(1, users + 1))
    found = {}
    for what in ("import", "export"):
        started = time.monotonic()
        process = subprocess.Popen(
            (bot, "state", what, source), cwd=folder, env=clean_env(), stdout=sys.stderr
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"bot state {what} failed; it says above why")
        found[what] = usage.ru_maxrss / 1024, time.monotonic() - started
    return found
