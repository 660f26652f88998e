"""`hybrid`: a turn and a read on the hybrid engine, beside the Redis and the PostgreSQL engine."""

import subprocess
from collections.abc import Callable, Iterator

from measuring import Row, compared, counted, interleaved
from workshop import INSIDE, Workshop, heard, tell

ROUNDS = 7
SECONDS = 1.5


def measure(workshop: Workshop) -> Iterator[Row]:
    """All engines in one process, over the same servers, in turns."""
    project = workshop.rendered("hybrid")
    python = project / ".venv" / "bin" / "python"
    with workshop.process(python, INSIDE / "hybrid_turns.py", settings={}, talk=True) as driver:
        heard(driver)
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


def _rate(driver: "subprocess.Popen[str]", engine: str, work: str, rows: list[float]) -> float:
    tell(driver, {"engine": engine, "work": work, "seconds": SECONDS})
    done: dict[str, float] = heard(driver)
    rows.append(done["rows"])
    return done["rate"]
