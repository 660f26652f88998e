"""Measure what the project promises about speed and memory: `uv run python benchmarks/run.py [NAME ...]`.

Ends with 1 when a bound is missed or a benchmark fails. README.md says what is measured, and how.
"""

import argparse
import datetime
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "tests"))

import copying
import flows
import grouping
import hybrid
import idling
import lateness
import plot
import serving
import soaking
import starting
import storing
import streaming
import throughput
import transferring
import turning
from measuring import Row, machine
from workshop import Workshop

from support import ROOT, must

Measure = Callable[[Workshop], Iterator[Row]]

BENCHMARKS: Mapping[str, Measure] = {
    "copy": copying.measure,
    "start": starting.measure,
    "webhook": throughput.measure,
    "idle": idling.measure,
    "turn": turning.measure,
    "group": grouping.measure,
    "later": lateness.measure,
    "serve": serving.measure,
    "stream": streaming.measure,
    "flows": flows.measure,
    "hybrid": hybrid.measure,
    "disk": hybrid.measure_disk,
    "storage": storing.measure,
    "soak": soaking.measure,
    "transfer": transferring.measure,
}

LONG = ("soak", "transfer")
"""Measured when they are named, and by `--long`: each takes about as long as all others together."""

QUICK = ROOT / "benchmarks" / "quick"
"""Where what was only tried goes, results and plots."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks that are named, or all that are not long."""
    parser = argparse.ArgumentParser(description="Measure speed and memory, always beside a baseline.")
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"some of {', '.join(BENCHMARKS)}")
    parser.add_argument("--long", action="store_true", help=f"also {' and '.join(LONG)}")
    parser.add_argument(
        "--quick", action="store_true", help="try that all work: numbers mean nothing, and go into quick/"
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - BENCHMARKS.keys():
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    wanted = {name for name in BENCHMARKS if options.long or name not in LONG}
    wanted = set(options.names) or wanted
    names = [name for name in BENCHMARKS if name in wanted]
    results, assets = (QUICK / "results.json", QUICK) if options.quick else (plot.RESULTS, plot.ASSETS)
    if options.quick:
        os.environ["QUICK"] = "1"
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        _settle(Path(folder))
        bad = run_all(names, Workshop(Path(folder)), results)
    for path in plot.draw(results, assets):
        print(f"written: {path.relative_to(ROOT)}", file=sys.stderr)
    for name, reason in bad.items():
        print(f"{name}: {reason}")
    return 1 if bad else 0


def run_all(names: Sequence[str], workshop: Workshop, path: Path) -> dict[str, str]:
    """Run benchmarks one after the other, each on its own: what one measured is kept though another fails.

    Args:
        names: which.
        workshop: what they need.
        path: the results, a JSON file; benchmarks that are not run keep what stands there.

    Returns:
        Per benchmark that failed or missed a bound, what is wrong.
    """
    about = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "quick": bool(os.environ.get("QUICK")),
        **machine(),
        "template": must("git", "describe", "--always", "--dirty", cwd=ROOT).strip(),
    }
    results: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    bad: dict[str, str] = {}
    print(*(f"{key}: {value}" for key, value in about.items()), sep="\n", file=sys.stderr)
    for number, name in enumerate(names, start=1):
        before = f", {results[name]['about']['seconds']:.0f} s the last time" if name in results else ""
        print(f"\n[{number}/{len(names)}] {name}{before}", file=sys.stderr, flush=True)
        started = time.monotonic()
        rows: list[Row] = []
        try:
            for row in BENCHMARKS[name](workshop):
                rows.append(row)
                print(f"{time.monotonic() - started:6.0f} s  {line(row)}", file=sys.stderr, flush=True)
            versions = {"copier": version("copier"), **workshop.versions()}
        except (Exception, SystemExit) as error:
            if not isinstance(error, SystemExit):
                traceback.print_exc()
            bad[name] = f"FAILED: {error}; its earlier results, if any, are kept"
            print(f"{name}: {bad[name]}", file=sys.stderr, flush=True)
            continue
        missed = [row.name for row in rows if row.verdict == "MISSED"]
        if missed and not about["quick"]:
            bad[name] = f"bound missed: {'; '.join(missed)}"
        seconds = round(time.monotonic() - started)
        results[name] = {
            "about": {**about, "seconds": seconds, "versions": versions},
            "rows": [row.to_json() for row in rows],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dumped(results), "utf-8")
    return bad


def line(row: Row) -> str:
    """A row for the eye."""
    ours, baseline = (f"{value:,.4g} {row.unit}".strip() for value in (row.ours, row.baseline))
    ratio = f"{row.ratio:.2f}" if row.ratio is not None else f"{row.ours - row.baseline:+,.4g}"
    bound = f"  {row.bound[0]} {row.bound[1]:g} {row.verdict}" if row.bound else ""
    return f"{row.name}: {ours}  beside {baseline}  {ratio}{bound}"


def dumped(results: Mapping[str, Any]) -> str:
    """Results as JSON with one row a line, so that a difference can be read."""
    parts = []
    for name in sorted(results, key=list(BENCHMARKS).index):
        about = json.dumps(results[name]["about"], indent=2).replace("\n", "\n    ")
        rows = ",\n".join(f"      {json.dumps(row)}" for row in results[name]["rows"])
        parts.append(f'  "{name}": {{\n    "about": {about},\n    "rows": [\n{rows}\n    ]\n  }}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _settle(folder: Path) -> None:
    """Have git and Copier read no settings of whoever runs this."""
    gitconfig = folder / "gitconfig"
    gitconfig.write_text(
        "[user]\nname = Benchmark\nemail = benchmark@example.invalid\n[safe]\ndirectory = *\n", "utf-8"
    )
    settings = folder / "copier.yml"
    settings.write_text("{}\n", "utf-8")
    os.environ["GIT_CONFIG_GLOBAL"] = str(gitconfig)
    os.environ["COPIER_SETTINGS_PATH"] = str(settings)


if __name__ == "__main__":
    sys.exit(main())
