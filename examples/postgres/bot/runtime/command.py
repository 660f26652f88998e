"""What commands share: settings and logs, the event loop, and the store."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
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


def with_store(work: Callable[[OperatorStore], Awaitable[None]]) -> None:
    """Run `work` with the store open, for commands that need nothing else of the bot, and close it.

    Raises:
        OperatorError: the store cannot be used, or keeps nothing outside the running bot.
    """

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
            raise OperatorError(str(error)) from error
        finally:
            await store.close()

    run_async(run())
