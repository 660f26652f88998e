"""Make the plots and tables that the docs show of `results.json`: `uv run python benchmarks/plot.py`.

`run.py` does it, too. Nothing is measured here, and the same results give the same files.
"""

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from svg import Bar, Group, chart

BENCHMARKS = Path(__file__).resolve().parent
RESULTS = BENCHMARKS / "results.json"
ASSETS = BENCHMARKS.parent / "docs" / "assets" / "benchmarks"

Result = Mapping[str, Any]
Row = Mapping[str, Any]

VARIANTS = {
    "ours": "this template",
    "sketch": "sketch, keeping the same",
    "one key": "sketch, keeping one key",
    "aiogram": "aiogram's storage",
    "once": "aiosqlite, one write a turn",
    "batch": "same statements, no asyncio",
    "floor": "two empty round trips",
    "pgbench": "pgbench, same statements",
}
"""The ways to keep users that `turn` compares."""

STORAGES = {
    "memory": "aiogram, MemoryStorage",
    "redis": "aiogram, RedisStorage",
    "isolated": "aiogram, Redis, isolated",
}
"""What `flows` compares with."""

USERS = (1_000, 100_000, 10_000_000)
"""Numbers of users for which storage and traffic are told."""

CAPTION = 120
"""Characters of a line below a plot."""

TURNS_A_DAY = 10
"""Messages that a user is taken to write on an average day."""


NOTES = """\
- Redis needs memory for users whose record is alive there: on redis, those who wrote within `STATE_TTL` (a
  day, unless set), on hybrid, those who wrote within `HYBRID_CACHE_TTL` (an hour, unless set).
- The append-only file is as a rewrite leaves it; it grows to twice that before the next. PostgreSQL's tables
  are as they are filled; room for updates is left in them, which a vacuum frees again.
- In the background, a replica brings up to `HYBRID_FLUSH_BATCH` users together to PostgreSQL, and of several
  turns of one user only what came of them.
- DynamoDB and Firestore are the stand-ins of development, so no rate of theirs is told. Bytes at rest are
  counted by the providers' own rules, indexes not included. TLS adds to every request, as it does elsewhere.
- A user who has written 256 times has the ids of 256 updates, not of ten; up to `HISTORY_LIMIT` messages."""
"""What has to be known beside the tables of `storage.md`."""


def draw(results: Path, folder: Path) -> list[Path]:
    """Make every plot and table for which there are results; the files that were written."""
    found: dict[str, Result] = json.loads(results.read_text("utf-8")) if results.exists() else {}
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in files(found).items():
        path = folder / name
        path.write_text(text, "utf-8")
        written.append(path)
    return written


def files(results: Mapping[str, Result]) -> dict[str, str]:
    """The text of each file, by its name."""
    made = {}
    for name, (benchmark, draw_it) in PLOTS.items():
        if benchmark in results:
            made[f"{name}.svg"] = draw_it(results[benchmark])
    if results:
        made["table.md"] = table(results)
    if "storage" in results:
        made["storage.md"] = storage_tables(results["storage"])
    return made


def rows(result: Result, **labels: str | int) -> list[Row]:
    """The rows that have these labels."""
    return [row for row in result["rows"] if labels.items() <= row["labels"].items()]


def values(result: Result, label: str, **labels: str | int) -> list[Any]:
    """The values of another label among these rows, each once, in their order."""
    return list(
        dict.fromkeys(row["labels"][label] for row in rows(result, **labels) if label in row["labels"])
    )


def turns(at_once: int) -> Callable[[Result], str]:
    """Turns per second of each engine, beside other ways, and how many quick messages each loses."""

    def make(result: Result) -> str:
        groups = []
        for engine in values(result, "engine", at_once=at_once):
            lost = {row["labels"]["variant"]: row["ours"] for row in rows(result, what="lost", engine=engine)}
            found = rows(result, what="turns", engine=engine, at_once=at_once)
            rates = {"ours": found[0]["ours"]} | {row["labels"]["baseline"]: row["baseline"] for row in found}
            bars = [
                Bar(
                    VARIANTS[variant],
                    rate,
                    human(rate) + (", none lost" if lost.get(variant) == 0 else ""),
                    "ours" if variant == "ours" else "floor" if variant in ("floor", "pgbench") else "other",
                    f"{lost[variant]:.0f} of 50 lost" if lost.get(variant) else "",
                )
                for variant, rate in sorted(rates.items(), key=lambda item: list(VARIANTS).index(item[0]))
            ]
            groups.append(Group(engine, bars))
        users = "one user after the other" if at_once == 1 else f"{at_once} users at once"
        return chart(
            f"Turns per second, {users}",
            "A load and a commit. Lost: of 50 quick messages of one user. Each engine has its own scale.",
            groups,
            caption(result),
            common=False,
        )

    return make


