"""`group`: how many turns a group's record takes, to which all of its members write."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from measuring import Row, compared
from storing import ENGINES
from turning import AT_ONCE
from workshop import INSIDE, Workshop

from support import clean_env, run

STAND_INS = ("dynamodb", "firestore")
"""Engines whose servers are those of development."""


def measure(workshop: Workshop) -> Iterator[Row]:
    """Each engine in a process of its own, with servers of its own."""
    for engine, (servers, _) in ENGINES.items():
        project = workshop.rendered(engine, *(["--no-dev"] if engine == "memory" else []))
        command: list[str | Path] = [project / ".venv/bin/python", INSIDE / "group.py", *servers]
        done = run(*command, cwd=workshop.folder, env=clean_env(PYTHONPATH=str(project)), timeout=900)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            raise SystemExit(f"group.py {engine} failed; it says above why")
        found = json.loads(done.stdout.splitlines()[-1])
        if "missing" in found:
            print(f"group, {engine}: not measured: {found['missing']}", file=sys.stderr)
            continue
        where = f"{engine} (a stand-in)" if engine in STAND_INS else engine
        name = f"group, {where}: one group's record, beside a record for each of {AT_ONCE} people at once"
        rounds = list(zip(found["group"], found["people"], strict=True))
        yield compared(name, "turns/s", rounds, what="group", engine=engine)
