"""PostgreSQL at Amazon RDS: a token for each connection, and failover."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from botocore.session import Session

from bot.runtime.cloud import rds, rds_setup
from bot.runtime.cloud.rds import RdsStore
from bot.runtime.config import Settings
from bot.runtime.engines.postgres.connection import Connection, Database, DatabaseSettings
from bot.runtime.errors import OperatorError, StateUnavailable
from bot.runtime.state.store import Changes
from suite.engines.postgres.server import OwnServer
from suite.engines.postgres.standby import follow
from suite.engines.postgres.tls import NOWHERE, Authority, Names, TlsServer, problems
from suite.support.command_line import run

pytestmark = pytest.mark.clause("provider.connects")

INSTANCE = "bot.cabcdefghijk.eu-central-1.rds.amazonaws.com"
CHINA = "bot.cabcdefghijk.rds.cn-north-1.amazonaws.com.cn"
CHINA_TOO = "bot.cabcdefghijk.cn-north-1.rds.amazonaws.com.cn"
URL = f"postgresql://bot@{INSTANCE}:5432/postgres"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Where the provider's names lead."""
    return Names(monkeypatch)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The one whose certificate lies where the bot looks for Amazon's."""
    authority = Authority()
    monkeypatch.setattr(rds, "AUTHORITIES", authority.write(tmp_path / "rds.pem"))
    return authority


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of a role, as a container gets them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "IQoJb3JpZ2luX2VjEXAMPLE/+=")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.fixture
async def database(own_server: OwnServer) -> AsyncIterator[Connection]:
    """A server with the bot's user in it."""
    connection = await asyncpg.connect(own_server.url)
    await connection.execute("CREATE ROLE bot LOGIN; GRANT CREATE, USAGE ON SCHEMA public TO bot")
    yield connection
    await connection.close()


def by_the_sdk(token: str) -> str:
    """The token that the SDK's own function makes at the moment at which this one was made."""
    (signed_at,) = parse_qs(urlsplit(f"https://{token}").query)["X-Amz-Date"]
    then = datetime.datetime.strptime(signed_at, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
    client: Any = Session().create_client("rds", region_name="eu-central-1")
    with patch("botocore.auth.get_current_datetime", lambda *_, **__: then):
        made: str = client.generate_db_auth_token(DBHostname=INSTANCE, Port=5432, DBUsername="bot")
    return made


class Instance(TlsServer):
    """Lets in who shows a token that is good now, as RDS does.

    Attributes:
        tokens: those that were shown.
    """

    def __init__(self, upstream: str, authority: Authority) -> None:
        super().__init__(upstream, authority.server(INSTANCE))
        self.tokens: list[str] = []

    async def admit(self, startup: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"R" + (8).to_bytes(4) + (3).to_bytes(4))  # AuthenticationCleartextPassword
        kind = await reader.readexactly(1)
        password = await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4)
        assert kind == b"p"
        token = password.rstrip(b"\0").decode()
        self.tokens.append(token)
        query = parse_qs(urlsplit(f"https://{token}").query)
        made = datetime.datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ")
        age = datetime.datetime.now(datetime.UTC) - made.replace(tzinfo=datetime.UTC)
        if b"user\0bot\0" not in startup or token != await asyncio.to_thread(by_the_sdk, token):
            raise PermissionError("PAM authentication failed")
        if not 0 <= age.total_seconds() < int(query["X-Amz-Expires"][0]) <= 900:
            raise PermissionError("PAM authentication failed")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> RdsStore:
    """Not connected yet."""
    monkeypatch.setenv("DATABASE_URL", URL)
    return RdsStore.from_settings(Settings())


