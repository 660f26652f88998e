"""What Redis and PostgreSQL hold of a hybrid bot, as two files."""

from collections.abc import Mapping
from pathlib import Path

from suite.old import postgres_stored, redis_stored


async def dump(settings: Mapping[str, str], folder: Path) -> None:
    """Write both."""
    await redis_stored.dump(settings, folder)
    await postgres_stored.dump(settings, folder)


async def restore(settings: Mapping[str, str], folder: Path) -> None:
    """Put both back."""
    await redis_stored.restore(settings, folder)
    await postgres_stored.restore(settings, folder)
