"""`webhook`: updates per second, beside a bare aiogram echo bot."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from measuring import Row, compared, interleaved, reduced
from workshop import (
    TOKEN,
    Workshop,
    cpu_seconds,
    free_port,
    heard,
    python_program,
    tell,
    until_ready,
)

ROUNDS = 15
USERS = 50
SECONDS = 2.0
"""Short turns, many of them: whatever else the machine does then hits both bots alike."""
SECRET = "benchmark-secret"


@dataclass(frozen=True, slots=True)
class _Load:
    """What a bot did in one round."""

    per_second: float
    cpu_ms: float
    driver_share: float


def measure(workshop: Workshop) -> Iterator[Row]:
    """Both bots run all the time and get the load in turn."""
    with workshop.process(*python_program(workshop, "load.py"), settings={}, talk=True) as driver:
        ports = free_port(), free_port()
        common = {
            "BOT_TOKEN": TOKEN,
            "TELEGRAM_API_URL": heard(driver)["url"],
            "WEBHOOK_URL": "https://bot.example/webhook",
            "WEBHOOK_SECRET": SECRET,
        }
        ours = workshop.process(workshop.bot, "run", settings={**common, "PORT": str(ports[0])})
        program = python_program(workshop, "bare_webhook.py", "echo")
        bare = workshop.process(*program, settings={**common, "PORT": str(ports[1])})
        with ours as our_bot, bare as bare_bot:
            until_ready(our_bot, f"http://127.0.0.1:{ports[0]}/readyz")
            until_ready(bare_bot, f"http://127.0.0.1:{ports[1]}/healthz")
            pairs = list(
                interleaved(ROUNDS, _loaded(driver, our_bot, ports[0]), _loaded(driver, bare_bot, ports[1]))
            )
    per_second = [(ours.per_second, bare.per_second) for ours, bare in pairs]
    yield compared("webhook: throughput", "updates/s", per_second, (">=", 0.7), what="throughput")
    yield compared(
        "webhook: CPU of the bot", "ms/update", [(ours.cpu_ms, bare.cpu_ms) for ours, bare in pairs]
    )
    shares = [(ours.driver_share, bare.driver_share) for ours, bare in pairs]
    yield compared("webhook: share of a core the driver took", "", shares)


def _loaded(driver: "subprocess.Popen[str]", bot: "subprocess.Popen[str]", port: int) -> Callable[[], _Load]:
    def load() -> _Load:
        before = cpu_seconds(bot), cpu_seconds(driver)
        tell(driver, {"ports": [port], "users": USERS, "seconds": reduced(SECONDS, 1.0), "secret": SECRET})
        done: dict[str, Any] = heard(driver)
        if done["refused"] or done["replies"] != done["updates"]:
            raise SystemExit(f"the bot did not do its work: {done}")
        return _Load(
            per_second=done["updates"] / done["seconds"],
            cpu_ms=(cpu_seconds(bot) - before[0]) / done["updates"] * 1000,
            driver_share=(cpu_seconds(driver) - before[1]) / done["seconds"],
        )

    return load
