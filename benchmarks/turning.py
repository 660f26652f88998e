"""`turn`: what a load and a commit cost in Redis and in PostgreSQL, beside other ways to keep users there."""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from measuring import Bound, Row, compared, counted
from workshop import INSIDE, Workshop

from support import clean_env, run

AT_ONCE = 50
"""As in `inside/turn.py`."""

BASELINES: Mapping[str, Mapping[str, tuple[str, Mapping[int, Bound]]]] = {
    "redis": {
        "sketch": ("the source document's sketch, keeping the same", {1: (">=", 2), AT_ONCE: (">=", 2)}),
        "one key": ("that sketch to the letter, keeping one key", {}),
        "aiogram": ("aiogram's RedisStorage", {}),
        "floor": ("two PINGs", {1: (">=", 0.6), AT_ONCE: (">=", 0.6)}),
    },
    "postgres": {
        "sketch": ("the source document's sketch, keeping the same", {1: (">=", 2), AT_ONCE: (">=", 2)}),
        "one key": ("that sketch to the letter, keeping one key", {}),
        "floor": ("two times SELECT 1", {}),
        "pgbench": ("one client of pgbench with the same statements", {1: (">=", 0.6)}),
    },
}
"""Per engine and baseline: what it is and, per number of turns at once, what is promised."""


def measure(workshop: Workshop) -> Iterator[Row]:
    """Each engine in a process of its own, with a server of its own."""
    for engine, baselines in BASELINES.items():
        found = _found(workshop, engine)
        for at_once, rates in found["rates"].items():
            for name, (text, bounds) in baselines.items():
                if name in rates:
                    rounds = list(zip(rates["ours"], rates[name], strict=True))
                    title = f"turn, {engine}, {at_once} at once: beside {text}"
                    yield compared(title, "turns/s", rounds, bounds.get(int(at_once)))
        for name, lost in found["lost"].items():
            bound: Bound | None = ("<=", 0) if name == "ours" else None
            yield counted(f"turn, {engine}: of 50 quick messages lost, {name}", "", lost, 0, bound)
        ours, sketch = found["bytes"]["ours"], found["bytes"]["sketch"]
        yield compared(f"turn, {engine}: on the wire, beside the sketch", "bytes/turn", [(ours, sketch)])
        kinds: tuple[tuple[str, Bound | None], ...] = (("commits", (">=", 0.8)), ("bare commits", None))
        for what, bound in kinds:
            if what in found:
                rounds = list(zip(found[what]["wide"], found[what]["narrow"], strict=True))
                title = f"turn, {engine}: {what} that change one of 1,000 keys, beside one of 10"
                yield compared(title, "commits/s", rounds, bound)


def _found(workshop: Workshop, engine: str) -> dict[str, Any]:
    """What the engine's program printed."""
    project = workshop.rendered(engine)
    command = (project / ".venv" / "bin" / "python", INSIDE / f"turn_{engine}.py")
    env = clean_env(PYTHONPATH=str(project))
    done = run(*command, cwd=workshop.folder, env=env, timeout=900)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise SystemExit(f"turn_{engine}.py failed; it says above why")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
