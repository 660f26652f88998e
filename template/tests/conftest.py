"""What all tests share."""

from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, settings

from bot.config import Environment, Settings
from bot.logs import configure_logs
from bot.state.store import StateStore
from tests.contract.harness import Harness, make_harness

make_harness()  # brings the engine's settings in, so that the fixture below knows them

settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the environment nor a `.env` file of the owner decides what the tests see."""
    for kind in Environment.__subclasses__():  # the bot's, and the engine's
        for name in kind.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setitem(kind.model_config, "env_file", None)


@pytest.fixture(autouse=True)
def logs(no_settings_from_outside: None) -> None:
    """Logs as the running bot writes them."""
    configure_logs(Settings())


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    """The rendered engine, with the means to damage it."""
    harness = make_harness()
    yield harness
    await harness.close()


@pytest.fixture
async def store(harness: Harness) -> StateStore:
    """An empty store of the rendered engine."""
    return await harness.open()
