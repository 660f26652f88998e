"""The torture suite in its long form: `uv run python -m suite.torture`.

Prints the seed, everything that goes wrong, and a table of what came of it. Exits with 1 when an update was
lost, applied twice, not answered, or out of order, or when a fault never happened; with 2 where there is no
server to torture. The same seed gives the same faults again.
"""

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bot.runtime.chosen import ENGINE
from suite.torture.clock import LIBRARY
from suite.torture.driver import Outcome, Setup, setups, short_setups, torture
from suite.torture.ledger import felt, table
from suite.torture.names import ASK, OWNERS_BOT
from suite.torture.plan import Plan, share, short
from suite.torture.processes import BotEnded


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m suite.torture", description="Torture this bot.")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="one that was printed")
    parser.add_argument("--minutes", type=float, default=0, help="go on for so long, with the next seeds")
    parser.add_argument("--mode", choices=["polling", "webhook"], help="only this one")
    parser.add_argument("--replicas", type=int, help="only so many processes")
    parser.add_argument("--streams", action="store_true", help="only with answers that grow")
    parser.add_argument("--deferred", action="store_true", help="only the agent that has messages kept")
    parser.add_argument("--short", action="store_true", help="only what `uv run pytest` does")
    parser.add_argument("--bot", default=Setup.bot, metavar="MODULE", help="what to run")
    parser.add_argument("--owner", action="store_true", help="run the owner's agent, routers and texts")
    parser.add_argument("--python", default=sys.executable, help="what runs the bot")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME", help="a variable that the bot sees"
    )
    chosen = parser.parse_args()
    of_owner = {"bot": OWNERS_BOT, "asks": ASK, "most_waiting": 40} if chosen.owner else {"bot": chosen.bot}
    seen = {name: os.environ[name] for name in chosen.env if name in os.environ}
    possible = [
        replace(setup, python=chosen.python, environment=seen, **of_owner)
        for setup in (short_setups() if chosen.short and not chosen.streams else setups())
        if not (chosen.owner and setup.is_special)  # that is the owner's to choose
    ]
    wanted = {
        number: setup
        for number, setup in enumerate(possible)
        if (setup.streams or not chosen.streams)
        and (setup.is_deferred or not chosen.deferred)
        and chosen.mode in (None, setup.mode)
        and chosen.replicas in (None, setup.replicas)
    }

    if not LIBRARY:
        print("libfaketime is not installed: the clocks of servers stay right")
    outcomes = {setup.name: Outcome() for setup in wanted.values()}
    end = time.monotonic() + 60 * chosen.minutes
    seed = chosen.seed
    while True:
        for number, setup in wanted.items():
            print(f"{ENGINE}, {setup.name}: --seed {seed}", flush=True)
            # As many seeds in a row as there are set-ups have each fault happen alone in each of them.
            plan = short if chosen.short else share(seed + number, len(possible))
            outcomes[setup.name] += run(setup, seed, plan)
        if time.monotonic() > end:
            break
        seed += 1

    print()
    print(table({f"{ENGINE}, {name}": outcome.balance for name, outcome in outcomes.items()}))
    print(f"\n{felt({name: outcome.felt for name, outcome in outcomes.items()})}")
    total = sum(outcomes.values(), Outcome())
    if not (chosen.short or chosen.owner) and len(wanted) == len(possible):  # each has its share
        never = [name for name, times in total.felt.items() if not times]
        total.problems += [f"this never happened: {name}" for name in never]
    print(f"\n{total.faults} faults, {total.kills} of them kill -9 of the bot", *total.problems, sep="\n")
    if apologies := total.balance.apologies:
        print(f"{len(apologies)} messages got an apology, as the agent raised or took too long")
    return 0 if total.is_clean else 1


def run(setup: Setup, seed: int, plan: Plan) -> Outcome:
    """One run. What its processes said is kept when there is something to be looked into."""
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    try:
        outcome = asyncio.run(torture(setup, seed, folder, plan, say=lambda text: print(text, flush=True)))
    except pytest.skip.Exception as missing:
        shutil.rmtree(folder)
        print(missing, file=sys.stderr)
        sys.exit(2)
    except BotEnded as error:
        print(f"torture: {error}", file=sys.stderr)
        sys.exit(2)
    if outcome.is_clean:
        shutil.rmtree(folder)
    else:
        print(f"not clean: {outcome.balance} {outcome.problems}; logs are in {folder}", flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
