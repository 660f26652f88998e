"""Replicas of this version and of an older one, over the same records. tests/test_rolling.py runs this."""

import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bot.runtime.chosen import ENGINE
from bot.runtime.config import load_settings
from bot.runtime.engines import create_store
from bot.runtime.state.store import OperatorStore
from bot.runtime.state.turn import Turn, mutate
from suite.contract.harness import Harness

USER = "1"
GROUP, OTHER = "-100::", "-200::"

GROUPS_ARE_LOST = ENGINE == "dynamodb"
"""An old replica writes an item with what it knows of: what was said in groups goes with its next commit."""


class OldReplica:
    """A process of the older version's."""

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "suite.old_replica",
            cwd=os.environ["OLD_PROJECT"],
            env=os.environ | {"PYTHONPATH": os.environ["OLD_PROJECT"]},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert await self._answer() == "ready"

    async def do(self, line: str) -> Any:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n".encode())
        return await self._answer()

    async def end(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        assert await self._process.wait() == 0

    async def _answer(self) -> Any:
        assert self._process.stdout
        return json.loads(await asyncio.wait_for(self._process.stdout.readline(), 60))


@pytest.fixture
async def old(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OldReplica]:
    """It ran before there was this version, and made what tables there are."""
    if "DATABASE_SCHEMA" in os.environ:  # the kit's has this version's
        monkeypatch.setenv("DATABASE_SCHEMA", f"old_{secrets.token_hex(4)}")
    old = OldReplica()
    await old.start()
    yield old
    await old.end()


@pytest.fixture
async def new(old: OldReplica) -> AsyncIterator[OperatorStore]:
    """The store of this version, migrated; not connected yet, so that it flushes nothing."""
    store = create_store(load_settings())
    await store.migrate()
    yield store
    await store.close()


async def say(store: OperatorStore, conversation: str, *texts: str) -> None:
    async def change(turn: Turn) -> None:
        turn.state["last"] = texts[-1]
        for text in texts:
            turn.remember("user", text)

    await mutate(store, USER, change, conversation=conversation)


async def said(store: OperatorStore) -> dict[str, list[str]]:
    """What there is, by conversation: as `load` gives all, and one by one."""
    record = await store.load(USER, None)
    texts = {"": [message.text for message in record.history]}
    texts |= {name: [message.text for message in messages] for name, messages in record.others.items()}
    for name in ("", GROUP, OTHER):
        alone = [message.text for message in (await store.load(USER, name)).history]
        assert alone == texts.get(name, [])
    return {name: each for name, each in texts.items() if each}


async def test_an_old_replica_goes_on_after_the_migration(old: OldReplica, new: OperatorStore) -> None:
    """Its commits are kept, and flushed by itself where that is to be done."""
    await old.do("say before")
    await old.do("say after")
    assert not await old.do("flush"), "nothing is left to be flushed"
    await new.connect()
    assert await said(new) == {"": ["before", "after"]}
    assert (await new.load(USER)).state == {"last": "after"}


async def test_both_write(old: OldReplica, new: OperatorStore) -> None:
    """Each sees what the other keeps, but for conversations in groups, of which the old one knows nothing."""
    await new.connect()
    await say(new, "", "one")
    await say(new, GROUP, "hello all")
    await old.do("say two")
    await old.do("flush")
    assert await old.do("recall") == ["one", "two"]
    await say(new, "", "three")
    kept = {} if GROUPS_ARE_LOST else {GROUP: ["hello all"]}
    assert await said(new) == {"": ["one", "two", "three"], **kept}
    await say(new, GROUP, "bye all")
    kept = {GROUP: [*kept.get(GROUP, []), "bye all"]}
    assert await said(new) == {"": ["one", "two", "three"], **kept}
    assert await old.do("recall") == ["one", "two", "three"]


async def test_what_an_old_replica_forgets_does_not_come_back(old: OldReplica, new: OperatorStore) -> None:
    """Neither to be seen nor, once there is another commit, to be found in the store."""
    await new.connect()
    await say(new, "", "private secret")
    await say(new, GROUP, "secret of the group")
    await say(new, OTHER, "secret elsewhere")
    await old.do("forget")
    assert await said(new) == {}
    assert (await new.load(USER, None)).is_empty
    await say(new, GROUP, "hello again")
    assert await said(new) == {GROUP: ["hello again"]}
    await say(new, "", "and in private")
    assert await said(new) == {GROUP: ["hello again"], "": ["and in private"]}
    for conversation in ("", GROUP, OTHER):
        await say(new, conversation, "and again")
    assert "secret" not in await new.raw(USER)
