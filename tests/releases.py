"""The versions of `releases.toml`, as this clone's history has them, and a version to come."""

import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import yaml

from support import RENDERED_FROM, ROOT, Questions, commit_all, copy_template, must, pack, questions_of, run

VERSIONS: dict[str, str] = tomllib.loads((ROOT / "releases.toml").read_text("utf-8"))["versions"]
"""The commit of each version, oldest version first. Before the first release there is none."""

HEAD = "999999.0.0"
"""The version that a history gives to the working tree: newer than all others."""

NEXT = "999999.1.0"
"""A version made up after it, which changes something of each kind: see `make_next`."""

FORGETFUL = {"memory"}
"""Engines that keep nothing beyond the running bot."""

NOT_HERE = "this clone has no commit of that version: git fetch --unshallow"

GONE, CAME = "bot/runtime/gone.py", "bot/runtime/came.py"
"""A file of the template's room that `HEAD` has and `NEXT` does not, and one the other way round."""

NEVER_GIVEN = "tests/test_more.py"
"""A file of the owner's room that only `NEXT` has."""

DROPPED = "tests/test_agent.py"
"""A file of the owner's room that `NEXT` no longer has."""


def is_shallow() -> bool:
    """Whether this clone was made without its history, so that old versions may be missing."""
    return must("git", "rev-parse", "--is-shallow-repository", cwd=ROOT).strip() == "true"


def is_here(version: str) -> bool:
    """Whether this clone has that version."""
    return run("git", "cat-file", "-e", f"{VERSIONS[version]}^{{commit}}", cwd=ROOT).returncode == 0


def questions_at(version: str) -> Questions:
    """The questions as that version asked them."""
    if version not in VERSIONS:
        config = (ROOT / "copier.yml").read_text("utf-8")
    else:
        config = must("git", "show", f"{VERSIONS[version]}:copier.yml", cwd=ROOT)
    return questions_of(yaml.safe_load(config))


def make_history(folder: Path) -> None:
    """Make a template's history of every version that is here, of the working tree, and of one after it."""
    for version, commit in VERSIONS.items():
        if is_here(version):
            put(commit, folder)
            commit_all(folder, f"Version {version}", tag=version)
    clear(folder)
    copy_template(folder)
    (folder / "template" / GONE).write_text('"""What the next version has no use for."""\n', "utf-8")
    commit_all(folder, "The working tree", tag=HEAD)
    make_next(folder / "template")
    commit_all(folder, "A version to come", tag=NEXT)
    pack(folder)


def put(commit: str, folder: Path) -> None:
    """Put there what projects of a commit are rendered from, and nothing else."""
    clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    there = must("git", "ls-tree", "--name-only", commit, *RENDERED_FROM, cwd=ROOT).split()
    with tempfile.TemporaryDirectory() as place:
        archive = Path(place) / "archive.tar"
        must("git", "archive", f"--output={archive}", commit, *there, cwd=ROOT)
        shutil.unpack_archive(archive, folder, filter="tar")


def clear(folder: Path) -> None:
    """Delete it again."""
    for name in RENDERED_FROM:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def make_next(template: Path) -> None:
    """Change the template as later versions do: everywhere, and beside whatever an owner may have changed."""
    for path in runtime_files(template):
        docstring, end, code = path.read_text("utf-8").partition('"""\n')
        path.write_text(f"{docstring} Of the next version.{end}{code}\nNEXT = True\n", "utf-8")
    (template / GONE).unlink()
    (template / CAME).write_text('"""New in the next version."""\n', "utf-8")

    for path in owners_files(template):
        path.write_text(path.read_text("utf-8").replace("\n", "  # of the next version\n"), "utf-8")
    (template / DROPPED).unlink()
    (template / f"{DROPPED}.jinja").unlink()
    (template / NEVER_GIVEN).write_text('"""New in the next version."""\n', "utf-8")

    # Every range of every dependency, and another one at the end of each list.
    pyproject = template / "pyproject.toml.jinja"
    text, bumped = re.subn(
        r'^(    "[^">]+>=\d+(?:\.\d+)*)(?=[,"])', r"\1.0", pyproject.read_text("utf-8"), flags=re.MULTILINE
    )
    text, ends = re.subn(r"^    # ---\n(?=    # .+\n)", '    "zope>=1",\n\\g<0>', text, flags=re.MULTILINE)
    assert bumped > 20
    assert ends == 2
    pyproject.write_text(text, "utf-8")

    # The last lines of the template's part, in the files that end with a place for the owner's.
    for name, end, news in (
        ("README.md.jinja", "<!-- The template's part", "Something new.\n\n"),
        ("compose.yaml.jinja", "  # The template's services", "  # Something new.\n\n"),
    ):
        text = (template / name).read_text("utf-8")
        assert text.count(end) == 1, name
        (template / name).write_text(text.replace(end, news + end), "utf-8")


def runtime_files(template: Path) -> Iterator[Path]:
    """The modules of the template's room."""
    yield from sorted((template / "bot/runtime").rglob("*.py"))


def owners_files(template: Path) -> Iterator[Path]:
    """The files of the owner's room."""
    yield from (template / "bot/agent.py", template / "bot/handlers.py")
    yield from sorted((template / "bot/flow").glob("*.py"))
    yield from sorted((template / "tests").glob("*.py"))
