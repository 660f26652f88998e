"""The command line. Each command imports what it needs, so that `--help` answers at once."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bot.errors import OperatorError
from bot.state.engine import add_commands

if TYPE_CHECKING:
    from bot.config import Settings
    from bot.state.store import Finding, StateStore

cli = typer.Typer(
    help="Run this bot, talk to it, and look after what it keeps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
state = typer.Typer(help="Look at, move and erase what is kept about users.", no_args_is_help=True)
cli.add_typer(state, name="state")
add_commands(state)

LAST_SECONDS = 5.0
"""Seconds beyond SHUTDOWN_TIMEOUT for what is quick: confirming, closing connections."""

UserArgument = Annotated[str, typer.Argument(metavar="USER", help="The user's Telegram id.")]


def main() -> None:
    """Run the command line; what the operator can mend is one line on standard error and exit code 1."""
    try:
        cli()
    except OperatorError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


@cli.command()
def run(
    skip: Annotated[
        int | None,
        typer.Option(metavar="UPDATE_ID", help="Acknowledge this update without handling it: it is harmful."),
    ] = None,
) -> None:
    """Run the bot: by webhook when WEBHOOK_URL is set, else by long polling."""
    settings = _settings()
    _ = settings.token
    _import_aiogram()
    from bot import app

    async def work() -> None:
        stop = _stop_on_signals(at_the_latest=settings.shutdown_timeout + LAST_SECONDS)
        await app.run(settings, stop, skip=skip)

    _run(work())


@cli.command()
def chat(
    user: Annotated[int, typer.Option(min=1, help="The Telegram id to be.")] = 1,
) -> None:
    """Talk to the bot in the terminal: no token, no network, the same store."""
    settings = _settings(log_level="WARNING")
    _import_aiogram()
    from bot.telegram import console

    _run(console.chat(settings, user))


@cli.command()
def migrate() -> None:
    """Create or upgrade what the store's backend has to hold."""

    async def work() -> None:
        from bot.state.engine import create_store
        from bot.state.store import StateError

        store = create_store(_settings(log_level="WARNING"))
        try:
            print(await store.migrate())
        except StateError as error:
            raise OperatorError(str(error)) from error
        finally:
            await store.close()

    _run(work())


@cli.command()
def doctor() -> None:
    """Check settings, store and Telegram; exit with 1 when something is in the way of running."""
    from bot.doctor import examine

    async def work() -> None:
        findings = await examine(_settings(log_level="ERROR"))
        for finding in findings:
            _print_finding(finding)
        if any(finding.level == "error" for finding in findings):
            raise typer.Exit(1)

    _run(work())


@state.command("show")
def show(
    user: UserArgument,
    raw: Annotated[bool, typer.Option(help="As the backend holds it, corrupt or not.")] = False,
) -> None:
    """Print what is kept about a user."""

    async def work() -> None:
        async with _open_store() as store:
            if raw:
                print(await store.raw(user))
                return
            record = await store.load(user)
            if record.is_empty:
                raise OperatorError(f"nothing is kept about user {user}")
            typer.echo(_pretty(record.to_json() | {"version": record.version}))

    _run(work())


@state.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="Where to write; - for standard output.")],
) -> None:
    """Write every user's record to FILE, as JSON Lines.

    Records that cannot be read are named on standard error. The others are then in FILE.partial, and FILE is
    left as it was.
    """
    unreadable = 0

    def tell(error: Exception) -> None:
        nonlocal unreadable
        unreadable += 1
        print(error, file=sys.stderr)

    async def work() -> None:
        from bot.state.transfer import export_lines

        async with _open_store() as store:
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
                raise OperatorError(f"cannot write {file}: {error.strerror}") from error
            finally:
                if not is_kept:
                    partial.unlink(missing_ok=True)
            _check_whole(unreadable, f"are in {partial}")
            print(f"exported {count} users to {file}")

    _run(work())


@state.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="What `bot state export` wrote.", exists=True, dir_okay=False)],
    with_forgotten: Annotated[
        bool, typer.Option("--with-forgotten", help="Also bring back users who were forgotten here.")
    ] = False,
) -> None:
    """Read users' records from FILE; a user who is already there is replaced. Safe to repeat.

    Do it before the bot runs: later, it takes users back to where they were. Those forgotten here stay so.
    """

    async def work() -> None:
        from bot.state.transfer import UnusableLine, import_lines

        async with _open_store() as store:
            done = 0, 0
            try:
                with file.open("rb") as lines, _progress("imported") as show:
                    async for done in import_lines(store, lines, with_forgotten=with_forgotten):
                        show(done[0])
            except UnusableLine as error:
                raise OperatorError(f"{file}, {error}") from None
            imported, left_out = done
            print(f"imported {imported} users from {file}")
            if left_out:
                print(f"left out, because they were forgotten here: {left_out}")

    _run(work())


@state.command("forget")
def forget(
    user: UserArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase everything kept about a user."""
    if not yes:
        typer.confirm(f"Erase everything kept about user {user}?", abort=True)

    async def work() -> None:
        async with _open_store() as store:
            existed = await store.forget(user)
            print(f"forgot user {user}" if existed else f"nothing was kept about user {user}")

    _run(work())


def _settings(**defaults: Any) -> "Settings":
    """Read the settings and set up logs; `defaults` hold where the environment says nothing."""
    from bot.config import load_settings
    from bot.logs import configure_logs

    settings = load_settings()
    unset = {key: value for key, value in defaults.items() if key not in settings.model_fields_set}
    settings = settings.model_copy(update=unset)
    configure_logs(settings)
    return settings


def _import_aiogram() -> None:
    from bot.telegram.lazy import import_aiogram

    import_aiogram()


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` on uvloop where the platform has it."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        asyncio.run(work)
        return
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(work)


def _stop_on_signals(at_the_latest: float) -> asyncio.Event:
    """An event that SIGTERM and SIGINT set.

    Args:
        at_the_latest: seconds after which the process ends in any case: an agent that blocks the loop, or a
            thread of it that goes on, holds nothing up. Telegram has every update that is not done.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    end = threading.Timer(at_the_latest, os._exit, [0])
    end.daemon = True

    def ask(*_: object) -> None:
        if not end.is_alive():
            end.start()
        loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    return stop


@asynccontextmanager
async def _open_store() -> AsyncIterator["StateStore"]:
    """The store, for commands that need nothing else of the bot.

    Raises:
        OperatorError: it cannot be used, or keeps nothing outside the running bot.
    """
    from bot.state.engine import create_store
    from bot.state.store import StateError

    store = create_store(_settings(log_level="WARNING"))
    if not store.survives_exit:
        raise OperatorError(
            f"the {store.name} store keeps nothing outside the running bot; in a chat, /export shows it"
        )
    try:
        await store.connect()
        yield store
    except StateError as error:
        raise OperatorError(str(error)) from error
    finally:
        await store.close()


def _check_whole(unreadable: int, others: str) -> None:
    """Raise `OperatorError` for an export that lacks records. `others` says where the rest is."""
    if unreadable:
        raise OperatorError(
            f"{unreadable} cannot be read, for the reasons above; the others {others}. "
            "`bot state show --raw USER` shows what is stored, `bot state forget USER` erases it"
        )


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int], None]]:
    """A line on standard error that says how many it is by now, when somebody watches."""
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


def _print_finding(finding: "Finding") -> None:
    colours = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "error": typer.colors.RED}
    typer.secho(f"{finding.level:>7}", fg=colours[finding.level], nl=False)
    typer.echo(f"  {finding.text}")
