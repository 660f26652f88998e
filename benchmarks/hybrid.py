"""`hybrid` and `disk`: turns on the engines that use Redis, beside each other and beside themselves."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from measuring import Row, compared, counted, interleaved
from workshop import INSIDE, Workshop, heard, tell

ROUNDS = 7
SECONDS = 1.5


def measure(workshop: Workshop) -> Iterator[Row]:
    """The hybrid engine, beside the Redis and the PostgreSQL engine."""
    with _all_engines(workshop) as driver:
        rows_per_turn: list[float] = []

        def rate(engine: str, work: str) -> Callable[[], float]:
            return lambda: _rate(driver, engine, work, rows_per_turn if engine == "hybrid" else [])

        turns = list(interleaved(ROUNDS, rate("hybrid", "turns"), rate("redis", "turns")))
        yield compared(
            "hybrid: turns, beside redis", "/s", turns, (">=", 0.9), work="turns", baseline="redis"
        )
        rows = sorted(rows_per_turn)[len(rows_per_turn) // 2]
        yield counted("hybrid: row writes per turn", "", rows, 0, ("<=", 0.5))
        acked = list(interleaved(ROUNDS, rate("hybrid-postgres", "turns"), rate("postgres", "turns")))
        yield compared("hybrid, HYBRID_ACK=postgres: turns, beside postgres", "/s", acked)
        reads = list(interleaved(ROUNDS, rate("hybrid-postgres", "reads"), rate("postgres", "reads")))
        yield compared("hybrid, HYBRID_ACK=postgres: reads, beside postgres", "/s", reads, (">=", 1.0))


def measure_disk(workshop: Workshop) -> Iterator[Row]:
    """What it costs to wait for the append-only file."""
    with _all_engines(workshop) as driver:

        def rate(engine: str) -> Callable[[], float]:
            return lambda: _rate(driver, engine, "turns", [])

        for engine in ("redis", "hybrid"):
            turns = list(interleaved(ROUNDS, rate(f"{engine}-disk"), rate(engine)))
            title = f"disk: turns on {engine} with REDIS_WAIT_DISK, beside without"
            yield compared(title, "/s", turns, engine=engine)


@contextmanager
def _all_engines(workshop: Workshop) -> "Iterator[subprocess.Popen[str]]":
    """All engines in one process, over the same servers."""
    project = workshop.rendered("hybrid")
    python = project / ".venv" / "bin" / "python"
    with workshop.process(python, INSIDE / "hybrid_turns.py", settings={}, talk=True) as driver:
        heard(driver)
        yield driver


def _rate(driver: "subprocess.Popen[str]", engine: str, work: str, rows: list[float]) -> float:
    tell(driver, {"engine": engine, "work": work, "seconds": SECONDS})
    done: dict[str, float] = heard(driver)
    rows.append(done["rows"])
    return done["rate"]
