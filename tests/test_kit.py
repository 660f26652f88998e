"""The kit on rendered bots: per engine and provider what depends on it, the rest once."""

import os
import re
from collections.abc import Callable
from typing import Any

import pytest

from conftest import SECOND_TRY, Render
from support import ROOT, Answers, combinations, first_of_each_engine, prove

Record = Callable[[str, object], None]

A_FEW = 3
"""So many tests of a part may be tried again; when more fail, it is no accident."""

NOT_BALANCED = "assert outcome.balance.is_clean"
"""What pytest shows of the torture's failure."""

SECONDS = {"engines": 120, "contract": 110, "behaviour": 100, "torture": 60, "sharing": 50, "providers": 30}
"""About how long each part takes, so that the longest begin first. Each starts the kit anew."""

LEFT_OUT = {
    "memory": "webhook",
    "sqlite": "polling",
    "postgres": "polling",
    "hybrid": "polling",
    "dynamodb": "polling",
    "firestore": "webhook",
}
"""How updates do not come in the ordinary run. On Redis they come both ways, with `--full` on each engine."""

DEV_SERVERS = {"redis", "dynamodb", "firestore"}
"""Engines that start a server for development that several processes share."""

BEHAVIOURS = 3
"""In how many pieces the files of behaviour are run."""

ONCE = {"backend": "fsm", "fsm_storage": "sqlite"}
"""The bot on which is proven what does not depend on the engine: the default's, which needs no server."""


def pieces() -> list[Any]:
    """What is run on which bot, as parameters of a test."""
    found: list[tuple[str, Answers, list[str]]] = []
    for name, answers in first_of_each_engine().items():
        less = ["-k", f"not {LEFT_OUT[name]}"] if name in LEFT_OUT else []
        for part in ("contract", "engines", "torture"):
            folders = [f"suite/{part}"]
            folders += ["suite/durability"] if part == "contract" and name != "memory" else []
            folders += ["suite/dev_servers"] if part == "engines" and name in DEV_SERVERS - {"redis"} else []
            found.append((f"{name}-{part}", answers, ["--part", "engine", *folders, *less]))
        if name == "redis":  # the others' are shared by the same code, and tried with `--full`
            found.append((f"{name}-sharing", answers, ["--part", "engine", "suite/dev_servers"]))
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "suite/behaviour").glob("test_*.py"))
    for number in range(BEHAVIOURS):
        found.append((f"once-behaviour-{number}", ONCE, ["--part", "once", *files[number::BEHAVIOURS]]))
    found.append(("once-flow", ONCE, ["--part", "once", "suite/flow", "-k", "not webhook"]))
    found.append(("once-own", ONCE, ["--part", "once", "suite/own"]))
    for answers in combinations():
        if provider := answers.get("cloud_provider"):
            found.append((f"{provider}-providers", answers, ["--part", "engine", "suite/providers"]))
    return [
        pytest.param(
            answers,
            arguments,
            id=name,
            marks=pytest.mark.slow(SECONDS.get(name.split("-")[1], 40)),
        )
        for name, answers, arguments in found
    ]


@pytest.mark.parametrize(("answers", "arguments"), pieces())
def test_kept(
    compiled: Render,
    record_property: Record,
    pytestconfig: pytest.Config,
    answers: Answers,
    arguments: list[str],
) -> None:
    """The tests pass; what was skipped, and their number, is shown in the end.

    A machine with much else to do may break one: what fails runs once more, alone, and is named. But it makes
    no books of the torture come out wrong.
    """
    folder = compiled(**answers)
    if pytestconfig.getoption("full"):
        arguments = [each for each in arguments if each.startswith(("--part", "engine", "once", "suite"))]
        arguments += ["--hypothesis-profile=thorough"]
    else:
        arguments = [*arguments, "-m", "not rarely"]
    printed, code = prove(folder, *arguments)
    failed = re.findall(r"^(?:FAILED|ERROR) (suite/.+?)(?: - .*)?$", printed, re.MULTILINE)
    if code == 1 and 0 < len(failed) <= A_FEW and NOT_BALANCED not in printed:
        record_property(SECOND_TRY, " ".join(failed))
        again, code = prove(folder, *failed)
        printed += again
    assert code == 0, printed
    summaries = re.findall(r"^.*\b[1-9]\d* passed.*$", printed, re.MULTILINE)
    assert summaries, printed
    skipped = [line for line in printed.splitlines() if line.startswith("SKIPPED")]
    if os.environ.get("FIRESTORE_EMULATOR_INSTALLED"):  # .ci/run found it
        assert not [line for line in skipped if "emulator" in line], printed
    record_property("kit", "\n".join([summaries[0].strip("= "), *skipped]))


def test_every_part_is_run() -> None:
    """No folder of the kit is left out: each is run on some bot."""
    arguments = [argument for each in pieces() for argument in each.values[1]]
    run_somewhere = {"/".join(each.split("/")[:2]) for each in arguments if each.startswith("suite/")}
    there = {f"suite/{path.parent.name}" for path in ROOT.glob("suite/*/test_*.py")} | {"suite/engines"}
    assert there == run_somewhere
