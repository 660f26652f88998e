"""Others under the same fire: `./do compare [--only NAME] [--seed N] [--minutes M]`.

Runs idiomatic bots of other libraries, and ours, under one driver: they count each user's messages while
processes are killed, servers restarted and answers lost. Writes results.json, and the tables of
docs/comparison.md and README.md. Ends with 0 when every bot was run, whatever came of it; with 1 when one
could not be run, or ours was not clean; with 2 when something is missing that is needed.
"""

import argparse
import asyncio
import datetime
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

sys.path += [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # measuring.py, suite/

import report
from contestants import CACHE, CONTESTANTS, OURS, PLAIN, ROOT, CannotRunError, Contestant, Mode, chosen, node
from fire import Outcome, fire
from measuring import machine

USUAL, SHORTEST = 1.0, 0.5
"""Minutes; what is shorter is tried, and not published."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="./do compare", description="Put other bots under the same fire as ours."
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a folder, or FOLDER/VARIANT"
    )
    parser.add_argument("--mode", choices=get_args(Mode), help="only this way to get updates")
    parser.add_argument("--seed", type=int, default=1, help="of all that is left to chance (1)")
    parser.add_argument(
        "--minutes",
        type=float,
        default=USUAL,
        help="under fire, each bot (1); less than 0.5 is tried only",
    )
    parser.add_argument("--list", action="store_true", help="name all there are")
    parser.add_argument("--write", action="store_true", help="only make the pages of the results once more")
    options = parser.parse_args(arguments)
    if options.list:
        print(*(each.name for each in CONTESTANTS), sep="\n")
        return 0
    if options.write:
        report.write(read(report.RESULTS))
        return 0
    try:
        return compare(chosen(options.only), options.mode, options.seed, options.minutes)
    except CannotRunError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2


def compare(who: Sequence[Contestant], only: Mode | None, seed: int, minutes: float) -> int:
    """Run each of them; the exit code.

    Raises:
        CannotRunError: something is missing that is needed.
    """
    if any(each.kind == "node" for each in who):
        node()
    CACHE.mkdir(parents=True, exist_ok=True)
    commands: dict[str, list[str]] = {}
    for contestant in dict.fromkeys([*who, OURS, PLAIN]):
        print(f"installing {contestant.name}", flush=True)
        commands[contestant.name] = contestant.install()
    is_published = minutes >= SHORTEST
    path = report.RESULTS if is_published else CACHE / "results.json"
    own: dict[str, Any] = {}
    results = read(path)
    bad: list[str] = []
    runs = [
        (mode, each) for mode in get_args(Mode) for each in who if only in (None, mode) and mode in each.modes
    ]
    references: dict[Mode, dict[str, float]] = {}
    for number, (mode, contestant) in enumerate(runs, start=1):
        print(f"\n[{number}/{len(runs)}] {contestant.name}, {mode}", flush=True)
        if mode not in references:
            # Those whose speed others are compared with, on this machine as it is now.
            missing = [each for each in (OURS, PLAIN) if each not in who]
            references[mode] = {
                each.name: speed_of(each, mode, commands[each.name], seed) for each in missing
            }
        about = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "seed": seed,
            "minutes": minutes,
            **machine(),
            "version": contestant.version,
        }
        try:
            outcome = run(contestant, mode, commands[contestant.name], seed, minutes)
        except CannotRunError as error:
            print(f"could not be run: {error}", file=sys.stderr, flush=True)
            bad.append(f"{contestant.name}, {mode}: could not be run")
            continue
        references[mode] |= {contestant.name: outcome.per_second} if contestant in (OURS, PLAIN) else {}
        own[report.key(mode, contestant.name)] = told(outcome, about)
        print(line(outcome), flush=True)
        if contestant.kind == "ours" and not outcome.balance.is_clean:
            bad.append(f"{contestant.name}, {mode}: {outcome.balance.row}")
        for name, result in own.items():  # by now more may be known
            if name.startswith(f"{mode}: "):
                result["references"] = dict(references[mode])
        results = read(path) | own
        path.write_text(dumped(results), "utf-8")
    if is_published:
        report.write(results)
        print("\nwritten:", *(each.relative_to(ROOT) for each in (report.PAGE, report.README, path)))
    else:
        print(f"\ntried only, so docs/comparison.md stays as it is; written: {path}")
    print(*(f"\n{title}\n\n{report.table(results, mode)}" for mode, title in report.WAYS.items()), sep="\n")
    for what in bad:
        print(f"compare: {what}", file=sys.stderr)
    return 1 if bad else 0


def read(path: Path) -> dict[str, Any]:
    """The results so far: who is not run keeps theirs."""
    results: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return results


def run(contestant: Contestant, mode: Mode, command: list[str], seed: int, minutes: float) -> Outcome:
    """One run, in a folder of its own, which is kept when the bot cannot be run."""
    folder = Path(tempfile.mkdtemp(prefix="compare-"))
    started = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {text}", flush=True)

    try:
        outcome = asyncio.run(fire(command, mode, contestant.keeps, folder, seed, minutes, tell))
    except CannotRunError as error:
        raise CannotRunError(f"{error}\n(all it said: {folder}/bot.log)") from None
    shutil.rmtree(folder, ignore_errors=True)
    return outcome


def speed_of(contestant: Contestant, mode: Mode, command: list[str], seed: int) -> float:
    """Its updates per second while all is well."""
    print(f"first, how fast {contestant.name} is here and now", flush=True)
    return run(contestant, mode, command, seed, minutes=0).per_second


def told(outcome: Outcome, about: Mapping[str, Any]) -> dict[str, Any]:
    """A result, as it is kept."""
    return {
        "about": dict(about),
        "counts": outcome.balance.row,
        "per_second": round(outcome.per_second, 1),
        "references": {},
        "felt": outcome.felt,
        "ended by itself": outcome.ends,
        "problems": outcome.problems,
    }


def line(outcome: Outcome) -> str:
    """A result for the eye."""
    names = report.COLUMNS[1:7]
    counts = ", ".join(f"{name} {number:,}" for name, number in zip(names, outcome.balance.row, strict=True))
    ends = f", ended by itself {outcome.ends} times" if outcome.ends else ""
    return "; ".join([counts + ends, *outcome.problems])


def dumped(results: Mapping[str, Any]) -> str:
    """Results as JSON, one bot a line, so that a difference can be read."""
    order = [report.key(mode, each.name) for mode in get_args(Mode) for each in CONTESTANTS]
    rows = (f"  {json.dumps(name)}: {json.dumps(results[name])}" for name in order if name in results)
    return "{\n" + ",\n".join(rows) + "\n}\n"
