"""The table: made by `bot migrate`, and told what it has to be like.

So is one that is there already: a table that was restored from a backup comes without expiry, point-in-time
recovery and protection.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from bot.runtime.engines.dynamodb.connection import DynamodbClient, DynamodbRefuses
from bot.runtime.engines.dynamodb.item import EXPIRES, KEY
from bot.runtime.errors import OperatorError

ACTIVE_SECONDS = 120.0
"""How long a new table may take until it can be used; usually some ten seconds."""

POLL_SECONDS = 0.5

MISSING = "ResourceNotFoundException"
BUSY = ("ResourceInUseException", "ContinuousBackupsUnavailableException", "LimitExceededException")
"""Somebody else is at it, or DynamoDB is."""

UNKNOWN = "UnknownOperationException"


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


async def _is_protected(client: DynamodbClient) -> bool:
    table = await describe(client) or {}
    return bool(table.get("DeletionProtectionEnabled", True))  # some servers do not know of it


async def _create(client: DynamodbClient) -> list[str]:
    try:
        await client.call(
            "create_table",
            AttributeDefinitions=[{"AttributeName": KEY, "AttributeType": "S"}],
            KeySchema=[{"AttributeName": KEY, "KeyType": "HASH"}],
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
