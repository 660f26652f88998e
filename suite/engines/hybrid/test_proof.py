"""HYBRID_ACK=postgres: PostgreSQL has what was acknowledged, whatever Redis loses, and at whatever moment."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import pytest

from bot.runtime.engines.hybrid.store import HybridStore
from bot.runtime.errors import StateConflict, StateUnavailable
from bot.runtime.state.codec import dumps
from bot.runtime.state.record import OutboxEntry, encode_entry
from bot.runtime.state.store import FILE_PART, Changes, new_file_id
from suite.engines.hybrid.doings import put, rested
from suite.engines.hybrid.harness import HybridHarness

pytestmark = pytest.mark.clause("engine.write-behind")

Keys = dict[bytes, bytes]
"""Everything in Redis, as DUMP writes it."""

Loss = Callable[[HybridStore, HybridStore, Keys], Awaitable[None]]
"""What happens to Redis; given are two replicas and what Redis held a while ago."""


async def strict(hybrid: HybridHarness) -> HybridStore:
    """A store that flushes what it waits for, and nothing else."""
    store = await hybrid.make(ack="postgres", flush_interval=3600)
    await store.flusher.stop()
    return store


async def deliver(store: HybridStore, update_id: int) -> None:
    """Have an update handled until it is acknowledged, as Telegram does."""
    for _ in range(10):
        try:
            record = await store.load("1")
            if update_id not in record.applied:
                effects = dumps([*record.state.get("effects", []), update_id], "effects")
                changes = Changes(state={"effects": effects}, applied=(update_id,))
                await store.commit("1", changes, expect=record.version)
        except (StateConflict, StateUnavailable):
            continue
        assert update_id in (await rested(store)).applied, "acknowledged, and PostgreSQL lacks it"
        return
    raise AssertionError("it is never acknowledged")


async def held(store: HybridStore) -> Keys:
    client = store.redis.connection.client
    found = [key async for key in client.scan_iter(f"{store.redis._namespace}:*", 1_000)]
    return {key: await store.redis.connection.ask("DUMP", key) for key in found}


async def emptied(store: HybridStore, _: HybridStore, __: Keys) -> None:
    """FLUSHALL, or a restart without a file."""
    for key in await held(store):
        await store.redis.connection.ask("DEL", key)


async def failed_over(store: HybridStore, other: HybridStore, earlier: Keys) -> None:
    """To a replica that had not received the last commits."""
    await emptied(store, other, earlier)
    for key, content in earlier.items():
        await store.redis.connection.ask("RESTORE", key, 0, content)
    if store.redis._key("1", "meta").encode() in earlier:
        await store.redis.connection.ask("HSET", store.redis._key("1", "meta"), "lineage", "another")


async def without_marks(store: HybridStore, _: HybridStore, __: Keys) -> None:
    """An `allkeys` policy takes the list of what is to be flushed."""
    await store.redis.connection.ask("DEL", store.redis._dirty, store.redis._due)


async def without_record(store: HybridStore, _: HybridStore, __: Keys) -> None:
    """Or the record, and leaves that list."""
    await store.redis.connection.ask("DEL", *store.redis._keys("1"))


async def without_part(store: HybridStore, _: HybridStore, __: Keys) -> None:
    """Or one key of it."""
    await store.redis.connection.ask("DEL", store.redis._key("1", "state"))


async def without_meta(store: HybridStore, _: HybridStore, __: Keys) -> None:
    await store.redis.connection.ask("DEL", store.redis._key("1", "meta"))


def and_written(loss: Loss) -> Loss:
    """And another replica has applied another update by then."""

    async def lose(store: HybridStore, other: HybridStore, earlier: Keys) -> None:
        await loss(store, other, earlier)
        await deliver(other, 99)

    lose.__name__ = f"{loss.__name__}, and written"
    return lose


def and_read(loss: Loss) -> Loss:
    """And another replica has brought the record back by then."""

    async def lose(store: HybridStore, other: HybridStore, earlier: Keys) -> None:
        await loss(store, other, earlier)
        await other.load("1")

    lose.__name__ = f"{loss.__name__}, and read"
    return lose


ALONE: list[Loss] = [emptied, failed_over, without_marks, without_record, without_part, without_meta]
LOSSES = [*ALONE, and_read(emptied), and_read(failed_over), *map(and_written, ALONE)]

MOMENTS = [
    ("redis", "look", "warm"), ("redis", "look", "cold"), ("redis", "look", "dirty"),
    ("postgres", "read", "cold"), ("redis", "fill", "cold"),
    ("redis", "commit_warm", "warm"), ("redis", "commit_warm", "cold"),
    ("redis", "snapshot", "warm"), ("redis", "snapshot", "dirty"),
    ("postgres", "write", "warm"), ("postgres", "write", "dirty"),
    ("redis", "mark_clean", "warm"), ("redis", "mark_clean", "dirty"),
]  # fmt: skip
"""Right after what it happens, and how the record stood before."""


def then(monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, do: Callable[[], Awaitable[None]]) -> None:
    """Have something happen once, between a method's end and what its caller does with its answer."""
    real, is_over = getattr(owner, method), False

    async def call(*arguments: Any, **options: Any) -> Any:
        nonlocal is_over
        answer = await real(*arguments, **options)
        if not is_over:
            is_over = True
            await do()
        return answer

    monkeypatch.setattr(owner, method, call)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
