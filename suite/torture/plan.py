"""Which faults happen, and in what order."""

from collections.abc import Callable, Sequence
from random import Random

from suite.torture.faults import KILL, OF_POLLING, OF_WEBHOOKS

Step = tuple[str, ...]
"""Names of faults that happen at the same time."""

Plan = Callable[[Sequence[str], Random], list[Step]]
"""Chooses from the names of all faults there are."""

KILLS, COMBINATIONS = 5, 4

LOSSES = ("emptied", "started empty", "failed over")
"""How the names of faults end that happen in one of the set-ups only."""

ALWAYS = (
    "poison replies", "long 429", "slow uploads", "uploads fail", "/forget", "groups", "person: stops",
    "frames refused", "a lease", *LOSSES,
)  # fmt: skip
"""How the names of faults end that happen in each set-up where they can: they cost guarantees once."""


def share(number: int, of: int) -> Plan:
    """A part of everything: every fault happens alone in one of the parts, some and kills in each of them.

    Then several happen at the same time, a kill among them.
    """

    def plan(names: Sequence[str], chance: Random) -> list[Step]:
        kill = tuple(name for name in names if name == KILL)  # empty, where that loses everything
        others = [name for name in names if name != KILL]
        own = {name for place, name in enumerate(others) if place % of == number % of}
        own |= OF_WEBHOOKS.keys() | OF_POLLING.keys() | {name for name in names if name.endswith(ALWAYS)}
        alone = [(name,) for name in others if name in own] + [kill] * KILLS * len(kill)
        together = [(*kill, *chance.sample(others, 2)) for _ in range(COMBINATIONS)]
        chance.shuffle(alone)
        return alone + together

    return plan


SHORT = (
    "bot: kill -9", "poison replies", "person: stops", "frames refused", "long 429", "slow uploads",
    "duplicates", "answers lost", "/forget", "bot: SIGTERM", "bot: kill -9", "connections cut",
    "person: stops", "bot: kill -9", "restarted", "bot: kill -9",
    "thinks longer than Telegram waits", "kill -9", "bot: frozen", "disk full", "locked", *LOSSES,
)  # fmt: skip


def short(names: Sequence[str], chance: Random) -> list[Step]:
    """A few, always the same: at each step everything whose name ends like this, whatever it befalls."""
    steps = (tuple(name for name in names if name.endswith(ending)) for ending in SHORT)
    return [step for step in steps if step]
