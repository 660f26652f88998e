"""`bot state flush`: flush to PostgreSQL what is waiting in Redis, and wait until it is done."""

from collections.abc import Awaitable, Callable
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
    def flush(
        everything: Annotated[
            bool,
            typer.Option(
                "--all", help="Also what PostgreSQL had before: for a database restored from a backup."
            ),
        ] = False,
    ) -> None:
        """Flush to PostgreSQL what is waiting in Redis, now."""

        async def work(store: "OperatorStore") -> None:
            from bot.runtime.engines.hybrid.store import HybridStore

            assert isinstance(store, HybridStore)
            left = await store.flush(everything=everything)
            if left.users:
                raise OperatorError(
                    f"commits of {left.users} users still wait in Redis: "
                    "the log above, or that of `bot run`, says why"
                )
            print("PostgreSQL has everything")

        with_store(work)
