"""A project with its owner's edits passes its own checks, brought up to date or moved to another backend.

That its files are what they should be, test_update.py and test_switch.py prove for every project; here
they are run. `--full` runs all of a project's tests, else those that meet the edits.
"""

from pathlib import Path

import pytest
from copier import run_copy
from test_switch import switch
from test_update import history, update

import owner
import releases
from conftest import Project
from support import commit_all, uv

__all__ = ["history"]

MEET_THE_EDITS = [
    "suite/test_agent.py",
    "suite/test_dashboard.py",
    "suite/e2e/test_commands.py",
    "suite/postgres/test_embedded.py::test_a_newcomer_types_one_command",
    "suite/postgres/test_migrations.py",
]


def check(project: Path, *, full: bool) -> None:
    """What continuous integration runs in the project; all of its tests can at least be collected."""
    uv(project, "sync", "--quiet")
    for command in ("ruff format --check --diff .", "ruff check .", "mypy", "pytest -q --collect-only"):
        uv(project, "run", *command.split())
    tests = [] if full else [name for name in MEET_THE_EDITS if (project / name.partition("::")[0]).exists()]
    uv(project, "run", "pytest", "-q", *tests, timeout=2400)


def edited(project: Path) -> Path:
    """The project after its owner has worked on it."""
    owner.edit(project, migration=owner.has_migrations(project))
    commit_all(project, "The owner's work")
    return project


def test_updated(history: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """From the oldest version, to which the owner may have added a migration."""
    version = next(iter(releases.VERSIONS))
    if not releases.is_here(version):
        pytest.skip(releases.NOT_HERE)
    folder = tmp_path / "project"
    data = {"backend": "postgres"}
    run_copy(str(history), folder, data=data, vcs_ref=version, defaults=True, quiet=True, unsafe=False)
    commit_all(folder, "Rendered")
    update(edited(folder))
    check(folder, full=pytestconfig.getoption("full"))


@pytest.mark.parametrize(("old", "new"), [("postgres", "redis"), ("redis", "postgres")])
def test_switched(project: Project, pytestconfig: pytest.Config, old: str, new: str) -> None:
    """The migration of an owner who leaves PostgreSQL stays, and is in nobody's way."""
    folder = edited(project({"backend": old}))
    switch(folder, {"backend": new})
    check(folder, full=pytestconfig.getoption("full"))
