"""The suite's agent in place of all that the owner wrote, so that none of their edits decides a test."""

import sys
from collections.abc import Callable

from bot.runtime.telegram.agent import TelegramAgentAdapter
from bot.runtime.telegram.fast_import import import_aiogram


def put_in_place(agent: Callable[[str], TelegramAgentAdapter]) -> None:
    """Have this process' bot use the agent, and no router or text of the owner's."""
    if {"run", "chat"}.isdisjoint(sys.argv[1:2]):
        return
    import_aiogram()
    from bot.runtime import app

    app.load_owner = lambda: app.Owner(agent=agent)
