"""The ways to a server, and what is said when there is none."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis.asyncio import Redis

from bot.runtime.config import Settings, load
from bot.runtime.engines.redis import connection as redis_connection
from bot.runtime.engines.redis.connection import RedisSettings
from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.errors import OperatorError, StateUnavailable
from bot.runtime.logs import configure_logs
from bot.runtime.state.record import Message
from bot.runtime.state.store import Changes
from bot.runtime.state.transfer import export_lines
from suite.engines.redis.proxy import Proxy
from suite.engines.redis.server import RIGHTS, Server, free_port, make_store
from suite.support.command_line import run

pytestmark = pytest.mark.clause("engine.connects")

PASSWORD = "p@ss:w/rd?#%"
Options = dict[str, Any]
QUOTED = "p%40ss%3Aw%2Frd%3F%23%25"


async def works(store: RedisStore) -> None:
    """Open the store, write and read."""
    await store.connect()
    await store.bind(42)
    version = await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    record = await store.load("1")
    assert (record.version, record.state) == (version, {"a": 1})
    assert [user async for user in store.users()] == ["1"]
    await store.ping()
    await store.close()


async def refusal(store: RedisStore, within: float = 3) -> str:
    """What is said when the store cannot be opened."""
    started = time.monotonic()
    with pytest.raises(StateUnavailable) as caught:
        await store.connect()
    await store.close()
    assert time.monotonic() - started < within
    text = str(caught.value)
    assert "\n" not in text
    assert PASSWORD not in text
    assert QUOTED not in text
    return text


async def test_a_database_by_its_number(server: Server, direct: RedisStore) -> None:
    await works(make_store(f"{server.url}/3"))
    assert await direct.connection.ask("DBSIZE") == 0
    assert "no database of the number" in await refusal(make_store(f"{server.url}/99"))


async def test_a_password(server: Server, direct: RedisStore) -> None:
    await direct.connection.ask("CONFIG", "SET", "requirepass", PASSWORD)
    place = f"127.0.0.1:{server.port}"
    await works(make_store(f"redis://:{QUOTED}@{place}"))
    await works(make_store(f"redis://default:{QUOTED}@{place}/1"))
    for login in ("", ":wrong@", f"somebody:{QUOTED}@"):
        said = await refusal(make_store(f"redis://{login}{place}"))
        assert said == "the server does not accept the user name and password of REDIS_URL"


async def test_a_user_with_few_rights(server: Server, direct: RedisStore) -> None:
    await direct.connection.ask("ACL", "SETUSER", "bot", "on", f">{PASSWORD}", "~test:*", *RIGHTS.split())
    url = f"redis://bot:{QUOTED}@127.0.0.1:{server.port}"
    await works(make_store(url))
    store = make_store(url)
    assert {finding.level for finding in await store.diagnose()} == {"ok"}
    assert len([line async for line in export_lines(store)]) == 1
    for command in ("FLUSHALL", "FLUSHDB", "SWAPDB 0 1", "KEYS *", "CONFIG GET *", "CLIENT LIST"):
        with pytest.raises(StateUnavailable, match="ACL"):
            await store.connection.ask(*command.split())
    await store.close()
    elsewhere = make_store(url, "other")
    await elsewhere.connect()
    with pytest.raises(StateUnavailable, match="ACL"):
        await elsewhere.load("1")
    await elsewhere.close()


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    server = Server(tmp_path / "server", unixsocket=str(path)).start()
    await works(make_store(f"unix://{path}"))
    await works(make_store(f"unix://{path}?db=2"))
    server.end()
    assert "s.sock" in await refusal(make_store(f"unix://{path}", redis_connect_timeout=0.3))


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    mine = authority.issue_cert("bot.example")
    mine.private_key_pem.write_to_path(tmp_path / "key.pem")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    return authority


@pytest.fixture
async def tls(server: Server, authority: trustme.CA) -> AsyncIterator[Proxy]:
    """The server behind TLS, which wants to see a certificate of the bot's, too."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    async with Proxy(server.url, tls=context) as proxy:
        yield proxy


