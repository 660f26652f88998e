"""One run: people write to a bot while things go wrong, and in the end the books have to balance."""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

from suite.bot_api import FakeTelegram
from suite.torture.backend import Backend, Felt, rendered_backends, times
from suite.torture.faults import KILL, PATIENCE, Stage
from suite.torture.ledger import Balance, Ledger
from suite.torture.link import Link
from suite.torture.names import DEFERRED, LAST_PIECE, PIECES, SHARED, STREAMS, TELL, file_of
from suite.torture.people import USERS, People
from suite.torture.plan import Plan
from suite.torture.processes import Replica, balancer, running

Mode = Literal["polling", "webhook"]
FILES = "agent: files in replies"
REMINDERS = "agent: reminders"
ALBUMS = "people: albums in one turn"
RUNS = "runs"
WEBHOOK_TIMEOUT = 1.0
"""Seconds that Telegram waits for an answer; in reality 60."""


@dataclass(frozen=True)
class Setup:
    """How the bot runs.

    Attributes:
        mode: how it gets its updates.
        backend: where it keeps state.
        replicas: how many processes share the work; one, when it polls.
        bot: the module to run.
        python: what runs it.
        environment: what it sees besides its settings.
        asks: the command at which it tells what it keeps.
        most_waiting: unanswered messages beyond which people wait, too.
        is_deferred: whether the agent's messages are kept and acknowledged at once.
        streams: whether the agent yields its answers piece by piece; by webhook they are deferred then.
    """

    mode: Mode
    backend: type[Backend]
    replicas: int = 1
    bot: str = "suite.torture.bot"
    python: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=dict)
    asks: str = "/export"
    most_waiting: int = 150
    is_deferred: bool = False
    streams: bool = False

    @property
    def name(self) -> str:
        processes = f"{self.replicas} replicas" if self.replicas > 1 else ""
        deferred = "streams" if self.streams else "deferred" if self.is_deferred else ""
        return ", ".join(filter(None, (self.mode, processes, deferred, self.backend.label)))

    @property
    def is_special(self) -> bool:
        """Whether the agent is one of those that few owners write."""
        return self.is_deferred or self.streams


def setups() -> list[Setup]:
    """Every way to run it. Several processes can share only what outlives each of them."""
    usual, *others = rendered_backends()
    most = 3 if usual.survives_exit else 1
    return [
        Setup("polling", usual),
        *(Setup("webhook", usual, count) for count in sorted({1, most})),
        Setup("webhook", usual, most, is_deferred=True),
        Setup("webhook", usual, most, is_deferred=True, streams=True),
        Setup("polling", usual, streams=True),
        *(Setup("webhook", other, most) for other in others),
    ]


