"""The torture suite of the rendered projects in its long form, and the proof that it can fail.

TORTURE_SEED and TORTURE_MINUTES repeat a run and make it longer.
"""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Workshop
from support import UV, clean_env, combinations, label, proven_by, run


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the engines: at length the hybrid one, which uses both servers, and with `--full` each of them.

    Every project's own suite has the short form.
    """
    chosen = [each for each in combinations() if proven_by(each) is None]
    if metafunc.function is test_a_bot_without_transactions_fails:
        chosen = [each for each in chosen if len(each) == 1]
    elif not metafunc.config.getoption("full"):
        chosen = [each for each in chosen if each["backend"] == "hybrid"]
    metafunc.parametrize(
        "answers",
        [
            pytest.param(each, id=label(each), marks=pytest.mark.xdist_group(f"torture of {label(each)}"))
            for each in chosen
        ],
    )


SEED = os.environ.get("TORTURE_SEED", "1")
MINUTES = os.environ.get("TORTURE_MINUTES", "0")
NAIVE = Path(__file__).with_name("naive_bot.py")

Record = Callable[[str, object], None]


def torture(project: Path, *arguments: str) -> tuple[int, str, dict[str, list[int]]]:
    """Run the suite: its exit code, all it printed, its report at the end, and the table in that."""
    command = (UV, "run", "--quiet", "python", "-m", "suite.torture", *arguments)
    done = run(*command, cwd=project, env=clean_env(), timeout=1200 + 60 * float(MINUTES))
    rows = re.findall(r"^(\S.*?)((?:  +[\d,]+){6})$", done.stdout, re.MULTILINE)
    table = {name: [int(cell.replace(",", "")) for cell in cells.split()] for name, cells in rows}
    return done.returncode, done.stderr + done.stdout, table


def shown(printed: str) -> str:
    """The table and what follows it."""
    return printed[printed.rfind("\n\n", 0, printed.rfind("\n\n")) :].strip("\n")


def test_nothing_is_lost(workshop: Workshop, answers: dict[str, str], record_property: Record) -> None:
    """Whatever happens: each effect once, each reply at least once, all in order."""
    code, printed, table = torture(workshop(answers), "--seed", SEED, "--minutes", MINUTES)
    assert code == 0, printed
    for name, (sent, *faults) in table.items():
        assert sent > 100, name
        assert not any(faults), name
    if answers["backend"] != "memory":
        assert len(re.findall("bot: kill -9", printed)) >= 20
    record_property("torture", shown(printed))


def test_a_bot_without_transactions_fails(
    workshop: Workshop, answers: dict[str, str], record_property: Record
) -> None:
    """Read, change, write back, by plain aiogram: it loses effects or doubles them, in each set-up."""
    project = workshop(answers)
    copy = project / "tests" / "torture" / NAIVE.name
    shutil.copy(NAIVE, copy)
    try:
        code, printed, table = torture(project, "--short", "--bot", f"suite.torture.{NAIVE.stem}")
    finally:
        copy.unlink()
    assert code == 1, printed
    for name, (sent, lost, doubled, *_) in table.items():
        assert sent > 30, name
        assert lost + doubled > 0, f"{name} kept all: would the suite notice anything?"
    record_property("torture", f"a naive bot: {shown(printed)}")
