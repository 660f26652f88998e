"""A project changes its mind: from one combination of answers to another, with what its owner wrote.

Switched, it is what a new project with the owner's room and edits is, file by file. So what the tests of
new projects prove holds for it, whichever it was before. An ordinary run goes along one cycle through all
engines, `--full` from every combination to every other.
"""

import shutil
from itertools import pairwise, permutations
from pathlib import Path

import pytest
from copier import VcsRef, run_update
from test_update import answers_of, both, without_answers

import owner
from conftest import Project, Render
from support import (
    Answers,
    combinations,
    commit_all,
    copier,
    engine,
    first_of_each_engine,
    label,
    must,
    tree,
)

CYCLE = [
    {"backend": "memory"},
    {"backend": "sqlite"},
    {"backend": "redis"},
    {"backend": "postgres"},
    {"backend": "hybrid"},
    {"backend": "fsm", "fsm_storage": "dynamodb"},
    {"backend": "cloud", "cloud_provider": "firestore"},
    {"backend": "fsm", "fsm_storage": "redis"},
    {"backend": "cloud", "cloud_provider": "supabase"},
    {"backend": "fsm", "fsm_storage": "sqlite"},
    {"backend": "memory"},
]
"""Each engine is come to and left, and so are a conversation in steps and providers of either kind."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the pairs."""
    if {"old", "new"} <= set(metafunc.fixturenames):
        full = metafunc.config.getoption("full")
        pairs = list(permutations(combinations(), 2)) if full else list(pairwise(CYCLE))
        metafunc.parametrize(
            ("old", "new"), pairs, ids=[f"{label(old)} to {label(new)}" for old, new in pairs]
        )


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


def test_the_cycle_goes_through_all_engines() -> None:
    """A new engine has to be on it."""
    assert {engine(answers) for answers in CYCLE} == set(first_of_each_engine())
    assert all(answers in combinations() for answers in CYCLE)


@pytest.mark.slow(8)
def test_what_the_owner_wrote_stays(render: Render, tmp_path: Path, old: Answers, new: Answers) -> None:
    """Switched, it is a new project with the owner's room as it was: nothing lost, left over, in conflict."""
    project, fresh = tmp_path / "project", tmp_path / "fresh"
    shutil.copytree(render(**old), project)
    owner.edit(project, migration=engine(old) in {"postgres", "hybrid"})
    commit_all(project, "The owner's work")
    ours = tree(project)

    switch(project, new)
    shutil.copytree(render(**new), fresh)
    owner.edit_shared(fresh)
    comes = new["backend"] == "fsm" != old["backend"]
    assert without_answers(project) == both(ours, tree(fresh), new=owner.FLOW if comes else ())
    # Of a backend that was left, its further questions are forgotten, and what was given to the owner is not.
    given = "agent flow" if "fsm" in (old["backend"], new["backend"]) else "agent"
    assert answers_of(project) == answers_of(fresh) | {"given": given}


def test_a_conversation_in_steps_comes_once(project: Project) -> None:
    """It stays when its owner leaves the backend, and what was deleted does not come back with it."""
    redis, fsm = {"backend": "redis"}, {"backend": "fsm", "fsm_storage": "redis"}
    folder = project(redis)
    assert not (folder / "bot/flow").exists()
    switch(folder, fsm)
    steps, handlers = folder / "bot/flow/steps.py", folder / "bot/flow/handlers.py"
    assert steps.exists()
    steps.unlink()
    handlers.write_text('"""The owner\'s."""\n', "utf-8")
    commit_all(folder, "The owner's work")
    for answers in (redis, fsm):
        switch(folder, answers)
        assert not steps.exists()
        assert handlers.read_text("utf-8") == '"""The owner\'s."""\n'
        commit_all(folder, "Switched")


MODEL = {"backend": "sqlite", "agent": "llm"}
REFUSED = "agent: decides at copier copy only; to change it, take bot/agent.py from https://"


def test_the_agent_stays_with_another_backend(render: Render, project: Project) -> None:
    """The owner's file is theirs; what it needs stays, too."""
    folder = project(MODEL)
    agent = folder / "bot/agent.py"
    assert "pydantic_ai" in agent.read_text("utf-8")
    agent.write_text('"""The owner\'s."""\n', "utf-8")
    (folder / "tests/test_agent.py").unlink()
    commit_all(folder, "The owner's work")
    switch(folder, {"backend": "redis"})
    fresh = tree(render(backend="redis", agent="llm"))
    assert answers_of(folder)["agent"] == "llm"
    assert agent.read_text("utf-8") == '"""The owner\'s."""\n'
    assert not (folder / "tests/test_agent.py").exists()
    assert tree(folder)["pyproject.toml"] == fresh["pyproject.toml"]
    assert b"LLM_MODEL" in fresh[".env.example"]


@pytest.mark.parametrize("old", [MODEL, {"backend": "sqlite"}], ids=label)
def test_the_agent_is_chosen_once(project: Project, old: Answers) -> None:
    """Later, another answer is refused in a line that says where the other file is."""
    folder = project(old)
    now, other = ("llm", "echo") if "agent" in old else ("echo", "llm")
    command = ("update", "--defaults", "--quiet", "--vcs-ref=:current:")
    done = copier(*command, f"--data=agent={other}", cwd=folder)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert REFUSED in line
    assert "docs/build-a-model-bot.md" in line
    assert must("git", "status", "--porcelain", cwd=folder) == ""
    done = copier(*command, f"--data=agent={now}", cwd=folder)
    assert done.returncode == 0, done.stderr
