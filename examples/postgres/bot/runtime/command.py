"""What commands share: settings and logs, the event loop, and the store."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from bot.runtime.config import Settings, load_settings
from bot.runtime.engines import create_store
from bot.runtime.errors import OperatorError, StateError
from bot.runtime.logs import configure_logs
from bot.runtime.state.store import OperatorStore


def read_settings(**defaults: Any) -> Settings:
    """Read the settings and set up logs; `defaults` hold where the environment says nothing."""
    settings = load_settings()
    unset = {key: value for key, value in defaults.items() if key not in settings.model_fields_set}
    settings = settings.model_copy(update=unset)
    configure_logs(settings)
    return settings


def run_async(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` on uvloop where the platform has it."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        asyncio.run(work)
        return
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(work)


@asynccontextmanager
async def open_store() -> AsyncIterator[OperatorStore]:
    """The store, for commands that need nothing else of the bot.

    Raises:
        OperatorError: it cannot be used, or keeps nothing outside the running bot.
    """
    store = create_store(read_settings(log_level="WARNING"))
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


def with_store(work: Callable[[OperatorStore], Awaitable[None]]) -> None:
    """Run `work` with the store open, and close it.

    Raises:
        OperatorError: the store cannot be used, or keeps nothing outside the running bot.
    """

    async def run() -> None:
        async with open_store() as store:
            await work(store)

    run_async(run())