async def test_nothing_acknowledged_is_lost(
    hybrid: HybridHarness, monkeypatch: pytest.MonkeyPatch, loss: Loss
) -> None:
    store, other = await strict(hybrid), await strict(hybrid)
    failures = {}
    for half, method, before in MOMENTS:
        await hybrid.postgres.execute("DELETE FROM {schema}.user_state")
        await emptied(store, other, {})
        await deliver(store, 1)
        earlier = await held(store)
        await deliver(store, 2)
        if before == "cold":
            await store.redis.connection.ask("DEL", *store.redis._keys("1"))
        elif before == "dirty":  # somebody else was killed after his commit
            record = await other.load("1")
            left = Changes(state={"effects": b"[1,2,3]"}, applied=(3,))
            await other.redis.commit_warm("1", left, record.version)
        try:
            with monkeypatch.context() as patch:
                then(patch, getattr(store, half), method, partial(loss, store, other, earlier))
                await deliver(store, 3)
            for update_id in (4, 3, 2):
                await deliver(other, update_id)
                await deliver(store, update_id)
            here, there = await store.load("1"), await rested(store)
            assert here.state == there.state
            assert sorted(set(there.state["effects"]) - {99}) == [1, 2, 3, 4]
            assert len(set(there.state["effects"])) == len(there.state["effects"])
            assert (99 in there.state["effects"]) == ("written" in loss.__name__)
        except AssertionError as error:
            failures[f"{method}, {before}"] = str(error).splitlines()[0]
    assert failures == {}


async def test_who_reads_sees_no_less_than_was_acknowledged(
    hybrid: HybridHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that another replica brought back while it was being flushed is older than what is flushed."""
    store, other = await strict(hybrid), await strict(hybrid)
    await put(store, n=1)
    then(monkeypatch, store.redis, "snapshot", partial(and_read(emptied), store, other, {}))
    await put(store, n=2)
    assert (await other.load("1")).state == {"n": 2}


async def test_a_lease_from_before_a_failover_fills_in_nothing(hybrid: HybridHarness) -> None:
    """The replica had received the lease, and not what came after it."""
    store = await strict(hybrid)
    await put(store, n=1)
    await emptied(store, store, {})
    slow = await store.redis.look("1")
    _, old = await store.postgres.read("1")
    earlier = await held(store)
    await put(store, n=2)
    await failed_over(store, store, earlier)
    await store.redis.connection.ask("SET", store.redis._key("1", "lease"), "another")
    assert not await store.redis.fill(old, slow.lease)  # type: ignore[union-attr]


@pytest.mark.parametrize("loss", [emptied, failed_over])
async def test_a_user_forgotten_stays_so(
    hybrid: HybridHarness, monkeypatch: pytest.MonkeyPatch, loss: Loss
) -> None:
    failures = []
    for half, method in (
        ("redis", "look"), ("redis", "commit_warm"), ("redis", "snapshot"), ("postgres", "erase"),
        ("redis", "mark_clean"),
    ):  # fmt: skip
        store, other = await strict(hybrid), await strict(hybrid)
        await put(store, say="hello", n=1)
        earlier = await held(store)
        await put(store, say="there", n=2)
        with monkeypatch.context() as patch:
            then(patch, getattr(store, half), method, partial(loss, store, other, earlier))
            for _ in range(3):
                try:
                    await store.forget("1")
                    break
                except StateUnavailable:
                    continue
        if not ((await other.load("1")).is_empty and (await rested(store)).is_empty):
            failures.append(method)
    assert failures == []


@pytest.mark.clause("files.beside")
@pytest.mark.parametrize("ack", ["redis", "postgres"])
async def test_files_that_redis_lost_before_their_commit_are_there_after_it(
    hybrid: HybridHarness, ack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in PostgreSQL, whatever Redis loses next."""
    store = await hybrid.make(ack=ack, flush_interval=3600)
    version = await put(store, a=1)
    await store.flush()
    write_files = store.redis.write_files

    async def write_and_lose(user_id: str, files: Mapping[str, bytes]) -> None:
        monkeypatch.undo()
        await write_files(user_id, files)
        await emptied(store, store, {})

    monkeypatch.setattr(store.redis, "write_files", write_and_lose)
    contents = [b"one" * FILE_PART, b"", b"other"]
    files = {new_file_id(7, content): content for content in contents}
    attached = {f"a{place}": {"name": "a.bin", "kept": file} for place, file in enumerate(files)}
    entry = encode_entry(OutboxEntry([{"method": "sendDocument", "params": {}, "files": attached}], 1.0))
    await store.commit("1", Changes(applied=(7,), outbox={7: entry}, files=files), expect=version)
    assert [await store.read_file("1", file) for file in files] == contents
    await store.flush()
    await emptied(store, store, {})
    assert [await store.read_file("1", file) for file in files] == contents