def serve(result: Result) -> str:
    """Updates per second of a whole bot, beside a bare one."""
    groups = []
    for engine in values(result, "engine"):
        for replicas in values(result, "replicas", engine=engine):
            [speed] = rows(result, what="throughput", engine=engine, replicas=replicas)
            [lost] = rows(result, what="lost", engine=engine, replicas=replicas)
            [default] = rows(result, what="lost by default", engine=engine, replicas=replicas)
            by_default = f"{default['ours']:,} of {default['labels']['of']:,} lost by default"
            bars = (
                Bar(
                    VARIANTS["ours"],
                    speed["ours"],
                    human(speed["ours"]) + ("" if lost["ours"] else ", none lost"),
                    "ours",
                    f"{lost['ours']:,} lost" if lost["ours"] else "",
                ),
                Bar(
                    "bare aiogram bot",
                    speed["baseline"],
                    human(speed["baseline"]),
                    alarm=by_default if default["ours"] else "",
                ),
            )
            groups.append(Group(f"{engine}, {replicas} replica{'s' if replicas > 1 else ''}", bars))
    return chart(
        "Updates per second by webhook",
        "The bare bot answers a delivery when it is handled; by default it answers before, and loses some.",
        groups,
        caption(result),
        common=True,
    )


def flows(result: Result) -> str:
    """Conversations in steps that were lost."""
    titles = {
        "killed": "the bot is killed four times meanwhile",
        "hurried": "all answers are written in one burst",
    }
    groups = []
    for what, title in titles.items():
        found = rows(result, what=what)
        bars = [Bar(VARIANTS["ours"], found[0]["ours"], human(found[0]["ours"]), "ours")]
        for row in found:
            bars.append(Bar(STORAGES[row["labels"]["baseline"]], row["baseline"], human(row["baseline"])))
        groups.append(Group(title, bars))
    people = result["rows"][0]["labels"]["of"]
    return chart(
        f"Conversations lost, of {people}",
        "Three steps by long polling, with the same handlers.",
        groups,
        caption(result),
        common=True,
    )


def start(result: Result) -> str:
    """Time and memory until a bot is ready."""
    titles = {
        "first getUpdates": "seconds to the first getUpdates",
        "first reply": "seconds from the first update to its reply",
        "memory when ready": "MiB when ready",
        "memory after it": "MiB after the first update",
    }
    groups = []
    for what, title in titles.items():
        [row] = rows(result, what=what)
        bars = (
            Bar(VARIANTS["ours"], row["ours"], human(row["ours"]), "ours"),
            Bar("bare aiogram bot", row["baseline"], human(row["baseline"])),
        )
        groups.append(Group(title, bars))
    return chart(
        "Starting a bot",
        "The bare bot is an echo of a dozen lines. Each group has its own scale.",
        groups,
        caption(result),
        common=False,
    )


def storage(result: Result) -> str:
    """Bytes per user on the servers of each engine."""
    groups = []
    for engine in values(result, "engine"):
        most = max(values(result, "users", engine=engine))
        found = rows(result, engine=engine, users=most)
        bars = [
            Bar(row["labels"]["what"], row["ours"], f"{human(row['ours'])} bytes", "ours") for row in found
        ]
        floor = found[0]["baseline"]
        bars.append(Bar("the record as JSON", floor, f"{human(floor)} bytes", "floor"))
        groups.append(Group(f"{engine}, {most:,} users", bars))
    return chart(
        "Bytes kept per user",
        "Each has 10 keys and 20 messages of a line.",
        groups,
        caption(result),
        common=True,
    )


PLOTS: Mapping[str, tuple[str, Callable[[Result], str]]] = {
    "turn-1": ("turn", turns(1)),
    "turn-50": ("turn", turns(50)),
    "serve": ("serve", serve),
    "flows": ("flows", flows),
    "start": ("start", start),
    "storage": ("storage", storage),
}
"""Per plot, the benchmark it shows, and what draws it."""


def caption(result: Result) -> list[str]:
    """When, where and with what."""
    about = result["about"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        f"{about['date']}, template {about['template']}: {about['processor']}, {about['cores']} cores,"
        f" {about['kernel']}; load before {about['load before']};",
        *textwrap.wrap(versions, CAPTION, break_long_words=False),
    ]
    if about["quick"]:
        lines.append("ONLY TRIED (--quick): these numbers mean nothing")
    return lines


