"""What a bot of any version kept or exported, one of this version reads, migrated where need be.

tests/records/ holds what the programs of each version wrote, made by tests/records/make.py. A release that
cannot read it would cost its owners their users. It is read from real servers.
"""

import shutil

import pytest

import releases
from conftest import Workshop
from releases import VERSIONS
from support import ROOT, Answers, engine, first_of_each_engine, label, uv

RECORDS = ROOT / "tests/records"


@pytest.mark.parametrize("version", VERSIONS)
def test_what_every_version_wrote_is_kept(version: str) -> None:
    """An export, and what its servers held, of each engine it had that keeps anything."""
    if not releases.is_here(version):
        pytest.skip(releases.NOT_HERE)
    had = first_of_each_engine(releases.questions_at(version))
    kept = {path.name for path in (RECORDS / version).glob("*") if (path / "export.jsonl").exists()}
    assert kept == set(had) - releases.FORGETFUL, f"run tests/records/make.py {version}"
    for folder in (RECORDS / version).glob("*"):
        assert len(list(folder.glob("*"))) > 1, f"{folder} holds an export only"


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(each, id=name, marks=pytest.mark.xdist_group(label(each)))
        for name, each in first_of_each_engine().items()
    ],
)
def test_old_records_are_read(workshop: Workshop, answers: Answers) -> None:
    """Exports on every engine; what was stored, on the engine that stored it."""
    project = workshop(answers)
    old = project / "suite/old"
    shutil.copytree(RECORDS / "inside", old)
    (old / "__init__.py").touch()
    only_versions = shutil.ignore_patterns("inside", "*.py", "__pycache__", "seed.jsonl")
    shutil.copytree(RECORDS, old / "versions", ignore=only_versions)
    try:
        stored = len(list(RECORDS.glob(f"*/{engine(answers)}")))
        uv(project, "run", "pytest", "-q", "suite/old", OLD_VERSIONS=str(stored), timeout=600)
    finally:
        shutil.rmtree(old)
