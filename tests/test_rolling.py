"""Replicas of each released version beside those of the working tree, as a rolling update has them."""

import shutil
from pathlib import Path

import pytest
from copier import run_copy
from test_records import inside, prepare
from test_update import history

import releases
from conftest import Render
from releases import VERSIONS
from support import ROOT, Answers, first_of_each_engine, label

__all__ = ["history"]

INSIDE = ROOT / "tests/rolling/inside"


def cases() -> list[object]:
    """Each version, on each of its engines that keeps anything."""
    return [
        pytest.param(version, answers, id=f"{version}-{label(answers)}", marks=pytest.mark.slow(40))
        for version in VERSIONS
        if releases.is_here(version)
        for engine, answers in first_of_each_engine(releases.questions_at(version)).items()
        if engine not in releases.FORGETFUL
    ]


@pytest.mark.parametrize(("version", "answers"), cases())
def test_replicas_of_two_versions(
    compiled: Render, history: Path, tmp_path: Path, version: str, answers: Answers
) -> None:
    """They write to the same records, and what is forgotten by one is not shown by the other."""
    old, new = tmp_path / "old", tmp_path / "new"
    run_copy(str(history), old, data=dict(answers), vcs_ref=version, defaults=True, quiet=True)
    (old / "suite").mkdir()
    shutil.copy(INSIDE / "old_replica.py", old / "suite")
    shutil.copytree(compiled(**answers), new)
    prepare(new)
    shutil.copy(INSIDE / "test_beside.py", new / "suite/contract")
    inside(new, "pytest", "-q", "suite/contract/test_beside.py", OLD_PROJECT=str(old))