async def test_tls(tls: Proxy, tmp_path: Path) -> None:
    url = tls.url.replace("redis://127.0.0.1", "rediss://localhost")
    trust: Options = {"redis_ca_file": tmp_path / "ca.pem"}
    own: Options = {"redis_cert_file": tmp_path / "cert.pem", "redis_key_file": tmp_path / "key.pem"}
    await works(make_store(url, **trust, **own))
    brief: Options = {"redis_connect_timeout": 0.3}
    assert "CERTIFICATE_VERIFY_FAILED" in await refusal(make_store(url, **own, **brief))
    assert await refusal(make_store(url, **trust, **brief)), "it has nothing to show"
    wrong_name = url.replace("localhost", "127.0.0.1")
    assert "CERTIFICATE_VERIFY_FAILED" in await refusal(make_store(wrong_name, **trust, **own, **brief))
    assert await refusal(make_store(tls.url, **brief)), "no TLS"


async def test_a_server_that_is_still_starting(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings())
    server = Server(tmp_path / "server")
    store = make_store(server.url, redis_connect_timeout=20)
    opening = asyncio.create_task(store.connect())
    await asyncio.sleep(0.5)
    await asyncio.to_thread(server.start)
    await opening
    said = capfd.readouterr().err
    assert (said.count("waiting for the server"), said.count("the server answers")) == (1, 1)
    await works(store)
    server.end()


async def refuse(server: Server, own: Redis, reason: str) -> asyncio.Future[Any] | None:
    """Have a server refuse, until it is to `admit` again; what keeps it busy."""
    keeping: asyncio.Future[Any] | None = None
    untyped: Any = own
    match reason:
        case "OOM":
            await own.config_set("maxmemory", 1)
        case "NOREPLICAS":
            await own.config_set("min-replicas-to-write", 1)
        case "READONLY":
            await own.replicaof("127.0.0.1", 1)
        case "MASTERDOWN":
            await own.config_set("replica-serve-stale-data", "no")
            await own.replicaof("127.0.0.1", 1)
        case "MISCONF":  # a folder stands where the snapshot belongs
            (server.folder / "dump.rdb").mkdir()
            await own.config_set("save", "3600 1")
            await own.set("x", 1)
            await own.bgsave()
        case "BUSY":
            await own.config_set("busy-reply-threshold", 1)
            keeping = asyncio.ensure_future(untyped.execute_command("EVAL", "while true do end", 0))
        case "LOADING":
            await own.mset({f"x{number}": 1 for number in range(3_000)})
            await own.config_set("key-load-delay", 1_000)
            await own.config_set("loading-process-events-interval-bytes", 1_024)
            keeping = asyncio.ensure_future(untyped.execute_command("DEBUG", "RELOAD"))
    await asyncio.sleep(0.3)
    return keeping


async def admit(server: Server, own: Redis, reason: str) -> None:
    """Have it take everything again."""
    match reason:
        case "OOM":
            await own.config_set("maxmemory", 0)
        case "NOREPLICAS":
            await own.config_set("min-replicas-to-write", 0)
        case "READONLY" | "MASTERDOWN":
            await own.replicaof("NO", "ONE")
        case "MISCONF":
            (server.folder / "dump.rdb").rmdir()
            await own.bgsave()
        case "BUSY":
            await own.script_kill()


@pytest.mark.parametrize("is_connected", [False, True], ids=["before", "between"])
@pytest.mark.parametrize(
    "reason", ["OOM", "NOREPLICAS", "READONLY", "MASTERDOWN", "MISCONF", "BUSY", "LOADING"]
)
async def test_a_server_that_refuses_for_now_is_waited_for(
    tmp_path: Path, reason: str, is_connected: bool
) -> None:
    """Whether it refuses a bot that starts or, connected, one that notes whose store this is."""
    server = Server(tmp_path / "server", **{"enable-debug-command": "yes"}).start()
    store = make_store(server.url, redis_connect_timeout=20)

    async def start() -> None:
        if not is_connected:
            await store.connect()
        await store.bind(42)

    async with Redis.from_url(server.url) as own:
        if is_connected:
            await store.connect()
        keeping = await refuse(server, own, reason)
        starting = asyncio.create_task(start())
        await asyncio.sleep(1.5)
        assert not starting.done()
        await admit(server, own, reason)
        await starting
        assert await own.get("test:bot") == b"42"
        await asyncio.gather(*filter(None, [keeping]), return_exceptions=True)
    await store.close()
    server.end()