async def test_a_token_for_each_connection(
    own_server: OwnServer,
    database: Connection,
    authority: Authority,
    names: Names,
    store: RdsStore,
) -> None:
    async with Instance(own_server.url, authority) as instance:
        names.lead(INSTANCE, 5432, instance.port)
        assert (await store.migrate()).startswith("migrated")
        await store.connect()
        await store.commit("1", Changes(state={"a": b"1"}), expect=0)
        assert problems(await store.diagnose()) == []
        assert 1 <= len(instance.tokens) <= 4
        before = len(instance.tokens)
        await asyncio.sleep(1.1)  # a token is the same within a second
        instance.cut()
        await store.load("1")
        assert len(instance.tokens) == before + 1
        assert instance.tokens[-1] not in instance.tokens[:-1]
        await store.close()


async def test_the_token_is_the_one_that_the_sdk_makes(authority: Authority) -> None:
    from bot.runtime.cloud.postgres_address import PostgresAddress

    token = await rds.tokens(PostgresAddress(URL))()
    assert token.startswith(f"{INSTANCE}:5432/?Action=connect&DBUser=bot&")
    assert token == by_the_sdk(token)


async def test_credentials_that_were_renewed_sign_the_next_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a container's are: from an address that hands out others before these end."""
    from bot.runtime.cloud.postgres_address import PostgresAddress

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        await reader.readuntil(b"\r\n\r\n")
        served += 1
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5)  # soon: renewed when used
        body = (
            f'{{"AccessKeyId": "AKIA{served}", "SecretAccessKey": "secret", "Token": "token",'
            f' "Expiration": "{ends:%Y-%m-%dT%H:%M:%SZ}"}}'
        )
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{port}/")
        token = rds.tokens(PostgresAddress(URL))
        signed = [parse_qs(await token())["X-Amz-Credential"][0].partition("/")[0] for _ in range(2)]
    assert signed == [f"AKIA{served - 1}", f"AKIA{served}"]


