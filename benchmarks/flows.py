"""`flows`: what becomes of a conversation in steps, beside aiogram's own storages."""

import json
from collections.abc import Iterator

from measuring import Row, counted
from workshop import INSIDE, Workshop

from support import clean_env, run

BASELINES = {
    "memory": "MemoryStorage",
    "redis": "RedisStorage",
    "isolated": "RedisStorage and its isolation",
}


def measure(workshop: Workshop) -> Iterator[Row]:
    """The same handlers, people and kills, with each storage in turn."""
    found = {kind: _flows(workshop, kind) for kind in ("ours", *BASELINES)}
    for what, circumstances in {"killed": "killed 4 times", "hurried": "answers in one burst"}.items():
        lost = {kind: each["of"] - each[what] for kind, each in found.items()}
        if lost["ours"]:
            raise SystemExit(f"flows: {lost['ours']} of {found['ours']['of']} were lost: {circumstances}")
        for kind, storage in BASELINES.items():
            name = f"flows: lost of {found[kind]['of']}, {circumstances}, beside {storage}"
            labels = {"baseline": kind, "what": what, "of": found[kind]["of"]}
            yield counted(name, "", lost["ours"], lost[kind], ("<=", 0), **labels)


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
