"""`serve`: updates per second and latency of each engine, beside a bare aiogram bot with its own storage."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import Row, compared, counted, interleaved, reduced
from workshop import (
    AIOSQLITE,
    INSIDE,
    TOKEN,
    Workshop,
    free_port,
    heard,
    python_program,
    tell,
    until_ready,
)

from support import clean_env, run

ENGINES: Mapping[str, tuple[int, ...]] = {
    "memory": (1,),
    "sqlite": (1, 3),
    "redis": (1, 3),
    "postgres": (1, 3),
    "hybrid": (1, 3),
}
"""The engines, and with how many replicas each is measured."""

ROUNDS = 5
USERS = 50
SECONDS = 2.0
SECRET = "benchmark-secret"


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a load: updates, seconds, and the most important sums."""

    updates: int
    effects: int
    per_second: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Bots:
    """Processes that run, and their ports."""

    processes: "list[subprocess.Popen[str]]"
    ports: list[int]


def measure(workshop: Workshop) -> Iterator[Row]:
    """Each engine with each number of replicas; the bare bot in as many, all running, loaded in turns."""
    program = python_program(workshop, "load.py")
    for engine, counts in ENGINES.items():
        with ExitStack() as stack:
            driver = stack.enter_context(workshop.process(*program, settings={}, talk=True))
            api: str = heard(driver)["url"]
            settings = stack.enter_context(server(workshop, engine))
            storage = stack.enter_context(storage_of_bare(workshop, engine))
            for count in counts:
                yield from _rows(workshop, driver, api, engine, count, settings, storage)


def _rows(
    workshop: Workshop,
    driver: "subprocess.Popen[str]",
    api: str,
    engine: str,
    count: int,
    settings: Mapping[str, str],
    storage: Mapping[str, str],
) -> Iterator[Row]:
    seconds = reduced(SECONDS, 1.0)
    with ours(workshop, engine, count, api, settings) as our_bots:
        with bare(workshop, engine, count, api, storage) as bare_bots:
            pairs = list(
                interleaved(ROUNDS, loaded(driver, our_bots, seconds), loaded(driver, bare_bots, seconds))
            )
        lost = sum(load.updates - load.effects for load, _ in pairs)
        with bare(workshop, engine, count, api, {**storage, "BACKGROUND": "1"}) as bare_bots:
            default = loaded(driver, bare_bots, seconds, may_fail=True)()
    name = f"serve, {engine}, {count} replica{'s' if count > 1 else ''}"
    per_second = [(load.per_second, other.per_second) for load, other in pairs]
    yield compared(
        f"{name}: throughput",
        "updates/s",
        per_second,
        (">=", 1 if engine == "sqlite" else 0.7),
        what="throughput",
        engine=engine,
        replicas=count,
    )
    p50 = [(load.p50_ms, other.p50_ms) for load, other in pairs]
    yield compared(f"{name}: latency, p50", "ms", p50, what="p50", engine=engine, replicas=count)
    p99 = [(load.p99_ms, other.p99_ms) for load, other in pairs]
    yield compared(f"{name}: latency, p99", "ms", p99, what="p99", engine=engine, replicas=count)
    updates = sum(load.updates for load, _ in pairs)
    yield counted(
        f"{name}: effects lost, of {updates}",
        "",
        lost,
        0,
        ("<=", 0),
        what="lost",
        of=updates,
        engine=engine,
        replicas=count,
    )
    yield counted(
        f"{name}: lost by the bare bot as it is by default, of {default.updates}",
        "",
        default.updates - default.effects,
        0,
        what="lost by default",
        of=default.updates,
        engine=engine,
        replicas=count,
    )


@contextmanager
def storage_of_bare(workshop: Workshop, engine: str) -> Iterator[dict[str, str]]:
    """Where the bare bot counts: aiogram has no storage for PostgreSQL, and for SQLite one of a few lines."""
    if engine == "memory":
        yield {}
    elif engine == "sqlite":
        workshop.add(workshop.rendered("sqlite"), AIOSQLITE)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=workshop.folder) as folder:
            yield {"STORAGE_FILE": f"{folder}/bare.sqlite3"}
    else:
        with server(workshop, "redis") as settings:
            yield {"STORAGE_URL": settings["REDIS_URL"]}


