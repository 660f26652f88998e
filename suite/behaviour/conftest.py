"""Fixtures of the end-to-end tests."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bot.agent_adapter import TelegramAgentAdapter
from bot.runtime.state.store import OperatorStore
from suite.agents import CountingAgent, SourceStyleAgent
from suite.behaviour.runtime import Mode, Runtime
from suite.fake_telegram import FakeTelegram


@pytest.fixture
async def telegram() -> AsyncIterator[FakeTelegram]:
    """Telegram, as far as a bot can tell."""
    async with FakeTelegram(max_retry_after=0.1) as telegram:
        yield telegram


@pytest.fixture(params=["polling", "webhook"])
def mode(request: pytest.FixtureRequest) -> Mode:
    """Both ways in which updates come."""
    mode: Mode = request.param
    return mode


@pytest.fixture(params=[CountingAgent, SourceStyleAgent])
def agent_class(request: pytest.FixtureRequest) -> type[TelegramAgentAdapter]:
    """Both styles in which an agent can be written."""
    agent_class: type[TelegramAgentAdapter] = request.param
    return agent_class


MakeRuntime = Callable[..., Runtime]


@pytest.fixture
def make_runtime(telegram: FakeTelegram, store: OperatorStore) -> MakeRuntime:
    """Make a bot; `settings` are its settings."""

    def make(mode: Mode, **settings: Any) -> Runtime:
        return Runtime(telegram, store, mode, **settings)

    return make


@pytest.fixture
async def bot(make_runtime: MakeRuntime, mode: Mode) -> AsyncIterator[Runtime]:
    """A running bot, in either mode, whose agent counts."""
    async with make_runtime(mode) as bot:
        yield bot
