"""Fixtures of the flow's tests: a bot with the template's conversation, and somebody who talks to it."""

from typing import Any

import pytest

from bot.runtime.state.store import OperatorStore
from suite.bot_api import FakeTelegram
from suite.flow.owner import flow_owner
from suite.flow.person import Person
from suite.support.runtime import MakeRuntime, Mode, Runtime


@pytest.fixture
def make_runtime(telegram: FakeTelegram, store: OperatorStore) -> MakeRuntime:
    """Make a bot that has the conversation; `settings` are its settings."""

    def make(mode: Mode, **settings: Any) -> Runtime:
        runtime = Runtime(telegram, store, mode, **settings)
        runtime.owner = flow_owner()
        return runtime

    return make


@pytest.fixture
def ann(telegram: FakeTelegram) -> Person:
    """User 1, in private."""
    return Person(telegram, 1)
