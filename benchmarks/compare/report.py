"""What came of it, for people: the tables of docs/comparison.md."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contestants import CONTESTANTS, HERE, OURS, PLAIN, ROOT, Contestant

RESULTS = HERE / "results.json"
PAGE, README = ROOT / "docs" / "comparison.md", ROOT / "README.md"
BEGIN, END = "<!-- compared: made by ./do compare -->", "<!-- end of compared -->"

COLUMNS = (
    "", "messages", "effects lost", "effects doubled", "replies missing", "replies untrue", "order broken",
    "updates/s", "of ours", "of aiogram", "lines",
)  # fmt: skip
SHORT = (
    "ours/sqlite", "ours/redis", "aiogram/redis_isolation", "python-telegram-bot/pickle_persistence",
    "pytelegrambotapi/redis_storage", "grammy/production", "telegraf/production", "vercel-chat/production",
)  # fmt: skip
"""Who is in the README: each as its documentation advises for production."""

BUSY = (
    "**The machine was busy with other work: bots lag behind, lose more at a kill, and speeds say little.**"
)

WAYS = {"polling": "Long polling", "webhook": "Webhook"}

Results = Mapping[str, Mapping[str, Any]]
"""By mode and name of the bot, what came of its run; `about` says when and where it was."""


def key(mode: str, name: str) -> str:
    """Under which the results of a bot stand."""
    return f"{mode}: {name}"


def row(contestant: Contestant, result: Mapping[str, Any]) -> list[str]:
    """A line of a table."""
    counts = [f"{number:,}" for number in result["counts"]]
    speed, references = result["per_second"], result["references"]
    ratios = [
        f"{speed / references[name]:.2f}" if references.get(name) else "-" for name in (OURS.name, PLAIN.name)
    ]
    return [contestant.says, *counts, f"{speed:,.0f}", *ratios, f"{contestant.lines}"]


def table(results: Results, mode: str) -> str:
    """The table of a mode, in Markdown; who was not run is left out."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" + "|---:" * (len(COLUMNS) - 1) + "|"]
    for contestant in CONTESTANTS:
        if mode not in contestant.modes:
            lines.append(f"| {contestant.says} | cannot: not counted {'| ' * (len(COLUMNS) - 2)}|")
        elif result := results.get(key(mode, contestant.name)):
            lines.append("| " + " | ".join(row(contestant, result)) + " |")
    return "\n".join(lines)


def versions() -> str:
    """What the bots of each folder are built on, and where to read them, in Markdown."""
    lines = ["| bot | version | its source |", "|---|---|---|"]
    for folder in dict.fromkeys(contestant.folder for contestant in CONTESTANTS):
        of_folder = [contestant for contestant in CONTESTANTS if contestant.folder == folder]
        paths = dict.fromkeys(path for contestant in of_folder for path in contestant.sources)
        links = ", ".join(f"[{path.name}](../{path.relative_to(ROOT)})" for path in paths)
        version = "this one" if folder == OURS.folder else of_folder[0].version
        lines.append(f"| {folder} | {version} | {links} |")
    return "\n".join(lines)


def about(results: Results) -> str:
    """When and where it was, in a sentence."""
    runs: dict[tuple[Any, ...], None] = {}
    for result in results.values():
        told = result["about"]
        what = ("date", "seed", "minutes", "processor", "cores", "load before")
        runs[tuple(told[name] for name in what)] = None
    dates = sorted({run[0] for run in runs})
    loads = sorted(run[5] for run in runs)
    seeds = ", ".join(sorted({str(run[1]) for run in runs}))
    minutes = ", ".join(sorted({f"{run[2]:g}" for run in runs}))
    machines = ", ".join(sorted({f"{run[3]}, {run[4]} cores" for run in runs}))
    text = (
        f"Run on {' to '.join(dict.fromkeys((dates[0], dates[-1])))}: seed {seeds}, {minutes} min under fire "
        f"for each bot and way; {machines}; load average before each run {loads[0]:g} to {loads[-1]:g}."
    )
    return text + (f" {BUSY}" if was_busy(results) else "")


def was_busy(results: Results) -> bool:
    """Whether the machine had other work."""
    return any(each["about"]["load before"] > each["about"]["cores"] for each in results.values())


def made(results: Results) -> str:
    """What the page has between its markers."""
    parts = [about(results)] if results else ["Not run yet: `./do compare` does."]
    for mode, title in WAYS.items():
        if any(name.startswith(f"{mode}: ") for name in results):
            parts += [f"### {title}", table(results, mode)]
    return "\n\n".join([*parts, "### Versions and sources", versions()])


def short(results: Results) -> str:
    """What the README has there: by long polling, which all of them can."""
    lines = ["| " + " | ".join(COLUMNS[:7]) + " |", "|---" + "|---:" * 6 + "|"]
    shown: dict[str, Mapping[str, Any]] = {}
    for contestant in CONTESTANTS:
        result = results.get(name := key("polling", contestant.name))
        if result and contestant.name in SHORT:
            shown[name] = result
            lines.append("| " + " | ".join(row(contestant, result)[:7]) + " |")
    return "\n".join([*lines, *(["", BUSY] if was_busy(shown) else [])])


def written(page: str, between: str) -> str:
    """A page with what stands between its markers made anew.

    Raises:
        ValueError: it has no markers.
    """
    parts = re.split(f"({re.escape(BEGIN)}|{re.escape(END)})", page)
    if len(parts) != 5:
        raise ValueError(f"the page has no single pair of {BEGIN} and {END}")
    return "".join([*parts[:2], f"\n\n{between}\n\n", *parts[3:]])


def pages(results: Results) -> dict[Path, str]:
    """The pages that show results, as they have to be."""
    between = {PAGE: made(results), README: short(results)}
    return {path: written(path.read_text("utf-8"), text) for path, text in between.items()}


def write(results: Results) -> None:
    """Write them."""
    for path, text in pages(results).items():
        path.write_text(text, "utf-8")