def table(results: Mapping[str, Result]) -> str:
    """Every row of every benchmark, in Markdown."""
    parts = []
    for name, result in results.items():
        lines = [
            f"### `{name}`",
            "",
            " ".join(caption(result)),
            "",
            "| measured | ours | baseline | ratio | bound | |",
            "|---|--:|--:|--:|--:|---|",
        ]
        for row in result["rows"]:
            ours, baseline = (f"{human(row[side])} {row['unit']}".strip() for side in ("ours", "baseline"))
            difference = f"{row['ours'] - row['baseline']:+,.4g}"
            ratio = f"{row['ratio']:.2f}" if row["ratio"] is not None else difference
            bound = f"{'≤' if row['bound'][0] == '<=' else '≥'} {row['bound'][1]:g}" if row["bound"] else ""
            verdict = {"ok": "kept", "MISSED": "**missed**", "-": ""}[row["verdict"]]
            text = row["name"].removeprefix(name).lstrip(":, ")
            lines.append(f"| {text} | {ours} | {baseline} | {ratio} | {bound} | {verdict} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def storage_tables(result: Result) -> str:
    """What the choice of a backend means for servers and network, in Markdown."""
    return (
        "\n".join(
            [
                " ".join(caption(result)),
                "",
                "A user has 10 keys and 20 messages of a line each,"
                f" {human(rows(result)[0]['baseline'])} bytes as JSON.",
                "Set upright is measured; *in italics* is worked out from it, in proportion.",
                "",
                *_kept(result),
                "",
                f"On the wire, and for {TURNS_A_DAY} messages a day from each user, worked out:",
                "",
                *_wire(result),
                "",
                NOTES,
            ]
        ).rstrip("\n")
        + "\n"
    )


def _kept(result: Result) -> Iterator[str]:
    yield "| engine | kept in | " + " | ".join(f"{users:,} users" for users in USERS) + " |"
    yield "|---|---|" + "--:|" * len(USERS)
    for engine in values(result, "engine"):
        for what in values(result, "what", engine=engine):
            measured = {
                row["labels"]["users"]: row["ours"] * row["labels"]["users"]
                for row in rows(result, engine=engine, what=what)
                if "users" in row["labels"]
            }
            if measured:
                cells = [
                    size(measured[users])
                    if users in measured
                    else f"*{size(in_proportion(measured, users))}*"
                    for users in USERS
                ]
                yield f"| {engine} | {what} | {' | '.join(cells)} |"


def in_proportion(measured: Mapping[int, float], users: int) -> float:
    """What more users take up, going on as between the two largest numbers that were measured."""
    (fewer, less), (more, much) = sorted(measured.items())[-2:]
    return much + (users - more) * (much - less) / (more - fewer)


def _wire(result: Result) -> Iterator[str]:
    yield (
        "| engine | to | round trips per turn | bytes sent | bytes received | "
        + " | ".join(f"{users:,} users: round trips/s, traffic a day" for users in USERS)
        + " |"
    )
    yield "|---|---|--:|--:|--:|" + "--:|" * len(USERS)
    for engine in values(result, "engine"):
        for server in values(result, "server", engine=engine):
            for when in values(result, "when", engine=engine, server=server):
                counts = {
                    row["labels"]["what"]: row["ours"]
                    for row in rows(result, engine=engine, server=server, when=when)
                }
                trips, sent, received = (
                    counts[what] for what in ("round trips", "bytes sent", "bytes received")
                )
                cells = []
                for users in USERS:
                    a_day = users * TURNS_A_DAY
                    cells.append(f"*{human(a_day * trips / 86_400)}/s, {size(a_day * (sent + received))}*")
                where = server + (", in the background" if when == "background" else "")
                yield (
                    f"| {engine} | {where} | {human(trips)} | {human(sent)} | {human(received)} |"
                    f" {' | '.join(cells)} |"
                )


def human(value: float) -> str:
    """A number to three digits, or a whole one as it is."""
    if value == int(value) and value < 1_000:
        return f"{int(value)}"
    if value >= 1_000:
        digits = len(str(int(value))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.3g}"


def size(count: float) -> str:
    """Bytes, in units of a thousand."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1_000 or unit == "TB":
            break
        count /= 1_000
    return f"{human(count)} {unit}"


def main() -> None:
    """Make them of the results that are committed."""
    for path in draw(RESULTS, ASSETS):
        print(path.relative_to(BENCHMARKS.parent))


if __name__ == "__main__":
    main()
