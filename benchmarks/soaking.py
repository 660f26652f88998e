"""`soak`: a bot that works for a quarter of an hour at half its highest rate, and its memory meanwhile."""

import os
import statistics
import threading
import time
from collections.abc import Iterator

from measuring import Row, counted, reduced
from serving import loaded, ours, server
from workshop import Workshop, heard, memory, python_program

SECONDS = 900.0
"""SOAK_SECONDS sets another time. What is bounded fills in the first minutes: fewer than ten show that."""

PEAK_SECONDS = 10.0
GROWTH = 3.0
"""MiB by which the last quarter may lie above the second."""


def measure(workshop: Workshop) -> Iterator[Row]:
    """One replica over Redis."""
    seconds = float(os.environ.get("SOAK_SECONDS") or reduced(SECONDS, 20.0))
    program = python_program(workshop, "load.py")
    with workshop.process(*program, settings={}, talk=True) as driver:
        api: str = heard(driver)["url"]
        with server(workshop, "redis") as settings, ours(workshop, "redis", 1, api, settings) as bots:
            peak = loaded(driver, bots, reduced(PEAK_SECONDS, 2.0))().per_second
            sizes: list[float] = []
            is_over = threading.Event()

            def watch() -> None:
                while not is_over.wait(seconds / 400):
                    sizes.append(memory(bots.processes[0])["VmRSS"])

            watching = threading.Thread(target=watch)
            watching.start()
            started = time.monotonic()
            load = loaded(driver, bots, seconds, rate=peak / 2)()
            is_over.set()
            watching.join()
    quarter = len(sizes) // 4
    early, late = statistics.median(sizes[quarter : 2 * quarter]), statistics.median(sizes[-quarter:])
    name = f"soak, {time.monotonic() - started:.0f} s at {load.per_second:.0f} updates/s"
    yield counted(f"{name}: memory, last quarter beside second", "MiB", late, early, ("<=", GROWTH))
    yield counted(f"{name}: effects lost, of {load.updates}", "", load.updates - load.effects, 0, ("<=", 0))
