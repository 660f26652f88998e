"""Jobs: what an agent has to do later. Each lies in the record that it is about, and runs as a turn on it.

A job is noted among the record's flows, so it is committed, exported and forgotten together with all else.
When it runs, the commit that keeps its effect takes it away: both happen, or neither.
"""

import asyncio
import heapq
import inspect
import math
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar, overload
from zoneinfo import ZoneInfo

from bot.runtime.errors import (
    JobStopped,
    LeaseLost,
    StateConflict,
    StateCorrupt,
    StateError,
    StateUnavailable,
)
from bot.runtime.state.codec import dumps
from bot.runtime.state.record import Place
from bot.runtime.state.store import (
    NEVER,
    Agenda,
    Changes,
    OperatorStore,
    StateStore,
    StoreClock,
    monotonic,
)

Method = TypeVar("Method", bound=Callable[..., Any])

JOB = "job:"
"""How the names of jobs begin among a record's flows."""

UPDATE = "update:"
"""How the names of updates begin among the flows of a record in which they wait."""

STOP = "stop:"
"""How the name of a note begins beside them: the answer to that update was stopped."""

FULL = "full"
"""Noted in the place of updates when a person was told that no more are taken."""

MOST_JOBS = 100
"""Most jobs of one record that wait."""

MOST_STOPPED = 10
"""Most jobs of one record that are kept to be looked at, because they could not be done."""

OWED_SECONDS = 60
"""Seconds after which others look after the replies that a record owes."""

OWN_SECONDS = 20
"""Seconds before that at which the process looks that owes them, and has the others wait on."""

CLAIM_SECONDS = 30.0
"""Seconds after which another process goes on where this one was killed; prolonged while it runs."""

MOST_CLAIMS = 3
"""How often a job or an update may end the process that is at it, as far as one can tell."""

NOWHERE = Place()

PUT_OFF_SECONDS = 3_700
"""Seconds after its time until which a record may be listed that is being worked on, or was put off."""

ALL_SECONDS = 10**9
"""Seconds ahead within which everything is due."""

NOTED_SECONDS = 60
"""Seconds ahead for which a process remembers what it made due. It finds the rest in the store, in time."""

TOLD_SECONDS = 25 * 3600
"""For how long a record notes what it was told, in case it is told again."""

DAY = 86_400
MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class JobOptions:
    """How a method runs as a job.

    Attributes:
        name: what it is called in records; it stays when the method is renamed.
        retries: how often it is tried again when it raised.
        expires: seconds after which it is not worth running any more; `None` for never.
    """

    name: str
    retries: int
    expires: float | None


@overload
def job(method: Method, /) -> Method: ...


@overload
def job(
    *, name: str = "", retries: int = 0, expires: timedelta | None = None
) -> Callable[[Method], Method]: ...


