"""`flows`: what becomes of a conversation in steps, beside aiogram's own storages."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from measuring import Row, counted
from workshop import INSIDE, Workshop

from support import clean_env, run

BASELINES = {
    "memory": "MemoryStorage",
    "redis": "RedisStorage",
    "isolated": "RedisStorage and its isolation",
}

AT_ONCE = 2
"""Storages that are tried at the same time; nothing is timed."""


def measure(workshop: Workshop) -> Iterator[Row]:
    """The same handlers, people and kills, with each storage in turn."""
    kinds = ("ours", *BASELINES)
    workshop.rendered("fsm")
    with ThreadPoolExecutor(AT_ONCE) as pool:  # mostly they wait
        found = dict(zip(kinds, pool.map(lambda kind: _flows(workshop, kind), kinds), strict=True))
    for what, circumstances in {"killed": "killed 4 times", "hurried": "answers in one burst"}.items():
        lost = {kind: each["of"] - each[what] for kind, each in found.items()}
        if lost["ours"]:
            raise SystemExit(f"flows: {lost['ours']} of {found['ours']['of']} were lost: {circumstances}")
        for kind, storage in BASELINES.items():
            name = f"flows: lost of {found[kind]['of']}, {circumstances}, beside {storage}"
            ours, theirs, people = lost["ours"], lost[kind], found[kind]["of"]
            yield counted(name, "", ours, theirs, ("<=", 0), what=what, baseline=kind, of=people)


def _flows(workshop: Workshop, kind: str) -> dict[str, int]:
    project = workshop.rendered("fsm")
    done = run(
        *(project / ".venv" / "bin" / "python", INSIDE / "flows.py", kind),
        cwd=project,
        env=clean_env(PYTHONPATH=str(project)),
        timeout=600,
    )
    if done.returncode:
        raise SystemExit(f"flows.py {kind}:\n{done.stderr[-2000:]}")
    result: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return result
