"""One bot under fire: how fast it is while all is well, and what is left of its state when all went wrong."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from aiohttp import web
from contestants import CannotRunError, Mode

from suite.bot_api import Call, FakeTelegram
from suite.bot_api.server import Planned
from suite.engines.redis.faults import RedisServer
from suite.torture import faults
from suite.torture.backend import Felt, times
from suite.torture.faults import Stage
from suite.torture.ledger import Balance, Ledger
from suite.torture.people import USERS, People

MESSAGES_A_SECOND = 20
"""What people write under fire, whether it is answered or not."""

OF_A_MINUTE = {
    "bot: kill -9": 6,
    "bot: SIGTERM": 2,
    "Telegram: 429": 3,
    "Telegram: 5xx": 2,
    "Telegram: answers lost": 2,
    "Telegram: away": 1,
    "Telegram: deliveries fail": 2,
    "Redis: restarted": 1,
    "Redis: kill -9": 1,
}
"""The faults of a minute. Their order and moments are the seed's, and the same for all bots."""

WRITERS = 50
"""How many people write while all is well; each writes again when the last message was answered."""
WARM_UP, MEASURED, ROUNDS = 1.0, 2.0, 3
IMPATIENT = 2.0
"""Seconds after which one writes again although there was no answer."""

STARTS_WITHIN = 180.0
ENDS_WITHIN = 10.0
"""Seconds between SIGTERM and SIGKILL, as container platforms have it."""
QUIET = 15.0
"""Seconds without a sign of life after which nothing more is expected."""
LATER = 65.0
"""Seconds after the last fault at which everybody writes once more if replies are missing, as people do.
By then the locks of killed processes have ended, and a bot may look at what waits when somebody writes."""

BETWEEN = 10
"""Updates that a bot deals with between two faults, unless it takes longer than `QUIET`."""

