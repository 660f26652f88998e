"""The suite's agent in place of all that the owner wrote, so that none of their edits decides a test."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from bot.runtime.telegram.fast_import import import_aiogram

if TYPE_CHECKING:
    from bot.runtime.app import Owner


def replace_owner(make: Callable[[], "Owner"]) -> None:
    """Have this process' bot use another owner's work; only commands that ask for it.

    Args:
        make: makes it; aiogram is imported then, the fast way.
    """
    if {"run", "chat", "doctor", "jobs", "check"}.isdisjoint([*sys.argv[1:2], *sys.argv[2:3]]):
        return
    import_aiogram()
    from bot.runtime import app

    app.load_owner = make
