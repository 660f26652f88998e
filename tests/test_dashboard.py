"""The Grafana dashboard shows what `/metrics` has, all of it and nothing else."""

import importlib
import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from bot.runtime import metrics
from bot.runtime.chosen import ENGINE

PLACE = Path(__file__).parent.parent / "grafana" / "dashboard.json"
if not PLACE.exists():
    pytest.skip("the dashboard was deleted", allow_module_level=True)
DASHBOARD: dict[str, Any] = json.loads(PLACE.read_text("utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
QUERIES: list[str] = [target["expr"] for panel in PANELS for target in panel["targets"]]
NAME = re.compile(r"\b(?:bot|process)_[a-z_]+")


def exported() -> dict[str, tuple[str, set[str]]]:
    """Per series that Prometheus gets of this bot: the metric's type, and the names of its labels."""
    importlib.import_module(f"bot.runtime.state.{ENGINE}")  # may have metrics of its own
    metrics.UPDATES.labels("message", "handled")
    found = {}
    for metric in REGISTRY.collect():
        for sample in metric.samples:
            found[sample.name] = (metric.type, set(sample.labels))
    return found


def test_each_name_exists() -> None:
    asked = set(NAME.findall(" ".join(QUERIES)))
    if sys.platform != "linux":
        asked = {name for name in asked if name.startswith("bot_")}  # only Linux tells of processes
    assert asked - exported().keys() == set()


def test_each_metric_is_shown() -> None:
    ours = {metric.name for metric in REGISTRY.collect() if metric.name.startswith("bot_") and exported()}
    shown = {re.sub("_(total|bucket|sum|count)$", "", name) for name in NAME.findall(" ".join(QUERIES))}
    assert ours - shown == set()


def test_queries_fit_their_metrics_and_any_number_of_replicas() -> None:
    series = exported()
    for query in QUERIES:
        assert re.match(r"(sum|max|histogram_quantile)\b", query), query
        for name, labels in re.findall(r"\b(bot_[a-z_]+)\{(.*?)\}", query):
            kind, known = series[name]
            is_rate = f"rate({name}{{{labels}}}[$__rate_interval])" in query
            assert is_rate == (kind in ("counter", "histogram")), query
            asked = set(re.findall(r"(\w+)=", labels)) | set(re.findall(r"by \((.*?)\)", query))
            asked = set(itertools.chain.from_iterable(each.split(", ") for each in asked))
            assert asked <= known | {"job", "instance"}, query
            assert 'job=~"$job", instance=~"$instance"' in labels, query


def test_outcomes_that_are_asked_for_exist() -> None:
    source = Path(metrics.__file__).parent / "telegram" / "transaction.py"
    named = {outcome for query in QUERIES for outcome in re.findall(r'outcome=~"(.*?)"', query)}
    assert named
    for outcome in itertools.chain.from_iterable(each.split("|") for each in named):
        assert f'return "{outcome}"' in source.read_text("utf-8")


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = set(itertools.product(range(place["x"], place["x"] + place["w"]),
                                      range(place["y"], place["y"] + place["h"])))  # fmt: skip
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in PANELS}) == len({panel["title"] for panel in PANELS}) == len(PANELS)
