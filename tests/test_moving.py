"""A bot moves to another backend, with everybody it knows, by the letter of docs/switch-and-update.md."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Project, Render
from support import CONFIG, ROOT, UV, clean_env, combinations, commit_all, first_of_each_engine, must, run

PAGE = (ROOT / "docs/switch-and-update.md").read_text("utf-8")
WALK = PAGE.split("\n## Moving to another backend\n")[1].split("\n### ")[0]
BLOCKS = re.findall(r"(?:^ {7}.+\n)+", WALK, re.MULTILINE)
EXPORT, SWITCHES, LOOK, CHECK, START = [
    [command.strip() for line in block.splitlines() for command in line.split("#")[0].split("&&")]
    for block in BLOCKS
]
"""What the page says to type at each step, without comments. Of `SWITCHES`, one."""


@pytest.fixture
def folder(render: Render) -> Iterator[Path]:
    """A bot on Redis, with everything committed, where a PostgreSQL gets at its files whoever it runs as."""
    with tempfile.TemporaryDirectory(prefix="moving-", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o755)
        folder = Path(home) / "bot"
        shutil.copytree(render(backend="redis"), folder)
        commit_all(folder, "Start")
        yield folder


BOT = [sys.executable, "-c", "from bot.runtime.cli import main; main()"]
"""`uv run bot`, in the environment of this repository, which has what either backend needs."""


def typed(command: str, folder: Path, *, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Type a command into a shell without a terminal."""
    name, *arguments = command.split()
    if command.startswith("uv run bot "):
        program, arguments = BOT, arguments[2:]
    elif name == "uvx":  # the same, without fetching it
        assert arguments.pop(0) == "copier"
        program = [sys.executable, "-m", "copier"]
    else:
        program = {"uv": [UV], "git": ["git"]}[name]
    env = clean_env(PYTHONPATH=str(folder))
    return run(*program, *arguments, cwd=folder, stdin=stdin, env=env, timeout=300)


def said(command: str, folder: Path, *, stdin: str = "") -> str:
    """Type a command that has to succeed; what it printed."""
    done = typed(command, folder, stdin=stdin)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def say(folder: Path, user: int, text: str) -> str:
    """Write to the bot as this user; its answer."""
    done = typed(f"uv run bot chat --user {user}", folder, stdin=f"{text}\n")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow(40)
@pytest.mark.rarely
def test_everybody_comes_along(folder: Path) -> None:
    """From one development server to another, the bot goes on counting where it was."""
    assert say(folder, 1, "one") == "Processed: one (#1)\n"
    assert say(folder, 1, "two") == "Processed: two (#2)\n"
    assert say(folder, 22, "one") == "Processed: one (#1)\n"

    for command in EXPORT:
        said(command, folder)
    shown = " ".join(said(SWITCHES[0], folder).split())
    assert EXPORT[0] in shown, "it is said before"
    assert "belong to a backend you leave, are deleted, edited or not" in shown
    for command in LOOK:
        said(command, folder)
    migrate, doctor = CHECK
    said(migrate, folder)
    found = typed(doctor, folder).stdout
    assert "the postgres store answers" in found
    assert re.findall(r"error  (\w+)", found) == ["BOT_TOKEN"], found
    import_, start = START
    assert "imported 2 users" in said(import_, folder)

    assert start == "uv run bot run"  # which takes a token
    assert say(folder, 1, "three") == "Processed: three (#3)\n"
    assert say(folder, 22, "two") == "Processed: two (#2)\n"
    assert "jsonl" not in must("git", "status", "--porcelain", "--ignored", cwd=folder)


@pytest.mark.parametrize("command", SWITCHES)
def test_switches_that_the_page_names_are_to_what_there_is(command: str) -> None:
    """They differ in the answers; test_switch.py comes to each."""
    options, *data = command.split(" --data ")
    assert options == "uvx copier update --defaults --vcs-ref=:current:"
    assert dict(answer.split("=") for answer in data) in combinations()


def test_other_texts_say_the_same(render: Render) -> None:
    assert "docs/switch-and-update.md" in CONFIG["_message_before_update"]
    for answers in first_of_each_engine().values():
        readme = (render(**answers) / "README.md").read_text("utf-8")
        assert SWITCHES[0].replace("postgres", "...") in readme
        if answers["backend"] != "memory":
            assert EXPORT[0] in readme
            assert START[0] in readme


def test_an_export_in_the_folder_is_not_committed(project: Project) -> None:
    """It is no obstacle to an update either: Copier refuses where something is not committed."""
    folder = project(combinations()[0])
    for name in ("users.jsonl", "users.jsonl.partial"):
        (folder / name).touch()
    assert must("git", "status", "--porcelain", cwd=folder) == ""
