"""`copy`: rendering this template, beside one with nothing to ask or fill in, and one of a single file."""

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from measuring import Row, compared, interleaved
from workshop import Workshop

from support import commit_all, must

ROUNDS = 7
_NOT_RENDERED = (".venv", "__pycache__", "uv.lock", "*.egg-info")


def measure(workshop: Workshop) -> Iterator[Row]:
    """All are git repositories with one tag, so that Copier clones each; packed, as a server sends them."""
    small, plain = workshop.folder / "one-file-template", workshop.folder / "plain-template"
    small.mkdir()
    (small / "copier.yml").write_text("project_name:\n  type: str\n  default: My Bot\n", "utf-8")
    (small / "README.md.jinja").write_text("# {{ project_name }}\n", "utf-8")
    commit_all(small, "One file", tag="v0.0.1")
    _make_plain(workshop, plain)
    for repository in (small, plain, workshop.template):
        must("git", "gc", "--quiet", cwd=repository)
    against_plain = list(_rounds(workshop, plain))
    name = "copy: beside the same repository with nothing to ask or fill in"
    yield compared(name, "s", against_plain, ("<=", 1.25), baseline="plain")
    yield compared(
        "copy: beside a template of one file", "s", list(_rounds(workshop, small)), baseline="one file"
    )


def _make_plain(workshop: Workshop, plain: Path) -> None:
    """The same repository, without a question, and without Jinja: what that makes stands there already."""
    left_out = shutil.ignore_patterns(*_NOT_RENDERED)
    shutil.copytree(workshop.template, plain, ignore=shutil.ignore_patterns(".git"))
    templates = plain / "template"
    for source in templates.rglob("*.jinja"):
        source.unlink()
    excluded: list[Path] = []
    for path in sorted(path.relative_to(templates) for path in templates.rglob("*")):
        if not (workshop.project / path).exists() and not set(path.parents).intersection(excluded):
            excluded.append(path)
    lines = "".join(f"  - /{path.as_posix()}\n" for path in excluded)
    (plain / "copier.yml").write_text(f"_subdirectory: template\n_exclude:\n{lines}", "utf-8")
    shutil.copytree(workshop.project, templates, ignore=left_out, dirs_exist_ok=True)
    commit_all(plain, "Nothing to ask or fill in", tag="v0.0.1")


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
