"""A project of any version comes up to date, and keeps what its owner wrote.

The versions are those of `releases.toml`, updated to the working tree, and the working tree itself, updated
to a version made up after it, so that the rules hold from the first release on. An ordinary run takes the
oldest version, the newest, and the working tree, and a combination of answers for each engine; `--full` all.
"""

import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from copier import run_copy, run_update
from filelock import FileLock
from packaging.version import Version

import owner
import releases
from conftest import Project, Render
from releases import CAME, DROPPED, GONE, HEAD, NEVER_GIVEN, NEXT, VERSIONS
from support import (
    CONFIG,
    ROOT,
    UV,
    Answers,
    clean_env,
    combinations,
    commit_all,
    copier,
    engine,
    first_of_each_engine,
    label,
    must,
    run,
    tree,
)

ANSWERS = ".copier-answers.yml"

MANY_FILES = [{"backend": "fsm", "fsm_storage": "hybrid"}, {"backend": "cloud", "cloud_provider": "rds"}]
"""With these answers a project has of everything that there is."""

SEEN_BEFORE = next(
    line.strip() for line in CONFIG["_message_before_update"].splitlines() if "copier recopy" in line
)
"""The command that shows, before an update, what the owner changed in the template's room."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose from which version, with which answers."""
    if {"version", "answers"} <= set(metafunc.fixturenames):
        full = metafunc.config.getoption("full")
        projects = [
            pytest.param(
                version,
                answers,
                id=f"{version}-{label(answers)}",
                marks=[]
                if version == HEAD or releases.is_here(version)
                else pytest.mark.skip(releases.NOT_HERE),
            )
            for version in chosen_versions(full=full)
            for answers in chosen_answers(version, full=full)
        ]
        metafunc.parametrize(("version", "answers"), projects)
    if "current" in metafunc.fixturenames:
        full = metafunc.config.getoption("full")
        metafunc.parametrize("current", chosen_answers(HEAD, full=True) if full else MANY_FILES, ids=label)


def chosen_versions(*, full: bool) -> list[str]:
    """From which versions projects are updated, oldest first. There may be one, which is the working tree."""
    versions = [*VERSIONS, HEAD]
    return versions if full else list(dict.fromkeys([versions[0], *versions[-2:]]))


def chosen_answers(version: str, *, full: bool) -> list[dict[str, str]]:
    """With which answers, as that version asked for them."""
    if version != HEAD and not releases.is_here(version):
        return [{}]
    questions = releases.questions_at(version)
    return combinations(questions) if full else list(first_of_each_engine(questions).values())


def after(version: str) -> str:
    """To which version a project of this one is updated."""
    return NEXT if version == HEAD else HEAD


@pytest.fixture(scope="session")
def history(shared: Path) -> Path:
    """The template's repository, with a tag on every version, the working tree, and a version to come."""
    folder = shared / "history" / "tg-state-template"
    with FileLock(shared / "history.lock"):
        if not folder.exists():
            fresh = folder.with_name("fresh")
            releases.make_history(fresh)
            fresh.rename(folder)
    return folder


def rendered(history: Path, folder: Path, version: str, answers: Answers) -> Path:
    """A project of that version, as its owner has it in git. Each is rendered once, and copied."""
    made = history.parent / "projects" / f"{version}-{label(answers)}"
    made.parent.mkdir(exist_ok=True)
    with FileLock(f"{made}.lock"):
        if not made.exists():
            fresh = made.with_name("fresh") / made.name
            data = dict(answers)
            run_copy(str(history), fresh, data=data, vcs_ref=version, defaults=True, quiet=True, unsafe=False)
            commit_all(fresh, "Rendered")
            fresh.rename(made)
    shutil.copytree(made, folder)
    return folder


def update(project: Path, to: str) -> None:
    """`copier update --defaults`, without trust."""
    run_update(project, vcs_ref=to, defaults=True, overwrite=True, quiet=True, unsafe=False)


def answers_of(project: Path) -> dict[str, str]:
    """What the project's answers file says."""
    answers: dict[str, str] = yaml.safe_load((project / ANSWERS).read_text("utf-8"))
    return answers


def both(ours: dict[str, bytes], fresh: dict[str, bytes], *, new: tuple[str, ...] = ()) -> dict[str, bytes]:
    """The owner's files of one project with the template's of another, without what copier remembers.

    Args:
        ours: the owner's project.
        fresh: a new one, with the owner's edits of shared files.
        new: what the owner gets with it.
    """
    kept = {path: content for path, content in ours.items() if owner.is_owners(path)}
    kept |= {path: content for path, content in fresh.items() if path.startswith(new)} if new else {}
    of_the_template = {path: content for path, content in fresh.items() if not owner.is_owners(path)}
    found = of_the_template | kept
    del found[ANSWERS]
    return found