def short_setups() -> list[Setup]:
    """Both modes, with as many processes as can share the work."""
    possible = [each for each in setups() if not each.is_special]
    most = max(each.replicas for each in possible)
    return [each for each in possible if each.mode == "polling" or each.replicas == most]


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        balance: the ledger's.
        faults: how many there were, and how many processes were killed.
        felt: how often each fault that can happen there was felt.
        problems: all else that must not be.
    """

    balance: Balance = field(default_factory=Balance)
    faults: int = 0
    kills: int = 0
    felt: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return self.balance.is_clean and not self.problems

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(
            self.balance + other.balance,
            self.faults + other.faults,
            self.kills + other.kills,
            {name: self.felt.get(name, 0) + other.felt.get(name, 0) for name in self.felt | other.felt},
            self.problems + other.problems,
        )


async def torture(
    setup: Setup, seed: int, folder: Path, plan: Plan, say: Callable[[str], None] = print
) -> Outcome:
    """Run the bot, and break things as planned.

    Args:
        setup: how the bot runs.
        seed: of everything that is left to chance.
        folder: an empty one, for data and logs.
        plan: what goes wrong, and when.
        say: told about everything that happens.
    """
    outcome = Outcome()
    started = time.monotonic()

    def tell(text: str) -> None:
        say(f"{time.monotonic() - started:7.1f} s  {text}")

    async with AsyncExitStack() as stack:
        backend = setup.backend(folder)
        stack.push_async_callback(backend.close)
        await backend.open()
        for fault, reason in backend.spared.items():
            tell(f"not tried: {fault}: {reason}")
        telegram = FakeTelegram(webhook_timeout=WEBHOOK_TIMEOUT, max_delay=0.3, max_retry_after=0.3)
        telegram.next_update_id = 1_000
        await telegram.start()
        stack.push_async_callback(telegram.stop)
        links = [await stack.enter_async_context(Link(server.address)) for server in backend.servers]

        settings = {
            "BOT_TOKEN": telegram.token,
            "TELEGRAM_API_URL": telegram.url,
            "SHUTDOWN_TIMEOUT": "5",
            "TORTURE_RUNS": str(folder / RUNS),
            **({DEFERRED: "true"} if setup.is_deferred else {}),
            **({STREAMS: "true"} if setup.streams else {}),
            **setup.environment,
            **backend.settings(links),
        }
        if setup.mode == "webhook":
            settings["WEBHOOK_URL"] = "https://bot.example/hook"

        def replica(number: int) -> Replica:
            return Replica(number, [setup.python, "-m", setup.bot, "run"], folder, settings)

        replicas = await stack.enter_async_context(running(setup.replicas, replica))
        telegram.webhook_address = await stack.enter_async_context(balancer(replicas))

        ledger = Ledger()
        is_ours = setup.bot == Setup.bot
        people = People(
            telegram, ledger, Random(f"{seed} people"), setup.most_waiting, pay=is_ours, share=is_ours
        )
        on_stage = Stage(
            telegram,
            people,
            replicas,
            backend,
            links,
            is_webhook=setup.mode == "webhook",
            streams=setup.streams,
            is_deferred=setup.is_deferred,
        )
        faults = on_stage.faults()
        if setup.is_deferred:  # what waits until a time waits for it, though the clock be wrong
            faults = {name: fault for name, fault in faults.items() if not name.endswith("clock jumps")}
        chance = Random(f"{seed} {setup.name}")
        steps = plan(list(faults), chance)
        # Who is to remind in a minute does so when a clock says that, though it be wrong.
        people.remind = is_ours and not any(" clock " in name for step in steps for name in step)
        happened: list[tuple[str, Felt]] = []

        def said() -> dict[int, list[str]]:
            return _left(telegram, ledger) if setup.streams else _said(telegram, ledger)

        writing = asyncio.create_task(people.write())
        try:
            for step in steps:
                await _progress(telegram, chance.randint(5, 25))
                await asyncio.sleep(chance.uniform(0, 0.2))
                tell(" + ".join(step))
                outcome.faults += len(step)
                outcome.kills += step.count(KILL)
                ways = (faults[name](Random(chance.getrandbits(64))) for name in step)
                happened += zip(step, await asyncio.gather(*ways), strict=True)
            await _progress(telegram, 25)
            writing.cancel()
            tell("all is well again")
            await _settled(telegram)
            await asyncio.sleep(1)  # a bot that acknowledges first may still be at work
            await _come(lambda: not ledger.unreminded(said()), telegram)
            exports = await _exports(telegram, setup.asks, SHARED if is_ours else ())
            tell("everybody has their data")
            await _come(lambda: not ledger.missing(said()), telegram)
        except TimeoutError as error:
            outcome.problems.append(f"stuck: {error}; see {folder}")
            return outcome
        finally:
            writing.cancel()
        if setup.streams:
            await _come(lambda: not ledger.halves(said()), telegram)
            outcome.problems += [f"left half: {each}" for each in ledger.halves(said())]
            dots = sum(text == "…" for texts in said().values() for text in texts)
            tell(f"{dots} times nothing was left but dots, after {outcome.kills} kills and what was lost")
        outcome.balance = ledger.balance(exports, said())
        outcome.felt = dict.fromkeys(faults, 0)
        for name, felt in happened:
            outcome.felt[name] += times(felt)
        if is_ours:  # whether an owner's agent feels a fault depends on what it sends: the table shows it
            expected = [name for step in steps if len(step) == 1 or KILL not in step for name in step]
            files = _files(telegram)
            outcome.balance += ledger.files(files)
            runs = (folder / RUNS).read_text().splitlines() if ledger.reminders else []
            outcome.balance += ledger.reminded(exports, said(), runs)
            if people.remind:
                expected.append(REMINDERS)
                outcome.felt[REMINDERS] = len(ledger.reminders)
            outcome.balance += ledger.albums(exports)
            expected += [FILES, ALBUMS]
            albums = [each for export in exports.values() for each in export["state"].get("photos", ())]
            outcome.felt[ALBUMS] = sum(len(photos) > 1 for photos in albums)
            outcome.felt[FILES] = sum(file_of(name) is not None for _, name in files)
            never = dict.fromkeys(name for name in expected if not outcome.felt[name])
            outcome.problems += [f"{setup.name}: this never happened: {name}" for name in never]
        await asyncio.gather(*(each.stop() for each in replicas))
        outcome.problems += [text for each in replicas for text in each.surprises]
    return outcome


def _files(telegram: FakeTelegram) -> dict[tuple[int, str], list[bytes]]:
    """By chat and name, each file that the bot sent."""
    found: dict[tuple[int, str], list[bytes]] = {}
    for sent in telegram.sent:
        for name, content in sent.files.items():
            found.setdefault((sent.chat_id, name), []).append(content)
    return found


async def _progress(telegram: FakeTelegram, updates: int) -> None:
    """Wait until so many more updates are done."""
    goal = len(telegram.acknowledged) + updates
    await telegram.wait_for(lambda: len(telegram.acknowledged) >= goal, PATIENCE)


async def _settled(telegram: FakeTelegram) -> None:
    """Wait until all updates are done; a bot that gets on with what one wrote in 400 groups is not stuck."""
    done = -1
    while True:
        try:
            return await telegram.settled(PATIENCE)
        except TimeoutError:
            if len(telegram.acknowledged) == done:
                raise
            done = len(telegram.acknowledged)


def _said(telegram: FakeTelegram, ledger: Ledger) -> dict[int, list[str]]:
    """What the bot said in each chat."""
    return {place.chat_id: telegram.texts(place.chat_id) for place in ledger.written}


def _left(telegram: FakeTelegram, ledger: Ledger) -> dict[int, list[str]]:
    """What the bot's messages say in the end, in each chat; an answer that is whole, as others are."""
    found: dict[int, list[str]] = {place.chat_id: [] for place in ledger.written}
    for (chat_id, _), message in telegram.messages.items():
        if chat_id in found and message["from"]["is_bot"] and "text" in message:
            found[chat_id].append(message["text"].removesuffix("".join((*PIECES, LAST_PIECE))))
    return found


