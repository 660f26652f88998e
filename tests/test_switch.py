"""A project changes its mind: from every combination of answers to every other, with what its owner wrote.

Switched, it is what a new project with the owner's edits is, file by file. So what the tests of new projects
prove holds for it, whichever it was before. `--full` tries all of them; else every pair of engines is
tried, and some more, drawn anew for each commit.
"""

import random
import shutil
from itertools import permutations
from pathlib import Path

import pytest
import yaml
from copier import VcsRef, run_update

import owner
from conftest import Project, Render
from support import (
    ROOT,
    Answers,
    combinations,
    commit_all,
    first_of_each_engine,
    label,
    must,
    tree,
)

Pair = tuple[dict[str, str], dict[str, str]]

DRAWN = 12
"""Pairs beyond those of engines that an ordinary run tries."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the pairs."""
    if {"old", "new"} <= set(metafunc.fixturenames):
        pairs = list(permutations(combinations(), 2))
        if not metafunc.config.getoption("full"):
            pairs = some_of(pairs)
        metafunc.parametrize(
            ("old", "new"), pairs, ids=[f"{label(old)} to {label(new)}" for old, new in pairs]
        )


def some_of(pairs: list[Pair]) -> list[Pair]:
    """Every pair of engines, and some others: the same in every process of a run."""
    chosen = list(permutations(first_of_each_engine().values(), 2))
    others = [pair for pair in pairs if pair not in chosen]
    seed = must("git", "rev-parse", "HEAD", cwd=ROOT)
    return chosen + random.Random(seed).sample(others, min(DRAWN, len(others)))


def switch(project: Path, answers: Answers) -> None:
    """`copier update --vcs-ref=:current: --data ...`, without trust."""
    run_update(
        project,
        data=dict(answers),
        vcs_ref=VcsRef.CURRENT,
        defaults=True,
        overwrite=True,
        quiet=True,
        unsafe=False,
    )


def test_what_the_owner_wrote_stays(render: Render, tmp_path: Path, old: Answers, new: Answers) -> None:
    """Switched, it is a new project with the owner's edits: nothing lost, nothing left over, no conflict."""
    project, expected = tmp_path / "project", tmp_path / "expected"
    shutil.copytree(render(**old), project)
    migration = owner.has_migrations(project)
    owner.edit(project, migration=migration)
    commit_all(project, "The owner's work")

    switch(project, new)
    shutil.copytree(render(**new), expected)
    owner.edit(expected, migration=migration)
    assert tree(project) == tree(expected)


def test_answers_that_are_not_asked_are_forgotten(project: Project) -> None:
    """Whoever leaves a backend leaves its further questions, too: the answers are those of a new project."""
    longest = max(combinations(), key=len)
    folder = project(longest)
    switch(folder, combinations()[0])
    answers = yaml.safe_load((folder / ".copier-answers.yml").read_text("utf-8"))
    assert set(answers) & (set(longest) - set(combinations()[0])) == set()
