"""`copy`: rendering this template, beside rendering a template of a single file."""

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from measuring import Row, compared, interleaved
from workshop import Workshop

from support import commit_all, must

ROUNDS = 11
_NOT_RENDERED = (".venv", "__pycache__", "uv.lock", "*.egg-info")


def measure(workshop: Workshop) -> Iterator[Row]:
    """Both are git repositories with one tag, so that Copier clones both; packed, as a server sends them."""
    small = workshop.folder / "one-file-template"
    small.mkdir()
    (small / "copier.yml").write_text("project_name:\n  type: str\n  default: My Bot\n", "utf-8")
    (small / "README.md.jinja").write_text("# {{ project_name }}\n", "utf-8")
    commit_all(small, "One file", tag="v0.0.1")
    for repository in (small, workshop.template):
        must("git", "gc", "--quiet", cwd=repository)
    yield compared("copy: copier copy --defaults", "s", list(_rounds(workshop, small)), ("<=", 1.25))
    plain = workshop.folder / "plain-template"
    shutil.copytree(workshop.project, plain / "template", ignore=shutil.ignore_patterns(*_NOT_RENDERED))
    (plain / "copier.yml").write_text("_subdirectory: template\n", "utf-8")
    commit_all(plain, "The same files, with nothing to ask or to fill in", tag="v0.0.1")
    must("git", "gc", "--quiet", cwd=plain)
    yield compared("copy: beside the same files, nothing filled in", "s", list(_rounds(workshop, plain)))


def _rounds(workshop: Workshop, other: Path) -> Iterator[tuple[float, float]]:
    target = workshop.folder / "copied"
    return interleaved(ROUNDS, lambda: _copy(workshop.template, target), lambda: _copy(other, target))


def _copy(template: Path, target: Path) -> float:
    shutil.rmtree(target, ignore_errors=True)
    started = time.monotonic()
    must(
        sys.executable, "-m", "copier", "copy", "--quiet", "--defaults", template, target, cwd=template.parent
    )
    return time.monotonic() - started
