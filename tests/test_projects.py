"""What an owner gets: a project that passes its own checks in the environment of its own `pyproject.toml`."""

import tomllib

import pytest

from conftest import Render, Workshop
from support import ROOT, Answers, combinations, first_of_each_engine, label, run, uv

FIRST = list(first_of_each_engine().values())


def chosen(full: bool) -> list[Answers]:
    """One project of each engine; with `--full`, of each combination."""
    return list(combinations()) if full else list(FIRST)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the projects."""
    if "answers" in metafunc.fixturenames:
        projects = chosen(metafunc.config.getoption("full"))
        metafunc.parametrize("answers", projects, ids=label, scope="module")


TYPED = {"backend": "hybrid"}
"""Whose types an ordinary run checks here: those of all engines together are checked in test_code.py."""


@pytest.mark.slow(60)
def test_its_checks_pass(workshop: Workshop, answers: Answers, pytestconfig: pytest.Config) -> None:
    """What its continuous integration runs, by its own tools; git then shows but the lock file as new."""
    folder = workshop(answers)
    uv(folder, "run", "ruff", "format", "--check", ".")
    uv(folder, "run", "ruff", "check", ".")
    if pytestconfig.getoption("full") or answers == TYPED:
        uv(folder, "run", "mypy", timeout=600)
    uv(folder, "run", "pytest", "-q", timeout=300)
    uv(folder, "run", "bot", "--help")
    status = run("git", "status", "--porcelain", cwd=folder).stdout
    assert status in {"", "?? uv.lock\n"}


def test_the_environment_of_this_repository_has_what_they_need(render: Render) -> None:
    """The kit runs in it: its `pyproject.toml` admits the same releases as the rendered ones do."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    ours = {line.split(" #")[0] for group in groups.values() for line in group}
    for answers in combinations():
        project = tomllib.loads((render(**answers) / "pyproject.toml").read_text("utf-8"))
        for line in [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]:
            name = line.partition(">=")[0].partition("[")[0]
            if name in {"ruff", "mypy", "pytest", "pyyaml", "types-pyyaml"}:
                continue  # this repository's own tools, which it takes from a newer release on
            assert line in ours, f"{label(answers)} needs {line}: see `bots` and `suite` in pyproject.toml"
