"""The shape of the repository: files that fit every system, updates that change nothing old."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from copier import run_copy, run_update

from support import CONFIG, ROOT, Answers, combinations, label, must, repository_files, text_files

ANSWERS_FILE = "{{_copier_conf.answers_file}}.jinja"
ENGINE = "bot/state/engine.py.jinja"
RESERVED_ON_WINDOWS = {"con", "prn", "aux", "nul"} | {f"{d}{n}" for d in ("com", "lpt") for n in range(10)}

Project = Callable[[Answers], Path]


def test_paths_fit_every_system() -> None:
    """A clone works on Windows and on a Mac: no odd characters, no names that differ by case."""
    paths = repository_files()
    for path in paths:
        assert len(path) < 120, path
        for part in path.split("/"):
            assert not re.search(r'[<>:"|?*\\\x00-\x1f]', part), path
            assert part == part.rstrip(" ."), path
            assert part.split(".")[0].lower() not in RESERVED_ON_WINDOWS, path
            assert part.isascii(), path
    assert len({path.lower() for path in paths}) == len(paths)


def test_no_symlinks_and_unix_lines() -> None:
    """Every file is a plain one, is UTF-8 text, and ends its lines with LF."""
    for path in repository_files():
        file = ROOT / path
        assert not file.is_symlink(), path
        content = file.read_bytes()
        content.decode("utf-8")
        assert b"\r" not in content, path
        assert not content or content.endswith(b"\n"), path


def test_python_files_are_plain(template: Path) -> None:
    """Jinja in Python is confined to one file; all others are Python where they stand."""
    files = must("git", "ls-files", "-z", cwd=template / "template").rstrip("\0").split("\0")
    assert [path for path in files if path.endswith(".py.jinja")] == [ENGINE]
    for path in files:
        assert path == ANSWERS_FILE or "{" not in path, "Jinja in a file name"
        if path.endswith(".py"):
            source = (template / "template" / path).read_text("utf-8")
            compile(source, path, "exec", dont_inherit=True)


def test_engine_files_exist(template: Path) -> None:
    """Every path that `_exclude` gives to an engine is a file of the template: none is misspelt."""
    for path in re.findall(r"'([^']+)': \[", CONFIG["_exclude"][0]):
        files = list((template / "template").glob(f"{path}*"))
        assert files, f"{path} is in _exclude and nowhere else"


def test_a_clone_on_windows_keeps_unix_lines(project: Project, tmp_path: Path) -> None:
    """Git there makes CRLF of LF unless told otherwise; a script with CRLF runs in no container."""
    folder = project(combinations()[-1])
    must("git", "clone", "--quiet", "--config", "core.autocrlf=true", folder, "clone", cwd=tmp_path)
    for path in text_files(tmp_path / "clone"):
        assert b"\r" not in path.read_bytes(), path


@pytest.mark.parametrize("answers", combinations(), ids=label)
def test_rendering_again_changes_nothing(template: Path, project: Project, answers: Answers) -> None:
    """A project rendered anew over itself is clean in git."""
    folder = project(answers)
    data = dict(answers)
    run_copy(
        str(template),
        folder,
        data=data,
        defaults=True,
        overwrite=True,
        quiet=True,
        vcs_ref="HEAD",
    )
    assert must("git", "status", "--porcelain", cwd=folder) == ""


@pytest.mark.parametrize("answers", combinations(), ids=label)
def test_update_without_news_changes_nothing(project: Project, answers: Answers) -> None:
    """`copier update` of a project that is up to date changes nothing."""
    folder = project(answers)
    run_update(folder, defaults=True, overwrite=True, quiet=True)
    assert must("git", "status", "--porcelain", cwd=folder) == ""


@pytest.mark.parametrize(
    "command",
    [["ruff", "format", "--check", "--diff"], ["ruff", "check"], ["mypy"]],
    ids=" ".join,
)
def test_own_code_is_clean(command: list[str]) -> None:
    """The tests themselves are formatted, linted and type-checked."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
