"""A bot moves to another backend, with everybody it knows, by the letter of docs/switch-and-update.md."""

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from conftest import Project, Render
from support import CONFIG, ROOT, UV, combinations, commit_all, first_of_each_engine, must, run, uv

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
        uv(folder, "sync", "--quiet")
        commit_all(folder, "Start")
        yield folder


def typed(command: str, folder: Path) -> str:
    """Type a command, which has to succeed, into a shell without a terminal."""
    name, *arguments = command.split()
    programs = {"copier": [sys.executable, "-m", "copier"], "uv": [UV], "git": ["git"]}
    done = run(*programs[name], *arguments, cwd=folder, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def say(folder: Path, user: int, text: str) -> str:
    """Write to the bot as this user; its answer."""
    done = run(UV, "run", "bot", "chat", "--user", str(user), cwd=folder, stdin=f"{text}\n", timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everybody_comes_along(folder: Path) -> None:
    """From one development server to another, the bot goes on counting where it was."""
    assert say(folder, 1, "one") == "Processed: one (#1)\n"
    assert say(folder, 1, "two") == "Processed: two (#2)\n"
    assert say(folder, 22, "one") == "Processed: one (#1)\n"

    for command in (*EXPORT, SWITCHES[0], *LOOK):
        typed(command, folder)
    migrate, doctor = CHECK
    typed(migrate, folder)
    said = run(UV, *doctor.split()[1:], cwd=folder).stdout
    assert "the postgres store answers" in said
    assert re.findall(r"error  (\w+)", said) == ["BOT_TOKEN"], said
    import_, start = START
    assert "imported 2 users" in typed(import_, folder)

    assert start == "uv run bot run"  # which takes a token
    assert say(folder, 1, "three") == "Processed: three (#3)\n"
    assert say(folder, 22, "two") == "Processed: two (#2)\n"
    assert "jsonl" not in must("git", "status", "--porcelain", "--ignored", cwd=folder)


@pytest.mark.parametrize("command", SWITCHES)
def test_a_switch_without_a_terminal(project: Project, command: str) -> None:
    """The commands do what they say and ask nothing; Copier says before what happens to files and data."""
    folder = project(combinations()[0])
    said = " ".join(typed(command, folder).split())
    assert EXPORT[0] in said
    assert "Files of a backend you leave are deleted, edited or not" in said
    answers = yaml.safe_load((folder / ".copier-answers.yml").read_text("utf-8"))
    assert dict(re.findall(r"--data (\w+)=(\w+)", command)).items() <= answers.items()


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
