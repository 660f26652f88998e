"""What all tests share."""

import asyncio
import importlib
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pkgutil import iter_modules

import pytest
from hypothesis import HealthCheck, settings

from bot.runtime.chosen import ENGINE
from bot.runtime.config import Environment, Settings
from bot.runtime.logs import configure_logs
from bot.runtime.state.store import OperatorStore
from suite.contract.harness import Harness, make_harness

settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the environment nor a `.env` file of the owner decides what the tests see."""
    provider = find_spec("bot.runtime.cloud")
    places = provider.submodule_search_locations if provider else None
    # They bring the settings of the engine, and of the provider where there is one.
    for name in (
        f"bot.runtime.engines.{ENGINE}.store",
        *(each.name for each in iter_modules(places or [], "bot.runtime.cloud.")),
    ):
        importlib.import_module(name)
    for kind in Environment.__subclasses__():
        for name in kind.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setitem(kind.model_config, "env_file", None)


@pytest.fixture(autouse=True)
def logs(no_settings_from_outside: None) -> None:
    """Logs as the running bot writes them."""
    configure_logs(Settings())


@pytest.fixture
async def harness(no_settings_from_outside: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harness]:
    """The rendered engine, with the means to damage it. Processes of the test see the same records."""
    harness = make_harness()
    for name, value in (await asyncio.to_thread(harness.settings)).items():  # it may start a server
        monkeypatch.setenv(name, value)
    yield harness
    configure_logs(Settings())  # where a test had standard error captured, that stream is closed by now
    await harness.close()


@pytest.fixture
async def store(harness: Harness) -> OperatorStore:
    """An empty store of the rendered engine."""
    return await harness.open()
