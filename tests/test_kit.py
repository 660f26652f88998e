"""The kit on rendered bots: per engine and provider what depends on it, the rest once."""

import os
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from conftest import SECOND_TRY, Render
from support import ROOT, Answers, clean_env, combinations, engine, first_of_each_engine, run

Record = Callable[[str, object], None]

SECONDS = {"contract": 60, "durability": 90, "engines": 60, "torture": 45, "providers": 30}
"""About how long each part takes, so that the longest begin first."""

A_FEW = 3
"""So many tests of a part may be tried again; when more fail, it is no accident."""


def pieces() -> list[Any]:
    """What is run on which bot, as parameters of a test."""
    found = []
    for name, answers in first_of_each_engine().items():
        for part in ("contract", "durability", "engines", "torture"):
            if part == "durability" and name == "memory":
                continue
            folders = [f"suite/{part}", *(["suite/dev_servers"] if part == "engines" else [])]
            found.append((answers, "engine", folders, SECONDS[part]))
    once = {"backend": "fsm", "fsm_storage": "redis"}
    found += [(once, "once", [f"suite/{part}"], 60) for part in ("behaviour", "flow", "own")]
    for answers in combinations():
        if answers["backend"] == "cloud":
            found.append((answers, "engine", ["suite/providers"], SECONDS["providers"]))
    return [
        pytest.param(
            answers,
            part,
            folders,
            id=f"{engine(answers) if part == 'engine' else 'once'}-{folders[0].partition('/')[2]}"
            if folders != ["suite/providers"]
            else answers["cloud_provider"],
            marks=pytest.mark.slow(seconds),
        )
        for answers, part, folders, seconds in found
    ]


@pytest.mark.parametrize(("answers", "part", "folders"), pieces())
def test_kept(
    render: Render, record_property: Record, answers: Answers, part: str, folders: list[str]
) -> None:
    """The tests pass; what was skipped, and their number, is shown in the end.

    A machine with much else to do may break one: what fails runs once more, alone, and is named.
    """
    folder = render(**answers)
    printed, code = prove(folder, "--part", part, *folders)
    failed = re.findall(r"^(?:FAILED|ERROR) (suite/\S+?)(?: - .*)?$", printed, re.MULTILINE)
    if code == 1 and 0 < len(failed) <= A_FEW:
        record_property(SECOND_TRY, " ".join(failed))
        again, code = prove(folder, *failed)
        assert code == 0, printed + again
    assert code == 0, printed
    summary = printed.rstrip().splitlines()[-1]
    assert re.search(r"\b[1-9]\d* passed", summary), printed
    skipped = [line for line in printed.splitlines() if line.startswith("SKIPPED")]
    if os.environ.get("FIRESTORE_EMULATOR_INSTALLED"):  # .ci/run found it
        assert not [line for line in skipped if "emulator" in line], printed
    record_property("kit", "\n".join([summary.strip("= "), *skipped]))


def prove(folder: object, *arguments: str) -> tuple[str, int]:
    """Run `./do prove`; what it printed, and its exit code."""
    command = (sys.executable, "-m", "suite", "prove", str(folder), "-q", "-rsfE", *arguments)
    done = run(*command, cwd=ROOT, env=clean_env(PYTHONPATH=str(ROOT)), timeout=1200)
    return done.stdout + done.stderr, done.returncode


def test_every_part_is_run() -> None:
    """No folder of the kit is left out: each is run on some bot."""
    run_somewhere = {folder for each in pieces() for folder in each.values[2]}
    there = {f"suite/{path.parent.name}" for path in ROOT.glob("suite/*/test_*.py")} | {"suite/engines"}
    assert there == run_somewhere
