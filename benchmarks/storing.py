"""`storage`: what a user takes up on each engine's servers, and what a turn sends over the wire."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from measuring import Row, compared, counted, reduced
from workshop import INSIDE, Workshop

from support import clean_env

FEW = 1_000
"""Users with which is measured first."""

ENGINES: Mapping[str, tuple[tuple[str, ...], int]] = {
    "memory": (("process",), 100_000),
    "sqlite": (("file",), 100_000),
    "redis": (("redis",), 100_000),
    "postgres": (("postgres",), 100_000),
    "hybrid": (("redis", "postgres"), 20_000),
    "dynamodb": (("dynamodb",), 2_000),
    "firestore": (("firestore",), 2_000),
}
"""The engines, the servers of each as `inside/storage.py` names them, and the most users put there in a
reasonable time. What more take up is worked out (`plot.py`)."""


def measure(workshop: Workshop) -> Iterator[Row]:
    """Counted, not timed; each engine in a process of its own, with servers of its own."""
    for engine in ENGINES:
        found = _found(workshop, engine)
        if "missing" in found:
            print(f"storage, {engine}: not measured: {found['missing']}", file=sys.stderr)
            continue
        for kept in found["kept"]:
            users = kept["users"]
            for what, size in kept["bytes"].items():
                yield compared(
                    f"storage, {engine}, {users:,} users: {what}, beside the records as JSON",
                    "bytes/user",
                    [(size / users, found["json"])],
                    what=what,
                    engine=engine,
                    users=users,
                )
        for when, by_server in found["wire"].items():
            for server, counts in by_server.items():
                if not counts["round trips"]:
                    continue  # it takes no part in that
                for what, count in counts.items():
                    yield counted(
                        f"storage, {engine}, per {when}, {server}: {what}",
                        "",
                        count,
                        0,
                        what=what,
                        engine=engine,
                        server=server,
                        when=when,
                    )


def _found(workshop: Workshop, engine: str) -> dict[str, Any]:
    """What the engine's program printed last; its progress is shown."""
    project = workshop.rendered(engine, *(["--no-dev"] if engine == "memory" else []))
    servers, most = ENGINES[engine]
    counts = ",".join(map(str, reduced((FEW, most), (100, 1_000))))
    command = (project / ".venv" / "bin" / "python", INSIDE / "storage.py", counts, *servers)
    done = subprocess.run(
        [str(part) for part in command],
        cwd=workshop.folder,
        env=clean_env(PYTHONPATH=str(project)),
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=3_600,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"storage.py {engine} failed; it says above why")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
