"""What a bot of any version kept or exported, one of this version reads, migrated where need be.

tests/records/ holds what the programs of each version wrote, made by tests/records/make.py. A release that
cannot read it would cost its owners their users. It is read from real servers.
"""

import shutil
import sys
from pathlib import Path

import pytest

import releases
from conftest import Render
from releases import VERSIONS
from suite.support import warm
from support import ROOT, Answers, clean_env, engine, first_of_each_engine, label

RECORDS = ROOT / "tests/records"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the engines: all, once there is a version that wrote something."""
    if "answers" in metafunc.fixturenames:
        chosen = list(first_of_each_engine().values())
        full = metafunc.config.getoption("full")
        why = "no version is released yet; with --full, what the working tree writes is read"
        marks = [] if VERSIONS or full else [pytest.mark.skip(why)]
        metafunc.parametrize("answers", [pytest.param(each, id=label(each), marks=marks) for each in chosen])


def test_what_every_version_wrote_is_kept() -> None:
    """An export, and what its servers held, of each engine it had that keeps anything."""
    for version in VERSIONS:
        if not releases.is_here(version):
            pytest.skip(releases.NOT_HERE)
        had = first_of_each_engine(releases.questions_at(version))
        kept = {path.name for path in (RECORDS / version).glob("*") if (path / "export.jsonl").exists()}
        assert kept == set(had) - releases.FORGETFUL, f"run tests/records/make.py {version}"
        for folder in (RECORDS / version).glob("*"):
            assert len(list(folder.glob("*"))) > 1, f"{folder} holds an export only"
    others = {path.name for path in RECORDS.iterdir() if path.is_dir()} - {"inside", "__pycache__"}
    assert others == set(VERSIONS)


@pytest.mark.slow(30)
def test_old_records_are_read(
    compiled: Render, tmp_path: Path, answers: Answers, pytestconfig: pytest.Config
) -> None:
    """Exports on every engine; what was stored, on the engine that stored it."""
    project = tmp_path / "project"
    shutil.copytree(compiled(**answers), project)
    prepare(project)
    versions = project / "suite/old/versions"
    for version in VERSIONS:
        shutil.copytree(RECORDS / version, versions / version)
    (versions / "seed/any").mkdir(parents=True)
    shutil.copy(RECORDS / "seed.jsonl", versions / "seed/any/export.jsonl")
    stored = len(list(versions.glob(f"*/{engine(answers)}")))
    if pytestconfig.getoption("full") and engine(answers) not in releases.FORGETFUL:
        inside(project, "suite.old.write_records", str(versions / "head" / engine(answers)))
        stored += 1
    inside(project, "pytest", "-q", "suite/old", OLD_VERSIONS=str(stored))


def prepare(project: Path) -> None:
    """Put into a rendered project what runs inside."""
    unfinished = shutil.ignore_patterns("*.pyc.*")
    shutil.copytree(ROOT / "suite", project / "suite", ignore=unfinished)
    shutil.copytree(RECORDS / "inside", project / "suite/old", ignore=unfinished)
    shutil.copy(RECORDS / "seed.jsonl", project / "suite/old")
    (project / "suite/old/__init__.py").touch()


def inside(project: Path, *module: str, **settings: str) -> None:
    """Run a module in the project, in the environment of this repository."""
    env = clean_env(PYTHONPATH=str(project), **settings)
    done = warm.run([sys.executable, "-m", *module], cwd=project, env=env, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