async def _come(have_come: Callable[[], bool], telegram: FakeTelegram) -> None:
    """Wait for replies that had to wait, as long as any come; those that do not are missing."""
    said = -1
    while not have_come() and len(telegram.sent) > said:
        said = len(telegram.sent)
        with suppress(TimeoutError):
            await telegram.wait_for(have_come, PATIENCE)


async def _exports(telegram: FakeTelegram, asks: str, shared: Sequence[int]) -> dict[int, dict[str, Any]]:
    """What the bot keeps about each user, and each of those groups, as it tells them when they ask."""
    exports: dict[int, dict[str, Any]] = {}

    def missing() -> set[int]:
        for sent in telegram.sent:
            for content in sent.files.values() if sent.method == "sendDocument" else ():
                with suppress(ValueError):  # an owner's agent may send files of its own
                    exports[sent.chat_id] = json.loads(content)
        return {*range(1, USERS + 1), *shared} - exports.keys()

    give_up, said = time.monotonic() + PATIENCE, len(telegram.sent)
    while users := missing():
        if len(telegram.sent) > said + len(users):  # a bot that keeps messages first answers those before
            give_up, said = time.monotonic() + PATIENCE, len(telegram.sent)
        if time.monotonic() > give_up:
            raise TimeoutError(f"no answer to {asks} for users {users}")
        for user_id in users:
            if user_id in shared:
                telegram.message(TELL, user_id=1, chat_id=user_id)
            else:
                telegram.message(asks, user_id=user_id)
        await _settled(telegram)
        with suppress(TimeoutError):
            await telegram.wait_for(lambda: not missing(), 5)
    return exports
