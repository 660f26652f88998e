"""The command line. Each command imports what it needs, so that `--help` answers at once."""

import asyncio
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from bot.runtime.errors import OperatorError
from bot.runtime.state_commands import state

if TYPE_CHECKING:
    from bot.runtime.state.store import Finding

cli = typer.Typer(
    help="Run this bot, talk to it, and look after what it keeps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cli.add_typer(state, name="state")

LAST_SECONDS = 5.0
"""Seconds beyond SHUTDOWN_TIMEOUT for what is quick: confirming, closing connections."""


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
    from bot.runtime.command import read_settings, run_async

    settings = read_settings()
    _ = settings.token
    _import_aiogram()
    from bot.runtime import app

    async def work() -> None:
        stop = _stop_on_signals(at_the_latest=settings.shutdown_timeout + LAST_SECONDS)
        await app.run(settings, stop, skip=skip)

    run_async(work())


@cli.command()
def chat(
    user: Annotated[int, typer.Option(min=1, help="The Telegram id to be.")] = 1,
) -> None:
    """Talk to the bot in the terminal: no token, no network, the same store."""
    from bot.runtime.command import read_settings, run_async

    settings = read_settings(log_level="WARNING")
    _import_aiogram()
    from bot.runtime import chat as console

    run_async(console.chat(settings, user))


@cli.command()
def migrate() -> None:
    """Create or upgrade what the store's backend has to hold."""
    from bot.runtime.command import read_settings, run_async
    from bot.runtime.engines import create_store
    from bot.runtime.errors import StateError

    async def work() -> None:
        store = create_store(read_settings(log_level="WARNING"))
        try:
            print(await store.migrate())
        except StateError as error:
            raise OperatorError(str(error)) from error
        finally:
            await store.close()

    run_async(work())


@cli.command()
def doctor() -> None:
    """Check settings, store and Telegram; exit with 1 when something is in the way of running."""
    from bot.runtime.command import read_settings, run_async
    from bot.runtime.doctor import diagnose

    async def work() -> None:
        findings = await diagnose(read_settings(log_level="ERROR"))
        for finding in findings:
            _print_finding(finding)
        if any(finding.level == "error" for finding in findings):
            raise typer.Exit(1)

    run_async(work())


def _import_aiogram() -> None:
    from bot.runtime.telegram.fast_import import import_aiogram

    import_aiogram()


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


def _print_finding(finding: "Finding") -> None:
    colours = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "error": typer.colors.RED}
    typer.secho(f"{finding.level:>7}", fg=colours[finding.level], nl=False)
    typer.echo(f"  {finding.text}")
