"""What a benchmark measures, and how two things are compared fairly on a machine that others use too."""

import os
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")

Bound = tuple[Literal["<=", ">="], float]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        name: what was measured.
        unit: of `ours` and `baseline`.
        ours: the median over all rounds, or a count.
        baseline: likewise, of what it is compared with.
        ratio: the median of the rounds' ratios; `None` for what is counted.
        bound: what is promised, of the ratio or else of the difference; `None`: for information only.
        rounds: each round's `(ours, baseline)`.
        labels: what the row is about, for the plots: the engine, the baseline and the like.
    """

    name: str
    unit: str
    ours: float
    baseline: float
    ratio: float | None
    bound: Bound | None
    rounds: Sequence[tuple[float, float]] = ()
    labels: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def verdict(self) -> Literal["ok", "MISSED", "-"]:
        """Whether the bound is kept."""
        if self.bound is None:
            return "-"
        value = self.ours - self.baseline if self.ratio is None else self.ratio
        sign, limit = self.bound
        return "ok" if (value <= limit if sign == "<=" else value >= limit) else "MISSED"

    def to_json(self) -> dict[str, Any]:
        """The row for `results.json`, with as many digits as mean something."""
        return {
            "name": self.name,
            "labels": dict(self.labels),
            "unit": self.unit,
            "ours": significant(self.ours),
            "baseline": significant(self.baseline),
            "ratio": None if self.ratio is None else significant(self.ratio),
            "bound": self.bound,
            "verdict": self.verdict,
            "rounds": [[significant(ours), significant(baseline)] for ours, baseline in self.rounds],
        }


def significant(value: float) -> float:
    """A number to five digits; a count as it is."""
    return value if isinstance(value, int) else float(f"{value:.5g}")


def reduced(full: T, quick: T) -> T:
    """`full`, or `quick` when everything is only tried (`run.py --quick`, which sets QUICK)."""
    return quick if os.environ.get("QUICK") else full


def compared(
    name: str,
    unit: str,
    rounds: Sequence[tuple[float, float]],
    bound: Bound | None = None,
    **labels: str | int,
) -> Row:
    """A row of measurements taken in pairs: a disturbance that lasts hits both sides of a ratio."""
    return Row(
        name,
        unit,
        statistics.median(ours for ours, _ in rounds),
        statistics.median(baseline for _, baseline in rounds),
        statistics.median(ours / baseline for ours, baseline in rounds),
        bound,
        rounds,
        labels,
    )


def counted(
    name: str, unit: str, after: float, before: float, bound: Bound | None = None, **labels: str | int
) -> Row:
    """A row of things counted before and after, of which the difference matters."""
    return Row(name, unit, after, before, None, bound, labels=labels)


def interleaved(rounds: int, ours: Callable[[], T], baseline: Callable[[], T]) -> Iterator[tuple[T, T]]:
    """Measure both in turns, in every second round the other one first; a first round is not counted."""
    ours(), baseline()
    for number in range(reduced(rounds, 1)):
        if number % 2:
            second = baseline()
            yield ours(), second
        else:
            first = ours()
            yield first, baseline()


def machine() -> dict[str, Any]:
    """This machine, as far as it tells, and how busy it is at this moment."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text("utf-8").splitlines() if line.startswith("model name")]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    return {
        "processor": cpu,
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "load before": round(os.getloadavg()[0], 2),
    }
