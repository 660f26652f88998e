"""A project with its owner's edits passes its own checks after an update and after a switch.

That its files are what they should be, test_update.py and test_switch.py prove for every project; here they
are run, in this repository's own environment: an update by an ordinary run, switches with `--full`.
"""

import sys
from pathlib import Path

import pytest
from test_switch import switch
from test_update import after, chosen_versions, history, rendered, update

import owner
import releases
from conftest import Project
from releases import HEAD
from support import TYPES, clean_env, commit_all, run

__all__ = ["history"]

OWN = "bot/agent.py bot/handlers.py tests"

CHECKS = (f"ruff format --check --diff {OWN}", f"ruff check {OWN}", "mypy", "pytest -q")
"""What continuous integration runs; the runtime of the version to come is made up, and not formatted."""


def check(project: Path) -> None:
    """Lint it, check its types, and run all of its tests."""
    env = clean_env(PYTHONPATH=str(project), MYPY_CACHE_DIR=str(TYPES))
    for command in CHECKS:
        done = run(sys.executable, "-m", *command.split(), cwd=project, env=env, timeout=600)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow(60)
@pytest.mark.xdist_group("types")  # what is known after test_code.py
@pytest.mark.parametrize("version", chosen_versions(full=False))
def test_updated(history: Path, tmp_path: Path, version: str) -> None:
    """The owner's files of the oldest release run on the newest runtime, and those of now on the next."""
    if version != HEAD and not releases.is_here(version):
        pytest.skip(releases.NOT_HERE)
    project = rendered(history, tmp_path / "project", version, {"backend": "redis"})
    owner.edit(project)
    commit_all(project, "The owner's work")
    update(project, after(version))
    check(project)


@pytest.mark.rarely
@pytest.mark.parametrize(("old", "new"), [("postgres", "redis"), ("redis", "postgres")])
def test_switched(project: Project, old: str, new: str) -> None:
    """The migration of an owner who leaves PostgreSQL stays, and is in nobody's way."""
    folder = project({"backend": old})
    owner.edit(folder, migration=old == "postgres")
    commit_all(folder, "The owner's work")
    switch(folder, {"backend": new})
    check(folder)
