"""Measure what the project promises about speed and memory: `uv run python benchmarks/run.py [NAME ...]`.

Ends with 1 when a bound is missed. README.md beside this file says what is measured, and how.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "tests"))

import copying
import flows
import hybrid
import idling
import serving
import soaking
import starting
import throughput
import transferring
import turning
from measuring import Row, machine
from workshop import Workshop

from support import ROOT, must

BENCHMARKS: dict[str, Callable[[Workshop], Iterator[Row]]] = {
    "copy": copying.measure,
    "start": starting.measure,
    "webhook": throughput.measure,
    "idle": idling.measure,
    "serve": serving.measure,
    "soak": soaking.measure,
    "turn": turning.measure,
    "transfer": transferring.measure,
    "flows": flows.measure,
    "hybrid": hybrid.measure,
}

RESULTS = ROOT / "benchmarks" / "results.json"


def main() -> int:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(description="Measure speed and memory, always beside a baseline.")
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help=f"one of {', '.join(BENCHMARKS)}; default: all"
    )
    names: list[str] = parser.parse_args().names or list(BENCHMARKS)
    if unknown := set(names) - BENCHMARKS.keys():
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
        folder = Path(name)
        _settle(folder)
        workshop = Workshop(folder)
        about = {
            "machine": machine(),
            "template": must("git", "describe", "--always", "--dirty", cwd=ROOT).strip(),
            "copier": version("copier"),
            "project": workshop.versions(),
        }
        for name in names:
            print(f"measuring: {name}", file=sys.stderr)
            rows += BENCHMARKS[name](workshop)
    for key, value in about.items():
        print(f"{key}: {value}")
    _print_table(rows)
    results = [{**dataclasses.asdict(row), "verdict": row.verdict} for row in rows]
    RESULTS.write_text(json.dumps({"about": about, "rows": results}, indent=2) + "\n", "utf-8")
    return 1 if any(row.verdict == "MISSED" for row in rows) else 0


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


def _print_table(rows: list[Row]) -> None:
    lines = [("name", "ours", "baseline", "ratio", "bound", "")]
    for row in rows:
        bound = f"{row.bound[0]} {row.bound[1]:g}" if row.bound else "-"
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else f"{row.ours - row.baseline:+,.4g}"
        ours, baseline = (f"{value:,.4g} {row.unit}".strip() for value in (row.ours, row.baseline))
        lines.append((row.name, ours, baseline, ratio, bound, row.verdict))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print()
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
