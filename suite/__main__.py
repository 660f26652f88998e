"""`./do prove` and `./do torture`: a bot is copied, the kit is put into the copy, and is run there."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from suite.clauses import CLAUSES

ROOT = Path(__file__).resolve().parents[1]

LEFT_BEHIND = shutil.ignore_patterns(
    *(
        ".venv",
        ".git",
        ".data",
        ".env",
        "suite",
        ".*_cache",
        "*.pyc.*",
        ".hypothesis",
        "node_modules",
    )
)
"""What is not copied: environments, data, secrets, files half compiled, and a package of the kit's name."""

ABOUT_PROVE = """\
Prove that a rendered bot keeps the template's promises, whatever its owner made of it: the kit's own agent,
routers and texts take the place of theirs. The folder is copied and stays as it is. The kit runs in the
environment of the template's repository. The exit code is pytest's, and 2 for a folder that is no bot.
"""
PROVE_EPILOG = """\
examples:
  ./do prove mybot                                  everything that applies to its engine and provider
  ./do prove mybot --part engine -n 2               only what depends on the engine, in two processes
  ./do prove mybot --part once                      only what does not
  ./do prove mybot suite/contract -k forget         some of it: paths as in the repository
  ./do prove --list                                 every promise, by name
"""
ABOUT_TORTURE = """\
Put a bot under fire with its owner's own agent, routers and texts: processes are killed, servers restarted,
connections cut, updates sent twice and out of order. Every message has to leave its mark in the record once
and be answered, in order, whatever the agent says. The folder is copied and stays as it is.
"""
TORTURE_EPILOG = """\
The bot runs in the folder's own environment (.venv), where there is one. It sees no variable of yours but
those given with --env, and no .env: an agent that lacks its key raises, and the apology counts as its reply.
The exit code is 1 when the books do not balance, 2 when there is nothing to torture. --seed N repeats a run,
--minutes M makes it longer, --short shorter; --mode and --replicas choose among the ways to run the bot.
"""


class NoBot(Exception):
    """The folder is no rendered bot; the text says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        Its exit code.
    """
    parser = argparse.ArgumentParser(prog="./do", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    form = argparse.RawDescriptionHelpFormatter
    prove_parser = commands.add_parser(
        "prove", description=ABOUT_PROVE, epilog=PROVE_EPILOG, formatter_class=form, allow_abbrev=False
    )
    prove_parser.add_argument("--list", action="store_true", help="print every promise that is proven")
    prove_parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="a rendered bot")
    torture_parser = commands.add_parser(
        "torture", description=ABOUT_TORTURE, epilog=TORTURE_EPILOG, formatter_class=form, allow_abbrev=False
    )
    torture_parser.add_argument("folder", type=Path, metavar="FOLDER", help="a rendered bot")
    torture_parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME",
        help="a variable that the bot sees; may be repeated",
    )
    chosen, further = parser.parse_known_args(arguments)
    if chosen.command == "prove" and chosen.list:
        print("\n".join(f"{name:<34}{promise}" for name, promise in CLAUSES.items()))
        return 0
    if chosen.folder is None:
        prove_parser.error("which FOLDER? (./do prove --help)")
    try:
        with kit_inside(chosen.folder) as copy:
            if chosen.command == "prove":
                return prove(copy, further)
            return torture(copy, further, chosen.folder, chosen.env)
    except NoBot as error:
        print(f"{chosen.command}: {error}", file=sys.stderr)
        return 2


@contextmanager
def kit_inside(folder: Path) -> Iterator[Path]:
    """A copy of a bot with the kit put into it, gone in the end.

    Raises:
        NoBot: the folder is none.
    """
    for needed in ("bot/runtime/chosen.py", ".copier-answers.yml"):
        if not (folder / needed).is_file():
            raise NoBot(f"{folder} is no rendered bot: it has no {needed}")
    with tempfile.TemporaryDirectory(prefix="kit-", ignore_cleanup_errors=True) as place:
        # PostgreSQL, started by root, runs as somebody else, who has to get here.
        Path(place).chmod(0o755)
        copy = Path(place) / "bot"
        shutil.copytree(folder, copy, ignore=LEFT_BEHIND, ignore_dangling_symlinks=True)
        shutil.copytree(ROOT / "suite", copy / "suite", ignore=shutil.ignore_patterns("*.pyc.*"))
        put_examples(copy)
        yield copy


def put_examples(copy: Path) -> None:
    """Put beside a copied kit what it proves of the documentation's examples.

    The conversation in steps is its owner's by now: what is proven is the template's.
    """
    shutil.copytree(ROOT / "template/bot/flow", copy / "suite/flow/example")
    shutil.copy(ROOT / "docs/examples/packing_list.py", copy / "suite")
    shutil.copy(ROOT / "llm/agent.py", copy / "suite/llm_agent.py")


def pytest_command(arguments: Sequence[str]) -> list[str]:
    """The module to run in a copy, and its arguments."""
    is_told_what = any(argument.startswith("suite") for argument in arguments)
    return ["pytest", "-p", "no:cacheprovider", *([] if is_told_what else ["suite"]), *arguments]


def environment_inside(copy: Path, outside: Mapping[str, str]) -> dict[str, str]:
    """The environment of what runs in a copy."""
    # Temporary folders of its own: root's pytest closes the usual one to everybody else whenever one begins,
    # also to those whom another's PostgreSQL runs as.
    environment = {**outside, "PYTHONPATH": str(copy), "PYTEST_DEBUG_TEMPROOT": str(copy.parent)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # each process would compile what it imports
    return environment


def prove(copy: Path, arguments: Sequence[str]) -> int:
    """Run pytest in the copy."""
    return _run_inside(copy, *pytest_command(arguments))


def torture(copy: Path, arguments: Sequence[str], folder: Path, seen: Sequence[str]) -> int:
    """Run the torture in the copy, with the owner's agent, in the owner's environment where there is one."""
    own = folder.resolve() / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    python = ["--python", str(own)] if own.exists() else []
    passed_on = [f"--env={name}" for name in seen]
    return _run_inside(copy, "suite.torture", "--owner", *python, *passed_on, *arguments)


def _run_inside(copy: Path, module: str, *arguments: str) -> int:
    """Run a module to its end; Ctrl-C reaches it by itself, and is waited for."""
    environment = environment_inside(copy, os.environ)
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=copy, env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


if __name__ == "__main__":
    sys.exit(main())
