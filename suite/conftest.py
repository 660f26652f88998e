"""What all tests share, and which of them run."""

# ruff: noqa: E402 - import_aiogram() has to come before whatever imports aiogram

from bot.runtime.telegram.fast_import import import_aiogram

import_aiogram()

import asyncio
import importlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules

import pytest
from hypothesis import HealthCheck, settings

from bot.agent_adapter import TelegramAgentAdapter
from bot.runtime.chosen import ENGINE
from bot.runtime.config import Environment, Settings
from bot.runtime.logs import configure_logs
from bot.runtime.state.store import OperatorStore
from suite.agents import CountingAgent, Gate, SourceStyleAgent, gates
from suite.bot_api import FakeTelegram
from suite.contract.harness import Harness, make_harness
from suite.parts import HERE, PARTS, why_not
from suite.support import warm
from suite.support.runtime import MakeRuntime, Mode, Runtime

for profile, examples in {"quick": 15, "thorough": 100}.items():  # chosen by --hypothesis-profile
    settings.register_profile(
        profile,
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
settings.load_profile("quick")

LEFT_OUT = pytest.StashKey[dict[str, list[str]]]()
"""What does not apply here, by the reason."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Choose between what depends on the engine and what is proven once."""
    parser.addoption(
        "--part", choices=PARTS, default="all", help="of the kit: what depends on the engine, or not"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin to note what is left out."""
    config.stash[LEFT_OUT] = defaultdict[str, list[str]](list)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what does not apply, or is not asked for. It may not even be possible to import it."""
    if not collection_path.is_relative_to(HERE) or collection_path == HERE:
        return None
    name = collection_path.relative_to(HERE).as_posix()
    if name in PARTS["all"] and name not in PARTS[config.getoption("part")]:
        return True
    if reason := why_not(collection_path):
        if collection_path.name not in ("__init__.py", "__pycache__"):
            config.stash[LEFT_OUT][reason].append(name)
        return True
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name what was left out, and why."""
    for reason, names in config.stash[LEFT_OUT].items():
        terminalreporter.write_line(f"not run, as {reason}: {', '.join(sorted(set(names)))}")


@pytest.fixture(scope="session", autouse=True)
def certificates_are_read_once() -> None:
    """Each bot of a test would read them anew."""
    warm.read_certificates_once()


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
    for name in warm.CERTIFICATES:
        monkeypatch.delenv(name, raising=False)


@cache
def defaults() -> Settings:
    """What is set when nothing is."""
    return Settings()


@pytest.fixture(autouse=True)
def logs(no_settings_from_outside: None) -> None:
    """Logs as the running bot writes them."""
    configure_logs(defaults())


@pytest.fixture
async def harness(no_settings_from_outside: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harness]:
    """The rendered engine, with the means to damage it. Processes of the test see the same records."""
    harness = make_harness()
    for name, value in (await asyncio.to_thread(harness.settings)).items():  # it may start a server
        monkeypatch.setenv(name, value)
    yield harness
    configure_logs(defaults())  # where a test had standard error captured, that stream is closed by now
    await harness.close()


@pytest.fixture
async def store(harness: Harness) -> OperatorStore:
    """An empty store of the rendered engine."""
    return await harness.open()


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


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Where the agent stops at the message `hold`."""
    gates.append(gate := Gate())
    yield gate
    gates.remove(gate)


@pytest.fixture
def make_runtime(telegram: FakeTelegram, store: OperatorStore) -> MakeRuntime:
    """Make a bot; `settings` are its settings."""
    return lambda mode, **settings: Runtime(telegram, store, mode, **settings)


@pytest.fixture
async def bot(make_runtime: MakeRuntime, mode: Mode) -> AsyncIterator[Runtime]:
    """A running bot, in either mode, whose agent counts."""
    async with make_runtime(mode) as bot:
        yield bot
