"""The table: made by `bot migrate`, and told what it has to be like.

So is one that is there already: a table that was restored from a backup comes without expiry, point-in-time
recovery and protection, and one of an older version without the index.

The index `due` has the items alone that have something to do, by namespace and time. Only a commit or a claim
that changes when that is writes to it.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import structlog

from bot.runtime.engines.dynamodb.connection import DynamodbClient, DynamodbRefuses
from bot.runtime.engines.dynamodb.item import DUE, EXPIRES, KEY, WAITING
from bot.runtime.errors import OperatorError, StateUnavailable

INDEX = "due"
_INDEX_KEYS = [{"AttributeName": WAITING, "KeyType": "HASH"}, {"AttributeName": DUE, "KeyType": "RANGE"}]
_INDEX = {"IndexName": INDEX, "KeySchema": _INDEX_KEYS, "Projection": {"ProjectionType": "KEYS_ONLY"}}
_ATTRIBUTES = {KEY: "S", WAITING: "S", DUE: "N"}

ACTIVE_SECONDS = 120.0
"""How long a new table may take until it can be used; usually some ten seconds."""

POLL_SECONDS = 0.5

PROGRESS_SECONDS = 10.0
"""How often it is said that an index is still being filled."""

MISSING = "ResourceNotFoundException"
NO_INDEX = ("ValidationException", MISSING)
"""Also of one that is still being filled; servers differ in which it is."""

BUSY = ("ResourceInUseException", "ContinuousBackupsUnavailableException", "LimitExceededException")
"""Somebody else is at it, or DynamoDB is."""

UNKNOWN = "UnknownOperationException"

log = structlog.get_logger(__name__)


async def migrate(client: DynamodbClient) -> str:
    """Make the table unless it is there, and turn on what it needs. Safe to run again, and at the same time.

    Returns:
        What was done.

    Raises:
        OperatorError: there is such a table, and it is another's.
        StateUnavailable: AWS does not answer, or does not permit it.
    """
    done = []
    if await describe(client) is None:
        done += await _create(client)
    table = await _until_active(client)
    keys = [(key["AttributeName"], key["KeyType"]) for key in table["KeySchema"]]
    if keys != [(KEY, "HASH")]:
        raise OperatorError(
            f"the table {client.table} has another key than `{KEY}`: set another DYNAMODB_TABLE"
        )
    done += await _turn_on_protection(client)
    done += await _turn_on_expiry(client)
    done += await _turn_on_recovery(client)
    done += await _make_index(client)
    return f"table {client.table}: {', '.join(done) if done else 'nothing to do'}"


async def describe(client: DynamodbClient) -> Mapping[str, Any] | None:
    """What DynamoDB says of the table; `None`: it does not exist."""
    try:
        table: Mapping[str, Any] = (await client.call("describe_table"))["Table"]
    except DynamodbRefuses as error:
        if error.code == MISSING:
            return None
        raise
    return table


async def expires(client: DynamodbClient) -> bool:
    """Whether DynamoDB deletes what has expired."""
    answer = (await client.call("describe_time_to_live"))["TimeToLiveDescription"]
    is_on = answer.get("TimeToLiveStatus") in ("ENABLED", "ENABLING")
    return is_on and bool(answer.get("AttributeName", EXPIRES) == EXPIRES)


async def recovers(client: DynamodbClient) -> bool:
    """Whether the table can be restored as it was at any moment of the last weeks."""
    answer = (await client.call("describe_continuous_backups"))["ContinuousBackupsDescription"]
    recovery = answer.get("PointInTimeRecoveryDescription", {})
    return bool(recovery.get("PointInTimeRecoveryStatus") == "ENABLED")


def index_status(table: Mapping[str, Any]) -> str | None:
    """`ACTIVE` when the index can be asked, another word while it cannot; `None`: there is none.

    Raises:
        OperatorError: there is an index of that name, and it is another's.
    """
    for index in table.get("GlobalSecondaryIndexes", []):
        if index["IndexName"] == INDEX:
            if index["KeySchema"] != _INDEX_KEYS:
                raise OperatorError(
                    f"the table {table['TableName']} has an index `{INDEX}` of another kind: "
                    "delete that, or set another DYNAMODB_TABLE"
                )
            return str(index["IndexStatus"])
    return None


async def _is_protected(client: DynamodbClient) -> bool:
    table = await describe(client) or {}
    return bool(table.get("DeletionProtectionEnabled", True))  # some servers do not know of it


async def _create(client: DynamodbClient) -> list[str]:
    try:
        await client.call(
            "create_table",
            AttributeDefinitions=_definitions(),
            KeySchema=[{"AttributeName": KEY, "KeyType": "HASH"}],
            GlobalSecondaryIndexes=[_INDEX],
            BillingMode="PAY_PER_REQUEST",
            DeletionProtectionEnabled=True,
        )
    except DynamodbRefuses as error:
        if error.code in BUSY:
            return []  # somebody else was faster
        raise
    return ["created (on-demand, protected from deletion)"]


async def _until_active(client: DynamodbClient) -> Mapping[str, Any]:
    give_up = time.monotonic() + ACTIVE_SECONDS
    while time.monotonic() < give_up:
        table = await describe(client)
        if table and table["TableStatus"] in ("ACTIVE", "UPDATING"):
            return table
        await asyncio.sleep(POLL_SECONDS)
    raise OperatorError(
        f"the table {client.table} is not ready after {ACTIVE_SECONDS:.0f} s: run it again later"
    )


def _definitions(table: Mapping[str, Any] | None = None) -> list[dict[str, str]]:
    """The attributes that are keys, those of indexes that the table has already among them."""
    there = (table or {}).get("AttributeDefinitions", [])
    kinds = {each["AttributeName"]: each["AttributeType"] for each in there} | _ATTRIBUTES
    return [{"AttributeName": name, "AttributeType": kind} for name, kind in kinds.items()]


async def _make_index(client: DynamodbClient) -> list[str]:
    """Make the index unless it is there, and wait until it can be asked: DynamoDB reads the table for it."""

    async def is_made(client: DynamodbClient) -> bool:
        return index_status(await describe(client) or {}) is not None

    async def make() -> None:
        table = await describe(client) or {}
        index: dict[str, Any] = dict(_INDEX)
        if table.get("BillingModeSummary", {}).get("BillingMode") != "PAY_PER_REQUEST":
            units = table.get("ProvisionedThroughput", {})
            index["ProvisionedThroughput"] = {
                name: max(units.get(name, 1), 1) for name in ("ReadCapacityUnits", "WriteCapacityUnits")
            }
        try:
            await client.call(
                "update_table",
                AttributeDefinitions=_definitions(table),
                GlobalSecondaryIndexUpdates=[{"Create": index}],
            )
        except StateUnavailable as error:
            # moto fails at one that somebody else has just made.
            if isinstance(error, DynamodbRefuses) or not await is_made(client):
                raise

    done = await _turn_on(client, is_made, make, f"the index `{INDEX}`")
    began = said = time.monotonic()
    while index_status(await describe(client) or {}) not in ("ACTIVE", "UPDATING", None):
        if time.monotonic() - said > PROGRESS_SECONDS:
            said = time.monotonic()
            log.info("DynamoDB fills the index", index=INDEX, seconds=round(said - began))
        await asyncio.sleep(POLL_SECONDS)
    return done


async def _turn_on_protection(client: DynamodbClient) -> list[str]:
    async def turn_on() -> None:
        await client.call("update_table", DeletionProtectionEnabled=True)

    return await _turn_on(client, _is_protected, turn_on, "protection from deletion")


async def _turn_on_expiry(client: DynamodbClient) -> list[str]:
    async def turn_on() -> None:
        wanted = {"Enabled": True, "AttributeName": EXPIRES}
        await client.call("update_time_to_live", TimeToLiveSpecification=wanted)

    return await _turn_on(client, expires, turn_on, f"expiry (TTL on `{EXPIRES}`)")


async def _turn_on_recovery(client: DynamodbClient) -> list[str]:
    async def turn_on() -> None:
        wanted = {"PointInTimeRecoveryEnabled": True}
        await client.call("update_continuous_backups", PointInTimeRecoverySpecification=wanted)

    return await _turn_on(client, recovers, turn_on, "point-in-time recovery")


async def _turn_on(client: DynamodbClient, is_on: Any, turn_on: Any, what: str) -> list[str]:
    give_up = time.monotonic() + ACTIVE_SECONDS
    while True:
        try:
            if await is_on(client):
                return []
            await turn_on()
        except DynamodbRefuses as error:
            if error.code == UNKNOWN:
                return [f"{what} is not on: this server does not offer it"]
            # Expiry that somebody else has just turned on is invalid to turn on again.
            is_passing = error.code in BUSY or (error.code == "ValidationException" and await is_on(client))
            if not is_passing or time.monotonic() > give_up:
                raise
            await asyncio.sleep(POLL_SECONDS)
        else:
            return [f"{what} turned on"]
