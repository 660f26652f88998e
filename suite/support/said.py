"""A program that comes by somebody's words, for tests that look for them in what it writes."""

import asyncio
import logging
import threading
import warnings
from typing import Any

import structlog

from bot.runtime.config import Settings
from bot.runtime.logs import configure_logs

SAID = "my-own-words"


def fail(text: str) -> None:
    raise LookupError(text)


async def _never_retrieved() -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    loop.call_later(0.05, done.set)
    loop.create_task(_failing(), name=SAID)  # noqa: RUF006 - nobody shall look at how it ends
    loop.call_soon(fail, SAID)
    await done.wait()


async def _failing() -> None:
    fail(SAID)


def everything_said(log: Any) -> None:
    """Every way in which somebody's words may come to a log line."""
    try:
        try:
            fail(SAID)
        except LookupError as error:
            error.add_note(SAID)
            raise ExceptionGroup(SAID, [error]) from KeyError(SAID)
    except ExceptionGroup as group:
        log.exception("caught")
        log.warning("refused", reason=group)
        logging.getLogger("library.part").exception("caught %s", SAID)
    library = logging.getLogger("library")
    library.warning("filled in: %s and %-10.3r", SAID, SAID)
    library.warning("filled in: %(key)s", {"key": SAID})
    library.warning(f"put together: {SAID}")
    library.warning("wrong %d", SAID)
    warnings.warn(f"mind {SAID}", stacklevel=1)
    thread = threading.Thread(target=fail, args=(SAID,), name=SAID)
    thread.start()
    thread.join()

    class Stubborn:
        def __del__(self) -> None:
            fail(SAID)

    Stubborn()
    asyncio.run(_never_retrieved())


if __name__ == "__main__":
    configure_logs(Settings())
    everything_said(structlog.get_logger())
    fail(SAID)
