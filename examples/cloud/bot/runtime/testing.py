"""Fixtures for the tests of a bot, a plugin of pytest: `tests/conftest.py` names it.

They run what the owner wrote, the agent, routers, flow and texts, as the running bot does; only Telegram is
in this process. Neither the environment nor a `.env` file reaches a test.
"""

# ruff: noqa: E402 - import_aiogram() has to come before whatever imports aiogram

from bot.runtime.telegram.fast_import import import_aiogram

import_aiogram()

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self, cast

import pytest
import structlog

from bot.runtime import config
from bot.runtime.app import App, Owner, load_owner, open_app
from bot.runtime.chosen import STORE
from bot.runtime.config import KEEPS_APART, kinds_of_settings, load_settings
from bot.runtime.engines import create_store
from bot.runtime.engines.memory.store import MemoryStore
from bot.runtime.state.record import Message, Place, UserRecord
from bot.runtime.state.store import OperatorStore
from bot.runtime.state.turn import Turn, mutate
from bot.runtime.telegram.local import TOKEN, Json, LocalChat, LocalTelegram, Refused
from bot.runtime.telegram.processor import NotAcknowledged

__all__ = ["Chat", "NotAcknowledged", "OperatorStore", "Owner", "Refused", "Restart"]

Restart = Callable[[], Awaitable[None]]
"""The type of the fixture `restart`."""


class Chat(LocalChat):
    """One person's side of one chat, and what the bot keeps of them."""

    def __init__(self, bot: "_RunningBot", user: Json, chat: Json | None = None) -> None:
        """Sit down there."""
        super().__init__(bot.telegram, user, chat)
        self._bot = bot

    async def state(self) -> dict[str, Any]:
        """The state that is kept of this person or, where that is what the agent chooses, of this group."""
        return (await self._record()).state

    async def history(self) -> list[Message]:
        """The conversation that is kept of this chat, the oldest message first."""
        return (await self._record()).history

    async def put_state(self, state: dict[str, Any]) -> None:
        """Keep this state in the place of the one there is: one of an older `state_version`, say."""

        async def change(turn: Turn) -> None:
            turn.state.clear()
            turn.state.update(state)

        await mutate(self._bot.store, self._place()[0], change)

    def _place(self) -> tuple[str, Place]:
        place = Place(chat=self.chat["id"], person=self.user["id"])
        return self._bot.app.agent.record_at(place) or str(self.user["id"]), place

    async def _record(self) -> UserRecord:
        record, place = self._place()
        return await self._bot.store.load(record, place.conversation(record))

    async def settle(self, seconds: float = 10) -> list[str]:
        """Wait for background work; what takes longer is cancelled.

        Returns:
            What the bot showed in this chat meanwhile.
        """
        before = len(self.texts)
        await self._bot.app.agent.drain(seconds)
        return self.texts[before:]

    async def wait(self, time: timedelta) -> list[str]:
        """Have so much time pass for jobs, and those that become due run.

        Returns:
            What the bot showed in this chat meanwhile.
        """
        before = len(self.texts)
        await self._bot.pass_time(time)
        return self.texts[before:]

    def _side_of(self, user: Json, chat: Json | None) -> Self:
        return type(self)(self._bot, user, chat)


