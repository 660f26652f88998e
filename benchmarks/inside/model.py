"""A language model that writes at a pace: `MODEL_FIRST` and `MODEL_EACH` seconds, `MODEL_PIECES` pieces."""

import asyncio
import os
from collections.abc import AsyncIterator

FIRST, EACH = float(os.environ["MODEL_FIRST"]), float(os.environ["MODEL_EACH"])
PIECES = int(os.environ["MODEL_PIECES"])

QUICK = "quick"
"""The message to which the answer is short, and there at once."""


async def written(message: str) -> AsyncIterator[str]:
    """What it writes."""
    if message == QUICK:
        yield "at once"
        return
    await asyncio.sleep(FIRST)
    for number in range(PIECES):
        yield f"word{number} "
        await asyncio.sleep(EACH)
