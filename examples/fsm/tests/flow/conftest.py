"""Fixtures of the flow's tests: a bot over HTTP, in both modes, and somebody who talks to it."""

import pytest

from tests.e2e.conftest import bot, make_runtime, mode, telegram
from tests.fake_telegram import FakeTelegram
from tests.flow.person import Person

__all__ = ["ann", "bot", "make_runtime", "mode", "telegram"]


@pytest.fixture
def ann(telegram: FakeTelegram) -> Person:
    """User 1, in private."""
    return Person(telegram, 1)
