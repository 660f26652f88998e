"""What older versions kept and exported, this one reads. tests/test_records.py runs this in projects."""

import asyncio
import importlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from bot.runtime.chosen import ENGINE
from bot.runtime.config import load_settings
from bot.runtime.engines import create_store
from bot.runtime.state.store import OperatorStore
from bot.runtime.state.transfer import export_lines, import_lines
from suite.contract.harness import Harness

HERE = Path(__file__).parent
EXPORTS = sorted(HERE.glob("versions/*/*/export.jsonl"))
STORED = sorted(HERE.glob(f"versions/*/{ENGINE}"))


def name(path: Path) -> str:
    return "-".join(path.relative_to(HERE).parts[1:3])


def canonical(lines: list[bytes]) -> list[bytes]:
    """The records, each with all that it may leave out."""
    records = [{"marks": {}} | orjson.loads(line) for line in lines]
    return sorted(orjson.dumps(record, option=orjson.OPT_SORT_KEYS) for record in records)


async def exported(store: OperatorStore) -> list[bytes]:
    return canonical([line async for line in export_lines(store)])


@pytest.mark.parametrize("export", EXPORTS, ids=name)
async def test_export(store: OperatorStore, export: Path) -> None:
    lines = export.read_bytes().splitlines()
    assert len(lines) > 5
    async for _ in import_lines(store, lines):
        pass
    assert await exported(store) == canonical(lines)


@pytest.fixture
async def old_store(request: pytest.FixtureRequest, harness: Harness) -> AsyncIterator[OperatorStore]:
    """The store of a bot whose servers hold what an older version put there."""
    settings = await asyncio.to_thread(harness.settings)
    stored = importlib.import_module(f"suite.old.{ENGINE}_stored")
    await stored.restore(settings, request.param)
    store = create_store(load_settings())
    yield store
    await store.close()


@pytest.mark.parametrize("old_store", STORED, indirect=True, ids=name)
async def test_stored(old_store: OperatorStore, request: pytest.FixtureRequest) -> None:
    """Migrated where there is something to migrate, read, and written to."""
    await old_store.migrate()
    await old_store.connect()
    folder = request.node.callspec.params["old_store"]
    expected = canonical((folder / "export.jsonl").read_bytes().splitlines())
    assert await exported(old_store) == expected
    async for _ in import_lines(old_store, expected):
        pass
    assert await exported(old_store) == expected


def test_there_is_something_to_read() -> None:
    """As tests/test_records.py says; memory keeps nothing that could be old."""
    assert len(EXPORTS) >= 1
    assert len(STORED) == int(os.environ["OLD_VERSIONS"])
