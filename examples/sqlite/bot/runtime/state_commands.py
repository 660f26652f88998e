"""`bot state` and `bot jobs`: what is kept about users, and what the bot has to do for them later."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bot.runtime.chosen import ENGINE
from bot.runtime.errors import OperatorError

if TYPE_CHECKING:
    from bot.runtime.state.jobs import Job
    from bot.runtime.state.store import OperatorStore
    from bot.runtime.state.turn import Turn

state = typer.Typer(help="List, show, export, import and erase users' records.", no_args_is_help=True)

jobs = typer.Typer(help="List, run, retry and cancel what the bot has to do later.", no_args_is_help=True)

OF_GROUPS = {"ignore_unknown_options": True}
"""Has `-100123` be a record, and no option."""

Record = Annotated[str, typer.Argument(metavar="RECORD", help="The record's id; a person's is Telegram's.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id, as `bot jobs list` shows it.")]
OneRecord = Annotated[str, typer.Option("--record", metavar="RECORD", help="Of this record only.")]
Arguments = Annotated[
    bool, typer.Option("--arguments", help="Show arguments, too: they may be what people wrote.")
]

UserArgument = Annotated[str, typer.Argument(metavar="USER", help="The user's Telegram id.")]


def run_async(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` on uvloop where the platform has it."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        asyncio.run(work)
        return
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(work)


def _with_store(work: Callable[["OperatorStore"], Awaitable[None]]) -> None:
    """Run `work` with the store open, and close it. What it needs is imported here: `--help` answers at once.

    Raises:
        OperatorError: the store cannot be used, or keeps nothing outside the running bot.
    """
    from bot.runtime.engines import create_store
    from bot.runtime.errors import StateError, unusable
    from bot.runtime.logs import read_settings

    async def run() -> None:
        store = create_store(read_settings(log_level="WARNING"))
        if not store.survives_exit:
            raise OperatorError(
                f"the {store.name} store keeps nothing outside the running bot; in a chat, /export shows it"
            )
        try:
            await store.connect()
            await work(store)
        except StateError as error:
            raise unusable(store.name, error) from error
        finally:
            await store.close()

    run_async(run())


if find_spec(own := f"bot.runtime.engines.{ENGINE}.commands"):
    import_module(own).add_commands(state, _with_store)


@state.command("list")
def list_() -> None:
    """Print the ids of all users about whom something is kept, one to a line."""

    async def work(store: "OperatorStore") -> None:
        from bot.runtime.state.record import is_internal

        async for user_id in store.users():
            if not is_internal(user_id):
                print(user_id)

    _with_store(work)


@state.command("show")
def show(
    user: UserArgument,
    raw: Annotated[bool, typer.Option(help="As the backend stores it, even if it is corrupt.")] = False,
) -> None:
    """Print what is kept about a user."""

    async def work(store: "OperatorStore") -> None:
        if raw:
            print(await store.raw(user))
            return
        record = await store.load(user, None)
        if record.is_empty:
            raise OperatorError(f"nothing is kept about user {user}: `bot state list` shows about whom")
        from bot.runtime.state.jobs import jobs_in

        later = [job.shown() for job in jobs_in(record.fsm)]
        typer.echo(
            _pretty(record.to_json() | ({"jobs": later} if later else {}) | {"version": record.version})
        )

    _with_store(work)


@state.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="Where to write; - for standard output.")],
) -> None:
    """Write every user's record to FILE, as JSON Lines.

    Records that cannot be read are named on standard error. The others are then in FILE.partial, and FILE is
    left as it was.
    """
    from bot.runtime.logs import plain

    unreadable = 0

    def tell(error: Exception) -> None:
        nonlocal unreadable
        unreadable += 1
        print(plain(str(error)), file=sys.stderr)

    async def work(store: "OperatorStore") -> None:
        from bot.runtime.state.transfer import export_lines

        lines = export_lines(store, tell)
        if str(file) == "-":
            async for line in lines:
                sys.stdout.buffer.write(line)
            _check_whole(unreadable, "have been written")
            return
        partial = file.with_name(f"{file.name}.partial")
        count, is_kept = 0, False
        try:
            with partial.open("wb") as output, _progress("exported") as show:
                os.chmod(partial, 0o600)
                async for line in lines:
                    output.write(line)
                    count += 1
                    show(count)
            is_kept = unreadable > 0
            if not is_kept:
                partial.replace(file)
        except OSError as error:
            raise OperatorError(f"cannot write {file} ({error.strerror}): name another file") from error
        finally:
            if not is_kept:
                partial.unlink(missing_ok=True)
        _check_whole(unreadable, f"are in {partial}")
        print(f"exported {count} users to {file}")

    _with_store(work)


@state.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="What `bot state export` wrote.", exists=True, dir_okay=False)],
    with_forgotten: Annotated[
        bool, typer.Option("--with-forgotten", help="Also import users who were forgotten here.")
    ] = False,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="Add to records that exist, do not replace them. Keys of the state, and flows, that both "
            "have are taken from FILE, and all others stay. Messages that are missing are inserted by time.",
        ),
    ] = False,
) -> None:
    """Read users' records from FILE. A record that exists is replaced. Safe to repeat.

    Import before the bot runs: later, it takes users back to an older state. Users who were forgotten here
    are left out.
    """

    async def work(store: "OperatorStore") -> None:
        from bot.runtime.state.transfer import UnusableLine, import_lines

        done = 0, 0
        try:
            with file.open("rb") as lines, _progress("imported") as show:
                async for done in import_lines(store, lines, with_forgotten=with_forgotten, merge=merge):
                    show(done[0])
        except UnusableLine as error:
            raise OperatorError(f"{file}, {error}") from None
        imported, left_out = done
        print(f"imported {imported} users from {file}")
        if left_out:
            print(f"left out, because they were forgotten here: {left_out}")

    _with_store(work)


@state.command("check")
def check() -> None:
    """Read every record, and see whether its state fits what the agent declares. Nothing is changed.

    Exit code 1: some do not. They are named with the reason, and nothing of what people said is shown.
    """

    async def work(store: "OperatorStore") -> None:
        from bot.runtime.logs import plain
        from bot.runtime.telegram.fast_import import import_aiogram

        import_aiogram()
        from bot.runtime.app import load_owner
        from bot.runtime.errors import StateCorrupt
        from bot.runtime.state.record import is_internal
        from bot.runtime.state.shape import VERSION
        from bot.runtime.state.transfer import all_records

        shape = load_owner().agent("").remembers.shape
        if shape:
            shape.check()
        unfit = looked = older = 0

        def tell(error: Exception) -> None:
            nonlocal unfit
            unfit += 1
            typer.echo(plain(str(error)))

        with _progress("checked") as show:
            async for record in all_records(store, tell):
                looked += 1
                show(looked)
                if shape and record.state and not is_internal(record.user_id):
                    try:
                        shape.read(record.state, record.user_id)
                        older += record.state.get(VERSION, 0) < shape.version
                    except StateCorrupt as error:
                        tell(error)
        if unfit:
            raise OperatorError(
                f"{unfit} records do not fit, for the reasons above: mend Agent.upgrade, and check again; "
                "`bot state show --raw USER` shows what is stored"
            )
        print(f"checked {looked} records: all fit" + (f", {older} as soon as upgraded" if older else ""))

    _with_store(work)


@state.command("forget")
def forget(
    user: UserArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase everything kept about a user."""
    if not yes:
        typer.confirm(f"Erase everything kept about user {user}?", abort=True)

    async def work(store: "OperatorStore") -> None:
        from bot.runtime.state.record import waiting_for

        existed = await store.forget(user)
        await store.forget(waiting_for(user))
        print(f"forgot user {user}" if existed else f"nothing was kept about user {user}")

    _with_store(work)