async def test_a_role_that_is_refused(
    store: RdsStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: Names
) -> None:
    """By the service that hands out its credentials."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = (
            "<ErrorResponse xmlns='https://sts.amazonaws.com/doc/2011-06-15/'><Error><Type>Sender</Type>"
            "<Code>AccessDenied</Code><Message>me may not</Message></Error></ErrorResponse>"
        )
        head = f"HTTP/1.1 403 Forbidden\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()
        writer.close()

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "bot")
    (tmp_path / "credentials").write_text("[me]\naws_access_key_id = AKIA\naws_secret_access_key = secret\n")
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{port}")
        role = "role_arn = arn:aws:iam::123456789012:role/bot\nsource_profile = me\nregion = eu-central-1\n"
        (tmp_path / "config").write_text(f"[profile bot]\n{role}")
        with pytest.raises(StateUnavailable, match=r"AWS credentials cannot be renewed \(AccessDenied\)"):
            await store.connect()


async def test_without_credentials(store: RdsStore, monkeypatch: pytest.MonkeyPatch, names: Names) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StateUnavailable, match="there are no AWS credentials"):
        await store.connect()


@pytest.mark.parametrize("url", [URL, URL.replace("bot@", "bot:hunter2@")], ids=["token", "password"])
@pytest.mark.parametrize("is_named", [False, True], ids=["the bot's file", "sslrootcert"])
@pytest.mark.parametrize("what", ["another authority", "another name", "expired"])
async def test_a_server_that_is_not_the_one_gets_nothing(
    authority: Authority,
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    what: str,
    is_named: bool,
    url: str,
) -> None:
    if is_named:
        monkeypatch.setattr(rds, "AUTHORITIES", tmp_path / "is-not-there.pem")
        url = f"{url}?sslrootcert={authority.write(tmp_path / 'named.pem')}"
    monkeypatch.setenv("DATABASE_URL", url)
    store = RdsStore.from_settings(Settings())
    signer = Authority() if what == "another authority" else authority
    name = INSTANCE.replace("bot", "bob") if what == "another name" else INSTANCE
    async with TlsServer(NOWHERE, signer.server(name, has_expired=what == "expired")) as server:
        names.lead(INSTANCE, 5432, server.port)
        async with asyncio.timeout(5):
            with pytest.raises(StateUnavailable, match="certificate"):
                await store.connect()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"{URL}?sslmode=require", "leave sslmode out"),
        (f"postgresql://{INSTANCE}/bot", "neither user nor password"),
        ("postgresql://bot@db.example.eu-central-1.amazonaws.com/bot", "is no instance"),
        (f"postgresql://bot@{INSTANCE}:5432,{INSTANCE}:5433/bot", "several servers"),
        (f"postgresql://bot@/bot?host={INSTANCE},{INSTANCE}", "several servers"),
        (f"postgresql://bot@{INSTANCE}:port/bot", "a port that is none"),
        (f"postgresql://bot@{INSTANCE}/bot?sslrootcert=/is/not/there.pem", "names no certificates"),
    ],
)
def test_addresses_that_cannot_be_used(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(OperatorError, match=said):
        RdsStore.from_settings(Settings())


@pytest.mark.parametrize(
    ("url", "host", "region", "user"),
    [
        (f"bot@{CHINA}/x", CHINA, "cn-north-1", "bot"),
        (f"bot@{CHINA_TOO}/x", CHINA_TOO, "cn-north-1", "bot"),
        (f"bot%40home@{INSTANCE.upper()}/x", INSTANCE, "eu-central-1", "bot@home"),
        (f"/x?host={INSTANCE}&user=bot", INSTANCE, "eu-central-1", "bot"),
    ],
)
async def test_what_is_an_instance(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, url: str, host: str, region: str, user: str
) -> None:
    """However its address is written: the server is verified, and the token is for it."""
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{url}")
    database = RdsStore.database_of(DatabaseSettings())
    assert database
    assert database._options["ssl"].verify_mode is ssl.CERT_REQUIRED
    token = await database._options["password"]()
    assert token.startswith(f"{host}:5432/")
    query = parse_qs(urlsplit(f"https://{token}").query)
    assert query["DBUser"] == [user]
    assert query["X-Amz-Credential"][0].split("/")[2:4] == [region, "rds-db"]


@pytest.mark.parametrize("content", [None, "", "no certificate, in any lánguage"])
def test_without_the_authorities(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "rds.pem"
    if content is not None:
        file.write_text(content, "utf-8")
    monkeypatch.setattr(rds, "AUTHORITIES", file)
    monkeypatch.setenv("DATABASE_URL", URL)
    with pytest.raises(OperatorError, match=r"curl --fail .*/global-bundle\.pem"):
        RdsStore.from_settings(Settings())


async def test_what_doctor_says_of_a_password(
    own_server: OwnServer,
    database: Connection,
    authority: Authority,
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One in the address, for a user who administers the server, over a connection that is not verified."""
    async with TlsServer(own_server.url, authority.server(INSTANCE)) as server:
        names.lead(INSTANCE, 5432, server.port)
        monkeypatch.setenv(
            "DATABASE_URL", f"postgresql://postgres:secret@{INSTANCE}:5432/postgres?sslmode=require"
        )
        store = RdsStore.from_settings(Settings())
        await store.migrate()
        await store.connect()
        found = problems(await store.diagnose())
        for part in ("sslmode=require", "grant it rds_iam", "an administrator"):
            assert any(part in text for text in found), part
        assert len(found) == 3
        await store.close()


@pytest.mark.parametrize("value", ["0", "1"])
async def test_doctor_asks_whether_encryption_may_be_left_out(
    own_server: OwnServer,
    database: Connection,
    authority: Authority,
    names: Names,
    store: RdsStore,
    value: str,
) -> None:
    """By the parameter that Amazon's servers have, and those of others take for a setting of somebody's."""
    await database.execute(f"ALTER DATABASE postgres SET rds.force_ssl = '{value}'")
    async with Instance(own_server.url, authority) as instance:
        names.lead(INSTANCE, 5432, instance.port)
        await store.migrate()
        await store.connect()
        found = problems(await store.diagnose())
        assert any("rds.force_ssl is off" in text for text in found) is (value == "0")
        assert len(found) == (value == "0")
        await store.close()


