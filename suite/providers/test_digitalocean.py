"""PostgreSQL at DigitalOcean: the cluster's certificate, as a variable, and its connection pools."""

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest

from bot.runtime.cloud.digitalocean import DigitaloceanStore
from bot.runtime.config import Settings
from bot.runtime.errors import OperatorError, StateUnavailable
from bot.runtime.state.store import Changes
from suite.engines.postgres.pooler import PGBOUNCER
from suite.engines.postgres.server import OwnServer
from suite.engines.postgres.tls import NOWHERE, Authority, Names, TlsServer, problems
from suite.support.command_line import run

pytestmark = pytest.mark.clause("provider.connects")

CLUSTER = "db-postgresql-fra1-12345-do-user-1234567-0.b.db.ondigitalocean.com"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Where the provider's names lead."""
    return Names(monkeypatch)


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The cluster's own, whose certificate App Platform hands over as a variable."""
    authority = Authority()
    monkeypatch.setenv("DATABASE_CA_CERT", authority.pem)
    return authority


@pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")
async def test_by_a_connection_pool(
    pooler: str,
    empty_schema: str,
    authority: Authority,
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with TlsServer(pooler, authority.server(CLUSTER)) as server:
        names.lead(CLUSTER, 25061, server.port)
        url = f"postgresql://postgres:secret@{CLUSTER}:25061/postgres?sslmode=verify-full"
        monkeypatch.setenv("DATABASE_URL", url)
        monkeypatch.setenv("DATABASE_POOLER", "transaction")
        monkeypatch.setenv("DATABASE_SCHEMA", empty_schema)
        store = DigitaloceanStore.from_settings(Settings())
        await store.migrate()
        await store.connect()
        commits = (store.commit(str(n), Changes(state={"n": b"1"}), expect=0) for n in range(50))
        await asyncio.gather(*commits)
        assert len([user async for user in store.users()]) == 50
        assert problems(await store.diagnose(), "administrator", "fsync is off") == []
        await store.close()


async def test_to_the_server_itself(
    own_server: OwnServer,
    authority: Authority,
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    connection = await asyncpg.connect(own_server.url)
    await connection.execute("CREATE ROLE bot LOGIN; GRANT CREATE, USAGE ON SCHEMA public TO bot")
    await connection.close()
    async with TlsServer(own_server.url, authority.server(CLUSTER)) as server:
        names.lead(CLUSTER, 25060, server.port)
        address = f"postgresql://bot:secret@{CLUSTER}:25060/postgres"
        named = f"?sslrootcert={authority.write(tmp_path / 'named.pem')}"
        unverified = "sslmode=require, which believes any server"
        for query, said in (("", []), (named, []), ("?sslmode=require", [unverified])):
            monkeypatch.setenv("DATABASE_URL", address + query)
            store = DigitaloceanStore.from_settings(Settings())
            await store.migrate()
            await store.connect()
            found = problems(await store.diagnose())
            assert len(found) == len(said) + 1
            for part, text in zip([*said, "a pool (port 25061)"], found, strict=True):
                assert part in text
            await store.close()


@pytest.mark.parametrize("is_named", [False, True], ids=["the variable", "sslrootcert"])
@pytest.mark.parametrize("what", ["another authority", "another name", "expired"])
async def test_a_server_that_is_not_the_one(
    authority: Authority,
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    what: str,
    is_named: bool,
) -> None:
    query = ""
    if is_named:
        monkeypatch.delenv("DATABASE_CA_CERT")
        query = f"?sslrootcert={authority.write(tmp_path / 'named.pem')}"
    signer = Authority() if what == "another authority" else authority
    name = f"private-{CLUSTER}" if what == "another name" else CLUSTER
    async with TlsServer(NOWHERE, signer.server(name, has_expired=what == "expired")) as server:
        names.lead(CLUSTER, 25060, server.port)
        monkeypatch.setenv("DATABASE_URL", f"postgresql://bot:hunter2@{CLUSTER}:25060/bot{query}")
        store = DigitaloceanStore.from_settings(Settings())
        async with asyncio.timeout(5):
            with pytest.raises(StateUnavailable, match="certificate") as caught:
                await store.connect()
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("certificate", ["", "/etc/ca.crt"])
def test_without_the_certificate(monkeypatch: pytest.MonkeyPatch, certificate: str) -> None:
    monkeypatch.setenv("DATABASE_CA_CERT", certificate)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://bot:hunter2@{CLUSTER}:25060/bot")
    with pytest.raises(OperatorError, match="set DATABASE_CA_CERT"):
        DigitaloceanStore.from_settings(Settings())


def test_a_pool_without_the_setting(tmp_path: Path) -> None:
    url = f"postgresql://bot:hunter2@{CLUSTER}:25061/bot"
    result = run(tmp_path, "doctor", DATABASE_URL=url, DATABASE_POOLER="")
    assert result.returncode == 1
    assert "set DATABASE_POOLER=transaction" in result.stdout
    assert "hunter2" not in result.stdout + result.stderr


def test_the_app_gets_what_the_bot_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variables filled in that DEPLOY.md and App Platform fill in."""
    spec = Path("infra/digitalocean-app.yaml").read_text("utf-8")
    variables = dict(
        re.findall(r"^  - key: (\w+)\n(?:    type: SECRET\n)?    value: \"?(.*?)\"?$", spec, re.MULTILINE)
    )
    filled_in = {
        "${DATABASE_URL}": f"postgresql://bot:AVNS_x@{CLUSTER}:25061/bot?sslmode=verify-full",
        "${postgres.CA_CERT}": Authority().pem,
    }
    for name in ("DATABASE_URL", "DATABASE_POOLER", "DATABASE_CA_CERT"):
        value: str = variables[name]
        monkeypatch.setenv(name, filled_in.get(value, value))
    DigitaloceanStore.from_settings(Settings())
    assert variables["BOT_TOKEN"] == "${BOT_TOKEN}"


def test_a_server_elsewhere(tmp_path: Path, harness: object) -> None:
    result = run(tmp_path, "doctor")
    assert "DATABASE_URL names no database of DigitalOcean" in result.stdout
