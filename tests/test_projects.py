"""What an owner gets: a project that passes its own checks in the environment of its own `pyproject.toml`."""

import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from conftest import Project, Render
from support import ROOT, Answers, clean_env, combinations, first_of_each_engine, label, run, uv, with_model

FIRST = list(first_of_each_engine().values())


def chosen(full: bool) -> list[Answers]:
    """One project of each engine, and one with a model; with `--full`, of each combination."""
    return [*combinations(), *with_model()] if full else [*FIRST, with_model()[0]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the projects."""
    if metafunc.function is test_its_checks_pass:
        projects = chosen(metafunc.config.getoption("full"))
        metafunc.parametrize("answers", projects, ids=label, scope="module")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where uv puts a project's environment: over that of the one before, which is quicker."""
    return str(tmp_path_factory.mktemp("environment") / ".venv")


@pytest.mark.slow(60)
@pytest.mark.xdist_group("projects")
def test_its_checks_pass(
    project: Project, environment: str, answers: Answers, pytestconfig: pytest.Config
) -> None:
    """What its continuous integration runs, by its own tools; git then shows but the lock file as new.

    The types of an ordinary run are checked in test_code.py, of all engines together.
    """
    folder = project(answers)
    uv(folder, "sync", "--quiet", UV_PROJECT_ENVIRONMENT=environment)
    checks = ["ruff format --check .", "ruff check .", "pytest -q", "bot --help"]
    for command in [*checks, *(["mypy"] if pytestconfig.getoption("full") else [])]:
        uv(folder, "run", "--no-sync", *command.split(), timeout=600, UV_PROJECT_ENVIRONMENT=environment)
    status = run("git", "status", "--porcelain", cwd=folder).stdout
    assert status in {"", "?? uv.lock\n"}


@pytest.mark.slow(10)
@pytest.mark.parametrize("answers", with_model(), ids=label)
def test_a_model_is_told_on_each_engine_what_it_did(render: Render, tmp_path: Path, answers: Answers) -> None:
    """The tests of its agent that use the engine, in the environment of this repository."""
    folder = tmp_path / "project"
    shutil.copytree(render(**answers), folder)
    command = (sys.executable, "-m", "pytest", "-q", "tests/test_agent.py", "-k", "was_said_and_done")
    done = run(*command, cwd=folder, env=clean_env(PYTHONPATH=str(folder)), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    if "skipped" not in done.stdout:  # as where Google's emulator is not installed
        assert "1 passed" in done.stdout


def test_the_environment_of_this_repository_has_what_they_need(render: Render) -> None:
    """The kit runs in it: its `pyproject.toml` admits the same releases as the rendered ones do."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    ours = {line.split(" #")[0] for group in groups.values() for line in group}
    for answers in [*combinations(), *with_model()]:
        project = tomllib.loads((render(**answers) / "pyproject.toml").read_text("utf-8"))
        for line in [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]:
            name = line.partition(">=")[0].partition("[")[0]
            if name in {"ruff", "mypy", "pytest", "pyyaml", "types-pyyaml"}:
                continue  # this repository's own tools, which it takes from a newer release on
            assert line in ours, f"{label(answers)} needs {line}: see `bots` and `suite` in pyproject.toml"
