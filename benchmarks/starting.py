"""`start`: from the command line to a bot that receives updates, beside a bare aiogram bot."""

import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from measuring import Bound, Row, compared, interleaved
from workshop import TOKEN, Workshop, free_port, heard, memory, python_program, tell, until_ready

ROUNDS = 7
TIME: Bound = ("<=", 0.35)
MEMORY: Bound = ("<=", 0.5)


@dataclass(frozen=True, slots=True)
class _Start:
    """One start: seconds since the process was made, MiB."""

    first_poll: float
    ready: float
    rss: float
    peak: float
    first_reply: float
    rss_then: float


def measure(workshop: Workshop) -> Iterator[Row]:
    """Start both in turns, against the strict fake Bot API of the rendered tests in its own process."""
    server = python_program(workshop, "api.py")
    with workshop.process(*server, settings={"PYTHONPATH": str(workshop.project)}, talk=True) as api:
        url: str = heard(api)["url"]
        pairs = list(
            interleaved(
                ROUNDS,
                lambda: _start(workshop, api, url, [workshop.bot, "run"], has_health=True),
                lambda: _start(
                    workshop, api, url, python_program(workshop, "bare_polling.py"), has_health=False
                ),
            )
        )
    polls = [(ours.first_poll, bare.first_poll) for ours, bare in pairs]
    yield compared("start: to the first getUpdates", "s", polls, TIME, what="first getUpdates")
    ready = [(ours.ready, bare.ready) for ours, bare in pairs]
    yield compared("start: to ready", "s", ready, TIME, what="ready")
    rss = [(ours.rss, bare.rss) for ours, bare in pairs]
    yield compared("start: memory when ready", "MiB", rss, MEMORY, what="memory when ready")
    peak = [(ours.peak, bare.peak) for ours, bare in pairs]
    yield compared("start: peak until ready", "MiB", peak, MEMORY, what="peak until ready")
    replies = [(ours.first_reply, bare.first_reply) for ours, bare in pairs]
    yield compared("start: first update, until its reply", "s", replies, what="first reply")
    then = [(ours.rss_then, bare.rss_then) for ours, bare in pairs]
    yield compared("start: memory after it", "MiB", then, what="memory after it")


def _start(
    workshop: Workshop,
    api: "subprocess.Popen[str]",
    url: str,
    command: Sequence[str | Path],
    *,
    has_health: bool,
) -> _Start:
    port = free_port()
    started = time.monotonic()
    settings = {"BOT_TOKEN": TOKEN, "TELEGRAM_API_URL": url, "PORT": str(port)}
    with workshop.process(*command, settings=settings) as bot:
        first_poll = _await_call(api, "getUpdates", started)
        ready = until_ready(bot, f"http://127.0.0.1:{port}/readyz") if has_health else first_poll
        at_ready = memory(bot)
        asked = time.monotonic()
        tell(api, "hello")
        replied = _await_call(api, "sendMessage", asked)
        found = _Start(
            first_poll=first_poll - started,
            ready=ready - started,
            rss=at_ready["VmRSS"],
            peak=at_ready["VmHWM"],
            first_reply=replied - asked,
            rss_then=memory(bot)["VmRSS"],
        )
    with urllib.request.urlopen(f"{url}/bot{TOKEN}/deleteWebhook?drop_pending_updates=true"):
        return found  # the next bot finds nothing that this one has not confirmed


def _await_call(api: "subprocess.Popen[str]", method: str, since: float) -> float:
    """When the bot made a call; the monotonic clock is one for all processes."""
    while True:
        call = heard(api)
        if call["method"] == method and call["at"] >= since:
            at: float = call["at"]
            return at
