"""`benchmarks/`: the plots are those of the committed results, and one benchmark's failure is its own."""

import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import plot
import run
from measuring import Row, compared, counted
from workshop import Workshop


class NoWorkshop(Workshop):
    """Renders nothing."""

    def versions(self) -> dict[str, str]:
        """None."""
        return {}


def good(_: Workshop) -> Iterator[Row]:
    """Measure two things."""
    yield compared("good: speed", "/s", [(2.0, 1.0), (4.0, 1.0), (3.0, 1.0)], (">=", 2), engine="memory")
    yield counted("good: lost", "", 0, 0, ("<=", 0))


def missed(_: Workshop) -> Iterator[Row]:
    """Miss a bound."""
    yield compared("missed: speed", "/s", [(1.0, 1.0)], (">=", 2))


def broken(_: Workshop) -> Iterator[Row]:
    """Fail after a row."""
    yield counted("broken: lost", "", 0, 0)
    raise RuntimeError("no server")


def gave_up(_: Workshop) -> Iterator[Row]:
    """Give up as benchmarks do."""
    yield from ()
    raise SystemExit("a bot did not do its work")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks that take no time."""
    known = {"broken": broken, "good": good, "gave up": gave_up, "missed": missed}
    monkeypatch.setattr(run, "BENCHMARKS", known)
    monkeypatch.delenv("QUICK", raising=False)


def test_plots_and_tables_are_those_of_the_results() -> None:
    """What the docs show is what `plot.py` makes of `results.json`: run it, and commit both."""
    results = json.loads(plot.RESULTS.read_text("utf-8"))
    there = {path.name: path.read_text("utf-8") for path in plot.ASSETS.iterdir()}
    made = plot.files(results)
    assert there.keys() == made.keys()
    stale = [name for name, text in made.items() if there[name] != text]
    assert not stale, "run: uv run python benchmarks/plot.py"


def test_every_plot_is_drawn_of_the_results() -> None:
    """No benchmark that a plot shows is missing, and each plot is an SVG whose text is text."""
    for name in plot.PLOTS:
        root = ET.fromstring((plot.ASSETS / f"{name}.svg").read_text("utf-8"))
        texts = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
        assert any("this template" in text or "bytes" in text for text in texts), name


def test_numbers_that_were_only_tried_say_so() -> None:
    """A plot and a table of `--quick` cannot be taken for a measurement."""
    results: dict[str, Any] = json.loads(plot.RESULTS.read_text("utf-8"))
    for result in results.values():
        result["about"]["quick"] = True
    for name, text in plot.files(results).items():
        assert "ONLY TRIED" in text, name


def test_one_failure_is_reported_and_the_rest_is_kept(fakes: None, tmp_path: Path) -> None:
    """A benchmark that fails or gives up does not keep the others from being measured and written."""
    path = tmp_path / "results.json"
    bad = run.run_all(["broken", "good", "gave up", "missed"], NoWorkshop(tmp_path), path)
    assert bad.keys() == {"broken", "gave up", "missed"}
    assert "no server" in bad["broken"]
    assert "did not do its work" in bad["gave up"]
    assert "missed: speed" in bad["missed"]
    found = json.loads(path.read_text("utf-8"))
    assert found.keys() == {"good", "missed"}
    assert [row["ours"] for row in found["good"]["rows"]] == [3.0, 0]
    assert found["good"]["rows"][0]["labels"] == {"engine": "memory"}
    about = found["good"]["about"]
    assert about.keys() >= {"date", "processor", "cores", "kernel", "load before", "template", "versions"}


def test_a_partial_run_leaves_the_other_results_alone(fakes: None, tmp_path: Path) -> None:
    """Each benchmark's numbers stand beside what is to be known about their run, not about another."""
    path = tmp_path / "results.json"
    run.run_all(["missed"], NoWorkshop(tmp_path), path)
    earlier = json.loads(path.read_text("utf-8"))
    earlier["missed"]["about"]["date"] = "2001-01-01"
    path.write_text(run.dumped(earlier), "utf-8")
    run.run_all(["good", "broken"], NoWorkshop(tmp_path), path)
    found = json.loads(path.read_text("utf-8"))
    assert found["missed"] == earlier["missed"]
    assert found["good"]["about"]["date"] > "2001-01-01"
    assert list(found) == ["good", "missed"], "in the order of BENCHMARKS, so that differences can be read"


def test_the_readme_explains_every_benchmark() -> None:
    """In its table, and below."""
    text = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    table = set(re.findall(r"^\| `(\w+)` \|", text, re.M))
    explained = set(re.findall(r"^- \*\*(\w+)\*\*:", text, re.M))
    assert table == explained == run.BENCHMARKS.keys()
