"""`idle`: what is left of users who wrote once, besides their records."""

from collections.abc import Iterator
from typing import Any

from measuring import Row, counted, reduced
from workshop import Workshop, heard, python_program, tell

USERS = 100_000


def measure(workshop: Workshop) -> Iterator[Row]:
    """Counted, not timed: the same on every machine."""
    users = reduced(USERS, 3_000)
    program = python_program(workshop, "idle.py")
    with workshop.process(*program, settings={"PYTHONPATH": str(workshop.project)}, talk=True) as bot:
        tell(bot, {"users": users})
        found: dict[str, Any] = heard(bot)
    for kind, (before, after) in found["counts"].items():
        yield counted(f"idle: {kind}", "", after, before, ("<=", 0))
    for kind, size in found["bytes"].items():
        yield counted(f"idle: {kind}", "bytes/user", size / users, 0)
