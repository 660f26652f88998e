"""What Redis holds in a bot's namespace, as a file: a line of JSON for each key."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redis.asyncio import Redis


async def dump(settings: Mapping[str, str], folder: Path) -> None:
    """Write every key below `NAMESPACE`. When they expire is left out."""
    prefix = f"{settings['NAMESPACE']}:"
    lines = []
    async with Redis.from_url(settings["REDIS_URL"], decode_responses=True) as client:
        async for key in client.scan_iter(f"{prefix}*"):
            kind = await client.type(key)
            lines.append([key.removeprefix(prefix), kind, await _read(client, key, kind)])
    text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in sorted(lines))
    (folder / "redis.jsonl").write_text(text, "utf-8")


async def restore(settings: Mapping[str, str], folder: Path) -> None:
    """Put those keys into another namespace."""
    lines = (folder / "redis.jsonl").read_bytes().splitlines()
    async with Redis.from_url(settings["REDIS_URL"]) as client:
        for name, kind, value in map(json.loads, lines):
            await client.execute_command(*_write(f"{settings['NAMESPACE']}:{name}", kind, value))


async def _read(client: Any, key: str, kind: str) -> Any:
    match kind:
        case "string":
            return await client.get(key)
        case "hash":
            return dict(sorted((await client.hgetall(key)).items()))
        case "list":
            return await client.lrange(key, 0, -1)
        case "zset":
            return await client.zrange(key, 0, -1, withscores=True)
    raise NotImplementedError(f"{key} is a {kind}")


def _write(key: str, kind: str, value: Any) -> list[str]:
    match kind:
        case "string":
            return ["SET", key, value]
        case "hash":
            return ["HSET", key, *(part for pair in value.items() for part in pair)]
        case "list":
            return ["RPUSH", key, *value]
        case "zset":
            return ["ZADD", key, *(str(part) for member, score in value for part in (score, member))]
    raise NotImplementedError(f"{key} is a {kind}")