async def test_a_server_that_refuses_for_good_is_not(server: Server, direct: RedisStore) -> None:
    """A user who may read and not write, and a server that never has memory."""
    ask = direct.connection.ask
    await ask("ACL", "SETUSER", "reader", "on", "nopass", "~*", "+@read", "+@connection")
    store = make_store(f"redis://reader:x@127.0.0.1:{server.port}")
    await store.connect()
    with pytest.raises(StateUnavailable, match="ACL does not permit"):
        await asyncio.wait_for(store.bind(42), 1)
    await store.close()
    await ask("CONFIG", "SET", "maxmemory", 1)
    store = make_store(server.url, redis_connect_timeout=1)
    await store.connect()
    with pytest.raises(StateUnavailable, match="no memory left"):
        await asyncio.wait_for(store.bind(42), 2)
    await store.close()


async def test_no_server(tmp_path: Path) -> None:
    port = free_port()
    store = make_store(f"redis://:{QUOTED}@127.0.0.1:{port}", redis_connect_timeout=0.5)
    assert f"127.0.0.1:{port}" in await refusal(store)
    settings = {"REDIS_URL": f"redis://:{QUOTED}@127.0.0.1:{port}", "REDIS_CONNECT_TIMEOUT": "0.2"}
    for command in (["run"], ["state", "show", "1"]):
        result = await asyncio.to_thread(
            run, tmp_path, *command, BOT_TOKEN="42:x", LOG_LEVEL="ERROR", **settings
        )
        assert result.returncode == 1
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert str(port) in result.stderr
        assert QUOTED not in result.stderr


async def test_a_server_that_is_none(tmp_path: Path) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    other = await asyncio.start_server(talk, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{other.sockets[0].getsockname()[1]}"
    assert await refusal(make_store(url, redis_connect_timeout=0.3))
    other.close()
    await other.wait_closed()


async def test_two_hundred_at_once_share_a_few_connections(server: Server, direct: RedisStore) -> None:
    store = make_store(server.url, redis_max_connections=4)

    async def total() -> int:
        count: int = (await direct.connection.ask("INFO", "stats"))["total_connections_received"]
        return count

    before = await total()
    await asyncio.gather(*(store.commit(str(n), Changes(state={"n": b"1"}), expect=0) for n in range(200)))
    assert await total() - before <= 4
    assert len([user async for user in store.users()]) == 200
    await store.close()


async def test_whoever_has_waited_longest_is_next(server: Server) -> None:
    store = make_store(server.url, redis_max_connections=1)
    done = [0] * 10
    is_over = asyncio.Event()

    async def write(user: int) -> None:
        while not is_over.is_set():
            await store.commit(str(user), Changes(state={"n": b"1"}), expect=None)
            done[user] += 1

    async with asyncio.TaskGroup() as group:
        for user in range(10):
            group.create_task(write(user))
        await asyncio.sleep(0.5)
        is_over.set()
    assert min(done) > max(done) / 2
    await store.close()


async def test_a_connection_that_died_in_the_pool_is_replaced(server: Server, direct: RedisStore) -> None:
    store = make_store(server.url)
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    await direct.connection.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert (await store.load("1")).state == {"a": 1}
    await store.close()


@pytest.mark.parametrize(
    ("cause", "cure", "reason"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "no memory left"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "takes no writes"),
        (
            ("CONFIG", "SET", "min-replicas-to-write", "1"),
            ("CONFIG", "SET", "min-replicas-to-write", "0"),
            "too few replicas",
        ),
    ],
    ids=lambda value: value[2] if isinstance(value, tuple) else None,
)
async def test_a_server_that_takes_no_writes(
    direct: RedisStore, cause: tuple[str, ...], cure: tuple[str, ...], reason: str
) -> None:
    message = Message("user", "hello", 1.0)
    changes = Changes(state={"a": b"1"}, messages=(message,), clear_history=True, applied=(1,))
    version = await direct.commit("1", changes, expect=0)
    await direct.connection.ask(*cause)
    more = Changes(state={"a": b"2"}, messages=(message,), clear_history=True, applied=(2,))
    for user_id, commit in (("1", more), ("2", changes)):
        with pytest.raises(StateUnavailable, match=reason):
            await direct.commit(user_id, commit, expect=None)
    record = await direct.load("1")
    assert (record.version, record.state, record.applied) == (version, {"a": 1}, (1,))
    assert len(record.history) == 1
    assert (await direct.load("2")).version == 0
    await direct.connection.ask(*cure)
    await direct.commit("1", more, expect=version)
    assert (await direct.load("1")).applied == (1, 2)


