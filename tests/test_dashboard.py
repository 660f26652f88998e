"""The Grafana dashboard shows what bots of all engines serve as `/metrics`, all of it and nothing else."""

import ast
import itertools
import json
import re
from functools import cache
from typing import Any

from support import ROOT

RUNTIME = ROOT / "template/bot/runtime"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "docs/assets/grafana-dashboard.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES: list[str] = [target["expr"] for panel in PANELS for target in panel["targets"]]
NAME = re.compile(r"\b(?:bot|process)_[a-z_]+")
SUFFIXES = {"Counter": ["_total"], "Gauge": [""], "Histogram": ["_bucket", "_sum", "_count"]}

PROCESS = {
    "process_resident_memory_bytes": ("Gauge", set[str]()),
    "process_cpu_seconds_total": ("Counter", set[str]()),
}
"""What prometheus_client itself tells of a process, as far as the dashboard shows it."""


@cache
def declared() -> dict[str, tuple[str, set[str], str]]:
    """Every metric in the code: its kind, the names of its labels, and the file that has it."""
    found = {}
    for path in sorted(RUNTIME.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SUFFIXES:
                name = ast.literal_eval(node.args[0])
                labels = set(ast.literal_eval(node.args[2])) if len(node.args) > 2 else set()
                found[name] = (node.func.id, labels, path.relative_to(RUNTIME).as_posix())
    return found


def series() -> dict[str, tuple[str, set[str]]]:
    """Per series that Prometheus gets: the metric's kind, and the names of its labels."""
    ours = {
        name + suffix: (kind, labels | ({"le"} if suffix == "_bucket" else set()))
        for name, (kind, labels, _) in declared().items()
        for suffix in SUFFIXES[kind]
    }
    return ours | PROCESS


def shown(queries: list[str]) -> set[str]:
    """The metrics that queries ask for."""
    return {re.sub("_(total|bucket|sum|count)$", "", name) for name in NAME.findall(" ".join(queries))}


def test_it_is_plain_json_for_every_bot() -> None:
    """Nothing is rendered into it; the job is chosen in Grafana."""
    text = json.dumps(DASHBOARD)
    assert "{%" not in text
    assert {each["name"] for each in DASHBOARD["templating"]["list"]} == {"datasource", "job", "instance"}
    assert {"bot_updates", "bot_flush_backlog"} <= declared().keys(), "the declarations are found"


def test_each_name_exists() -> None:
    assert set(NAME.findall(" ".join(QUERIES))) - series().keys() == set()


def test_each_metric_is_shown() -> None:
    assert declared().keys() - shown(QUERIES) == set()


def test_what_one_engine_has_stands_in_a_row_of_its_own() -> None:
    """Below the row's title, and nowhere else, so that others can fold it."""
    (row,) = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert "Hybrid" in row["title"]
    below = [panel for panel in PANELS if panel["gridPos"]["y"] > row["gridPos"]["y"]]
    own = {name for name, (_, _, path) in declared().items() if path.startswith("engines/")}
    assert {path for _, _, path in declared().values()} == {"metrics.py", "engines/hybrid/flusher.py"}
    assert shown([target["expr"] for panel in below for target in panel["targets"]]) == own
    above = [panel for panel in PANELS if panel not in below]
    assert not shown([target["expr"] for panel in above for target in panel["targets"]]) & own


def test_queries_fit_their_metrics_and_any_number_of_replicas() -> None:
    known_series = series()
    for query in QUERIES:
        assert re.match(r"(sum|max|histogram_quantile)\b", query), query
        asked_for = re.findall(r"\b((?:bot|process)_[a-z_]+)\{(.*?)\}", query)
        assert asked_for
        for name, labels in asked_for:
            kind, known = known_series[name]
            is_rate = f"rate({name}{{{labels}}}[$__rate_interval])" in query
            assert is_rate == (kind in ("Counter", "Histogram")), query
            asked = set(re.findall(r"(\w+)=", labels)) | set(re.findall(r"by \((.*?)\)", query))
            asked = set(itertools.chain.from_iterable(each.split(", ") for each in asked))
            assert asked <= known | {"job", "instance"}, query
            assert 'job=~"$job", instance=~"$instance"' in labels, query


def test_outcomes_that_are_asked_for_exist() -> None:
    sources = "".join(path.read_text("utf-8") for path in sorted((RUNTIME / "telegram").glob("*.py")))
    named = {outcome for query in QUERIES for outcome in re.findall(r'outcome=~"(.*?)"', query)}
    assert named
    for outcome in itertools.chain.from_iterable(each.split("|") for each in named):
        assert f'"{outcome}"' in sources, outcome


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    panels = DASHBOARD["panels"]
    for panel in panels:
        place = panel["gridPos"]
        cells = set(itertools.product(range(place["x"], place["x"] + place["w"]),
                                      range(place["y"], place["y"] + place["h"])))  # fmt: skip
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
