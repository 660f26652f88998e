"""Runs jobs when they are due, and sends what records owe: each by one of the bot's processes.

The store's index says which records have something to do; a claim has one process look at a record. Killed
there, it leaves the claim to end, and another one goes on. What counts is the record: a job's commit takes
the job away and names the version that it was computed from, so its effect is kept once, whoever else ran it.
"""

import asyncio
import hashlib
import inspect
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

import structlog
from aiogram.methods import SendMessage, TelegramMethod

from bot.runtime import metrics
from bot.runtime.errors import (
    JobStopped,
    OperatorError,
    StateConflict,
    StateCorrupt,
    StateError,
    StateTooLarge,
    StateUnavailable,
    WrongReply,
)
from bot.runtime.state.codec import clean, dumps
from bot.runtime.state.fsm import moved_to, upgrade_group
from bot.runtime.state.jobs import JOB, MICROSECONDS, Claim, Job, JobOptions, jobs_in, put_job, updates_in
from bot.runtime.state.record import FORGETTING, UserRecord, address_of, is_waiting
from bot.runtime.state.store import Changes, StateStore, next_version
from bot.runtime.state.turn import COMMIT_ATTEMPTS, Incoming, Turn, give_way, load_again, mutate
from bot.runtime.telegram.agent import TelegramAgentAdapter, forget_in_shared_records
from bot.runtime.telegram.calls import Reply, options_of
from bot.runtime.telegram.outbox import Delivery, Outbox, files_of, outbox_changes_of
from bot.runtime.telegram.texts import TextTable
from bot.runtime.telegram.transaction import ON_ERROR_SECONDS, limited, with_applied

LOOKS_AHEAD = 5.0
"""Seconds ahead of which it is noted what will be due, so that it begins on time."""

FIRST_RETRY = 30.0
"""Seconds before a job that raised is tried again; doubled each time."""

CORRUPT_SECONDS = 3600.0
"""Seconds before a record is looked at again that cannot be read."""

SENDING_SECONDS = 30.0
"""Seconds for which `run_once` waits for what the jobs say."""

TELL_AGAIN = 3600
"""Seconds in which administrators are told once of jobs of the same name."""

AWAY_SECONDS = 5.0
"""Seconds before the store is asked again that did not answer."""

QUEUE = 2**40
"""Stands for the queue of an update, which is a smaller number."""

log = structlog.get_logger()


def jobs_of(agent: type) -> dict[str, str]:
    """The methods of an agent that run as jobs, by the jobs' names.

    Raises:
        OperatorError: two have the same.
    """
    found: dict[str, str] = {}
    for attribute in dir(agent):
        options = getattr(inspect.getattr_static(agent, attribute), "__job__", None)
        if isinstance(options, JobOptions) and found.setdefault(options.name, attribute) != attribute:
            both = f"{found[options.name]} and {attribute}"
            raise OperatorError(f"two jobs are called {options.name}, {both}: give one another @job(name=)")
    return found


