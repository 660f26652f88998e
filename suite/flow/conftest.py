"""Fixtures of the flow's tests: a bot over HTTP, in both modes, and somebody who talks to it."""

import pytest

from suite.behaviour.conftest import bot, make_runtime, mode, telegram
from suite.fake_telegram import FakeTelegram
from suite.flow.person import Person

__all__ = ["ann", "bot", "make_runtime", "mode", "telegram"]


@pytest.fixture
def ann(telegram: FakeTelegram) -> Person:
    """User 1, in private."""
    return Person(telegram, 1)
