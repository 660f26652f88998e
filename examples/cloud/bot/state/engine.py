"""What was chosen for this project: the state engine, and the conversations in steps that came with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from typer import Typer

    from bot.config import Settings
    from bot.state.store import StateStore

ENGINE = "redis"
NAMESPACE = "my-bot"


def create_store(settings: Settings) -> StateStore:
    """Make the store; it is not connected yet."""
    from bot.cloud.upstash import UpstashStore

    return UpstashStore.from_settings(settings)


def add_commands(state: Typer) -> None:
    """Add to `bot state` what not every project can do."""

    @state.command()
    def adopt() -> None:
        """Take over the states that another bot keeps here, as JSON in a string user:<id>:state."""
        from bot.state.redis_adopt import adopt

        adopt()


def flows() -> list[ModuleType]:
    """None. Those you add yourself go into `routers()`, in `bot/telegram/handlers.py`."""
    return []