class JobRunner:
    """Looks for what is due, and does it."""

    def __init__(
        self,
        store: StateStore,
        agent: TelegramAgentAdapter,
        outbox: Outbox,
        texts: TextTable,
        *,
        seconds: float,
        poll: float,
        most: int,
        is_ours: Callable[[str], bool],
        empty: Callable[[Claim], Awaitable[None]],
        gather: Callable[[str, Exception | None, Callable[[], Awaitable[bool]]], Awaitable[Delivery | None]],
        admins: Collection[int | str] = (),
    ) -> None:
        """Make it; nothing runs yet.

        Args:
            store: where the records are.
            agent: whose methods run.
            outbox: sends what they say.
            texts: what is said in place of a reply that cannot be sent.
            seconds: how long a job may run.
            poll: seconds between two looks at the store.
            most: jobs that run at the same time.
            is_ours: which records to look after.
            empty: handles the updates that wait for a record.
            gather: handles the parts that wait in a record as one update, as long as the last argument says
                that this process is to; with an exception, it apologises.
            admins: who is told of jobs that were given up: those among them that are ids.

        Raises:
            OperatorError: two of the agent's jobs have one name.
        """
        self._store, self._agent, self._outbox, self._texts = store, agent, outbox, texts
        self._methods = jobs_of(type(agent))
        self._timetable = agent.timetable
        self._seconds, self._poll, self._most = seconds, poll, most
        self._is_ours, self._empty, self._gather = is_ours, empty, gather
        self._admins = [admin for admin in admins if isinstance(admin, int)]
        self._told: dict[str, float] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._working: set[Claim] = set()
        self._suspects = 0  # that wait to be worked on alone, or are
        self._alone, self._worked = asyncio.Lock(), asyncio.Event()
        self._missed: dict[str, int] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._is_closing = False
        self._outcomes = Counter[str]()
        self._timetable.noted = self._wake.set

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs."""
        return not self._running

    async def run(self) -> None:
        """Do what becomes due, until cancelled."""
        look_at = 0.0
        while True:
            if (now := time.monotonic()) >= look_at:
                pause = self._poll
                try:
                    if await self._look():
                        pause = 0.1  # there is more than can be done at once
                except StateUnavailable as error:
                    self._outbox.outage.goes_on(reason=str(error))
                    pause = max(pause, AWAY_SECONDS)
                except Exception as error:  # whatever a driver raises
                    log.warning("jobs not looked for", reason=type(error).__name__)
                    pause = max(pause, AWAY_SECONDS)
                look_at = now + pause * random.uniform(0.9, 1.1)
            self._begin()
            seconds = look_at - time.monotonic()
            if len(self._running) < self._most and not self._suspects:
                seconds = min(seconds, self._timetable.seconds_to_next())
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0, seconds)):
                    await self._wake.wait()
            self._wake.clear()

    async def run_once(self) -> Counter[str]:
        """Do all that is due now, and what that leads to; wait for what it says, if that can be sent soon.

        Returns:
            How many jobs ended how: `done`, `expired`, `retried` (later), `failed`, or `put off`.

        Raises:
            StateUnavailable: the store does not answer.
        """
        before = self._outcomes.copy()
        while True:
            await self._look()
            self._begin()
            if not self._running:
                break
            await asyncio.wait(self._running.values())
        if self._sending:
            await asyncio.wait(self._sending, timeout=SENDING_SECONDS)
        return self._outcomes - before

    async def drain(self, timeout: float) -> None:
        """Begin nothing any more; what takes longer than `timeout` seconds is left to another process."""
        self._is_closing = True
        if tasks := set(self._running.values()):
            log.info("finishing jobs", jobs=len(tasks))
            _, late = await asyncio.wait(tasks, timeout=max(0, timeout))
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> bool:
        """Note what is due, or will be soon; whether that was more than could be listed."""
        free = most = max(1, self._most - len(self._running))
        ahead = max(LOOKS_AHEAD, 1.5 * self._poll) + self._timetable.shift / MICROSECONDS
        while True:
            agenda = await self._timetable.ask(self._store, ahead, most)
            ours = [(record, at) for record, at in agenda.due if self._is_ours(record)]
            if ours or len(agenda.due) < most:
                break
            most *= 4  # what others have to do may hide it
        self._outbox.outage.ends()
        for record, at in ours:
            if record not in self._running:
                self._timetable.note(record, at)
        return len(agenda.due) >= free and agenda.due[-1][1] <= agenda.now

    def _begin(self) -> None:
        if self._is_closing or self._suspects:
            return
        for record, at in self._timetable.take(self._most - len(self._running)):
            if record in self._running:
                self._missed[record] = at
            elif self._is_ours(record):
                self._running[record] = asyncio.create_task(self._work(record, at))

    async def _work(self, record: str, seen: int) -> None:
        structlog.contextvars.bind_contextvars(user_id=record)
        claim = Claim(self._store, self._timetable.now, record, seen)
        try:
            if await claim.take(1):
                prolonging = asyncio.create_task(claim.prolong())
                try:
                    if record == FORGETTING:
                        await forget_in_shared_records(self._agent, claim, self._seconds)
                    elif claim.is_suspect:
                        await self._work_alone(claim)
                    elif self._suspects:
                        self._missed[record] = seen
                        await claim.leave(seen, -1)
                    else:
                        await self._work_on(claim)
                finally:
                    prolonging.cancel()
        except asyncio.CancelledError:
            await claim.leave(seen, -1)
        except StateUnavailable as error:
            self._outcomes["put off"] += 1
            self._outbox.outage.goes_on(reason=str(error))
            await claim.leave(self._timetable.now() + int(AWAY_SECONDS * MICROSECONDS), -1)
        except StateCorrupt as error:
            self._outcomes["put off"] += 1
            log.error("record is corrupt, see `bot state show --raw`", reason=str(error))
            await claim.leave(self._timetable.now() + int(CORRUPT_SECONDS * MICROSECONDS), -1)
        except Exception as error:  # whatever a driver raises: it is due again when the claim ends
            if self._is_closing:
                await claim.leave(seen, -1)
            self._outcomes["put off"] += 1
            log.warning(
                "job not done yet", reason=str(error) if isinstance(error, StateError) else repr(type(error))
            )
        finally:
            del self._running[record]
            if at := self._missed.pop(record, None):
                self._timetable.note(record, at)
            self._wake.set()

    async def _work_alone(self, claim: Claim) -> None:
        """Work on what may have ended several processes while nothing else of this kind is under way.

        If it ends this one, it did so by itself. What was only under way when another did is not given up.
        """
        self._suspects += 1
        try:
            await claim.take(-1)  # it does not run yet
            async with self._alone:
                for each in self._working:
                    each.is_brief = True
                while self._working:
                    self._worked.clear()
                    await self._worked.wait()
                if await claim.take(1):
                    claim.is_brief = True
                    await self._work_on(claim)
        finally:
            self._suspects -= 1

    async def _work_on(self, claim: Claim) -> None:
        self._working.add(claim)
        try:
            if is_waiting(claim.record):
                await self._empty(claim)
            else:
                await self._do_next(claim)
        finally:
            self._working.discard(claim)
            self._worked.set()

    async def _do_next(self, claim: Claim) -> None:
        """Do what the record has to do first."""
        async with self._agent.lanes.hold(claim.record):
            for attempt in range(COMMIT_ATTEMPTS):
                record = await self._store.load(claim.record)
                sorry = self._texts.of(None).sorry_undelivered
                for owed in self._outbox.take_over(record, None, claim.record, sorry):
                    self._note_sending(owed)
                parts = updates_in(record.fsm)
                are_over = bool(parts) and parts[-1][1] <= self._timetable.now()
                jobs = [each for each in jobs_in(record.fsm) if not each.stopped]
                if not are_over and (not jobs or jobs[0].at > self._timetable.now()):
                    owes = any(entry.is_owed for entry in record.outbox.values())
                    due = self._timetable.due_after(record.fsm, owes=owes)
                    await claim.leave(due, -1)  # no job ran
                    self._timetable.note_commit(claim.record, due, owes=owes)
                    return
                if moves := moved_to(record) if not are_over else None:
                    break
                if not are_over and jobs[0].to:
                    break
                try:
                    if not are_over:
                        return await self._do(record, jobs[0], claim.poison)
                    if delivery := await self._gather(claim.record, claim.poison, claim.holds):
                        await self._outbox.moved(delivery)
                    return
                except StateConflict:
                    metrics.CONFLICTS.inc()
                    await give_way(attempt)
                    if not await claim.take(0):
                        return  # that commit said when the record is due
            else:
                raise StateConflict(f"others committed first, {COMMIT_ATTEMPTS} times in a row", claim.record)
        # Outside of this record's lane: another one's may wait for it.
        if moves:
            await upgrade_group(self._store, address_of(claim.record)[0], moves, self._agent.lanes)
        else:
            await self._tell(claim.record, jobs[0])

    async def _tell(self, teller: str, told: Job) -> None:
        """Hand a job over to the record that it is for."""

        async def arrive(turn: Turn) -> None:
            turn.hear(replace(told, to=""))

        async def drop(turn: Turn) -> None:
            turn.cancel(told.id)

        change = partial(mutate, self._store, lanes=self._agent.lanes, timetable=self._timetable)
        try:
            await change(told.to, arrive)
        except (StateUnavailable, StateConflict):
            raise
        except StateError as error:
            log.error("told nobody: that record takes no more", record=told.to, reason=str(error))
        await change(teller, drop)

    async def _do(self, record: UserRecord, job: Job, poison: JobStopped | None) -> None:
        """Run a job, commit what it changed, and begin to send what it says."""
        with suppress(ZoneInfoNotFoundError):  # which is told below
            job = job.newest(self._timetable.now()) if job.every else job
        late = self._timetable.now() - job.at
        conversation = job.place.conversation(record.user_id)
        if conversation:
            record = await load_again(self._store, record, conversation)
        with structlog.contextvars.bound_contextvars(job=job.name):
            key = next_version(max(record.version, self._timetable.now()))
            turn = self._turn(record, job)
            without = turn.as_loaded()
            outcome = "done"
            try:
                if job.every:
                    put_job(turn.fsm, job.next(self._timetable.now()))
                else:
                    turn.cancel(job.id)
                if (work := self._work_of(job, late, poison)) is None:
                    outcome = "expired"
                else:
                    await self._run(turn, work)
                replies = await self._commit(turn, record, key)
            except (StateUnavailable, StateConflict):
                raise
            except Exception as error:
                without.counters |= turn.own_counts
                outcome, turn = await self._failed(without, job, error)
                try:
                    replies = await self._commit(turn, record, key)
                except StateTooLarge:  # not even this fits
                    replies = []
                    await self._commit_job(turn, record, job)
            self._outcomes[outcome] += 1
            metrics.JOBS.labels(outcome).inc()
            metrics.JOB_LATE_SECONDS.observe(max(0, late) / MICROSECONDS)
            log.info("job over", outcome=outcome, late=round(max(0, late) / MICROSECONDS, 3))
            if outcome == "failed":
                self._tell_admins(job.name)
            await self._deliver(record.user_id, job, key, replies, turn)

    def _turn(self, record: UserRecord, job: Job) -> Turn:
        return Turn(
            record,
            self._store.limits,
            incoming=Incoming(place=job.place),
            timetable=self._timetable,
            job=job,
            memory=self._agent.remembers,
        )

    def _work_of(
        self, job: Job, late: int, poison: JobStopped | None
    ) -> Callable[[], Coroutine[Any, Any, Any]] | None:
        """What to run; `None` when it is too late for that.

        Raises:
            JobStopped: it cannot be run.
        """
        name = self._methods.get(job.name)
        if name is None:
            raise JobStopped(f"no method is marked @job(name={job.name!r}) any more")
        method = getattr(self._agent, name)
        options: JobOptions = method.__job__
        if options.expires is not None and late > options.expires * MICROSECONDS:
            log.warning("job dropped: it is too late for it", late=round(late / MICROSECONDS))
            return None
        if poison:
            raise poison
        try:
            inspect.signature(method).bind(**job.arguments)
        except TypeError as error:
            raise JobStopped("the method no longer takes the arguments that were kept") from error
        return partial(method, **job.arguments)

    async def _run(self, turn: Turn, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        async def run() -> Any:
            with turn.active():
                result = await work()
                for each in result if isinstance(result, list | tuple) else [result]:
                    if isinstance(each, TelegramMethod):
                        turn.reply(each)
                    elif isinstance(each, str):
                        if each:
                            turn.remember("assistant", each)
                            turn.reply(_message(turn, each, **options_of(self._agent.format)))
                    elif each is not None:
                        raise WrongReply(
                            f"a job returned {type(each).__name__}: return a text, a method or nothing"
                        )

        await limited(run(), self._seconds, turn)

    async def _failed(self, turn: Turn, job: Job, error: Exception) -> tuple[str, Turn]:
        """What becomes of a job that could not be done, and a turn that notes it."""
        method = getattr(self._agent, self._methods.get(job.name, ""), None)
        options: JobOptions | None = getattr(method, "__job__", None)
        if isinstance(error, ZoneInfoNotFoundError) and job.zone:
            error = JobStopped(
                f"the time zone {job.zone} is unknown here: put the package tzdata into the project"
            )
        stopped = isinstance(error, JobStopped)
        if options and not stopped and job.tries < options.retries:
            delay = int(FIRST_RETRY * 2**job.tries * MICROSECONDS)
            again = replace(job, at=self._timetable.now() + delay, tries=job.tries + 1, choices={})
            put_job(turn.fsm, again)
            log.warning("job failed; it is tried again", exc_info=error, seconds=delay / MICROSECONDS)
            return "retried", turn
        log.error("job failed", exc_info=None if stopped else error, reason=str(error) if stopped else None)
        reason = str(error) if stopped else type(error).__name__
        if job.every and not stopped:
            put_job(turn.fsm, job.next(self._timetable.now()))
        else:
            put_job(turn.fsm, replace(job, stopped=reason, choices={}))
        aside = turn.as_loaded()

        async def ask() -> str | None:
            with aside.active():
                return await self._agent.on_error(error)

        try:
            chosen: str | None = await limited(ask(), ON_ERROR_SECONDS, aside)
            if chosen:
                turn.reply(_message(turn, clean(chosen)))
        except Exception:
            log.exception("on_error failed itself")
        return "failed", turn

    async def _commit(self, turn: Turn, record: UserRecord, key: int) -> list[Reply]:
        """Commit a job's turn; what it says, which waits in the record then.

        Raises:
            StateError: as `StateStore.commit` says, and `Turn.fitted_changes`.
        """
        replies = await self._outbox.prepare_all(turn.replies, key, place=_params(turn))
        outbox = outbox_changes_of(record, key, replies, self._outbox.is_delivered)
        changes = await turn.fitted_changes(self._store, outbox, owes=bool(replies))
        assert changes is not None, "the job itself has changed"
        changes = replace(changes, outbox=outbox, files=files_of(replies))
        if replies:
            changes = with_applied(changes, record, key, QUEUE, None)
        await self._store.commit(record.user_id, changes, expect=record.version)
        self._timetable.note_commit(record.user_id, changes.due, owes=bool(replies))
        return replies

    async def _commit_job(self, turn: Turn, record: UserRecord, job: Job) -> None:
        """Commit nothing but what becomes of a job, however large the record is."""
        name = JOB + job.id
        fsm = {name: dumps(turn.fsm[name], "job") if name in turn.fsm else None}
        changes = Changes(fsm=fsm, due=turn.due(fsm, {}, owes=False))
        await self._store.commit(record.user_id, changes, expect=record.version)
        self._timetable.note_commit(record.user_id, changes.due, owes=False)

    def _tell_admins(self, name: str) -> None:
        """Tell administrators that a job was given up, if nobody has told them of its like lately."""
        if self._told.get(name, 0) > (now := time.monotonic()):
            return
        self._told[name] = now + TELL_AGAIN
        for admin in self._admins:
            self._agent.background(self._tell_admin, str(admin), name)

    async def _tell_admin(self, admin: str, name: str) -> None:
        mark = f"told:{hashlib.sha256(name.encode()).hexdigest()[:16]}"

        async def is_news(turn: Turn) -> bool:
            now = self._timetable.now() // MICROSECONDS
            if turn.counters.get(mark, [0])[0] > now:
                return False
            turn.counters[mark] = [now + TELL_AGAIN, 1]
            return True

        if await mutate(self._store, admin, is_news, lanes=self._agent.lanes, timetable=self._timetable):
            text = (
                f"The job {name} was given up. `bot jobs failed` shows why, `bot jobs retry` runs it again."
            )
            await self._agent.send(admin, text)

    def _note_sending(self, delivery: Delivery) -> None:
        if delivery.task and not delivery.task.done():
            self._sending.add(delivery.task)
            delivery.task.add_done_callback(self._sending.discard)

    async def _deliver(self, record: str, job: Job, key: int, replies: list[Reply], turn: Turn) -> None:
        if not replies:
            return turn.committed()
        delivery = self._outbox.begin(
            Delivery(
                update_id=key,
                replies=replies,
                lane=record,
                user_id=record,
                chat=str(job.place.chat or ""),
                sorry=self._texts.of(None).sorry_undelivered,
                then=turn.committed,
                is_owed=True,
            )
        )
        self._note_sending(delivery)
        await self._outbox.moved(delivery)


def _params(turn: Turn) -> dict[str, str]:
    """The place of a turn, as the parameters of a message to there."""
    place = turn.place
    values = {
        "chat_id": place.chat,
        "message_thread_id": place.topic,
        "business_connection_id": place.business_connection,
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def _message(turn: Turn, text: str, **options: Any) -> SendMessage:
    place = turn.place
    if place.chat is None:
        raise JobStopped("the job was made in no chat: send what it says to one")
    return SendMessage(
        chat_id=place.chat,
        message_thread_id=place.topic,
        business_connection_id=place.business_connection,
        text=text,
        **options,
    )