@state.command("reindex")
def reindex() -> None:
    """Find again what records have to do later, should that have been lost. The bot may run meanwhile."""

    async def work(store: "OperatorStore") -> None:
        from bot.runtime.state.jobs import reindex

        with _progress("looked at") as show:
            busy, found = await reindex(store, show)
        print(f"{busy} records have something to do; {found} of them had been lost")

    _with_store(work)


@jobs.command("list")
def list_jobs(record: OneRecord = "", arguments: Arguments = False) -> None:
    """Print what waits, with when it is due, and what was stopped, with the reason."""
    _print_jobs(record, arguments, lambda _: True)


@jobs.command("failed")
def list_failed(record: OneRecord = "", arguments: Arguments = False) -> None:
    """Print what was stopped, with the reason."""
    _print_jobs(record, arguments, lambda job: bool(job.stopped))


@jobs.command("run")
def run_jobs(
    once: Annotated[bool, typer.Option("--once", help="Do what is due now, and end.")] = False,
) -> None:
    """Do what is due, for platforms that wake a bot up. Exit code 1: something failed, or was put off."""
    if not once:
        raise OperatorError("a running bot does its jobs by itself; `bot jobs run --once` does what is due")
    from bot.runtime.logs import read_settings

    settings = read_settings()
    _ = settings.token
    from bot.runtime.telegram.fast_import import import_aiogram

    import_aiogram()
    from bot.runtime import app

    async def work() -> None:
        outcomes = await app.run_jobs(settings)
        print(
            f"ran {outcomes.total()} jobs"
            + "".join(f", {outcomes[each]} {each}" for each in sorted(outcomes))
        )
        if outcomes["failed"] or outcomes["retried"] or outcomes["put off"]:
            raise typer.Exit(1)

    run_async(work())


