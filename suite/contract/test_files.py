"""Files of replies: beside the record, whole, and gone with the replies they belong to."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from bot.runtime.config import Settings
from bot.runtime.engines import create_store
from bot.runtime.errors import StateConflict
from bot.runtime.state.record import OutboxEntry, encode_entry
from bot.runtime.state.store import FILE_PART, Changes, OperatorStore, new_file_id
from bot.runtime.state.transfer import export_lines, import_record, read_line
from suite.contract.harness import Harness

pytestmark = pytest.mark.clause("files.beside")


def replying(update_id: int, *contents: bytes) -> tuple[Changes, list[str]]:
    """A commit of an update with a reply that has files, and their ids."""
    files = {new_file_id(update_id, content): content for content in contents}
    attached = {f"a{place}": {"name": "a.bin", "kept": file} for place, file in enumerate(files)}
    entry = OutboxEntry([{"method": "sendDocument", "params": {}, "files": attached}], 1.0)
    return Changes(applied=(update_id,), outbox={update_id: encode_entry(entry)}, files=files), list(files)


def test_how_large_a_file_may_be(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """As large as Telegram takes it; where each part is a write that is paid for, 1 MB."""
    for name, value in harness.settings().items():
        monkeypatch.setenv(name, value)
    store = create_store(Settings())
    assert store.limits.file_bytes == (1 if store.name in ("dynamodb", "firestore") else 50) * 2**20
    assert create_store(Settings(reply_file_bytes=7)).limits.file_bytes == 7


@pytest.mark.parametrize("size", [0, 1, FILE_PART, 2 * FILE_PART + 1])
async def test_a_file_comes_back_as_it_was(harness: Harness, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"\n" * (size % 256)
    changes, (file, other) = replying(7, content, b"other")
    store = await harness.open()
    await store.commit("1", changes, expect=0)
    elsewhere = await harness.open()
    assert await elsewhere.read_file("1", file) == content
    assert await elsewhere.read_file("1", other) == b"other"
    assert (await elsewhere.load("1")).outbox[7].kept_files() == [file, other]
    assert await elsewhere.read_file("2", other) is None


async def test_a_record_with_files_is_loaded_and_written_without_them(store: OperatorStore) -> None:
    changes, (file,) = replying(7, b"secret" * 100_000)
    version = await store.commit("1", changes, expect=0)
    raw = await store.raw("1")
    assert file in raw
    assert len(raw) < 10_000, "the content of a file is no part of the record"
    await store.commit("1", Changes(state={"a": b"1"}, applied=(8,)), expect=version)
    assert await store.read_file("1", file) == b"secret" * 100_000


async def test_a_file_goes_with_its_replies(store: OperatorStore) -> None:
    changes, (file,) = replying(7, b"7")
    version = await store.commit("1", changes, expect=0)
    changes, (other,) = replying(8, b"8")
    version = await store.commit("1", changes, expect=version)
    version = await store.commit("1", Changes(outbox={7: None}), expect=version)
    assert await store.read_file("1", file) is None
    assert await store.read_file("1", other) == b"8"
    await store.commit("1", Changes(outbox={8: None}), expect=version)
    assert await store.read_file("1", other) is None


async def test_a_delivered_file_is_dropped_and_the_record_stays(store: OperatorStore) -> None:
    changes, (file, other) = replying(7, b"one", b"other")
    version = await store.commit("1", changes, expect=0)
    await store.drop_files("1", [file])
    await store.drop_files("1", [file])
    await store.drop_files("2", [other])
    assert await store.read_file("1", file) is None
    assert await store.read_file("1", other) == b"other"
    record = await store.load("1")
    assert record.version == version
    assert 7 in record.outbox


async def test_a_commit_that_was_not_made_leaves_no_file(store: OperatorStore) -> None:
    first = await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    await store.commit("1", Changes(state={"a": b"2"}), expect=first)
    changes, (file,) = replying(7, b"stale")
    with pytest.raises(StateConflict):
        await store.commit("1", changes, expect=first)
    assert await store.read_file("1", file) is None


async def test_of_two_that_answer_one_update_the_files_of_one_stay(harness: Harness) -> None:
    stores = [await harness.open(), await harness.open()]
    commits = [replying(7, bytes([number]) * FILE_PART) for number in range(2)]
    outcomes = await asyncio.gather(
        *(store.commit("1", changes, expect=0) for store, (changes, _) in zip(stores, commits, strict=True)),
        return_exceptions=True,
    )
    (winner,) = [number for number, each in enumerate(outcomes) if not isinstance(each, BaseException)]
    kept = [await stores[0].read_file("1", file) for _, (file,) in commits]
    assert kept[winner] == bytes([winner]) * FILE_PART
    assert kept[1 - winner] is None
    assert (await stores[1].load("1")).outbox[7].kept_files() == commits[winner][1]


async def test_a_commit_repeated_after_a_lost_answer_keeps_its_files(store: OperatorStore) -> None:
    changes, (file,) = replying(7, b"once")
    version = await store.commit("1", changes, expect=0)
    assert await store.commit("1", changes, expect=0) == version
    assert await store.read_file("1", file) == b"once"


@pytest.mark.clause("forget.no-trace")
async def test_forgetting_takes_the_files_along(store: OperatorStore) -> None:
    changes, (file,) = replying(7, b"personal")
    await store.commit("1", changes, expect=0)
    await store.forget("1")
    assert await store.read_file("1", file) is None
    assert file not in await store.raw("1")


class Killed(Exception):
    """The process ends."""


class KilledMeanwhile(dict[str, bytes]):
    """Files of which all but the last are written when the process is killed."""

    def items(self) -> Any:
        *others, _ = super().items()
        yield from others
        raise Killed


@pytest.mark.clause("forget.no-trace")
@pytest.mark.parametrize("user_id", ["1", "1/7", "ä b%"])
async def test_forgetting_takes_files_along_whose_commit_was_never_made(
    harness: Harness, user_id: str
) -> None:
    store = await harness.open()
    version = await store.commit(user_id, Changes(state={"a": b"1"}), expect=0)
    changes, (file, _, _) = replying(7, b"personal" * FILE_PART, b"more", b"unwritten")
    with suppress(Killed):  # where files and commit are one write, it is made
        changes = replace(changes, files=KilledMeanwhile(changes.files))
        await store.commit(user_id, changes, expect=version)
    theirs, (kept,) = replying(7, b"another's")
    for other in ("1/7/x", "11", "2"):
        await store.commit(other, theirs, expect=0)
    elsewhere = await harness.open()
    await elsewhere.forget(user_id)
    assert await elsewhere.read_file(user_id, file) is None
    for other in ("1/7/x", "11", "2"):
        assert await elsewhere.read_file(other, kept) == b"another's"


@pytest.mark.clause("record.expires")
async def test_a_record_that_expired_shows_no_files_to_the_next_one(harness: Harness) -> None:
    store = await harness.open(ttl=3600)
    changes, (file,) = replying(7, b"old")
    await store.commit("1", changes, expect=0)
    await harness.expire("1")
    assert (await store.load("1")).outbox == {}
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    assert await store.read_file("1", file) is None


@pytest.mark.clause("transfer.complete")
async def test_an_export_carries_the_files_of_replies(store: OperatorStore) -> None:
    content = bytes(range(256)) * 2_000
    changes, (file,) = replying(7, content)
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    await store.commit("1", changes, expect=(await store.load("1")).version)
    (line,) = [line async for line in export_lines(store)]
    await store.forget("1")
    assert await import_record(store, read_line(line), with_forgotten=True)
    assert await store.read_file("1", file) == content
    assert (await store.load("1")).outbox[7].kept_files() == [file]
