"""Nobody has to trust the template: copy and update work with Copier's safety on."""

import shutil
from pathlib import Path

import pytest
from copier import run_copy, run_update
from copier.errors import UnsafeTemplateError

from support import CONFIG, commit_all, must, text_files

TAINTING = ["_tasks", "_migrations", "_jinja_extensions"]


def test_no_key_that_demands_trust() -> None:
    """One release with any of these would make every later update from it demand --trust."""
    assert not set(TAINTING) & set(CONFIG)


def test_copy_and_update_without_trust(template: Path, tmp_path: Path) -> None:
    """A project goes from v0.0.1 to v0.0.2 with `unsafe=False`; the owner's work stays."""
    source, project = tmp_path / "source", tmp_path / "project"
    shutil.copytree(template, source)
    (source / "template" / "NEWS.md").write_text("Something new.\n")
    commit_all(source, "A later version", tag="v0.0.2")

    run_copy(str(source), project, vcs_ref="v0.0.1", defaults=True, quiet=True, unsafe=False)
    agent = project / "bot" / "agent.py"
    edited = agent.read_text("utf-8") + "\n# the owner's own line\n"
    agent.write_text(edited, "utf-8")
    commit_all(project, "The owner's work")

    run_update(project, defaults=True, overwrite=True, quiet=True, unsafe=False)
    assert "_commit: v0.0.2\n" in (project / ".copier-answers.yml").read_text("utf-8")
    assert (project / "NEWS.md").read_text() == "Something new.\n"
    assert agent.read_text("utf-8") == edited
    for path in text_files(project):
        assert "<<<<<<< " not in path.read_text("utf-8"), f"conflict in {path}"
    assert must("git", "diff", "--name-only", cwd=project).split() == [".copier-answers.yml"]


def test_the_check_would_notice(template: Path, tmp_path: Path) -> None:
    """A template with a task is refused under the same conditions: the test above can fail."""
    source = tmp_path / "source"
    shutil.copytree(template, source)
    with (source / "copier.yml").open("a") as config:
        config.write("_tasks: [echo]\n")
    commit_all(source, "Tainted", tag="v0.0.2")
    with pytest.raises(UnsafeTemplateError):
        run_copy(str(source), tmp_path / "out", defaults=True, quiet=True, unsafe=False)
    assert not (tmp_path / "out").exists()
