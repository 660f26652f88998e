"""`bot state backup`: copy the file while the bot runs."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bot.runtime.errors import OperatorError

if TYPE_CHECKING:
    from bot.runtime.state.store import OperatorStore

WithStore = Callable[[Callable[["OperatorStore"], Awaitable[None]]], None]
"""Runs a coroutine with the store open."""


def add_commands(state: typer.Typer, with_store: WithStore) -> None:
    """Add to `bot state` what only this engine can do."""

    @state.command()
    def backup(
        file: Annotated[Path, typer.Argument(help="Where to write; replaced only by a copy that is whole.")],
    ) -> None:
        """Copy everything to FILE, as of now, and check the copy. The bot may run meanwhile."""

        async def work(store: "OperatorStore") -> None:
            from asyncio import to_thread

            from bot.runtime.engines.sqlite.store import SqliteStore

            assert isinstance(store, SqliteStore)
            database = store.database
            if file.resolve() in (database.path.resolve(), database.wal.resolve()):
                raise OperatorError(f"{file} is the database itself: name another file")
            await to_thread(database.copy_to, file)
            print(f"copied {database.path} to {file}: {file.stat().st_size:,} bytes, checked")

        with_store(work)
