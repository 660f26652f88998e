"""How large rendered projects are: `uv run python tests/sizes.py`, or `tests/sizes.py redis fsm-hybrid`."""

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from support import combinations, commit_all, copier, copy_template, label, text_files

TESTING = ("bot/runtime/testing.py", "bot/runtime/telegram/local.py")
"""Telegram in the owner's tests and in `bot chat`: not part of the bot that runs."""

OWNERS = ("bot/agent.py", "bot/handlers.py", "bot/flow/", "migrations/")


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a project.

    Attributes:
        files: all of them.
        owner: lines of what the owner edits, without tests.
        runtime: lines of the template's own part of `bot/`, but for
        testing: lines of `bot.runtime.testing`, and of the in-process Telegram behind it.
        tests: lines of the project's tests.
        readme: lines of README.md.
    """

    files: int
    owner: int
    runtime: int
    testing: int
    tests: int
    readme: int


def measure(project: Path) -> Size:
    """Measure a freshly rendered project."""
    names = [path.relative_to(project).as_posix() for path in text_files(project)]

    def lines(some: Iterable[str]) -> int:
        return sum(len((project / name).read_text(encoding="utf-8").splitlines()) for name in some)

    owners = [name for name in names if name.startswith(OWNERS)]
    return Size(
        files=len(names),
        owner=lines(owners),
        runtime=lines(name for name in names if name.startswith("bot/") and name not in (*owners, *TESTING)),
        testing=lines(name for name in names if name in TESTING),
        tests=lines(name for name in names if name.startswith("tests/")),
        readme=lines(["README.md"]),
    )


def main() -> None:
    """Render every combination, or those that are named, and print a table."""
    parser = argparse.ArgumentParser(description="Print how large rendered projects are.")
    named = {label(answers): answers for answers in combinations()}
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of: {', '.join(named)}; all if none is given"
    )
    names = parser.parse_args().names
    if unknown := sorted(set(names) - set(named)):
        parser.error(f"no such project: {', '.join(unknown)}")
    print(f"{'':24}{'files':>8}{'owner':>8}{'runtime':>9}{'testing':>9}{'tests':>8}{'README':>8}")
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder, "template")
        copy_template(template)
        commit_all(template, "Snapshot", tag="v0.0.1")
        for name in names or named:
            answers, project = named[name], Path(folder, name)
            data = [argument for pair in answers.items() for argument in ("--data", "=".join(pair))]
            done = copier("copy", "--quiet", "--defaults", *data, template, project, cwd=Path(folder))
            if done.returncode:
                raise SystemExit(done.stderr)
            size = measure(project)
            print(
                f"{name:24}{size.files:8}{size.owner:8}{size.runtime:9}{size.testing:9}"
                f"{size.tests:8}{size.readme:8}"
            )


if __name__ == "__main__":
    main()
