"""The command line. Each command imports what it needs, so that `--help` answers at once."""

import asyncio
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from bot.runtime.errors import OperatorError
from bot.runtime.state_commands import jobs, run_async, state

if TYPE_CHECKING:
    from bot.runtime.config import SettingGroup
    from bot.runtime.state.store import Finding

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli.add_typer(state, name="state")
cli.add_typer(jobs, name="jobs")

LAST_SECONDS = 5.0
"""Seconds beyond SHUTDOWN_TIMEOUT for confirming updates and closing connections."""


def main() -> None:
    """Run the command line; what the operator can fix is one line on standard error and exit code 1."""
    try:
        cli()
    except OperatorError as error:
        print(f"error: {_plain(str(error))}", file=sys.stderr)
        sys.exit(1)


def _plain(text: str) -> str:
    from bot.runtime.logs import plain

    return plain(text)


def _print_version(wanted: bool) -> None:
    if wanted:
        import tomllib
        from importlib.metadata import version

        from bot.runtime.chosen import ENGINE
        from bot.runtime.config import PROJECT

        file = PROJECT / "pyproject.toml"
        own = (
            tomllib.loads(file.read_text("utf-8"))["project"]["version"] if file.exists() else version("bot")
        )
        print(f"bot {own} ({ENGINE}, aiogram {version('aiogram')}, Python {sys.version.split()[0]})")
        raise typer.Exit


@cli.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Run this bot, talk to it, and manage what it keeps."""


@cli.command()
def run(
    skip: Annotated[
        int | None,
        typer.Option(
            metavar="UPDATE_ID", help="Acknowledge this update without handling it (a poison update)."
        ),
    ] = None,
) -> None:
    """Run the bot: by webhook when WEBHOOK_URL is set, else by long polling."""
    from bot.runtime.logs import read_settings

    settings = read_settings()
    _ = settings.token
    _import_aiogram()
    from bot.runtime import app
    from bot.runtime.telegram.transaction import left_behind

    async def work() -> None:
        stop = _stop_on_signals(at_the_latest=settings.shutdown_timeout + LAST_SECONDS)
        await app.run(settings, stop, skip=skip)
        if left_behind:
            os._exit(0)  # the event loop would wait for them

    run_async(work())


@cli.command()
def chat(
    user: Annotated[int, typer.Option(min=1, help="The Telegram id to be.")] = 1,
) -> None:
    """Talk to the bot in the terminal: no token, no network, the same store."""
    from bot.runtime.logs import read_settings

    settings = read_settings(log_level="WARNING", log_content=True)  # of nobody else
    _import_aiogram()
    from bot.runtime import chat as console

    run_async(console.chat(settings, user))


@cli.command()
def broadcast(
    file: Annotated[typer.FileText, typer.Argument(help="The text; - for standard input.")],
    name: Annotated[str, typer.Option(help="Tells it from others; the same name goes on where it was.")],
    groups: Annotated[bool, typer.Option("--groups", help="To groups with a record, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Send one text to everybody who has written to the bot: once each, also when this is run again."""
    import re

    text = file.read().strip()
    if not text:
        raise OperatorError("the text is empty: write one")
    if not re.fullmatch(r"[\w-]{1,64}", name, re.ASCII):
        raise OperatorError("--name takes up to 64 letters, digits, - and _: choose another")
    if not yes:
        typer.confirm("Send this to everybody?", abort=True)
    from bot.runtime.logs import read_settings

    settings = read_settings(log_level="ERROR")
    _ = settings.token
    _import_aiogram()
    from bot.runtime.broadcast import broadcast as send

    async def work() -> None:
        done = await send(settings, name, text, groups=groups)
        if done.failed:
            raise OperatorError(f"{done.failed:,} were not reached: run the same command again to try them")

    run_async(work())


@cli.command()
def migrate() -> None:
    """Create or upgrade the tables, or whatever else the backend needs."""
    from bot.runtime.engines import create_store
    from bot.runtime.errors import StateError, unusable
    from bot.runtime.logs import read_settings

    async def work() -> None:
        store = create_store(read_settings(log_level="WARNING"))
        try:
            print(await store.migrate())
        except StateError as error:
            raise unusable(store.name, error) from error
        finally:
            await store.close()

    run_async(work())


@cli.command()
def doctor() -> None:
    """Check settings, store and Telegram. Exit code 1: the bot cannot run."""
    from bot.runtime.doctor import diagnose
    from bot.runtime.logs import read_settings

    async def work() -> None:
        is_in_order = True
        async for finding in diagnose(read_settings(log_level="ERROR"), _import_settings()):
            _print_finding(finding)
            is_in_order = is_in_order and finding.level != "error"
        if not is_in_order:
            raise typer.Exit(1)

    run_async(work())


@cli.command()
def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print tables of Markdown.")] = False,
) -> None:
    """List every setting: its default, what it means, and whether it is set. Shows no values."""
    from bot.runtime.config import describe_settings

    if reason := _import_settings():
        print(
            f"warning: settings of your own may be missing, bot/agent.py fails: {_plain(reason)}",
            file=sys.stderr,
        )
    groups = [group for group in describe_settings() if group.settings]
    if markdown:
        _print_markdown(groups)
    else:
        _print_table(groups)


def _import_settings() -> str:
    """Import every module that may define settings: of the engine, of the provider, of the owner.

    Returns:
        Why what the owner wrote cannot be imported; empty when it can.
    """
    from importlib import import_module

    from bot.runtime.chosen import STORE

    import_module(STORE.partition(":")[0])
    _import_aiogram()
    from bot.runtime.app import load_owner

    try:
        load_owner()
    except Exception as error:  # what the owner's modules do when they are imported may need good settings
        return str(error) if isinstance(error, OperatorError) else type(error).__name__
    return ""


def _print_table(groups: "list[SettingGroup]") -> None:
    name_width = max(len(setting.name) for group in groups for setting in group.settings)
    default_width = max(len(setting.default) for group in groups for setting in group.settings)
    typer.echo(f"  {'SETTING':{name_width}}         {'DEFAULT':{default_width}}  MEANING")
    for group in groups:
        typer.secho(f"\n{group.title}", bold=True)
        if group.problem:
            typer.secho(f"  cannot be used: {group.problem}", fg=typer.colors.RED)
        for setting in group.settings:
            state = "wrong" if setting.problem else "set" if setting.is_set else ""
            colour = {"wrong": typer.colors.RED, "set": typer.colors.GREEN}.get(state)
            typer.echo(f"  {setting.name:{name_width}}  ", nl=False)
            typer.secho(f"{state:5}", fg=colour, nl=False)
            typer.echo(f"  {setting.default:{default_width}}  {setting.problem or setting.meaning}")


def _print_markdown(groups: "list[SettingGroup]") -> None:
    for group in groups:
        print(f"**{group.title}**\n\n| Setting | Default | Meaning |\n|---|---|---|")
        for setting in group.settings:
            default = f"`{setting.default}`" if setting.default else ""
            print(f"| `{setting.name}` | {default} | {setting.meaning.replace('|', chr(92) + '|')} |")
        print()


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
    is_asked = threading.Lock()

    def ask(*_: object) -> None:
        # Another signal may come in the midst of this, or when the loop is closed.
        if is_asked.acquire(blocking=False):
            with suppress(RuntimeError):
                end.start()
                loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    return stop


def _print_finding(finding: "Finding") -> None:
    colours = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "error": typer.colors.RED}
    typer.secho(f"{finding.level:>7}", fg=colours[finding.level], nl=False)
    typer.echo(f"  {_plain(finding.text)}")
