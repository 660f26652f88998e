"""`./do`, on machines that lack this or that."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support import clean_env, commit_all, copier, copy_working_tree, must, run

# What a POSIX shell script may take for granted, and what git and pip call.
BASICS = ["dirname", "rm", "mkdir", "sh", "env", "uname", "cat", "sed", "basename"]

COMMANDS = ["try", "test", "prove", "torture", "compare"]

Machine = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shallow clone without any tag, at a path with a space in it. It is shared: nothing may change it."""
    repository = tmp_path_factory.mktemp("repository")
    folder = tmp_path_factory.mktemp("clones") / "a clone"
    copy_working_tree(repository)
    commit_all(repository, "Snapshot", tag="v0.0.1")
    url = repository.as_uri()
    must("git", "clone", "--quiet", "--depth", "1", "--no-tags", url, folder, cwd=folder.parent)
    must("git", "tag", "--delete", *must("git", "tag", cwd=folder).split(), cwd=folder)
    return folder


@pytest.fixture
def own_clone(clone: Path, tmp_path: Path) -> Path:
    """A clone of the test's own."""
    return shutil.copytree(clone, tmp_path / "a clone", symlinks=True)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Make the environment of a machine that has only the given programs, each a line of shell."""

    def _machine(**programs: str) -> dict[str, str]:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in BASICS:
            path = next(p for p in (Path("/usr/bin", name), Path("/bin", name)) if p.exists())
            programs[name] = f'exec {path} "$@"'
        for name, line in programs.items():
            (folder / name).write_text(f"#!/bin/sh\n{line}\n")
            (folder / name).chmod(0o755)
        return clean_env(PATH=str(folder), LC_ALL="C.UTF-8")

    return _machine


def do(
    clone: Path, env: dict[str, str], *arguments: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `./do` in the clone."""
    return run("/bin/sh", "./do", *arguments, cwd=clone, env=env, stdin=stdin, timeout=600)


def git() -> str:
    """A line of shell that runs the real git."""
    return f'exec {must("sh", "-c", "command -v git", cwd=Path.cwd()).strip()} "$@"'


def test_help_needs_nothing(clone: Path, machine: Machine) -> None:
    """Help is shown for the asking; an unknown command is exit code 2 with the same text."""
    env = machine()
    helped = do(clone, env, "help")
    assert helped.returncode == 0
    for command in COMMANDS:
        assert f"./do {command}" in helped.stdout
    assert do(clone, env).stdout == helped.stdout
    wrong = do(clone, env, "tset")
    assert (wrong.returncode, wrong.stderr) == (2, helped.stdout)


def test_try_takes_no_option_for_a_folder(clone: Path, machine: Machine) -> None:
    """`--help` is help; anything else that begins like an option is refused."""
    env = machine()
    assert do(clone, env, "try", "--help").stdout == do(clone, env, "help").stdout
    refused = do(clone, env, "try", "--backend=redis")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "no option --backend=redis" in refused.stderr
    assert not (clone / "--help").exists()


@pytest.mark.parametrize(
    ("programs", "reason"),
    [
        ({}, "git is needed"),
        ({"git": "exit 0"}, "Python 3.11 or newer is needed"),
        ({"git": "exit 0", "python3": "exit 1"}, "Python 3.11 or newer is needed"),
        ({"git": "exit 0", "python3": '[ "$1" = -c ]'}, "pip is needed"),
        ({"git": "exit 0", "python3": '[ "$3" != install ]'}, "pip could not install uv"),
        ({"git": "exit 0", "python3": "exit 0"}, "does not run on this machine"),
    ],
    ids=["no git", "no python", "old python", "no pip", "pip fails", "foreign uv"],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_missing_is_named(
    clone: Path, machine: Machine, command: str, programs: dict[str, str], reason: str
) -> None:
    """Whatever the machine lacks is named in one line, and nothing is rendered."""
    done = do(clone, machine(**programs), command)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("do: ")
    assert reason in done.stderr.splitlines()[-1]
    assert must("git", "status", "--porcelain", "--ignored", cwd=clone) == ""


def test_a_folder_in_the_way_is_left_alone(own_clone: Path, machine: Machine) -> None:
    """A folder that is no rendered bot is not touched; one that is a bot is started again."""
    env = machine(git="exit 0", uv='[ "$1" = --version ] || echo "uv $*"')
    (own_clone / "mybot").mkdir()
    done = do(own_clone, env, "try")
    assert done.returncode == 1
    assert "in the way" in done.stderr
    (own_clone / "mybot" / ".copier-answers.yml").touch()
    done = do(own_clone, env, "try")
    assert done.returncode == 0
    assert done.stdout == "uv run bot chat\n"


@pytest.mark.parametrize(
    ("command", "runs"),
    [
        ("test", "<run><--quiet><pytest>"),
        ("prove", "<run><--quiet><--project><{clone}><python><-P><-m><suite><prove>"),
        ("torture", "<run><--quiet><--project><{clone}><python><-P><-m><suite><torture>"),
        ("compare", "<run><--quiet><python><benchmarks/compare>"),
    ],
)
def test_arguments_are_handed_on(clone: Path, machine: Machine, command: str, runs: str) -> None:
    """Quoted as they were."""
    env = machine(git="exit 0", uv='[ "$1" = --version ] || printf "<%s>" "$@"')
    done = do(clone, env, command, "-k", "a b")
    assert done.stdout == f"{runs.format(clone=clone)}<-k><a b>"


@pytest.mark.slow(60)
@pytest.mark.skipif(
    run(Path(sys.base_prefix, "bin", "python3"), "-m", "pip", "-V", cwd=Path.cwd()).returncode != 0,
    reason="the Python that runs the tests has no pip",
)
def test_try_on_a_bare_machine(own_clone: Path, machine: Machine, tmp_path: Path) -> None:
    """With Python, pip and git alone, `./do try` ends in a bot that answers and can be updated."""
    python = Path(sys.base_prefix, "bin", "python3")
    env = machine(git=git(), python3=f'exec {python} "$@"') | {"PIP_USER": "1"}
    done = do(own_clone, env, "try", "../my bot", stdin="hello\n")
    assert done.returncode == 0, done.stderr
    assert "Processed: hello (#1)" in done.stdout
    assert must("git", "status", "--porcelain", cwd=own_clone) == ""

    bot = tmp_path / "my bot"
    commit_all(bot, "Rendered")
    with (own_clone / "template" / "NEWS.md").open("w") as news:
        news.write("Something new.\n")
    commit_all(own_clone, "A later version")
    done = copier("update", "--defaults", bot, cwd=tmp_path, env=clean_env(PATH=os.environ["PATH"]))
    assert done.returncode == 0, done.stderr
    assert (bot / "NEWS.md").exists()