@contextmanager
def server(workshop: Workshop, engine: str) -> Iterator[dict[str, str]]:
    """Fresh servers of an engine, and the settings that lead a bot to them."""
    if engine == "memory":
        yield {}
        return
    if engine == "sqlite":
        with tempfile.TemporaryDirectory(prefix="bench-", dir=workshop.folder) as folder:
            yield {"SQLITE_PATH": f"{folder}/bot.sqlite3"}
        return
    project = workshop.rendered(engine)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        command = (project / ".venv/bin/python", INSIDE / "server.py", folder)
        with workshop.process(*command, settings={"PYTHONPATH": str(project)}, talk=True) as process:
            settings: dict[str, str] = heard(process)
            done = run(project / ".venv/bin/bot", "migrate", cwd=Path(folder), env=clean_env(**settings))
            if done.returncode:
                raise SystemExit(f"bot migrate failed: {done.stderr}")
            try:
                yield settings
            finally:
                tell(process, "stop")
                heard(process)


@contextmanager
def ours(
    workshop: Workshop, engine: str, count: int, api: str, settings: Mapping[str, str]
) -> Iterator[Bots]:
    """Replicas of our bot."""
    bot = workshop.rendered(engine, *(["--no-dev"] if engine == "memory" else [])) / ".venv/bin/bot"
    with _processes(workshop, (bot, "run"), count, api, settings, "/readyz") as bots:
        yield bots


@contextmanager
def bare(
    workshop: Workshop, engine: str, count: int, api: str, settings: Mapping[str, str]
) -> Iterator[Bots]:
    """Replicas of the bare bot."""
    project = {"memory": lambda: workshop.project, "sqlite": lambda: workshop.rendered("sqlite")}.get(
        engine, lambda: workshop.rendered("redis")
    )()
    command = (project / ".venv/bin/python", INSIDE / "bare_webhook.py", "count")
    with _processes(workshop, command, count, api, settings, "/healthz") as bots:
        yield bots


@contextmanager
def _processes(
    workshop: Workshop,
    command: tuple[str | Path, ...],
    count: int,
    api: str,
    settings: Mapping[str, str],
    probe: str,
) -> Iterator[Bots]:
    common = {
        "BOT_TOKEN": TOKEN,
        "TELEGRAM_API_URL": api,
        "WEBHOOK_URL": "https://bot.example/webhook",
        "WEBHOOK_SECRET": SECRET,
        **settings,
    }
    ports = [free_port() for _ in range(count)]
    with ExitStack() as stack:
        running = [
            stack.enter_context(workshop.process(*command, settings={**common, "PORT": str(port)}))
            for port in ports
        ]
        for process, port in zip(running, ports, strict=True):
            until_ready(process, f"http://127.0.0.1:{port}{probe}")
        yield Bots(running, ports)


def loaded(
    driver: "subprocess.Popen[str]",
    bots: Bots,
    seconds: float,
    rate: float = 0,
    may_fail: bool = False,
) -> Callable[[], Load]:
    """What makes a load on bots, at most at a rate in updates per second; unless they may, none fails."""

    def load() -> Load:
        order = {"ports": bots.ports, "users": USERS, "seconds": seconds, "secret": SECRET, "rate": rate}
        tell(driver, order)
        done: dict[str, Any] = heard(driver)
        if not may_fail and (done["refused"] or done["replies"] != done["updates"]):
            raise SystemExit(f"a bot did not do its work: {done}")
        return Load(
            updates=done["updates"],
            effects=done["effects"],
            per_second=done["updates"] / done["seconds"],
            p50_ms=done["p50"] * 1000,
            p99_ms=done["p99"] * 1000,
        )

    return load
