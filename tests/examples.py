"""A project of each backend, to look at before copying. Rendered by `uv run python tests/examples.py`."""

import shutil
import tempfile
from pathlib import Path

from copier import run_copy

from support import ROOT, combinations, commit_all, copy_template, tree

EXAMPLES = ROOT / "examples"

README = """\
# Examples

What the template renders with each `backend`, and defaults for the rest: to look at before you copy.

{links}

Written by `uv run python tests/examples.py` and not edited; a test says when that has to be run again. Only
`.copier-answers.yml` is left out: an example is not to be updated. For a bot of your own,

    uvx copier copy gh:org/tg-state-template mybot
"""


def one_of_each_backend() -> dict[str, dict[str, str]]:
    """Every backend, and the first combination of answers with it."""
    found: dict[str, dict[str, str]] = {}
    for answers in combinations():
        found.setdefault(answers["backend"], answers)
    return found


def render(folder: Path) -> None:
    """Render all examples into a folder, from the working tree, committed or not."""
    with tempfile.TemporaryDirectory(prefix="examples-") as name:
        template = Path(name) / "template"
        copy_template(template)
        commit_all(template, "The working tree")
        for backend, answers in one_of_each_backend().items():
            run_copy(str(template), folder / backend, data=answers, defaults=True, quiet=True, vcs_ref="HEAD")
            (folder / backend / ".copier-answers.yml").unlink()
    links = "\n".join(f"- [{name}]({name}/)" for name in one_of_each_backend())
    (folder / "README.md").write_text(README.format(links=links), "utf-8")


def stale(folder: Path) -> list[str]:
    """What in `examples/` is not as in `folder`, which was just rendered."""
    rendered, kept = tree(folder), tree(EXAMPLES)
    return sorted(path for path in rendered.keys() | kept.keys() if rendered.get(path) != kept.get(path))


def main() -> None:
    """Put fresh examples in the place of the old."""
    with tempfile.TemporaryDirectory(prefix="examples-") as name:
        fresh = Path(name) / "examples"
        fresh.mkdir()
        render(fresh)
        print(f"{len(stale(fresh))} files changed")
        shutil.rmtree(EXAMPLES, ignore_errors=True)
        shutil.copytree(fresh, EXAMPLES)


if __name__ == "__main__":
    main()
