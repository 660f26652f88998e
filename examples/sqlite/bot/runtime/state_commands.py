"""`bot state`: list, show, export, import and erase what is kept about users."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bot.runtime.chosen import ENGINE
from bot.runtime.errors import OperatorError

if TYPE_CHECKING:
    from bot.runtime.state.store import OperatorStore

state = typer.Typer(help="List, show, export, import and erase users' records.", no_args_is_help=True)

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
        from bot.runtime.state.record import is_waiting

        async for user_id in store.users():
            if not is_waiting(user_id):
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
        typer.echo(_pretty(record.to_json() | {"version": record.version}))

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
        TextColumn("{task.completed:.0f} users {task.description}"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda count: progress.update(task, completed=count)


def _pretty(value: Any) -> str:
    import orjson

    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