async def test_without_memory_a_user_can_still_be_forgotten(direct: RedisStore) -> None:
    await direct.commit("1", Changes(state={"a": b"1"}), expect=0)
    await direct.connection.ask("CONFIG", "SET", "maxmemory", "1")
    assert await direct.forget("1") is True
    assert (await direct.load("1")).is_empty


async def test_a_server_that_is_busy(direct: RedisStore, server: Server) -> None:
    other = make_store(server.url)
    await direct.connection.ask("CONFIG", "SET", "busy-reply-threshold", "50")
    endless = asyncio.create_task(other.connection.ask("EVAL", "while true do end", 0))
    await asyncio.sleep(0.3)
    with pytest.raises(StateUnavailable, match="busy"):
        await direct.commit("1", Changes(state={"a": b"1"}), expect=0)
    await direct.connection.ask("SCRIPT", "KILL")
    with pytest.raises(StateUnavailable):
        await endless
    await direct.commit("1", Changes(state={"a": b"1"}), expect=0)
    await other.close()


async def test_a_paused_server_is_waited_for_only_so_long(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_connection, "SOCKET_SECONDS", 0.3)
    store = make_store(server.url)
    version = await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    server.pause()
    started = time.monotonic()
    changes = Changes(state={"a": b"2"}, applied=(5,))
    for attempt in (store.load("1"), store.commit("1", changes, expect=version), store.ping()):
        with pytest.raises(StateUnavailable, match="in time"):
            await attempt
    assert time.monotonic() - started < 2
    server.resume()
    version = await store.commit("1", changes, expect=version)
    record = await store.load("1")
    assert (record.version, record.state, record.applied) == (version, {"a": 2}, (5,))
    await store.close()


@pytest.fixture
def no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)


BAD: list[tuple[dict[str, str], str]] = [
    ({"REDIS_URL": f"http://:{QUOTED}@host"}, "REDIS_URL: is not an address like"),
    ({"REDIS_URL": f"redis://:{PASSWORD}@host"}, "REDIS_URL: is not an address like"),
    ({"REDIS_URL": f"redis://:{QUOTED}@host:port"}, "REDIS_URL: is not an address like"),
    ({"REDIS_URL": f"redis://:{QUOTED}@host/first"}, "REDIS_URL: is not an address like"),
    ({"REDIS_URL": f"redis://:{QUOTED}@"}, "REDIS_URL: is not an address like"),
    ({"REDIS_URL": "unix://"}, "REDIS_URL: is not an address like"),
    ({"REDIS_URL": f"redis://:{QUOTED}@one,two"}, "REDIS_URL names several hosts"),
    ({"REDIS_URL": "redis://one", "REDIS_CA_FILE": __file__}, "need REDIS_URL=rediss://"),
    ({"REDIS_URL": "rediss://one", "REDIS_CA_FILE": "none.pem"}, "REDIS_CA_FILE: "),
    ({"REDIS_URL": "redis://one", "REDIS_MAX_CONNECTIONS": "0"}, "REDIS_MAX_CONNECTIONS: "),
    (
        {"REDIS_URL": "redis://one", "REDIS_CLUSTER": "true", "REDIS_SENTINEL_MASTER": "m"},
        "exclude each other",
    ),
    ({"REDIS_CLUSTER": "true"}, "need REDIS_URL"),
    ({"REDIS_URL": "unix:///s", "REDIS_SENTINEL_MASTER": "m"}, "need REDIS_URL"),
]


@pytest.mark.usefixtures("no_url")
@pytest.mark.parametrize(("settings", "reason"), BAD, ids=lambda value: ascii(value)[:60])
def test_bad_settings(settings: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OperatorError) as caught:
        load(RedisSettings)
    text = str(caught.value)
    assert reason in text
    assert "\n" not in text
    assert PASSWORD not in text
    assert QUOTED not in text


def test_a_bad_setting_is_one_line_of_the_command(tmp_path: Path) -> None:
    url: Any = f"redis://:{PASSWORD}@host"
    for command in (["migrate"], ["state", "show", "1"], ["run"], ["chat"]):
        result = run(tmp_path, *command, REDIS_URL=url, BOT_TOKEN="42:x")
        assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
        assert result.stderr.startswith("error: bad settings: REDIS_URL: ")
        assert PASSWORD not in result.stderr