def job(method: Any = None, /, *, name: str = "", retries: int = 0, expires: timedelta | None = None) -> Any:
    """Mark a method of the agent as one that `later`, `every` and `tell` may call.

    It is a coroutine method; its arguments are JSON. It runs as a turn: `self.turn` has state, history and
    the place where the job was made. A text that it returns is sent there, and remembered.

    Args:
        method: the method, where nothing else is to be said.
        name: what it is called in records, if not as it is; keep it when you rename the method.
        retries: how often it is tried again, after half a minute, one, two and so on, when it raised.
        expires: how long after its time it is still worth running.
    """

    def mark(method: Any) -> Any:
        seconds = None if expires is None else expires.total_seconds()
        method.__job__ = JobOptions(name or method.__name__, retries, seconds)
        return method

    return mark if method is None else mark(method)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Something to do later.

    Attributes:
        id: names it within its record.
        name: of the method, as `job` says.
        arguments: what the method is called with.
        at: when, in microseconds since 1970 by the store's clock.
        every: seconds after which it is to be done again; `None` for once.
        zone: where its clock is, such as `Europe/Vienna`, if it keeps to the time of day there.
        tries: how often it raised.
        place: where it was made.
        to: the record that is to do it, if that is another one.
        stopped: why it is not done; empty for one that waits for its time.
        made: when it was made, in microseconds since 1970 by the store's clock.
        choices: of a question that is open, the answers and what their buttons say. Until one is pressed, it
            waits for its time as any other job; `turn.ask` makes it.
    """

    id: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    at: int = NEVER
    every: float | None = None
    zone: str = ""
    tries: int = 0
    place: Place = NOWHERE
    to: str = ""
    stopped: str = ""
    made: int = 0
    choices: Mapping[str, str] = field(default_factory=dict)

    @property
    def when(self) -> datetime:
        """When, in UTC."""
        return datetime.fromtimestamp(self.at / MICROSECONDS, UTC)

    def shown(self, *, arguments: bool = True) -> dict[str, Any]:
        """The job for people to read, as a JSON object. Its arguments may be what people wrote."""
        value = {
            "id": self.id,
            "name": self.name,
            "at": self.when.isoformat(timespec="seconds"),
            "arguments": dict(self.arguments) if arguments else {},
            "every": str(timedelta(seconds=self.every)) if self.every else "",
            "zone": self.zone,
            "tries": self.tries,
            "for": self.to,
            "stopped": self.stopped,
            "asks": list(self.choices),
        }
        return {key: each for key, each in value.items() if each}

    def to_json(self) -> dict[str, Any]:
        """The job as a flow of the record."""
        place = self.place
        seldom = {
            "args": dict(self.arguments),
            "every": self.every,
            "zone": self.zone,
            "tries": self.tries,
            "to": self.to,
            "stopped": self.stopped,
            "made": self.made,
            "choices": [list(each) for each in self.choices.items()],  # some stores keep no order of keys
        }
        where = [place.chat, place.topic, place.business_connection, place.person]
        noted = {key: value for key, value in seldom.items() if value}
        return {"data": {"name": self.name, "at": self.at, "place": where, **noted}}

    @classmethod
    def from_json(cls, job_id: str, flow: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        value = flow["data"]
        return cls(
            id=job_id,
            name=value["name"],
            arguments=value.get("args", {}),
            at=value["at"],
            every=value.get("every"),
            zone=value.get("zone", ""),
            tries=value.get("tries", 0),
            place=Place(*value["place"]),
            to=value.get("to", ""),
            stopped=value.get("stopped", ""),
            made=value.get("made", 0),
            choices=dict(value.get("choices", ())),
        )

    def next(self, now: int) -> "Job":
        """The job as it is to be done next, after `now`: what was missed meanwhile is left out."""
        return replace(self, at=self._times(now)[1], tries=0)

    def newest(self, now: int) -> "Job":
        """The job at the newest of its times that are over: the others were missed."""
        return replace(self, at=self._times(now)[0])

    def _times(self, now: int) -> tuple[int, int]:
        """The last of the job's times until `now`, if not its first, and the one after that."""
        assert self.every
        step = int(self.every * MICROSECONDS)
        if not self.zone:
            over = self.at + step * max(0, (now - self.at) // step)
            return over, over + step
        days, zone, over = timedelta(seconds=self.every), ZoneInfo(self.zone), self.at
        local = self.when.astimezone(zone) + days  # by the clock on the wall
        while (at := microseconds(local)) <= now:
            over, local = at, local + days
        return over, at


class Timetable:
    """The store's time, and what is due soon as far as this process knows.

    Attributes:
        shift: microseconds by which to be ahead of the store, for tests that do not wait.
    """

    def __init__(self) -> None:
        """Take this machine's clock until the store's is known."""
        self.shift = 0
        self.noted: Callable[[], None] = lambda: None
        self._clock = StoreClock()
        self._due: dict[str, tuple[int, int]] = {}  # when to look, and when it is due
        self._order: list[tuple[int, str]] = []  # a heap; what is not in `_due` as it stands there is over

    def now(self) -> int:
        """The store's time, in microseconds since 1970: it may be a little later, and is not before."""
        return monotonic() + self._clock.least + self.shift

    async def ask(self, store: StateStore, within: float = 0, most: int = 1) -> Agenda:
        """Ask a store what is due, see `StateStore.due`, and note what its clock says."""
        before = monotonic()
        agenda = await store.due(within, most)
        self._clock.hear(agenda.now, before, agenda.unsure)
        return agenda

    def at(self, when: timedelta | datetime) -> int:
        """When that is, in microseconds since 1970.

        Raises:
            ValueError: a `datetime` without a time zone.
        """
        if isinstance(when, timedelta):
            return monotonic() + self._clock.most + self.shift + when // timedelta(microseconds=1)
        return microseconds(when)

    def note(self, record: str, at: int, *, early: float = 0) -> None:
        """Note when a record has something to do.

        Args:
            record: its id.
            at: when, in microseconds since 1970; `NEVER` for nothing.
            early: seconds before that to look at it, for others not to be first.
        """
        looks = at - int(early * MICROSECONDS)
        if not at or looks > self.now() + NOTED_SECONDS * MICROSECONDS:
            self._due.pop(record, None)
            return
        self._due[record] = looks, at
        heapq.heappush(self._order, (looks, record))
        if self._order[0][0] == looks:
            self.noted()

    def take(self, most: int) -> list[tuple[str, int]]:
        """Those to look at now, and when they are due: so many at most. They are noted no longer."""
        due: list[tuple[str, int]] = []
        while len(due) < most and self.seconds_to_next() == 0:
            _, record = heapq.heappop(self._order)
            due.append((record, self._due.pop(record)[1]))
        return due

    def seconds_to_next(self) -> float:
        """How long until there is one to look at."""
        while self._order and self._due.get(self._order[0][1], (0, 0))[0] != self._order[0][0]:
            heapq.heappop(self._order)
        return max(0.0, (self._order[0][0] - self.now()) / MICROSECONDS) if self._order else math.inf

    def due_after(self, flows: Mapping[str, Any], *, owes: bool) -> int:
        """When a record with these jobs has something to do.

        Args:
            flows: the record's.
            owes: whether it owes replies; whoever sends them may be dead.
        """
        due = first_due(flows)
        again = self.now() + OWED_SECONDS * MICROSECONDS if owes else due
        return min(due, again) if due else again

    def note_commit(self, record: str, due: int | None, *, owes: bool) -> None:
        """Note what a commit of this process said."""
        if due is not None:
            self.note(record, due, early=OWN_SECONDS if owes else 0)


def microseconds(when: datetime) -> int:
    """When that is, in microseconds since 1970.

    Raises:
        ValueError: it has no time zone.
    """
    if when.tzinfo is None:
        raise ValueError("a time without a time zone is none: datetime.now(UTC), or tzinfo=ZoneInfo(...)")
    return (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def new_job(
    method: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    at: int,
    every: float | None = None,
    zone: str = "",
    place: Place,
    to: str = "",
    choices: Mapping[str, str] | None = None,
) -> Job:
    """Make a job of a call.

    Raises:
        TypeError: the method is not marked, or does not take these arguments.
        StateValueError: an argument is not JSON.
    """
    options: JobOptions | None = getattr(method, "__job__", None)
    if options is None:
        raise TypeError(f"mark {getattr(method, '__name__', method)} with @job: only such methods run later")
    inspect.signature(method).bind(**arguments)
    for name, value in arguments.items():
        dumps(value, f"{options.name}({name}=)")
    return Job(
        id=secrets.token_hex(4),
        name=options.name,
        arguments=dict(arguments),
        at=at,
        every=every,
        zone=zone,
        place=place,
        to=to,
        choices=choices or {},
    )


def repeated(interval: timedelta, start: datetime | None, timetable: Timetable) -> tuple[int, float, str]:
    """When what is done every so often is done first, how many seconds lie between, and whose clock it keeps.

    Raises:
        ValueError: the interval is less than a second, or `start` has no time zone.
    """
    seconds = interval.total_seconds()
    if seconds < 1:
        raise ValueError("every needs an interval of a second at least")
    if start is None:
        return timetable.at(interval), seconds, ""
    zone = start.tzinfo.key if isinstance(start.tzinfo, ZoneInfo) and seconds % DAY == 0 else ""
    return microseconds(start), seconds, zone


def jobs_in(flows: Mapping[str, Any]) -> list[Job]:
    """The jobs of a record, those first that are due first."""
    found = [
        Job.from_json(name.removeprefix(JOB), value) for name, value in flows.items() if name.startswith(JOB)
    ]
    return sorted(found, key=lambda job: job.at)


def put_job(flows: dict[str, Any], job: Job) -> None:
    """Note a job in a record.

    Raises:
        StateError: too many wait already.
    """
    others = [each for each in jobs_in(flows) if each.id != job.id]
    stopped = [each for each in others if each.stopped]
    if job.stopped:
        for each in stopped[: max(0, len(stopped) + 1 - MOST_STOPPED)]:
            del flows[JOB + each.id]
    elif JOB + job.id not in flows and len(others) - len(stopped) >= MOST_JOBS:
        raise StateError(f"{MOST_JOBS} jobs wait already: cancel some of turn.jobs first")
    flows[JOB + job.id] = job.to_json()


def updates_in(flows: Mapping[str, Any]) -> list[tuple[str, int, dict[str, Any]]]:
    """The updates that wait in a record, by name, until when they do, and as Telegram sent them."""
    found = [
        (name, flow["data"]["at"], flow["data"]["raw"])
        for name, flow in flows.items()
        if name.startswith(UPDATE)
    ]
    # Not by their times: those of several processes differ by more than lies between two messages.
    return sorted(found, key=lambda each: flows[each[0]]["data"]["number"])


def next_number(flows: Mapping[str, Any]) -> int:
    """The number of the next update that is to wait in a record."""
    numbers = (flow["data"]["number"] for name, flow in flows.items() if name.startswith(UPDATE))
    return max(numbers, default=0) + 1


def hear(flows: dict[str, Any], counters: dict[str, list[int]], job: Job, now: int) -> None:
    """Note a job that comes from another record, unless it came before.

    Args:
        flows: of the record that it is for.
        counters: that record's; they note for `TOLD_SECONDS` what came.
        job: the job.
        now: the store's time.

    Raises:
        StateError: too many wait already.
    """
    if (mark := f"told:{job.id}") not in counters:
        put_job(flows, job)
        counters[mark] = [now // MICROSECONDS + TOLD_SECONDS, 1]


def first_due(flows: Mapping[str, Any]) -> int:
    """When the first of a record's jobs is due, or the updates in it are; `NEVER` if nothing is."""
    due = [each.at for each in jobs_in(flows) if not each.stopped]
    due += [at for _, at, _ in updates_in(flows)[-1:]]
    return min(due, default=NEVER)


async def reindex(store: OperatorStore, seen: Callable[[int], None]) -> tuple[int, int]:
    """Rebuild what says when records have something to do, from what is in them. Claims are left alone.

    Args:
        store: where the records are; the bot may run meanwhile.
        seen: told now and then of how many have been looked at.

    Returns:
        How many have something to do, and of how many nobody knew.

    Raises:
        StateUnavailable: the store did not answer; what was done so far stays.
    """

    async def listed() -> dict[str, int]:
        return dict((await timetable.ask(store, within=ALL_SECONDS, most=2**31 - 1)).due)

    await store.reindex()
    timetable = Timetable()
    known = await listed()
    looked = busy = found = 0
    async for record_id in store.users():
        looked += 1
        seen(looked)
        with suppress(StateCorrupt, StateConflict):  # whoever was first has said when it is due
            record = await store.load(record_id)
            owes = any(entry.is_owed for entry in record.outbox.values())
            if not owes and not first_due(record.fsm):
                continue
            busy += 1
            due = timetable.due_after(record.fsm, owes=owes)
            latest = max(due, timetable.now()) + PUT_OFF_SECONDS * MICROSECONDS
            if known.get(record_id, math.inf) > latest:
                # It may be claimed since the index was listed; of those that are lost there are few.
                known = await listed()
            if known.get(record_id, math.inf) > latest:
                await store.commit(record_id, Changes(due=due), expect=record.version)
                found += 1
    return busy, found


class Claim:
    """What this process has taken of a record, and until when.

    Attributes:
        record: the record.
        until: when it is due again, in microseconds since 1970.
        count: how often it was claimed, with this time, since a commit said when it is due.
        is_held: whether it is still this process'.
        is_brief: whether it is to be given back after the next work, for others to have their turn.
    """

    def __init__(self, store: StateStore, now: Callable[[], int], record: str, seen: int) -> None:
        """Make it; nothing is claimed yet.

        Args:
            store: where the record is.
            now: tells the store's time.
            record: the record.
            seen: when it was due.
        """
        self._store, self._now = store, now
        self.record = record
        self.until = seen
        self.count = 0
        self.is_held = self.is_brief = False
        self._lock = asyncio.Lock()

    @property
    def poison(self) -> JobStopped | None:
        """Why the next work of the record is not to be tried again, if it has ended too many processes."""
        if self.count <= MOST_CLAIMS:
            return None
        return JobStopped(f"the process ended {MOST_CLAIMS} times while it ran")

    @property
    def is_suspect(self) -> bool:
        """Whether each process ended that was at what it does next, and one more time is to decide."""
        return self.count == MOST_CLAIMS

    async def take(self, counts: int) -> bool:
        """Claim it, or prolong that; whether it is this process'. See `StateStore.claim` for `counts`."""
        async with self._lock:
            until = self._end()
            count = await self._store.claim(self.record, self.until, until, counts)
            if count:
                self.until, self.count = until, count
            self.is_held = count > 0
            return self.is_held

    async def holds(self) -> bool:
        """Whether it is still this process', which may have slept past its end: nobody else has begun."""
        while self._now() >= self.until:  # it may sleep again before it knows the answer
            if not await self.take(0):
                return False
        return True

    async def renew(self, commit: Callable[[int], Awaitable[object]]) -> None:
        """Prolong it by a commit, which begins to count anew.

        Args:
            commit: is given when the record is due then.

        Raises:
            LeaseLost: it is somebody else's by now.
        """
        if not await self.holds():
            raise LeaseLost("another process has taken it over")
        async with self._lock:
            await commit(until := self._end())
            self.until, self.count = until, 1

    def _end(self) -> int:
        return max(self._now() + int(CLAIM_SECONDS * MICROSECONDS), self.until + 1)

    async def prolong(self) -> None:
        """Keep it until cancelled, or until it is somebody else's."""
        while True:
            await asyncio.sleep(CLAIM_SECONDS / 3)
            with suppress(StateUnavailable):
                if not await self.take(0):
                    return

    async def leave(self, due: int, counts: int = 0) -> None:
        """Say when the record has something to do instead."""
        with suppress(StateUnavailable):  # then the claim ends by itself
            await self._store.claim(self.record, self.until, due, counts)
