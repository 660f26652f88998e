"""`stream`: answers that grow, beside a bare aiogram bot that shows them by hand."""

import itertools
import statistics
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from measuring import Bound, Row, compared, counted, interleaved, reduced
from workshop import INSIDE, TOKEN, Workshop, cpu_seconds, free_port, heard, python_program, tell, until_ready

ROUNDS = 15
MODELS = {"after 0.4 s": "0.4", "at once": "0"}
"""Seconds until the model's first piece."""
EACH, PIECES = "0.05", "60"
"""Then a piece every so often: an answer of three seconds."""
PEOPLE, OTHERS, SECONDS = 200, 200, 5.0
LONG = "160"
"""Pieces of an answer that lasts while the others ask."""
SECRET = "benchmark-secret"

Seen = dict[str, list[float]]
Ask = Callable[[int, int], Seen]
"""Has so many people ask for an answer that grows, and so many others meanwhile for one that does not."""

first_ids = itertools.count(1, 1_000)


def measure(workshop: Workshop) -> Iterator[Row]:
    """One person at a time with each model; then many at once, and others who ask meanwhile."""
    for how, first in MODELS.items():
        with _bots(workshop, first, PIECES) as (ours, bare):
            pairs = list(interleaved(ROUNDS, lambda: ours(1, 0), lambda: bare(1, 0)))
        name = f"stream, the model's first piece {how}"
        seconds = [(one["first"][0] * 1000, other["first"][0] * 1000) for one, other in pairs]
        bound: Bound | None = ("<=", 1.1) if float(first) else None
        yield compared(f"{name}: until it is seen", "ms", seconds, bound, what="first", model=how)
        if float(first):
            calls = [(one["calls"][0], other["calls"][0]) for one, other in pairs]
            yield compared("stream: calls to Telegram for an answer of 3 s", "", calls, what="calls")
    with _bots(workshop, MODELS["after 0.4 s"], LONG) as (ours, bare):
        people, others = reduced(PEOPLE, 20), reduced(OTHERS, 20)
        one, other = ours(people, others), bare(people, others)
    name = f"stream, {people} at once"
    quick = [sorted(each["quick"])[len(each["quick"]) * 99 // 100] for each in (one, other)]
    yield counted(
        f"{name}: somebody else's answer, p99", "s", quick[0], 0, ("<=", 1), what="others", of=people
    )
    yield compared(
        f"{name}: somebody else's answer, p50",
        "ms",
        [tuple(statistics.median(each["quick"]) * 1000 for each in (one, other))],  # type: ignore[list-item]
        what="others, p50",
    )
    yield compared(f"{name}: CPU of the bot", "s", [(one["cpu"][0], other["cpu"][0])], what="cpu")
    first_pieces = [statistics.median(each["first"]) * 1000 for each in (one, other)]
    yield compared(
        f"{name}: until the first piece is seen",
        "ms",
        [(first_pieces[0], first_pieces[1])],
        what="first of many",
    )


@contextmanager
def _bots(workshop: Workshop, first: str, pieces: str) -> Iterator[tuple[Ask, Ask]]:
    """Both bots, and who watches them; gives what has people ask each of them."""
    model = {"MODEL_FIRST": first, "MODEL_EACH": EACH, "MODEL_PIECES": pieces}
    project = workshop.rendered("sqlite")
    python = project / ".venv/bin/python"
    with ExitStack() as stack:
        program = python_program(workshop, "watch.py")
        watcher = stack.enter_context(workshop.process(*program, settings=model, talk=True))
        common = {
            "BOT_TOKEN": TOKEN,
            "TELEGRAM_API_URL": heard(watcher)["url"],
            "WEBHOOK_URL": "https://bot.example/webhook",
            "WEBHOOK_SECRET": SECRET,
            "SQLITE_PATH": str(workshop.folder / f"stream-{free_port()}.sqlite3"),
            "PYTHONPATH": f"{project}:{INSIDE}",
            **model,
        }
        asks = []
        for command, probe in (
            ((python, INSIDE / "stream_bot.py", "run"), "/readyz"),
            ((python, INSIDE / "bare_stream.py"), "/healthz"),
        ):
            port = free_port()
            bot = stack.enter_context(workshop.process(*command, settings={**common, "PORT": str(port)}))
            until_ready(bot, f"http://127.0.0.1:{port}{probe}")
            asks.append(_asking(watcher, bot, port))
        yield asks[0], asks[1]


def _asking(watcher: "subprocess.Popen[str]", bot: "subprocess.Popen[str]", port: int) -> Ask:
    def ask(people: int, others: int) -> Seen:
        order = {
            "port": port,
            "secret": SECRET,
            "people": people,
            "others": others,
            "seconds": reduced(SECONDS, 2.0),
            "first_id": next(first_ids),
        }
        before = cpu_seconds(bot)
        tell(watcher, order)
        seen: dict[str, Any] = heard(watcher)
        return {**seen, "cpu": [cpu_seconds(bot) - before]}

    return ask
