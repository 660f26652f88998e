"""`turn`: what a load and a commit cost on each engine, beside other ways to keep users there."""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from measuring import Bound, Row, compared, counted
from workshop import AIOSQLITE, INSIDE, Workshop

from support import clean_env, run

AT_ONCE = 50
"""As in `inside/turn.py`."""

SKETCH = "the source document's sketch, keeping the same"
ONE_KEY = "that sketch to the letter, keeping one key"
TWICE: Mapping[int, Bound] = {1: (">=", 2), AT_ONCE: (">=", 2)}

BASELINES: Mapping[str, Mapping[str, tuple[str, Mapping[int, Bound]]]] = {
    "memory": {
        "sketch": (SKETCH, {}),
        "one key": (ONE_KEY, {}),
        "aiogram": ("aiogram's MemoryStorage", {}),
    },
    "sqlite": {
        "sketch": (
            "the source document's pattern on aiosqlite, keeping the same",
            {1: (">=", 2.5), AT_ONCE: (">=", 4)},
        ),
        "one key": ("that pattern to the letter, keeping one key", {}),
        "once": ("one aiosqlite connection that writes once a turn", {1: (">=", 1), AT_ONCE: (">=", 1.4)}),
        "batch": ("the same statements, as many a transaction, without asyncio", {AT_ONCE: (">=", 0.6)}),
    },
    "redis": {
        "sketch": (SKETCH, TWICE),
        "one key": (ONE_KEY, {}),
        "aiogram": ("aiogram's RedisStorage", {}),
        "floor": ("two PINGs", {1: (">=", 0.6), AT_ONCE: (">=", 0.6)}),
    },
    "postgres": {
        "sketch": (SKETCH, TWICE),
        "one key": (ONE_KEY, {}),
        "floor": ("two times SELECT 1", {}),
        "pgbench": ("one client of pgbench with the same statements", {1: (">=", 0.6)}),
    },
    "hybrid": {
        "sketch": (SKETCH, {}),
        "one key": (ONE_KEY, {}),
        "floor": ("two PINGs", {}),
    },
}
"""Per engine, which has a program `inside/turn_<engine>.py`, and baseline: what that is and, per number of
turns at once, what is promised."""


def measure(workshop: Workshop) -> Iterator[Row]:
    """Each engine in a process of its own, with servers of its own."""
    for engine, baselines in BASELINES.items():
        found = _found(workshop, engine)
        for at_once, rates in found["rates"].items():
            for name, (text, bounds) in baselines.items():
                if name in rates:
                    rounds = list(zip(rates["ours"], rates[name], strict=True))
                    title = f"turn, {engine}, {at_once} at once: beside {text}"
                    yield compared(
                        title,
                        "turns/s",
                        rounds,
                        bounds.get(int(at_once)),
                        what="turns",
                        engine=engine,
                        at_once=int(at_once),
                        baseline=name,
                    )
        for name, lost in found["lost"].items():
            bound: Bound | None = ("<=", 0) if name == "ours" else None
            title = f"turn, {engine}: of 50 quick messages lost, {name}"
            yield counted(title, "", lost, 0, bound, what="lost", engine=engine, variant=name)
        if "bytes" in found:
            ours, sketch = found["bytes"]["ours"], found["bytes"]["sketch"]
            name = f"turn, {engine}: on the wire, beside the sketch"
            yield compared(name, "bytes/turn", [(ours, sketch)], what="bytes", engine=engine)
        least = 0.7 if engine == "sqlite" else 0.8
        kinds: tuple[tuple[str, Bound | None], ...] = (("commits", (">=", least)), ("bare commits", None))
        for what, bound in kinds:
            if what in found:
                rounds = list(zip(found[what]["wide"], found[what]["narrow"], strict=True))
                title = f"turn, {engine}: {what} that change one of 1,000 keys, beside one of 10"
                yield compared(title, "commits/s", rounds, bound, what=what, engine=engine)


def _found(workshop: Workshop, engine: str) -> dict[str, Any]:
    """What the engine's program printed last."""
    project = workshop.rendered(engine, *(["--no-dev"] if engine == "memory" else []))
    if engine == "sqlite":
        workshop.add(project, AIOSQLITE)
    command = (project / ".venv" / "bin" / "python", INSIDE / f"turn_{engine}.py")
    env = clean_env(PYTHONPATH=str(project))
    done = run(*command, cwd=workshop.folder, env=env, timeout=900)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise SystemExit(f"turn_{engine}.py failed; it says above why")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