@pytest.mark.rarely
@pytest.mark.parametrize("falls_silent", [False, True], ids=["it ends", "it falls silent"])
async def test_failover(
    own_server: OwnServer,
    database: Connection,
    authority: Authority,
    names: Names,
    store: RdsStore,
    falls_silent: bool,
) -> None:
    """The name leads to the standby, which has every commit that was acknowledged, and so does the bot.

    A machine that loses its power or network says nothing more: its connections stay, and are of no use.
    """
    async with Instance(own_server.url, authority) as primary:
        names.lead(INSTANCE, 5432, primary.port)
        await store.migrate()
        standby = await asyncio.to_thread(follow, own_server)
        await store.connect()
        versions = {
            str(n): await store.commit(str(n), Changes(state={"n": b"1"}), expect=0) for n in range(20)
        }
        await asyncio.gather(*map(store.load, versions))  # by all the connections there may be
        async with Instance(standby.url, authority) as secondary:
            # For a moment the name leads to a server that can be read and not written to.
            names.lead(INSTANCE, 5432, secondary.port)
            await database.close()
            if falls_silent:
                primary.fall_silent()
                with pytest.raises(StateUnavailable, match="no answer in time"):
                    await store.load("0")
            else:
                primary.cut()
                await asyncio.to_thread(own_server.embedded.stop_now)
            writing = asyncio.create_task(store.commit("0", Changes(state={"n": b"2"}), expect=versions["0"]))
            with pytest.raises(StateUnavailable, match="is a standby"):
                await Database(standby.url).connect()
            await asyncio.sleep(1)
            assert not writing.done()
            await asyncio.to_thread(standby.promote)
            versions["0"] = await writing
            async with asyncio.timeout(8):  # one connection that hung is enough
                records = await asyncio.gather(*map(store.load, versions))
            for record in records:
                assert record.version == versions[record.user_id]
                assert record.state == {"n": 2 if record.user_id == "0" else 1}
            assert secondary.tokens
            await store.close()
    await asyncio.to_thread(standby.remove)


async def test_the_setup_makes_a_user_who_can_do_what_the_bot_does(own_server: OwnServer) -> None:
    """By one who administers the instance as Amazon lets its customers: short of a superuser."""
    superuser = await asyncpg.connect(own_server.url)
    await superuser.execute("""
        CREATE ROLE administrator LOGIN CREATEROLE;
        CREATE ROLE rds_iam;
        GRANT rds_iam TO administrator WITH ADMIN OPTION;
        ALTER DATABASE postgres OWNER TO administrator;
        REVOKE TEMPORARY ON DATABASE postgres FROM PUBLIC
    """)
    for _ in range(2):
        await rds_setup.set_up(Database(own_server.url.replace("//postgres:", "//administrator:")))
    assert await superuser.fetchval("SELECT pg_has_role('bot', 'rds_iam', 'MEMBER')")
    # Who becomes a member of the bot is one of rds_iam, too, and could not sign in by password any more.
    assert await superuser.fetch("SELECT FROM pg_auth_members WHERE roleid = 'bot'::regrole") == []
    assert not await superuser.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname LIKE 'bot_%')")
    await superuser.close()
    store = RdsStore(Database(own_server.url.replace("//postgres:", "//bot:")))
    await store.migrate()
    await store.connect()
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    assert problems(await store.diagnose(), "no database of Amazon RDS") == []
    await store.close()


def test_a_server_elsewhere(tmp_path: Path, harness: object) -> None:
    result = run(tmp_path, "doctor")
    assert "DATABASE_URL names no database of Amazon RDS" in result.stdout
