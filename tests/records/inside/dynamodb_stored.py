"""What DynamoDB holds in a bot's namespace, as a file: a line of JSON for each item."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiobotocore.session import get_session

EXPIRES = "expires"


async def dump(settings: Mapping[str, str], folder: Path) -> None:
    """Write every item below `NAMESPACE`. When they expire is left out."""
    prefix = f"{settings['NAMESPACE']}:"
    lines = []
    async with _client(settings) as client:
        async for page in client.get_paginator("scan").paginate(TableName=settings["DYNAMODB_TABLE"]):
            for item in page["Items"]:
                name = item.pop("id")["S"]
                item.pop(EXPIRES, None)
                if name.startswith(prefix):
                    lines.append([name.removeprefix(prefix), dict(sorted(item.items()))])
    text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in sorted(lines))
    (folder / "dynamodb.jsonl").write_text(text, "utf-8")


async def restore(settings: Mapping[str, str], folder: Path) -> None:
    """Put those items into another namespace, of a table that is there."""
    async with _client(settings) as client:
        for line in (folder / "dynamodb.jsonl").read_bytes().splitlines():
            name, item = json.loads(line)
            item["id"] = {"S": f"{settings['NAMESPACE']}:{name}"}
            await client.put_item(TableName=settings["DYNAMODB_TABLE"], Item=item)


def _client(settings: Mapping[str, str]) -> Any:
    return get_session().create_client(
        "dynamodb",
        region_name=settings["AWS_REGION"],
        endpoint_url=settings["AWS_ENDPOINT_URL_DYNAMODB"],
        aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
    )
