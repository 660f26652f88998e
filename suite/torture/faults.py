"""Everything that can go wrong: each fault breaks something, and mends it before it returns."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random

from suite.bot_api import Call, FakeTelegram
from suite.torture.backend import Backend, Felt, Server, Trouble
from suite.torture.clock import LIBRARY
from suite.torture.link import Link
from suite.torture.people import USERS, People
from suite.torture.processes import Replica

KILL = "bot: kill -9"
DAY = 86_400

GROUPS = 400
FEWER_GROUPS = 80
"""Where messages are kept: no more than a hundred wait for one person."""

PATIENCE = 120.0
"""Seconds after which a bot that does not get on is stuck."""


@dataclass(frozen=True)
class Stage:
    """What faults act upon."""

    telegram: FakeTelegram
    people: People
    replicas: Sequence[Replica]
    backend: Backend
    links: Sequence[Link]
    is_webhook: bool
    streams: bool = False
    is_deferred: bool = False

    def faults(self) -> dict[str, Trouble]:
        """All that can happen here, by name."""
        found: dict[str, Callable[[Stage, Random], Awaitable[Felt]]] = {**OF_BOTS, **OF_TELEGRAM}
        if self.backend.survives_exit:
            found |= OF_PROCESSES
        if self.streams:
            found |= OF_STREAMS
        faults: dict[str, Trouble] = {name: partial(fault, self) for name, fault in found.items()}
        for server, link in zip(self.backend.servers, self.links, strict=True):
            faults |= {f"{server.name}: {name}": partial(fault, link) for name, fault in OF_LINKS.items()}
            turns = asyncio.Lock()
            for name, fault_of_server in OF_SERVERS.items():
                if name in self.backend.spared:
                    continue
                faults[f"{server.name}: {name}"] = partial(_in_turn, turns, partial(fault_of_server, server))
        here = OF_WEBHOOKS if self.is_webhook else OF_POLLING
        return {**faults, **self.backend.troubles(), **{name: partial(do, self) for name, do in here.items()}}

    def replica(self, chance: Random) -> Replica:
        """One of them, preferably one that runs."""
        return chance.choice([each for each in self.replicas if each.port] or list(self.replicas))


async def _in_turn(turns: asyncio.Lock, fault: Trouble, chance: Random) -> Felt:
    """A server that is being restarted cannot be killed meanwhile."""
    async with turns:
        return await fault(chance)


# --- The bot's processes --------------------------------------------------------------------------


async def kill(stage: Stage, chance: Random) -> None:
    await stage.replica(chance).kill()


async def terminate(stage: Stage, chance: Random) -> None:
    await stage.replica(chance).terminate()


async def replace(stage: Stage, chance: Random) -> None:
    await stage.replica(chance).replace()


async def freeze_bot(stage: Stage, chance: Random) -> None:
    await stage.replica(chance).freeze(chance.uniform(0.5, 3))


async def freeze_beyond_lease(stage: Stage, chance: Random) -> None:
    """Until others have taken over what it was at, see `hurry`; then it goes on with that."""
    await stage.replica(chance).freeze(chance.uniform(4, 7))


async def shift_clock(stage: Stage, chance: Random) -> None:
    """By seconds, as ntpd does, by hours, as a wrong time zone does, or by days, as an empty battery does."""
    longest = chance.choice([10, DAY / 2, 30 * DAY])
    replica = stage.replica(chance)
    replica.set_clock(chance.uniform(-longest, longest))
    await asyncio.sleep(chance.uniform(0.5, 1))
    if chance.random() < 0.5:
        replica.set_clock(0)


# --- Telegram -------------------------------------------------------------------------------------


async def too_many_requests(stage: Stage, chance: Random) -> Felt:
    return [stage.telegram.fail("sendMessage", status=429, retry_after=1, times=chance.randint(1, 20))]


async def server_errors(stage: Stage, chance: Random) -> Felt:
    return [
        stage.telegram.fail("sendMessage", status=500, times=chance.randint(1, 20)),
        stage.telegram.bad_gateway("sendMessage", times=chance.randint(1, 20)),
    ]


async def long_wait(stage: Stage, chance: Random) -> Felt:
    """A group and a stranger have to wait for longer than anybody else should."""
    group = -1_000 - chance.randint(1, USERS)
    stage.telegram.fail("sendMessage", status=429, retry_after=8, times=2, chat_id=group)
    stranger = stage.people.stranger(chance, ["x1 0.01"] * 5)
    return [stage.telegram.fail("sendMessage", status=429, retry_after=3600, times=10**6, chat_id=stranger)]


async def poison_replies(stage: Stage, chance: Random) -> Felt:
    """A stranger to whom nothing can ever be sent."""
    stranger = stage.people.stranger(chance, ["x1 0.01"] * 5)
    status = chance.choice([400, 401, 404, 413, 500])
    if chance.random() < 0.5:
        return [stage.telegram.fail("sendMessage", status=status, times=10**6, chat_id=stranger)]
    return [stage.telegram.bad_gateway("sendMessage", 10**6, status=status, chat_id=stranger)]


async def slow_uploads(stage: Stage, chance: Random) -> Felt:
    """Files that take longer than others should wait for."""
    seconds = chance.uniform(5, 15)

    async def is_slow(call: Call) -> None:
        await asyncio.sleep(seconds)

    stranger = stage.people.stranger(chance, ["/export"] * 3)
    return [stage.telegram.fault("sendDocument", is_slow, times=5, chat_id=stranger)]


async def lost_answers(stage: Stage, chance: Random) -> Felt:
    return [stage.telegram.drop_answer("sendMessage", times=chance.randint(1, 10))]


async def failing_uploads(stage: Stage, chance: Random) -> Felt:
    failing = stage.telegram.fail("sendDocument", status=500, times=chance.randint(1, 3))
    lost = stage.telegram.drop_answer("sendDocument", times=chance.randint(1, 3))
    stage.telegram.delay("sendDocument", chance.uniform(0.1, 2), times=chance.randint(1, 5))
    return [failing, lost]


async def slow_answers(stage: Stage, chance: Random) -> None:
    stage.telegram.delay("sendMessage", chance.uniform(0.1, 2), times=chance.randint(1, 30))


async def away(stage: Stage, chance: Random) -> None:
    await stage.telegram.stop()
    await asyncio.sleep(chance.uniform(0.2, 1.5))
    await stage.telegram.start()


async def duplicates(stage: Stage, chance: Random) -> Felt:
    """Of what was sent lately; Telegram never goes back further than what it has not seen acknowledged."""
    for update_id in chance.choices(stage.people.updates[-50:], k=20):
        stage.telegram.repeat(update_id)
    return 20


async def another_order(stage: Stage, chance: Random) -> None:
    for _ in range(5):
        stage.people.shuffle(chance.getrandbits(32))
        await asyncio.sleep(0.1)


async def forgetting(stage: Stage, chance: Random) -> None:
    """Somebody is forgotten while their messages are under way."""
    await stage.people.forget(chance.randint(1, USERS), PATIENCE)


async def many_groups(stage: Stage, chance: Random) -> Felt:
    """One person writes in more groups than ids are kept of acknowledged updates; replies do not go out."""
    groups = FEWER_GROUPS if stage.is_deferred else GROUPS
    failing = stage.telegram.fail("sendMessage", status=500, times=chance.randint(5, 20))
    stage.people.message_everywhere(chance.randint(1, USERS), groups)
    await asyncio.sleep(chance.uniform(0, 1))
    return [failing]


async def long_thoughts(stage: Stage, chance: Random) -> None:
    """The agent thinks for longer than Telegram waits for the answer to a delivery."""
    for _ in range(5):
        stage.people.message(seconds=stage.telegram.webhook_timeout * chance.uniform(0.9, 2.5))


async def failing_polls(stage: Stage, chance: Random) -> Felt:
    return [
        stage.telegram.fail("getUpdates", status=chance.choice([409, 429, 500]), times=1),
        stage.telegram.bad_gateway("getUpdates", times=1),
        stage.telegram.drop_answer("getUpdates", times=1),
    ]


async def stopping(stage: Stage, chance: Random) -> Felt:
    """People have enough, of whatever is growing."""
    stopped = 0
    for _ in range(8):
        stopped += stage.people.stop()
        await asyncio.sleep(chance.uniform(0.05, 0.2))
    return stopped


async def refused_frames(stage: Stage, chance: Random) -> Felt:
    """What grows may be shown for a while only seldom, or not at all, or nobody knows whether it was."""
    found = [
        stage.telegram.fail(method, status=429, retry_after=1, times=chance.randint(1, 5))
        for method in ("sendMessageDraft", "editMessageText")
    ]
    found.append(stage.telegram.fail("sendMessageDraft", status=500, times=chance.randint(1, 5)))
    found.append(stage.telegram.drop_answer("editMessageText", times=chance.randint(1, 5)))
    stage.telegram.delay("editMessageText", chance.uniform(0.1, 1), times=chance.randint(1, 5))
    return found


# --- The network between bot and server -----------------------------------------------------------


async def cut(link: Link, chance: Random) -> None:
    for _ in range(chance.randint(1, 5)):
        link.cut()
        await asyncio.sleep(chance.uniform(0, 0.3))


async def lose_requests(link: Link, chance: Random) -> None:
    link.lose_requests(chance.randint(1, 30))
    await asyncio.sleep(1)
    link.lose_no_more()


async def lose_answers(link: Link, chance: Random) -> None:
    link.lose_answers(chance.randint(1, 30))
    await asyncio.sleep(1)
    link.lose_no_more()


async def fall_silent(link: Link, chance: Random) -> None:
    """Half-open: one side is gone, and the other is not told."""
    link.fall_silent(deaf=chance.random() < 0.5)


async def be_slow(link: Link, chance: Random) -> None:
    link.latency = chance.uniform(0.02, 0.3)
    await asyncio.sleep(chance.uniform(1, 2))
    link.latency = 0


# --- The server -----------------------------------------------------------------------------------


async def restart_server(server: Server, chance: Random) -> None:
    await asyncio.to_thread(server.stop)
    await asyncio.sleep(chance.uniform(0, 1))
    await asyncio.to_thread(server.start)


async def kill_server(server: Server, chance: Random) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(chance.uniform(0, 1))
    await asyncio.to_thread(server.start)


async def freeze_server(server: Server, chance: Random) -> None:
    pids = server.pids()
    for number, seconds in ((signal.SIGSTOP, 10.0), (signal.SIGCONT, 0.0)):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        await asyncio.sleep(seconds)


async def shift_server_clock(server: Server, chance: Random) -> None:
    """By less than the 24 hours for which Redis keeps records by default."""
    server.clock.set(chance.uniform(-10, 10) * 3600)
    await asyncio.sleep(chance.uniform(0.5, 2))
    if chance.random() < 0.5:
        server.clock.set(0)


async def put_server_clock_off(server: Server, chance: Random) -> None:
    """So that claims, and what waits for a time, end too early, or too late."""
    server.clock.set(chance.choice([-1, 1]) * chance.uniform(0.5, 2))
    await asyncio.sleep(chance.uniform(1, 3))
    server.clock.set(0)


OF_BOTS = {"bot: frozen": freeze_bot, "bot: clock jumps": shift_clock}
OF_PROCESSES = {
    KILL: kill,
    "bot: SIGTERM": terminate,
    "bot: successor, then SIGTERM": replace,
    "bot: frozen beyond a lease": freeze_beyond_lease,
}
OF_TELEGRAM = {
    "Telegram: 429": too_many_requests,
    "Telegram: long 429": long_wait,
    "Telegram: 5xx": server_errors,
    "Telegram: poison replies": poison_replies,
    "Telegram: slow uploads": slow_uploads,
    "Telegram: answers lost": lost_answers,
    "Telegram: uploads fail": failing_uploads,
    "Telegram: slow": slow_answers,
    "Telegram: away": away,
    "Telegram: duplicates": duplicates,
    "Telegram: another order": another_order,
    "person: /forget": forgetting,
    "person: many groups": many_groups,
}
OF_WEBHOOKS = {"agent: thinks longer than Telegram waits": long_thoughts}
OF_POLLING = {"Telegram: polls fail": failing_polls}
OF_STREAMS = {"person: stops": stopping, "Telegram: frames refused": refused_frames}
OF_LINKS = {
    "connections cut": cut,
    "requests lost": lose_requests,
    "answers lost": lose_answers,
    "connections half-open": fall_silent,
    "far away": be_slow,
}
OF_SERVERS = {"restarted": restart_server, "kill -9": kill_server, "frozen for 10 s": freeze_server}
if LIBRARY:
    OF_SERVERS["clock jumps"] = shift_server_clock
    OF_SERVERS["clock off by seconds"] = put_server_clock_off
