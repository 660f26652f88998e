"""`bot state flush`: bring to PostgreSQL what waits in Redis, and wait until it is there."""

from typing import Annotated

import typer

from bot.errors import OperatorError


def flush(
    everything: Annotated[
        bool, typer.Option("--all", help="Also what PostgreSQL had already: it was restored from a backup.")
    ] = False,
) -> None:
    """Bring to PostgreSQL what waits in Redis, now."""
    from bot.cli import _open_store, _run

    async def work() -> None:
        from bot.state.hybrid import HybridStore

        async with _open_store() as store:
            assert isinstance(store, HybridStore)
            left = await store.flush(everything=everything)
            if left.users:
                raise OperatorError(
                    f"commits of {left.users} users still wait in Redis: "
                    "the log above, or that of `bot run`, says why"
                )
            print("PostgreSQL has everything")

    _run(work())
