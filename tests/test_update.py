"""A project of any version comes up to date, and keeps what its owner wrote."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from copier import run_copy, run_update
from packaging.version import Version

import owner
import releases
from releases import HEAD, VERSIONS
from support import ROOT, Answers, clean_env, combinations, commit_all, copier, label, must, run, tree


def projects(version: str) -> list[Any]:
    """Every combination of answers that a version had, as parameters."""
    if not releases.is_here(version):
        return [pytest.param(version, {}, id=version, marks=pytest.mark.skip(reason=releases.NOT_HERE))]
    found = combinations(releases.questions_at(version))
    return [pytest.param(version, each, id=f"{version}-{label(each)}") for each in found]


PROJECTS = pytest.mark.parametrize(
    ("version", "answers"), [each for version in VERSIONS for each in projects(version)]
)
ONE_OF_EACH = pytest.mark.parametrize(("version", "answers"), [projects(version)[0] for version in VERSIONS])


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a repository in which every version is tagged, and the working tree as the newest."""
    folder = tmp_path_factory.mktemp("history") / "tg-state-template"
    releases.make_history(folder)
    return folder


def rendered(history: Path, folder: Path, version: str, answers: Answers) -> Path:
    """A project of that version, as its owner has it in git."""
    run_copy(
        str(history), folder, data=dict(answers), vcs_ref=version, defaults=True, quiet=True, unsafe=False
    )
    commit_all(folder, "Rendered")
    return folder


def update(project: Path) -> None:
    """`copier update --defaults`, without trust."""
    run_update(project, defaults=True, overwrite=True, quiet=True, unsafe=False)


def test_every_version_is_listed() -> None:
    """There is something to update from, in order; tags are listed; and what is listed is history."""
    assert VERSIONS
    assert list(VERSIONS) == sorted(VERSIONS, key=Version)
    assert all(not Version(version).is_prerelease for version in VERSIONS)
    listed = set(VERSIONS.values())
    for tag in must("git", "tag", "--list", "[0-9]*", cwd=ROOT).split():
        assert must("git", "rev-parse", f"{tag}^{{commit}}", cwd=ROOT).strip() in listed, tag
    if not releases.is_shallow():
        for version, commit in VERSIONS.items():
            older = run("git", "merge-base", "--is-ancestor", commit, "HEAD", cwd=ROOT)
            assert older.returncode == 0, version


@PROJECTS
def test_what_the_owner_wrote_stays(history: Path, tmp_path: Path, version: str, answers: Answers) -> None:
    """Updated, it is a new project with the owner's edits: nothing lost, nothing left over, no conflict."""
    project = rendered(history, tmp_path / "project", version, answers)
    answered = yaml.safe_load((project / ".copier-answers.yml").read_text("utf-8"))
    migration = owner.has_migrations(project)
    owner.edit(project, migration=migration)
    commit_all(project, "The owner's work")

    update(project)
    expected = rendered(history, tmp_path / "expected", HEAD, answers)
    owner.edit(expected, migration=migration)
    assert tree(project) == tree(expected)
    now = yaml.safe_load((project / ".copier-answers.yml").read_text("utf-8"))
    assert now.pop("_commit") == HEAD
    assert answered.pop("_commit") == version
    assert answered.items() <= now.items(), "an answer that was given is still good, and kept"


@ONE_OF_EACH
def test_what_nobody_changed_is_new(history: Path, tmp_path: Path, version: str, answers: Answers) -> None:
    """Updated without edits, it is a new project; and `copier check-update` says when it is time to."""
    project = rendered(history, tmp_path / "project", version, answers)
    due = copier("check-update", cwd=project)
    assert due.returncode == 0
    assert f"Current version is {version}, latest version is {HEAD}." in due.stdout
    assert copier("check-update", "--quiet", cwd=project).returncode == 2

    update(project)
    assert tree(project) == tree(rendered(history, tmp_path / "expected", HEAD, answers))
    commit_all(project, "Updated")
    up_to_date = copier("check-update", cwd=project)
    assert (up_to_date.returncode, up_to_date.stdout) == (0, "Project is up-to-date!\n")
    assert copier("check-update", "--quiet", cwd=project).returncode == 0


@ONE_OF_EACH
def test_a_collision_would_be_seen(history: Path, tmp_path: Path, version: str, answers: Answers) -> None:
    """Where both sides changed a line, Copier leaves markers, which the comparisons above do not forgive."""
    source = tmp_path / "source"
    shutil.copytree(history, source)
    project = rendered(source, tmp_path / "project", version, answers)
    owner.edit(project, migration=False)
    commit_all(project, "The owner's work")
    agent = source / "template/bot/agent.py"
    agent.write_text(agent.read_text("utf-8").replace("Processed: ", "Done: "), "utf-8")
    commit_all(source, "A later version", tag="999999.0.1")

    update(project)
    assert b"<<<<<<< before updating" in tree(project)["bot/agent.py"]
    assert run("git", "diff", "--check", cwd=project).returncode != 0


@pytest.mark.parametrize("version", [next(iter(VERSIONS)), HEAD])
def test_the_address_that_is_remembered(history: Path, tmp_path: Path, version: str) -> None:
    """Copied from `gh:...`, a project keeps the whole address: Renovate knows no other, and Copier both."""
    if version != HEAD and not releases.is_here(version):
        pytest.skip(releases.NOT_HERE)
    short, whole = "gh:org/tg-state-template", "https://github.com/org/tg-state-template"
    settings, project = tmp_path / "gitconfig", tmp_path / "project"
    settings.write_text(
        f'[include]\npath = {os.environ["GIT_CONFIG_GLOBAL"]}\n[url "{history}"]\ninsteadOf = {whole}.git\n'
    )
    env = clean_env(GIT_CONFIG_GLOBAL=str(settings), COPIER_CACHE_DIR=str(tmp_path / "cache"))

    def after(command: str, *arguments: str | Path) -> str:
        done = copier(command, "--defaults", "--quiet", *arguments, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        commit_all(project, command)
        return str(yaml.safe_load((project / ".copier-answers.yml").read_text("utf-8"))["_src_path"])

    remembered = after("copy", f"--vcs-ref={version}", short, project)
    assert remembered == (whole if version == HEAD else short)
    assert after("update", project) == whole
    fresh = tree(project)
    assert after("update", "--vcs-ref=:current:", "--data=backend=redis", project) == whole
    assert after("recopy", "--overwrite", "--data=backend=memory", project) == whole
    assert fresh.items() <= tree(project).items()
    due = copier("check-update", project, cwd=tmp_path, env=env)
    assert (due.returncode, due.stdout) == (0, "Project is up-to-date!\n"), due.stderr
