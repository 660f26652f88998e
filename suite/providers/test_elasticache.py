"""ElastiCache: a cluster behind TLS, tokens in place of a password, connections that do not grow old."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import parse_qs, urlsplit

import botocore.auth
import pytest
from botocore.credentials import Credentials
from botocore.model import ServiceId
from botocore.session import get_session
from botocore.signers import RequestSigner
from redis import Redis
from redis.exceptions import AuthenticationError

from bot.runtime.chosen import NAMESPACE
from bot.runtime.cloud import aws_token, elasticache
from bot.runtime.cloud.elasticache import ElasticacheStore, IamConnection, Tokens
from bot.runtime.config import Settings
from bot.runtime.engines.redis.store import RedisStore
from bot.runtime.errors import OperatorError, StateUnavailable
from bot.runtime.state.store import Changes
from suite.engines.redis.proxy import Proxy
from suite.engines.redis.server import Server, make_store
from suite.engines.redis.tls import UNCHECKED, WRONG, Certificate, behind_tls, issue, named, resolve_here
from suite.support.command_line import run

pytestmark = pytest.mark.clause("provider.connects")

DOMAIN = ".cache.amazonaws.com"
NAME = f"my-bot-abc123.serverless.euw1{DOMAIN}"
SINGLE = f"master.my-bot.abc123.euw1{DOMAIN}"
INFRA = Path(__file__).parents[2] / "infra/elasticache.yaml"


@pytest.fixture
def iam(monkeypatch: pytest.MonkeyPatch) -> None:
    """A role's credentials, where the bot's process finds them; names that lead to this machine."""
    resolve_here(monkeypatch, DOMAIN)
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/secret+key")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("ELASTICACHE_NAME", "my-bot")


class Passwords:
    """In place of signed tokens, which only Amazon can check: passwords that a real server checks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = "first"
        self.given: list[str] = []
        monkeypatch.setattr(Tokens, "sign", lambda _: self._next())

    def _next(self) -> str:
        self.given.append(self.now)
        return self.now


@pytest.fixture
def passwords(iam: None, monkeypatch: pytest.MonkeyPatch) -> Passwords:
    return Passwords(monkeypatch)


def access_string() -> list[str]:
    """What the bot's user may do, as the infrastructure says it."""
    (rules,) = re.findall('AccessString: !Sub "(.*)"', INFRA.read_text("utf-8"))
    return str(rules).replace("${Name}", NAMESPACE).split()


def admit(server: Server, *passwords: str) -> None:
    """Have a server know the bot's user with these passwords and no others, and an admin; nobody else."""
    rules = ["reset", *(f">{each}" for each in passwords), *access_string()]
    with as_admin(server) as admin:
        admin.acl_setuser("default", enabled=False)
        admin.execute_command("ACL", "SETUSER", "my-bot", *rules)  # type: ignore[no-untyped-call]


@contextmanager
def as_admin(server: Server) -> Iterator[Redis]:
    """A client that may do everything, also on a server that has only just started."""
    with suppress(AuthenticationError), Redis.from_url(server.url) as anyone:
        anyone.acl_setuser("admin", enabled=True, passwords="+admin", keys="*", commands=["+@all"])
    with Redis.from_url(server.url.replace("redis://", "redis://admin:admin@")) as admin:
        yield admin


def connections(server: Server) -> set[str]:
    """The ids of the bot's connections."""
    with as_admin(server) as admin:
        return {client["id"] for client in admin.client_list() if client["user"] == "my-bot"}


def end_connections(server: Server) -> None:
    """End the bot's connections, as ElastiCache ends those that are too old."""
    with as_admin(server) as admin:
        admin.execute_command("CLIENT", "KILL", "USER", "my-bot")  # type: ignore[no-untyped-call]


# One server (a replication group without cluster mode).


@pytest.fixture
async def single(
    server: Server, passwords: Passwords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Proxy]:
    admit(server, "first")
    certificate = issue(tmp_path, SINGLE)
    async with behind_tls(server.url, certificate) as proxy:
        monkeypatch.setenv("REDIS_URL", named(proxy, SINGLE, "my-bot@"))
        monkeypatch.setenv("REDIS_CA_FILE", str(certificate.ca_file))
        yield proxy


