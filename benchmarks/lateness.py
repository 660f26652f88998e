"""`later`: how late jobs run, and what it costs to have messages kept."""

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from measuring import Bound, Row, compared, counted
from storing import ENGINES
from workshop import INSIDE, Workshop

from support import clean_env, run

MEASURED = ("sqlite", "redis", "postgres")

BOUND = 1.0
"""Seconds that a job may be late, at the median."""


def measure(workshop: Workshop) -> Iterator[Row]:
    """Each engine in a process of its own, with servers of its own."""
    for engine in MEASURED:
        servers, _ = ENGINES[engine]
        project = workshop.rendered(engine)
        command: list[str | Path] = [project / ".venv/bin/python", INSIDE / "later.py", *servers]
        done = run(*command, cwd=workshop.folder, env=clean_env(PYTHONPATH=str(project)), timeout=900)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            raise SystemExit(f"later.py {engine} failed; it says above why")
        found = json.loads(done.stdout.splitlines()[-1])
        if "missing" in found:
            print(f"later, {engine}: not measured: {found['missing']}", file=sys.stderr)
            continue
        late = sorted(found["late"])
        name = f"later, {engine}: seconds late"
        bound: Bound = ("<=", BOUND)
        yield counted(f"{name}, median of {len(late):,} jobs", "s", statistics.median(late), 0.0, bound)
        yield counted(f"{name}, 99th percentile", "s", late[int(len(late) * 0.99)], 0.0)
        rounds = list(zip(found["deferred"], found["ordinary"], strict=True))
        name = f"later, {engine}: messages that are kept first, beside those handled at once"
        yield compared(name, "messages/s", rounds, what="deferred", engine=engine)