class _ReopenedStore:
    """Stands for the bot's store: after a restart, for the new one. A process knows only its own."""

    def __init__(self, make: Callable[[], Awaitable[OperatorStore]]) -> None:
        self._make = make
        self._store: OperatorStore

    async def open(self) -> None:
        self._store = await self._make()

    async def connect(self) -> None:
        """Do nothing: it is open, or closed for good."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class _RunningBot:
    """A bot over a store, in front of a Telegram that outlives it."""

    def __init__(self, owner: Owner, store: OperatorStore) -> None:
        self.telegram = LocalTelegram()
        self.store = store
        self.app: App
        self._owner = owner
        self._stack = AsyncExitStack()
        self._shift = 0

    async def start(self) -> None:
        opening = open_app(
            load_settings(),
            session=self.telegram.session,
            token=TOKEN,
            bot_id=self.telegram.me["id"],
            store=self.store,
            owner=self._owner,
        )
        self.app = await self._stack.enter_async_context(opening)
        self.app.agent.timetable.shift = self._shift
        self.telegram.bring_to(self.app.bot, self.app.processor, self.app.jobs)

    async def pass_time(self, time: timedelta) -> None:
        self._shift += time // timedelta(microseconds=1)
        self.app.agent.timetable.shift = self._shift
        await self.app.jobs.run_once()

    async def stop(self) -> None:
        await self.app.drain()
        await self._stack.aclose()

    async def cut_off(self) -> None:
        await self.app.jobs.drain(0)
        await self.app.processor.drain(0)
        await self.app.agent.drain(0)
        await self._stack.aclose()


@pytest.fixture
def owner() -> Owner:
    """What runs: all that the owner wrote. A test module may define another fixture of this name."""
    return load_owner()


@pytest.fixture
async def chat(_running_bot: _RunningBot) -> Chat:
    """A private chat with the bot: of user 1, whose name is Ann.

    Records are kept in memory; in the backend, when the test also uses `store` or `restart`.
    """
    return Chat(_running_bot, _running_bot.telegram.person("Ann"))


@pytest.fixture
async def store(
    _own_world: None, _server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[OperatorStore]:
    """The backend's store on its development server, empty.

    The server is started once, in a temporary folder; each test has a namespace of its own there.
    """
    for name in _settings_that_keep_apart():
        monkeypatch.setenv(name, f"t{secrets.token_hex(8)}")
    store = _ReopenedStore(lambda: _open_store(_server_folder))
    await store.open()
    yield cast(OperatorStore, store)
    await store.close()


@pytest.fixture
async def restart(_running_bot: _RunningBot, store: OperatorStore) -> Restart:
    """Ends the bot as a kill does, what it is at included, and starts another one on the same server."""

    async def restart() -> None:
        await _running_bot.cut_off()
        await cast(_ReopenedStore, store).open()
        await _running_bot.start()

    return restart


@pytest.fixture(autouse=True)
def _own_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings from outside; and what goes wrong is logged to where pytest captures it."""
    _isolate(monkeypatch)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("WARNING"),
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),  # which is another one by then
    )


@pytest.fixture
def _store_of_chat(request: pytest.FixtureRequest, _own_world: None) -> OperatorStore:
    if "store" in request.fixturenames:
        return cast(OperatorStore, request.getfixturevalue("store"))
    return MemoryStore.from_settings(load_settings())


@pytest.fixture
async def _running_bot(owner: Owner, _store_of_chat: OperatorStore) -> AsyncIterator[_RunningBot]:
    bot = _RunningBot(owner, _store_of_chat)
    await bot.start()
    yield bot
    await bot.stop()


@pytest.fixture(scope="session")
def _server_folder() -> Iterator[Path]:
    """The folder below which the development server is, for as long as there are tests."""
    import_module(STORE.partition(":")[0])
    kinds = _kinds_of_development_servers()
    for kind in kinds:
        if not kind().is_startable:
            pytest.skip(kind.missing)
    # The path of a socket in it has to be short, which pytest's own folders are not everywhere.
    folder = Path(tempfile.mkdtemp(prefix="bot-"))
    servers = [kind(folder / kind.name) for kind in kinds]
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        with pytest.MonkeyPatch.context() as monkeypatch:
            _isolate(monkeypatch)
            monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the server is a module of ours
            store = runner.run(_open_store(folder))  # as long as anybody uses it, the server runs
        yield folder
        runner.run(store.close())
    while any(server.is_kept for server in servers):
        time.sleep(0.02)
    shutil.rmtree(folder)


def _kinds_of_development_servers() -> list[Any]:
    """The classes of the servers that the backend starts for itself where no setting names one."""
    if not find_spec(name := "bot.runtime.engines.dev_server"):
        return []
    kinds: list[Any] = import_module(name).DevServer.__subclasses__()
    return kinds


async def _open_store(folder: Path) -> OperatorStore:
    """Open the backend's store; the folder takes the project's place for what it keeps in files."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(config, "PROJECT", folder)
        monkeypatch.setattr(config, "DATA", folder)
        store = create_store(load_settings())
        await store.connect()
    return store


def _isolate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset every setting: the bot's, the backend's, and the owner's own."""
    import_module(STORE.partition(":")[0])
    load_owner()
    for kind in kinds_of_settings():
        for name in kind.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setitem(kind.model_config, "env_file", None)


def _settings_that_keep_apart() -> Iterator[str]:
    for kind in kinds_of_settings():
        for name, field in kind.model_fields.items():
            if field.json_schema_extra is KEEPS_APART:
                yield name.upper()