def without_answers(project: Path) -> dict[str, bytes]:
    """Every file but what copier remembers."""
    return {path: content for path, content in tree(project).items() if path != ANSWERS}


def test_every_version_is_listed() -> None:
    """In order; tags are listed; and what is listed is history."""
    assert list(VERSIONS) == sorted(VERSIONS, key=Version)
    assert all(not Version(version).is_prerelease for version in VERSIONS)
    listed = set(VERSIONS.values())
    for tag in must("git", "tag", "--list", "[0-9]*", cwd=ROOT).split():
        assert must("git", "rev-parse", f"{tag}^{{commit}}", cwd=ROOT).strip() in listed, tag
    if not releases.is_shallow():
        for version, commit in VERSIONS.items():
            older = run("git", "merge-base", "--is-ancestor", commit, "HEAD", cwd=ROOT)
            assert older.returncode == 0, version


@pytest.mark.slow(10)
def test_what_the_owner_wrote_stays(history: Path, tmp_path: Path, version: str, answers: Answers) -> None:
    """Updated, it is a new project with the owner's room as it was: nothing lost or in conflict."""
    project = rendered(history, tmp_path / "project", version, answers)
    owner.edit(project, migration=engine(answers) in {"postgres", "hybrid"})
    commit_all(project, "The owner's work")
    ours, answered = tree(project), answers_of(project)

    update(project, after(version))
    fresh = rendered(history, tmp_path / "fresh", after(version), answers)
    owner.edit_shared(fresh)
    assert without_answers(project) == both(ours, tree(fresh))
    now = answers_of(project)
    assert now.pop("_commit") == after(version)
    assert answered.pop("_commit") == version
    assert answered.items() <= now.items(), "an answer that was given is still good, and kept"


def test_the_version_to_come_tries_every_rule(history: Path, tmp_path: Path) -> None:
    """Nobody edited anything: the template's room is new, the owner's as it was, dropped files too."""
    project = rendered(history, tmp_path / "project", HEAD, {"backend": "fsm", "fsm_storage": "memory"})
    before = tree(project)
    update(project, NEXT)
    now = tree(project)
    assert GONE in before
    assert GONE not in now
    assert CAME in now
    assert before["bot/runtime/cli.py"] != now["bot/runtime/cli.py"]
    assert before["pyproject.toml"] != now["pyproject.toml"]
    owners = {path: content for path, content in before.items() if owner.is_owners(path)}
    assert {DROPPED, "bot/agent.py", "bot/handlers.py", "bot/flow/steps.py"} <= set(owners)
    assert owners.items() <= now.items()
    assert NEVER_GIVEN not in now

    new = tree(rendered(history, tmp_path / "new", NEXT, {"backend": "fsm", "fsm_storage": "memory"}))
    assert NEVER_GIVEN in new
    assert DROPPED not in new
    assert not [path for path in owners if new.get(path) == owners[path]], "it changed all of them"


def test_edits_in_the_templates_room(history: Path, tmp_path: Path) -> None:
    """Merged; marked, where both changed a line; shown before, where the new version lacks the file."""
    project = rendered(history, tmp_path / "project", HEAD, {"backend": "memory"})
    merged, marked = project / "bot/runtime/cli.py", project / "bot/runtime/app.py"
    edit = "# the owner's\n"
    docstring, end, code = merged.read_text("utf-8").partition("\n\n")
    merged.write_text(f"{docstring}{end}{edit}{code}", "utf-8")
    marked.write_text(marked.read_text("utf-8").replace('"""\n', ' Mine."""\n', 1), "utf-8")
    (project / GONE).write_text(edit, "utf-8")
    owner.edit_room(project)
    commit_all(project, "The owner's work")

    program, *arguments = SEEN_BEFORE.split()
    assert program == "copier"
    shown = copier(*arguments, cwd=project)
    assert shown.returncode == 0, shown.stderr
    plain = re.sub(r"\x1b\[\d+m", "", shown.stderr)
    changed = {line.split()[1] for line in plain.splitlines() if line.lstrip().startswith("conflict")}
    assert changed == {"bot/runtime/cli.py", "bot/runtime/app.py", GONE}
    assert must("git", "status", "--porcelain", cwd=project) == "", "it changed nothing"

    update(project, NEXT)
    now = tree(project)
    assert edit in now["bot/runtime/cli.py"].decode()
    assert "Of the next version" in now["bot/runtime/cli.py"].decode()
    assert [path for path, content in now.items() if b"<<<<<<< before updating" in content] == [
        "bot/runtime/app.py"
    ]
    assert run("git", "diff", "--check", cwd=project).returncode != 0
    assert GONE not in now


