"""`bot migrate` makes the table, as often and by as many as may be; `bot doctor` looks at it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bot.runtime.config import Settings
from bot.runtime.engines.dynamodb import table as dynamodb_table
from bot.runtime.engines.dynamodb.connection import DynamodbClient
from bot.runtime.engines.dynamodb.doctor import _clock, _index
from bot.runtime.engines.dynamodb.store import DynamodbStore
from bot.runtime.engines.dynamodb.table import _INDEX
from bot.runtime.errors import OperatorError, StateUnavailable
from bot.runtime.logs import configure_logs
from bot.runtime.state.store import Changes, Finding
from suite.engines.dynamodb.server import environment_of, make_client, make_store, make_table
from suite.engines.dynamodb.throttle import Throttle
from suite.support.command_line import run

CREATED = (
    "table {}: created (on-demand, protected from deletion), expiry (TTL on `expires`) turned on, "
    "point-in-time recovery turned on"
)


async def described(url: str, table: str) -> DynamodbClient:
    """A client of a table, open."""
    client = make_client(url, table)
    await client.open()
    return client


async def test_it_is_made_with_all_it_needs_and_once(url: str, fresh: str) -> None:
    assert await make_table(url, fresh) == CREATED.format(fresh)
    assert await make_table(url, fresh) == f"table {fresh}: nothing to do"
    client = await described(url, fresh)
    table = await dynamodb_table.describe(client)
    assert table
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert table["DeletionProtectionEnabled"] is True
    assert await dynamodb_table.expires(client)
    assert await dynamodb_table.recovers(client)
    await client.close()


async def test_many_who_make_it_at_once(url: str, fresh: str) -> None:
    said = await asyncio.gather(*(make_table(url, fresh) for _ in range(6)))
    assert sum("created" in line for line in said) == 1
    store = make_store(url, table=fresh)
    await store.connect()
    await store.close()


async def test_one_that_was_cut_off_is_finished(
    url: str, fresh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut_off(_: DynamodbClient) -> list[str]:
        raise KeyboardInterrupt

    client = await described(url, fresh)
    with monkeypatch.context() as patch:
        patch.setattr(dynamodb_table, "_turn_on_expiry", cut_off)
        with pytest.raises(KeyboardInterrupt):
            await dynamodb_table.migrate(client)
    await client.close()
    said = await make_table(url, fresh)
    assert said == f"table {fresh}: expiry (TTL on `expires`) turned on, point-in-time recovery turned on"


async def test_one_that_was_restored_gets_what_it_lacks(url: str, fresh: str) -> None:
    """Restoring makes a table with the items alone. Here it is made by hand, and used as it is."""
    client = await described(url, fresh)
    await make_old_table(client)
    store = make_store(url, table=fresh)
    await store.connect()
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    assert await make_table(url, fresh) == (
        f"table {fresh}: protection from deletion turned on, expiry (TTL on `expires`) turned on, "
        "point-in-time recovery turned on, the index `due` turned on"
    )
    table = await dynamodb_table.describe(client)
    assert table
    assert table["DeletionProtectionEnabled"] is True
    assert await make_table(url, fresh) == f"table {fresh}: nothing to do"
    assert set(levels(await store.diagnose()).values()) == {"ok"}
    assert (await store.load("1")).state == {"a": 1}
    await store.close()
    await client.close()


async def make_old_table(client: DynamodbClient, **more: Any) -> None:
    """As `bot migrate` of 1.0.0 makes it, but for expiry, recovery and protection."""
    options = {"BillingMode": "PAY_PER_REQUEST", **more}
    await client.call(
        "create_table",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        **options,
    )


async def test_one_of_an_older_version_gets_the_index_with_whom_is_due(url: str, fresh: str) -> None:
    """Until then a bot works, and says what is missing when it looks who is due."""
    client = await described(url, fresh)
    await make_old_table(client)
    store = make_store(url, table=fresh)
    await store.connect()
    now = int(client.now() * 1e6)
    await store.commit("1", Changes(state={"a": b"1"}, due=now), expect=0)
    await store.commit("2", Changes(state={"a": b"1"}), expect=0)
    for looking in (store.due(0, 9), store.reindex()):
        with pytest.raises(StateUnavailable, match=rf"{fresh} has no index `due` yet: run `bot migrate`$"):
            await looking
    clients = [make_client(url, fresh, dynamodb_timeout=3) for _ in range(4)]
    for each in clients:
        await each.open()
    said = await asyncio.gather(*map(dynamodb_table.migrate, clients))
    assert any("the index `due` turned on" in line for line in said)
    assert await make_table(url, fresh) == f"table {fresh}: nothing to do"
    for each in clients:
        await each.close()
    assert (await store.due(0, 9)).due == [("1", now)]
    assert await store.reindex() == 1
    assert (await store.load("1")).state == {"a": 1}
    await store.close()
    await client.close()


async def test_a_table_with_provisioned_throughput_gives_its_index_as_much(url: str, fresh: str) -> None:
    client = await described(url, fresh)
    units = {"ReadCapacityUnits": 3, "WriteCapacityUnits": 4}
    await make_old_table(client, BillingMode="PROVISIONED", ProvisionedThroughput=units)
    assert "the index `due` turned on" in await make_table(url, fresh)
    table = await dynamodb_table.describe(client)
    assert table
    (index,) = table["GlobalSecondaryIndexes"]
    assert {name: index["ProvisionedThroughput"][name] for name in units} == units
    await client.close()


async def test_an_index_of_somebody_else_is_left_alone(url: str, fresh: str) -> None:
    client = await described(url, fresh)
    key = [{"AttributeName": "id", "KeyType": "HASH"}]
    await make_old_table(
        client,
        GlobalSecondaryIndexes=[
            {"IndexName": "due", "KeySchema": key, "Projection": {"ProjectionType": "KEYS_ONLY"}}
        ],
    )
    with pytest.raises(
        OperatorError, match="has an index `due` of another kind: delete that, or set another"
    ):
        await dynamodb_table.migrate(client)
    store = make_store(url, table=fresh)
    await store.connect()
    assert any("of another kind" in finding.text for finding in await store.diagnose())
    await store.close()
    await client.close()


async def test_an_index_that_is_being_filled_is_waited_for(
    url: str, fresh: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The servers here have filled it at once, so what they say of it is changed on its way."""
    client = await described(url, fresh)
    await make_old_table(client)
    describe, asked = dynamodb_table.describe, 0

    async def describe_slowly(client: DynamodbClient) -> Any:
        nonlocal asked
        table = await describe(client)
        for index in (table or {}).get("GlobalSecondaryIndexes", ()):
            asked += 1
            index["IndexStatus"] = "ACTIVE" if asked > 3 else "CREATING"
        return table

    monkeypatch.setattr(dynamodb_table, "describe", describe_slowly)
    monkeypatch.setattr(dynamodb_table, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(dynamodb_table, "PROGRESS_SECONDS", 0)
    configure_logs(Settings())
    assert "the index `due` turned on" in await dynamodb_table.migrate(client)
    assert asked > 3
    assert "DynamoDB fills the index" in capsys.readouterr().err
    assert _index(
        {"TableName": fresh, "GlobalSecondaryIndexes": [{**_INDEX, "IndexStatus": "CREATING"}]}
    ).level == ("warning")
    await client.close()


async def test_the_command(tmp_path: Path, url: str, fresh: str) -> None:
    settings = environment_of(url, fresh)
    missing = await asyncio.to_thread(run, tmp_path, "state", "show", "1", **settings)
    assert (missing.returncode, missing.stderr) == (
        1,
        f"error: the dynamodb store cannot be used: the table {fresh} does not exist: run `bot migrate`\n",
    )
    made = await asyncio.to_thread(run, tmp_path, "migrate", **settings)
    assert (made.returncode, made.stdout, made.stderr) == (0, f"{CREATED.format(fresh)}\n", "")
    there = await asyncio.to_thread(run, tmp_path, "state", "show", "1", **settings)
    assert there.stderr.startswith("error: nothing is kept about user 1: ")


async def test_the_table_of_somebody_else_is_left_alone(url: str, fresh: str) -> None:
    client = await described(url, fresh)
    await client.call(
        "create_table",
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(OperatorError, match="has another key than `id`: set another DYNAMODB_TABLE"):
        await dynamodb_table.migrate(client)
    assert not await dynamodb_table.expires(client)
    await client.close()
    store = make_store(url, table=fresh)
    with pytest.raises(StateUnavailable, match="another key than `id`"):
        await store.connect()


async def test_a_server_without_all_the_features(throttle: Throttle, direct: DynamodbStore) -> None:
    """As DynamoDB local and others are."""
    throttle.before = lambda operation: (
        throttle.refuse_next("UnknownOperationException")
        if operation == "DescribeContinuousBackups"
        else None
    )
    assert "point-in-time recovery is not on: this server" in await make_table(throttle.url)


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.text: finding.level for finding in findings}


async def test_the_doctor_is_content_with_what_migrate_makes(direct: DynamodbStore) -> None:
    assert set(levels(await direct.diagnose()).values()) == {"ok"}


async def test_the_doctor_names_every_risk(url: str, fresh: str) -> None:
    client = await described(url, fresh)
    units = {"ReadCapacityUnits": 1, "WriteCapacityUnits": 1}
    await make_old_table(client, BillingMode="PROVISIONED", ProvisionedThroughput=units)
    await client.close()
    store = make_store(url, table=fresh)
    await store.connect()
    warnings = [text for text, level in levels(await store.diagnose()).items() if level == "warning"]
    await store.close()
    for sign in (
        *("provisioned throughput", "not protected from deletion", "(TTL)", "point-in-time recovery"),
        "no index `due`",
    ):
        assert sum(sign in text for text in warnings) == 1, sign


async def test_the_doctor_says_what_it_may_not_see(proxied: DynamodbStore, throttle: Throttle) -> None:
    throttle.refuse_next("AccessDeniedException")
    findings = levels(await proxied.diagnose())
    assert [text for text, level in findings.items() if level == "warning"] == [
        "the table cannot be looked at: these credentials do not permit dynamodb:DescribeTable on the table "
        f"{proxied.client.table}"
    ]


def test_the_doctor_compares_clocks() -> None:
    assert _clock(2).level == "ok"
    assert "100 s ahead of this machine's" in _clock(100).text
    assert _clock(-100).level == "warning"
