"""`bot state flush`: bring to PostgreSQL what waits in Redis, and wait until it is there."""

from bot.errors import OperatorError
from bot.state.hybrid import HybridStore


def flush(everything: bool) -> None:
    """Flush, and say what came of it.

    Args:
        everything: also what PostgreSQL should have already.

    Raises:
        OperatorError: something could not be flushed, or a server does not answer.
    """
    from bot.cli import _open_store, _run

    async def work() -> None:
        async with _open_store() as store:
            assert isinstance(store, HybridStore)
            left = await store.flush(everything=everything)
            if left.users:
                raise OperatorError(
                    f"{left.users} users' commits still wait in Redis, where they are safe: "
                    "the log above, or that of `bot run`, says why"
                )
            print("PostgreSQL has everything")

    _run(work())