async def test_a_new_connection_takes_a_new_token(
    single: Proxy, server: Server, passwords: Passwords
) -> None:
    store = ElasticacheStore.from_settings(Settings())
    await store.connect()
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    # The token becomes another; the server takes both for a while, then only the new one.
    passwords.now = "second"
    admit(server, "first", "second")
    assert (await store.load("1")).state == {"a": 1}
    assert set(passwords.given) == {"first"}, "an open connection needs none"
    admit(server, "second")
    assert (await store.load("1")).state == {"a": 1}, "an open connection stays open"
    end_connections(server)
    await store.commit("1", Changes(state={"a": b"2"}), expect=None)
    assert (await store.load("1")).state == {"a": 2}
    assert passwords.given[-1] == "second"
    await store.close()


async def test_a_token_that_is_refused_is_one_line(
    single: Proxy, passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords.now = "stale"
    store = ElasticacheStore.from_settings(Settings())
    with pytest.raises(StateUnavailable, match="elasticache:Connect") as caught:
        await store.connect()
    assert "\n" not in str(caught.value)
    assert "stale" not in str(caught.value)
    await store.close()


async def test_a_token_that_was_refused_once(single: Proxy, server: Server, passwords: Passwords) -> None:
    """As while the clocks differ, or before the role has its rights: the next connection takes a new one."""
    store = ElasticacheStore.from_settings(Settings())
    await store.connect()
    end_connections(server)
    passwords.now = "stale"
    with pytest.raises(StateUnavailable):
        await store.load("1")
    passwords.now = "first"
    assert (await store.load("1")).version == 0
    await store.close()


async def test_a_token_that_could_not_be_signed_once(
    single: Proxy, server: Server, passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the SDK raises: a connection on which nobody is logged in is not used."""
    store = ElasticacheStore.from_settings(Settings())
    await store.connect()
    end_connections(server)
    with monkeypatch.context() as failing:
        failing.setattr(Tokens, "sign", lambda _: int("no token"))
        with pytest.raises(ValueError, match="no token"):
            await store.load("1")
    assert (await store.load("1")).version == 0
    await store.close()


async def test_whoever_waits_for_a_token_may_give_up(
    single: Proxy, server: Server, passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ElasticacheStore.from_settings(Settings())
    await store.connect()
    end_connections(server)
    is_signing, may_end = Event(), Event()

    def wait(_: Tokens) -> str:
        is_signing.set()
        may_end.wait()
        return "late"

    with monkeypatch.context() as slow:
        slow.setattr(Tokens, "sign", wait)
        loading = asyncio.create_task(store.load("1"))
        await asyncio.to_thread(is_signing.wait)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        may_end.set()
    assert (await store.load("1")).version == 0
    await store.close()


async def test_a_connection_is_replaced_before_it_is_too_old(
    single: Proxy, server: Server, passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ElasticacheStore.from_settings(Settings())
    await store.connect()
    (first,) = connections(server)
    for _ in range(20):
        await store.load("1")
    assert connections(server) == {first}
    monkeypatch.setattr(elasticache, "CONNECTION_SECONDS", 1.0)
    await asyncio.sleep(1.1)
    given = len(passwords.given)
    await store.load("1")
    (second,) = connections(server)
    assert second != first
    assert len(passwords.given) == given + 1, "with a token of its own"
    await store.load("1")
    assert connections(server) == {second}, "only once"
    await store.close()


async def test_what_doctor_says_by_iam_and_by_password(
    single: Proxy, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ElasticacheStore.from_settings(Settings())
    await store.connect()
    said = [finding for finding in await store.diagnose() if finding.level != "ok"]
    assert said == []
    await store.close()

    monkeypatch.delenv("ELASTICACHE_NAME")
    monkeypatch.setenv("REDIS_URL", named(single, SINGLE, "my-bot:first@"))
    store = ElasticacheStore.from_settings(Settings())
    assert not isinstance(store.connection, IamConnection)
    await store.connect()
    findings = await store.diagnose()
    assert any("by a password" in finding.text for finding in findings)
    assert "first" not in str(findings).replace("first come", "")
    await store.close()


async def test_a_cache_that_lists_no_keys(single: Proxy, server: Server) -> None:
    """Turns go on without SCAN; to export and to look for users does not."""
    with as_admin(server) as admin:
        admin.execute_command("ACL", "SETUSER", "my-bot", "-scan")  # type: ignore[no-untyped-call]
    store = ElasticacheStore.from_settings(Settings())
    await store.connect()
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    (text,) = [finding.text for finding in await store.diagnose() if finding.level != "ok"]
    assert "bot state export" in text
    await store.close()


@pytest.mark.parametrize("flaw", WRONG)
async def test_a_certificate_that_is_not_to_be_believed(
    server: Server, passwords: Passwords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flaw: str
) -> None:
    """And nobody gets a token before its certificate was found right."""
    certificate = issue(tmp_path, SINGLE, flaw)
    async with behind_tls(server.url, certificate) as proxy:
        monkeypatch.setenv("REDIS_URL", named(proxy, SINGLE, "my-bot@"))
        monkeypatch.setenv("REDIS_CA_FILE", str(certificate.ca_file))
        monkeypatch.setenv("REDIS_CONNECT_TIMEOUT", "0.3")
        store = ElasticacheStore.from_settings(Settings())
        with pytest.raises(StateUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await store.connect()
        assert passwords.given == []
        await store.close()


async def test_a_failover_behind_the_address(
    single: Proxy, server: Server, passwords: Passwords, tmp_path: Path
) -> None:
    """The replica takes the address over; the old master comes back as a replica that takes no writes."""
    replica = Server(tmp_path / "replica").start()
    admit(replica, "first", "second")
    for each in (server, replica):
        with as_admin(each) as admin:
            admin.config_set("masteruser", "admin")
            admin.config_set("masterauth", "admin")
    try:
        with as_admin(replica) as new, as_admin(server) as old:
            new.replicaof("127.0.0.1", server.port)
            store = ElasticacheStore.from_settings(Settings())
            await store.connect()
            version = await store.commit("1", Changes(state={"n": b"1"}), expect=0)
            for _ in range(200):
                if new.exists(f"{NAMESPACE}:user:{{1}}:state"):
                    break
                await asyncio.sleep(0.05)
            passwords.now = "second"
            single.lead_to(replica.url)
            new.replicaof("NO", "ONE")
            old.replicaof("127.0.0.1", replica.port)
            await store.commit("1", Changes(state={"n": b"2"}, applied=(2,)), expect=version)
            record = await store.load("1")
            assert (record.state, record.applied) == ({"n": 2}, (2,))
            assert new.hget(f"{NAMESPACE}:user:{{1}}:state", "n") == b"2"
            await store.close()
    finally:
        replica.end()


# A cluster (a serverless cache is one).


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return issue(tmp_path_factory.mktemp("certificate"), NAME)


@pytest.fixture
async def cluster(
    certificate: Certificate, tmp_path: Path, passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Server]]:
    """Three nodes behind TLS, each known to the others' clients by the name and the port of its proxy."""
    config = {
        "cluster-enabled": "yes",
        "cluster-node-timeout": "2000",
        "cluster-announce-hostname": NAME,
        "cluster-preferred-endpoint-type": "hostname",
    }
    async with AsyncExitStack() as stack:
        nodes = [Server(tmp_path / f"{n}", **config) for n in range(3)]
        proxies = []
        for node in nodes:
            await asyncio.to_thread(node.start)
            stack.callback(node.end)
            proxies.append(await stack.enter_async_context(behind_tls(node.url, certificate)))
        await join(nodes, [urlsplit(proxy.url).port or 0 for proxy in proxies])
        for node in nodes:
            admit(node, "first")
        monkeypatch.setenv("REDIS_URL", named(proxies[0], NAME, "my-bot@"))
        monkeypatch.setenv("REDIS_CLUSTER", "true")
        monkeypatch.setenv("REDIS_MAX_CONNECTIONS", "6")
        monkeypatch.setenv("REDIS_CA_FILE", str(certificate.ca_file))
        yield nodes


async def join(nodes: list[Server], ports: list[int]) -> None:
    """Make a cluster of servers that tell clients the ports of their proxies."""
    bounds = [0, 5_461, 10_923, 16_384]
    stores = [make_store(node.url) for node in nodes]
    for number, store in enumerate(stores):
        ask = store.connection.ask
        await ask("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        await ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        await ask("CONFIG", "SET", "cluster-announce-bus-port", nodes[number].port + 10_000)
        await ask("CONFIG", "SET", "cluster-announce-port", ports[number])
        await ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, nodes[0].port + 10_000)
    for store in stores:
        for _ in range(200):
            info = await store.connection.ask("CLUSTER", "INFO")
            slots = str(await store.connection.ask("CLUSTER", "SLOTS"))
            if b"cluster_state:ok" in info and slots.count(NAME) == 3 and all(str(p) in slots for p in ports):
                break
            await asyncio.sleep(0.1)
        else:
            raise AssertionError("no cluster")
        await store.close()


async def test_a_cluster_by_tls_and_tokens(
    cluster: list[Server], passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ElasticacheStore.from_settings(Settings())
    await store.connect()
    await store.bind(42)
    await asyncio.gather(
        *(store.commit(str(n), Changes(state={"n": b"%d" % n}), expect=0) for n in range(60))
    )
    assert len({user async for user in store.users()}) == 60
    for command in ("FLUSHALL", "KEYS *"):
        with pytest.raises(StateUnavailable, match="ACL"):
            await store.connection.ask(*command.split())
    assert await store.forget("7") is True
    assert {finding.level for finding in await store.diagnose()} == {"ok"}

    # Every node's connections are of the kind that is replaced, with a token of its own each.
    before = [connections(node) for node in cluster]
    given = len(passwords.given)
    monkeypatch.setattr(elasticache, "CONNECTION_SECONDS", 1.0)
    await asyncio.sleep(1.1)
    for n in range(12):
        assert (await store.load(str(n))).state == ({} if n == 7 else {"n": n})
    after = [connections(node) for node in cluster]
    assert all(now - then for then, now in zip(before, after, strict=True)), "new ones at each node"
    assert all(then - now for then, now in zip(before, after, strict=True)), "in place of old ones"
    assert len(passwords.given) >= given + 3
    await store.close()


async def test_a_cluster_whose_tokens_change(cluster: list[Server], passwords: Passwords) -> None:
    store = ElasticacheStore.from_settings(Settings())
    await store.connect()
    passwords.now = "second"
    for node in cluster:
        admit(node, "second")
        end_connections(node)
    for n in range(30):
        await store.commit(str(n), Changes(state={"n": b"1"}), expect=0)
    assert passwords.given[-1] == "second"
    await store.close()


# Tokens: only Amazon can check one, and its SDK makes the same.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time stands still for the SDK, which signs by the second."""
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: datetime(2026, 11, 22, 12))


def by_the_sdk(session: Any, asked: dict[str, str], name: str) -> str:
    """A token as the SDK's own signer makes it."""
    signer = RequestSigner(
        ServiceId("elasticache"),
        "eu-west-1",
        "elasticache",
        "v4",
        session.get_credentials(),
        session.get_component("event_emitter"),
    )
    url = f"http://{name}/?" + "&".join(f"{key}={value}" for key, value in asked.items())
    request: dict[str, Any] = {"method": "GET", "url": url, "body": {}, "headers": {}, "context": {}}
    signed: str = signer.generate_presigned_url(
        request, operation_name="connect", expires_in=900, region_name="eu-west-1"
    )
    return signed.removeprefix("http://")


@pytest.mark.usefixtures("iam", "clock")
@pytest.mark.parametrize("session_token", ["", "IQoJb3JpZ2luX2VjEH0/+=="])
@pytest.mark.parametrize("serverless", [True, False])
def test_a_token_is_the_one_that_the_sdk_signs(
    monkeypatch: pytest.MonkeyPatch, session_token: str, serverless: bool
) -> None:
    if session_token:
        monkeypatch.setenv("AWS_SESSION_TOKEN", session_token)
    token = Tokens("eu-west-1", "my-bot", "my-user", is_serverless=serverless).sign()
    asked = {"Action": "connect", "User": "my-user"}
    if serverless:
        asked["ResourceType"] = "ServerlessCache"
    expected = by_the_sdk(get_session(), asked, "my-bot")
    ours, theirs = urlsplit(f"//{token}"), urlsplit(f"//{expected}")
    assert (ours.netloc, ours.path) == (theirs.netloc, theirs.path) == ("my-bot", "/")
    assert parse_qs(ours.query, strict_parsing=True) == parse_qs(theirs.query, strict_parsing=True)
    told = parse_qs(ours.query)
    assert told["X-Amz-Expires"] == ["900"]
    assert told["X-Amz-Date"] == ["20261122T120000Z"]
    assert told.get("X-Amz-Security-Token", [""]) == [session_token]
    assert told["X-Amz-Credential"] == ["AKIAEXAMPLE/20261122/eu-west-1/elasticache/aws4_request"]


def test_nothing_grows_older_than_elasticache_lets_it() -> None:
    """It ends connections after twelve hours, and takes tokens for fifteen minutes."""
    assert elasticache.CONNECTION_SECONDS < 12 * 3600
    assert aws_token.LIFETIME <= 15 * 60


@pytest.mark.usefixtures("iam")
async def test_each_token_is_signed_with_the_credentials_of_now() -> None:
    tokens = Tokens("eu-west-1", "my-bot", "my-user", is_serverless=True)
    user, first = await tokens.get_credentials_async()
    assert user == "my-user"
    tokens._signer._credentials = Credentials("AKIAOTHER", "other")  # as a role's are renewed
    _, second = await tokens.get_credentials_async()
    assert "AKIAEXAMPLE" in first
    assert "AKIAOTHER" in second
    assert "other" not in second.replace("AKIAOTHER", "")


async def test_no_credentials_is_one_line_without_them(
    iam: None, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    certificate = issue(tmp_path, SINGLE)
    async with behind_tls(server.url, certificate) as proxy:
        monkeypatch.setenv("REDIS_URL", named(proxy, SINGLE, "my-bot@"))
        monkeypatch.setenv("REDIS_CA_FILE", str(certificate.ca_file))
        monkeypatch.setenv("REDIS_CONNECT_TIMEOUT", "0.3")
        store = ElasticacheStore.from_settings(Settings())
        with pytest.raises(StateUnavailable, match="there are no AWS credentials"):
            await store.connect()
        await store.close()


@pytest.mark.usefixtures("iam")
@pytest.mark.parametrize(
    "url",
    [None, f"redis://my-bot@{NAME}:6379", f"rediss://{NAME}:6379", f"rediss://my-bot:sesame@{NAME}:6379"],
)
def test_an_address_that_does_not_go_with_iam(monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
    if url:
        monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(OperatorError, match="rediss://USER@HOST") as caught:
        ElasticacheStore.from_settings(Settings())
    assert "sesame" not in str(caught.value)


@pytest.mark.usefixtures("iam")
@pytest.mark.parametrize("weakness", UNCHECKED)
def test_an_address_that_believes_every_certificate(monkeypatch: pytest.MonkeyPatch, weakness: str) -> None:
    monkeypatch.setenv("REDIS_URL", f"rediss://my-bot@{SINGLE}:6379/0?{weakness}")
    with pytest.raises(OperatorError, match="turns checks of the server's certificate off") as caught:
        ElasticacheStore.from_settings(Settings())
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("iam")
def test_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", f"rediss://my-bot@{NAME}:6379")
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(OperatorError, match="AWS_REGION is not set"):
        ElasticacheStore.from_settings(Settings())
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    ElasticacheStore.from_settings(Settings())


async def test_a_serverless_cache_taken_for_a_single_server(
    server: Server, direct: RedisStore, iam: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ELASTICACHE_NAME")
    certificate = issue(tmp_path, NAME)
    async with behind_tls(server.url, certificate) as proxy:
        monkeypatch.setenv("REDIS_URL", named(proxy, NAME))
        monkeypatch.setenv("REDIS_CA_FILE", str(certificate.ca_file))
        store = ElasticacheStore.from_settings(Settings())
        await store.connect()
        found = {finding.level: finding.text for finding in await store.diagnose() if finding.level != "ok"}
        assert "REDIS_CLUSTER=true" in found["error"]
        assert "ELASTICACHE_NAME" in found["warning"], "it let the bot in without a password"
        await direct.connection.ask("ACL", "SETUSER", "default", "-config", "-info")
        findings = await store.diagnose()
        assert any("does not say how it is set up" in finding.text for finding in findings)
        await store.close()


async def test_a_server_elsewhere(server: Server, tmp_path: Path) -> None:
    result = await asyncio.to_thread(run, tmp_path, "doctor", REDIS_URL=server.url)
    assert "REDIS_URL names no cache at ElastiCache" in result.stdout


def test_the_tests_read_no_settings_of_the_owner() -> None:
    assert elasticache.ElasticacheSettings.model_config["env_file"] is None
