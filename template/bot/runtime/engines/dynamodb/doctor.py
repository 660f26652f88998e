"""What `bot doctor` says about DynamoDB: what could cost records, or keep the bot from running."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from bot.runtime.engines.dynamodb.connection import DynamodbClient, DynamodbRefuses
from bot.runtime.engines.dynamodb.table import INDEX, describe, expires, index_status, recovers
from bot.runtime.errors import OperatorError
from bot.runtime.state.store import Finding

CLOCK_SECONDS = 60
"""AWS refuses what is signed by a clock that is five minutes wrong."""


async def diagnose(client: DynamodbClient, ttl: float | None) -> list[Finding]:
    """Look at the table.

    Raises:
        StateUnavailable: it did not answer.
    """
    findings = [_lifetime(ttl), _clock(client.clock_difference)]
    try:
        table = await describe(client)
    except DynamodbRefuses as error:
        return [*findings, Finding("warning", f"the table cannot be looked at: {error}")]
    if table is None:
        return [*findings, Finding("error", f"the table {client.table} does not exist: run `bot migrate`")]
    return [
        *findings,
        Finding("ok", f"the table {client.table} is {table['TableStatus'].lower()}, region: {client.region}"),
        _billing(table),
        _protection(table),
        _index(table),
        await _switch(
            client, expires, "what has expired or was forgotten is deleted (TTL)", "stays in the table"
        ),
        await _switch(client, recovers, "point-in-time recovery is on", "what is deleted by mistake is gone"),
    ]


def _lifetime(ttl: float | None) -> Finding:
    if ttl is None:
        return Finding("ok", "records are kept without a time limit (STATE_TTL is not set)")
    return Finding("ok", f"records are kept for {ttl / 3600:g} hours after their last change (STATE_TTL)")


def _clock(difference: float) -> Finding:
    if abs(difference) > CLOCK_SECONDS:
        way = "ahead of" if difference > 0 else "behind"
        text = (
            f"DynamoDB's clock is {abs(difference):.0f} s {way} this machine's; from 300 s on it refuses us"
        )
        return Finding("warning", text)
    return Finding("ok", "DynamoDB's clock agrees with this machine's")


def _billing(table: Mapping[str, Any]) -> Finding:
    mode = table.get("BillingModeSummary", {}).get("BillingMode", "PROVISIONED")
    if mode == "PAY_PER_REQUEST":
        return Finding("ok", "the table is paid by request and takes any load")
    return Finding("warning", "the table has provisioned throughput: beyond it, users wait")


def _protection(table: Mapping[str, Any]) -> Finding:
    if table.get("DeletionProtectionEnabled"):
        return Finding("ok", "the table is protected from deletion")
    return Finding(
        "warning", "the table is not protected from deletion: anybody who may can delete all users at once"
    )


def _index(table: Mapping[str, Any]) -> Finding:
    try:
        status = index_status(table)
    except OperatorError as error:
        return Finding("error", str(error))
    if status is None:
        text = (
            f"the table has no index `{INDEX}`: what a record has to do later is not found: run `bot migrate`"
        )
        return Finding("warning", text)
    if status in ("ACTIVE", "UPDATING"):
        return Finding("ok", f"what a record has to do later is found by the index `{INDEX}`")
    text = f"the index `{INDEX}` is {status.lower()}: what a record has to do later waits until it is there"
    return Finding("warning", text)


async def _switch(
    client: DynamodbClient, is_on: Callable[[DynamodbClient], Awaitable[bool]], well: str, risk: str
) -> Finding:
    try:
        if await is_on(client):
            return Finding("ok", well)
    except DynamodbRefuses as error:
        return Finding("warning", f"not known whether {well}: {error}")
    return Finding("warning", f"not so: {well}; {risk}: run `bot migrate`")