HOOK = "https://bot.example/hook"


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        per_second: updates, while all was well: the median of some rounds.
        balance: the ledger's.
        felt: how often each fault was felt: calls refused, deliveries repeated, processes killed.
        ends: how often the process ended by itself.
        problems: what else must not be.
    """

    per_second: float
    balance: Balance = field(default_factory=Balance)
    felt: dict[str, int] = field(default_factory=dict)
    ends: int = 0
    problems: list[str] = field(default_factory=list)


class Bot:
    """A bot's process, started again whenever it ends, as a service manager does it."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        settings: Mapping[str, str],
        is_up: Callable[[float], bool],
    ) -> None:
        """Make it; no process runs yet.

        Args:
            command: what to run.
            folder: where it runs; what it writes goes into `bot.log` there.
            settings: its environment.
            is_up: whether one that was started at a time has begun to take updates.
        """
        self.ends = 0
        self._command = command
        self._folder = folder
        self._settings = {"PATH": os.environ["PATH"], "HOME": str(folder), "NO_COLOR": "1", **settings}
        self._is_up = is_up
        self._started = 0.0
        self._is_expected = False
        self._process: asyncio.subprocess.Process
        self._supervisor: asyncio.Task[None]

    async def start(self) -> None:
        await self._launch()
        self._supervisor = asyncio.create_task(self._supervise())
        await self.up()

    async def up(self) -> None:
        """Wait until it takes updates.

        Raises:
            CannotRunError: it does not begin.
        """
        give_up = time.monotonic() + STARTS_WITHIN
        while self._process.returncode is not None or not self._is_up(self._started):
            if time.monotonic() > give_up:
                last = "\n".join((self._folder / "bot.log").read_text(errors="replace").splitlines()[-8:])
                raise CannotRunError(
                    f"the bot took no update within {STARTS_WITHIN:.0f} s. Its last words:\n{last}"
                )
            await asyncio.sleep(0.01)

    async def end(self, number: signal.Signals, chance: Random) -> None:
        """Kill it, or tell it to end, while it is at work."""
        await self.up()
        await asyncio.sleep(chance.uniform(0, 0.5))
        self._is_expected = True
        process = self._process
        self._send(process, number)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), ENDS_WITHIN)
        self._send(process, signal.SIGKILL)
        await process.wait()

    async def close(self) -> None:
        self._supervisor.cancel()
        self._send(self._process, signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), ENDS_WITHIN)
        self._send(self._process, signal.SIGKILL)
        await self._process.wait()

    def _send(self, process: asyncio.subprocess.Process, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            process.send_signal(number)

    async def _launch(self) -> None:
        self._is_expected = False
        with (self._folder / "bot.log").open("ab") as log:
            self._started = time.monotonic()
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                cwd=self._folder,
                env=self._settings,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def _supervise(self) -> None:
        while True:
            await self._process.wait()
            self.ends += not self._is_expected
            await asyncio.sleep(0.1)
            await self._launch()


class Door:
    """Where Telegram delivers. It can lose answers: then Telegram delivers again what the bot has had."""

    def __init__(self, port: int) -> None:
        self._bot = f"http://127.0.0.1:{port}"
        self._losses: list[Planned] = []
        self.url = ""

    async def lose(self, chance: Random) -> Felt:
        """Lose the answers to the next deliveries that the bot takes."""
        self._losses.append(planned := Planned(_nothing, chance.randint(3, 10)))
        return [planned]

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Door"]:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._deliver)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self._http:
                yield self
        finally:
            await runner.cleanup()

    async def _deliver(self, request: web.Request) -> web.Response:
        kept = ("X-Telegram-Bot-Api-Secret-Token", "Content-Type")
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        try:
            async with self._http.post(
                self._bot + request.path, data=await request.read(), headers=headers
            ) as response:
                passed = {key: response.headers[key] for key in ("Retry-After",) if key in response.headers}
                status = response.status
        except (aiohttp.ClientError, OSError):
            return web.Response(status=502)
        if self._losses and status == 200:
            self._losses[0].felt += 1
            if self._losses[0].felt == self._losses[0].times:
                self._losses.pop(0)
            return web.Response(status=502)
        return web.Response(status=status, headers=passed)


async def _nothing(call: Call) -> None:
    """What is lost is lost at the door."""


async def fire(
    command: Sequence[str],
    mode: Mode,
    keeps: str,
    folder: Path,
    seed: int,
    minutes: float,
    tell: Callable[[str], None],
) -> Outcome:
    """Measure a bot while all is well, then put it under fire for so long (0: do not).

    Raises:
        CannotRunError: the bot, or a server that it needs, does not start.
    """
    async with AsyncExitStack() as stack:
        telegram = FakeTelegram()
        telegram.next_update_id = 1_000
        for method in telegram.methods().values():  # Telegram lets parameters pass that it does not know
            telegram.method(method.name)(method.do)
        await telegram.start()
        stack.push_async_callback(telegram.stop)
        settings = {"BOT_TOKEN": telegram.token, "TELEGRAM_API_URL": telegram.url, "HOST": "127.0.0.1"}
        redis = await asyncio.to_thread(_redis, folder) if keeps == "redis" else None
        if redis:
            stack.callback(redis.kill)
            settings |= {"REDIS_URL": redis.url, "USE_REDIS": "true"}
        door = await stack.enter_async_context(Door(port := _free_port()).open())
        settings |= {"PORT": str(port), "SQLITE_PATH": str(folder / "bot.sqlite3")}
        if mode == "webhook":
            telegram.webhook_address = door.url
            settings["WEBHOOK_URL"] = HOOK

        def is_up(started: float) -> bool:
            if mode == "webhook":
                return telegram.webhook is not None and _listens(port)
            return any(
                call.method == "getUpdates" and call.at > started for call in reversed(telegram.calls[-50:])
            )

        bot = Bot(command, folder, settings, is_up)
        stack.push_async_callback(bot.close)
        await bot.start()
        rates = sorted([await speed(telegram) for _ in range(ROUNDS)])
        outcome = Outcome(per_second=rates[ROUNDS // 2])
        tell(f"{outcome.per_second:,.0f} updates a second while all is well")
        if minutes:
            people = People(telegram, ledger := Ledger(), Random(f"{seed} people"), 0, pay=False, share=False)
            people.groups = False
            stage = Stage(telegram, people, (), None, (), mode == "webhook")  # type: ignore[arg-type]
            ways = _ways(stage, bot, door, redis)
            happened = await _burn(people, telegram, ways, seed, minutes, tell)
            ended = time.monotonic()
            await _settled(telegram, ledger)
            if ledger.missing(_said(telegram)):
                tell("everybody writes once more")
                await asyncio.sleep(max(0, ended + LATER - time.monotonic()))
                people.everyone()
                await _settled(telegram, ledger)
            exports = await _exports(telegram, bot, outcome)
            outcome.balance = ledger.balance(exports, _said(telegram))
            outcome.ends = bot.ends
            for name, felt in happened:
                outcome.felt[name] = outcome.felt.get(name, 0) + times(felt)
    return outcome


async def speed(telegram: FakeTelegram) -> float:
    """Updates a second: many people write, each again when the last message was answered."""
    wrote = dict.fromkeys(range(10_001, 10_001 + WRITERS), 0.0)
    seen = len(telegram.sent)
    answered = 0

    def write(user_id: int) -> None:
        wrote[user_id] = time.monotonic()
        telegram.message(f"p{telegram.next_update_id} 0", user_id=user_id)

    for user_id in wrote:
        write(user_id)
    started = time.monotonic()
    begin = end = started
    while end < started + WARM_UP + MEASURED:
        await asyncio.sleep(0.001)
        end = time.monotonic()
        if begin == started and end > started + WARM_UP:
            begin, answered = end, 0
        new, seen = telegram.sent[seen:], len(telegram.sent)
        for sent in new:
            if sent.chat_id in wrote:
                answered += 1
                write(sent.chat_id)
        for user_id, at in wrote.items():
            if end > at + IMPATIENT:
                write(user_id)
    rate = answered / (end - begin)
    with suppress(TimeoutError):
        await telegram.settled(QUIET)
    return rate


Way = Callable[[Random], Awaitable[Felt]]


def _ways(stage: Stage, bot: Bot, door: Door, redis: RedisServer | None) -> dict[str, Way]:
    """How each fault happens to this bot; what cannot happen to it is not there."""
    ways: dict[str, Way] = {
        "bot: kill -9": partial(_end, bot, signal.SIGKILL),
        "bot: SIGTERM": partial(_end, bot, signal.SIGTERM),
        "Telegram: 429": partial(faults.too_many_requests, stage),
        "Telegram: 5xx": partial(faults.server_errors, stage),
        "Telegram: answers lost": partial(faults.lost_answers, stage),
        "Telegram: away": partial(faults.away, stage),
        "Telegram: deliveries fail": door.lose if stage.is_webhook else partial(faults.failing_polls, stage),
    }
    if redis:
        ways["Redis: restarted"] = partial(faults.restart_server, redis)
        ways["Redis: kill -9"] = partial(faults.kill_server, redis)
    return ways


async def _end(bot: Bot, number: signal.Signals, chance: Random) -> None:
    await bot.end(number, chance)


async def _burn(
    people: People,
    telegram: FakeTelegram,
    ways: Mapping[str, Way],
    seed: int,
    minutes: float,
    tell: Callable[[str], None],
) -> list[tuple[str, Felt]]:
    """People write, and everything goes wrong; who writes what and when is the seed's, whatever the bot does.

    Returns:
        What happened, and how often it will have been felt.
    """
    chance = Random(f"{seed} faults")
    steps = [name for name, times in OF_A_MINUTE.items() for _ in range(max(1, round(times * minutes)))]
    chance.shuffle(steps)
    count = round(60 * minutes * MESSAGES_A_SECOND)
    writing = asyncio.create_task(_write(people, count, seed))
    happened: list[tuple[str, Felt]] = []
    try:
        for number, name in enumerate(steps):
            due = count * (number + 1) // (len(steps) + 1)
            own = Random(chance.getrandbits(64))
            while len(people.updates) < due:
                await asyncio.sleep(0.01)
            with suppress(TimeoutError):  # a fault that meets a bot which is still starting is none
                goal = min(len(telegram.acknowledged) + BETWEEN, len(telegram.updates))
                await telegram.wait_for(partial(_has, telegram, goal), QUIET)
            if name not in ways:
                continue
            tell(name)
            happened.append((name, await ways[name](own)))
        await writing
    finally:
        writing.cancel()
    return happened


def _has(telegram: FakeTelegram, count: int) -> bool:
    return len(telegram.acknowledged) >= count


async def _write(people: People, count: int, seed: int) -> None:
    """Write so many messages, at moments that only the seed knows."""
    chance = Random(f"{seed} moments")
    at = time.monotonic()
    for _ in range(count):
        at += chance.expovariate(MESSAGES_A_SECOND)
        await asyncio.sleep(max(0, at - time.monotonic()))
        people.message(seconds=chance.uniform(0, 0.02))


async def _settled(telegram: FakeTelegram, ledger: Ledger) -> None:
    """Wait until everything is answered, or nothing moves any more."""
    moved, last = time.monotonic(), (-1, -1)
    while ledger.missing(_said(telegram)) or len(telegram.acknowledged) < len(telegram.updates):
        now = (len(telegram.acknowledged), len(telegram.sent))
        if now != last:
            moved, last = time.monotonic(), now
        if time.monotonic() > moved + QUIET:
            return
        await asyncio.sleep(0.25)
    await asyncio.sleep(1)  # a bot that replies first may still be at work


def _said(telegram: FakeTelegram) -> dict[int, list[str]]:
    return {user_id: telegram.texts(user_id) for user_id in range(1, USERS + 1)}


async def _exports(telegram: FakeTelegram, bot: Bot, outcome: Outcome) -> dict[int, dict[str, Any]]:
    """What the bot keeps of each, as it tells when they ask. One that says nothing is started once more."""
    exports: dict[int, dict[str, Any]] = {}

    def missing() -> set[int]:
        for sent in telegram.sent:
            for content in sent.files.values() if sent.method == "sendDocument" else ():
                exports[sent.chat_id] = json.loads(content)
        return {*range(1, USERS + 1)} - exports.keys()

    for is_last in (False, False, True):
        if is_last and missing():
            outcome.problems.append("did not answer before it was started once more")
            await bot.end(signal.SIGKILL, Random(0))
            await bot.up()
        for user_id in missing():
            telegram.message("/export", user_id=user_id)
        with suppress(TimeoutError):
            await telegram.wait_for(lambda: not missing(), QUIET)
    if users := missing():
        outcome.problems.append(f"never told what it keeps of {len(users)} users")
    return {user_id: {"state": {}} for user_id in range(1, USERS + 1)} | exports


def _redis(folder: Path) -> RedisServer:
    """A Redis of the run's own, which writes its log to the disk every second.

    Raises:
        CannotRunError: there is none.
    """
    try:
        server = RedisServer(folder)
        server.start()
    except ImportError as error:
        raise CannotRunError(f"Redis is needed, and comes with `./do compare`: {error}") from None
    except (OSError, RuntimeError) as error:
        raise CannotRunError(f"Redis does not start: {error}") from error
    return server


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
