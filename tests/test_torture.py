"""The torture suite in its long form, and a bot without transactions, which has to fail it: with `--full`.

TORTURE_SEED and TORTURE_MINUTES repeat a run and make it longer. The kit on each engine has the short form,
and test_prove.py breaks a bot's runtime to see the short form fail.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Render
from support import ROOT, Answers, clean_env, first_of_each_engine, label, run

SEED = os.environ.get("TORTURE_SEED", "1")
MINUTES = os.environ.get("TORTURE_MINUTES", "0")

Record = Callable[[str, object], None]


@pytest.fixture
def bot(render: Render, tmp_path: Path) -> Callable[[Answers], Path]:
    """A rendered bot with the kit put into it."""

    def _bot(answers: Answers) -> Path:
        folder = tmp_path / "bot"
        shutil.copytree(render(**answers), folder)
        shutil.copytree(ROOT / "suite", folder / "suite", ignore=shutil.ignore_patterns("__pycache__"))
        return folder

    return _bot


def torture(project: Path, *arguments: str) -> tuple[int, str, dict[str, list[int]]]:
    """Run the suite: its exit code, all it printed, and the table at its end."""
    command = (sys.executable, "-m", "suite.torture", *arguments)
    environment = clean_env(PYTHONPATH=str(project))
    done = run(*command, cwd=project, env=environment, timeout=1200 + 60 * float(MINUTES))
    rows = re.findall(r"^(\S.*?)((?:  +[\d,]+){6})$", done.stdout, re.MULTILINE)
    table = {name: [int(cell.replace(",", "")) for cell in cells.split()] for name, cells in rows}
    return done.returncode, done.stderr + done.stdout, table


def shown(printed: str) -> str:
    """The table and what follows it."""
    return printed[printed.rfind("\n\n", 0, printed.rfind("updates sent")) :].strip("\n")


@pytest.mark.rarely
@pytest.mark.slow(300)
@pytest.mark.parametrize("answers", first_of_each_engine().values(), ids=label)
def test_nothing_is_lost(
    bot: Callable[[Answers], Path], answers: dict[str, str], record_property: Record
) -> None:
    """Whatever happens: each effect once, each reply at least once, all in order."""
    code, printed, table = torture(bot(answers), "--seed", SEED, "--minutes", MINUTES)
    assert code == 0, printed
    for name, (sent, *faults) in table.items():
        assert sent > 100, name
        assert not any(faults), name
    if answers["backend"] != "memory":
        assert len(re.findall("bot: kill -9", printed)) >= 20
    record_property("torture", shown(printed))


@pytest.mark.rarely
@pytest.mark.slow(100)
@pytest.mark.parametrize("backend", ["redis", "memory", "postgres"])
def test_a_bot_without_transactions_fails(
    bot: Callable[[Answers], Path], backend: str, record_property: Record
) -> None:
    """Read, change, write back, by plain aiogram: it loses effects or doubles them, in each set-up."""
    arguments = ("--short", "--bot", "suite.torture.naive_bot")
    code, printed, table = torture(bot({"backend": backend}), *arguments)
    assert code == 1, printed
    for name, (sent, lost, doubled, *_) in table.items():
        assert sent > 30, name
        assert lost + doubled > 0, f"{name} kept all: would the suite notice anything?"
    record_property("torture", f"a naive bot: {shown(printed)}")