def test_recopy_leaves_the_owners_room_alone(history: Path, tmp_path: Path) -> None:
    """What the owner deleted does not come back, what was edited stays; the rest is the template's."""
    project = rendered(history, tmp_path / "project", HEAD, {"backend": "fsm", "fsm_storage": "memory"})
    before = tree(project)
    owner.edit_room(project)
    commit_all(project, "The owner's work")
    ours = tree(project)
    (project / "bot/runtime/cli.py").write_text("\n", "utf-8")
    done = copier("recopy", "--defaults", "--overwrite", "--quiet", "--vcs-ref=:current:", cwd=project)
    assert done.returncode == 0, done.stderr
    assert tree(project) == both(ours, before) | {ANSWERS: before[ANSWERS]}


@pytest.mark.parametrize("answers", first_of_each_engine().values(), ids=label)
def test_uv_adds_where_the_owners_place_is(render: Render, tmp_path: Path, answers: Answers) -> None:
    """`uv add` writes what the tests here take it to write; `uv remove` takes it away again."""
    before = (render(**answers) / "pyproject.toml").read_text("utf-8")
    for folder in ("typed", "written"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pyproject.toml").write_text(before, "utf-8")
    typed, written = (tmp_path / folder / "pyproject.toml" for folder in ("typed", "written"))
    # `--frozen` spares it to lock them.
    must(UV, "add", "--quiet", "--frozen", *owner.PACKAGES, cwd=typed.parent)
    must(UV, "add", "--quiet", "--frozen", "--dev", *owner.TOOLS, cwd=typed.parent)
    owner.add_packages(written.parent)
    assert typed.read_text("utf-8") == written.read_text("utf-8")
    packages, tools = ([each.split(">=")[0] for each in some] for some in (owner.PACKAGES, owner.TOOLS))
    must(UV, "remove", "--quiet", "--frozen", *packages, cwd=typed.parent)
    must(UV, "remove", "--quiet", "--frozen", "--dev", *tools, cwd=typed.parent)
    assert typed.read_text("utf-8") == before


def test_when_it_is_time_to_update(history: Path, tmp_path: Path) -> None:
    """`copier check-update` says it; the weekly workflow reads its exit code."""
    project = rendered(history, tmp_path / "project", HEAD, {"backend": "memory"})
    assert copier("check-update", "--quiet", cwd=project).returncode == 2
    answers = project / ANSWERS
    answers.write_text(answers.read_text("utf-8").replace(HEAD, NEXT), "utf-8")
    up_to_date = copier("check-update", cwd=project)
    assert (up_to_date.returncode, up_to_date.stdout) == (0, "Project is up-to-date!\n")


def test_the_address_that_is_remembered(history: Path, tmp_path: Path) -> None:
    """Copied from `gh:...`, a project keeps the whole address: Renovate knows no other, and Copier both."""
    short, whole = "gh:org/tg-state-template", "https://github.com/org/tg-state-template"
    settings, project = tmp_path / "gitconfig", tmp_path / "project"
    settings.write_text(
        f'[include]\npath = {os.environ["GIT_CONFIG_GLOBAL"]}\n[url "{history}"]\ninsteadOf = {whole}.git\n'
    )
    env = clean_env(GIT_CONFIG_GLOBAL=str(settings), COPIER_CACHE_DIR=str(tmp_path / "cache"))

    def remembered_after(*arguments: str | Path) -> str:
        done = copier(*arguments, "--defaults", "--quiet", cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        commit_all(project, "Done")
        return answers_of(project)["_src_path"]

    assert remembered_after("copy", f"--vcs-ref={HEAD}", short, project) == whole
    assert remembered_after("update", "--vcs-ref=:current:", "--data=backend=redis", project) == whole
    assert answers_of(project)["backend"] == "redis"


@pytest.mark.slow(5)
def test_update_without_news_changes_nothing(template: Path, project: Project, current: Answers) -> None:
    """Nor does rendering a project anew over itself."""
    folder = project(current)
    data = dict(current)
    run_copy(str(template), folder, data=data, defaults=True, overwrite=True, quiet=True, vcs_ref="HEAD")
    assert must("git", "status", "--porcelain", cwd=folder) == ""
    run_update(folder, defaults=True, overwrite=True, quiet=True)
    assert must("git", "status", "--porcelain", cwd=folder) == ""