@jobs.command("retry", context_settings=OF_GROUPS)
def retry(
    record: Annotated[str, typer.Argument(metavar="[RECORD]", help="The record's id.")] = "",
    id_argument: Annotated[str, typer.Argument(metavar="[ID]", help="The job's id.")] = "",
    all_: Annotated[bool, typer.Option("--all", help="All that were stopped, of every record.")] = False,
) -> None:
    """Have a stopped job run again, at once."""
    if all_ == bool(id_argument):
        raise OperatorError("give a record and a job of it, or --all: `bot jobs failed` lists them")

    async def work(store: "OperatorStore") -> None:
        if not all_:
            await _change_job(store, record, id_argument, _start)
            print(f"job {id_argument} runs again")
            return
        count = 0
        async for each, job in _all_jobs(store, ""):
            if job.stopped:
                await _change_job(store, each, job.id, _start)
                count += 1
        print(f"{count} jobs run again")

    _with_store(work)


@jobs.command("cancel", context_settings=OF_GROUPS)
def cancel(record: Record, job_id: JobId) -> None:
    """Drop a job, whether it waits or was stopped."""

    async def work(store: "OperatorStore") -> None:
        await _change_job(store, record, job_id, lambda turn, job: turn.cancel(job.id))
        print(f"job {job_id} is cancelled")

    _with_store(work)


def _start(turn: "Turn", job: "Job") -> None:
    from bot.runtime.state.jobs import put_job

    put_job(turn.fsm, replace(job, stopped="", tries=0, at=turn.now))


async def _change_job(
    store: "OperatorStore", record: str, job_id: str, change: Callable[["Turn", "Job"], object]
) -> None:
    """Change a job of a record.

    Raises:
        OperatorError: there is no such job.
    """
    from bot.runtime.state.jobs import Timetable
    from bot.runtime.state.turn import mutate

    timetable = Timetable()
    await timetable.ask(store)

    async def apply(turn: "Turn") -> None:
        found = [job for job in turn.jobs if job.id == job_id]
        if not found:
            raise OperatorError(f"record {record} has no job {job_id}: `bot jobs list` shows those there are")
        change(turn, found[0])

    await mutate(store, record, apply, timetable=timetable)


async def _all_jobs(store: "OperatorStore", record: str) -> AsyncIterator[tuple[str, "Job"]]:
    """The jobs of a record, or of all, and whose each is."""
    from bot.runtime.state.jobs import jobs_in

    if record:
        for job in jobs_in((await store.load(record)).fsm):
            yield record, job
        return
    async for user_id in store.users():
        for job in jobs_in((await store.load(user_id)).fsm):
            yield user_id, job


def _print_jobs(record: str, arguments: bool, is_wanted: Callable[["Job"], bool]) -> None:
    async def work(store: "OperatorStore") -> None:
        if record and (await store.load(record)).is_empty:
            raise OperatorError(f"nothing is kept about user {record}: `bot state list` shows about whom")
        async for each, job in _all_jobs(store, record):
            if is_wanted(job):
                shown = job.shown(arguments=arguments)
                said = [each, *(str(shown.pop(name)) for name in ("id", "name", "at"))]
                more = (
                    f"{name}={value if isinstance(value, str | int) else _line(value)}"
                    for name, value in shown.items()
                )
                typer.echo("  ".join([*said, *more]))

    _with_store(work)


def _check_whole(unreadable: int, others: str) -> None:
    """Raise `OperatorError` for an export that lacks records. `others` says where the rest is."""
    if unreadable:
        raise OperatorError(
            f"{unreadable} cannot be read, for the reasons above; the others {others}. "
            "`bot state show --raw USER` shows what is stored, `bot state forget USER` erases it"
        )


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int], None]]:
    """A progress line on standard error, when that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed:.0f} records {task.description}"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda count: progress.update(task, completed=count)


def _pretty(value: Any) -> str:
    import orjson

    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _line(value: Any) -> str:
    import orjson

    return orjson.dumps(value).decode()
