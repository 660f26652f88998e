"""Generated sequences of operations on a store, compared with a plain-dict model after every step."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bot.runtime.errors import StateConflict, StateTooLarge
from bot.runtime.state.record import Author, Conversation, Limits, Message, OutboxEntry, encode_entry
from bot.runtime.state.store import (
    APPLIED_LIMIT,
    Changes,
    ConversationChange,
    OperatorStore,
    next_version,
)
from suite.contract.harness import Harness, make_harness

pytestmark = pytest.mark.clause("store.model")

MAX_BYTES = 2_000
USERS = st.sampled_from(["1", "2", "-3"])
KEYS = st.sampled_from(["a", "b", "", "ключ", "with space"])
NUMBERS = st.integers(-5, 5)
SOMETHING = NUMBERS | st.text("xé👋", max_size=3) | st.lists(NUMBERS, max_size=2)
VALUES = st.none() | SOMETHING
UPDATE_IDS = st.integers(0, 400)
AUTHORS = st.none() | st.just(Author(7, 'Ann "ü"'))
CONVERSATIONS = st.sampled_from(["", "-1::", "-1:2:", "ключ ::"])
DATA = st.none() | SOMETHING.map(orjson.dumps)
MESSAGES = st.builds(
    Message,
    st.sampled_from(["user", "assistant"]),
    st.text("hi👋\n", max_size=3),
    st.just(1.0),
    AUTHORS,
    DATA,
)
TALKS = st.dictionaries(
    CONVERSATIONS, st.tuples(st.lists(MESSAGES, max_size=3), st.integers(0, 4)), max_size=2
)
"""Per conversation, what is appended and how many messages stay."""
MARKS = UPDATE_IDS.map(str) | st.just("flood")


@dataclass
class Model:
    """What a record is, without an engine."""

    version: int = 0
    state: dict[str, Any] = field(default_factory=dict)
    fsm: dict[str, Any] = field(default_factory=dict)
    history: list[Message] = field(default_factory=list)
    applied: list[int] = field(default_factory=list)
    outbox: dict[int, OutboxEntry] = field(default_factory=dict)
    forgotten: int = 0
    marks: dict[str, Any] = field(default_factory=dict)
    exists: bool = False
    conversations: dict[str, Conversation] = field(default_factory=dict)
    others: dict[str, list[Message]] = field(default_factory=dict)

    @property
    def is_marker(self) -> bool:
        """Whether it says no more than that somebody was forgotten."""
        return bool(self.forgotten) and not (self.state or self.fsm or self.history or self.conversations)

    def with_talks(self, changes: Changes, talks: Mapping[str, tuple[list[Message], int]]) -> Changes:
        """The changes, and what is said in further conversations."""
        conversations: dict[str, ConversationChange | None] = {}
        for name, (messages, keep) in talks.items():
            old = self.conversations.get(name)
            following = (old.next if old else next_version(0)) + len(messages)
            count = min(keep, len(self.others.get(name, ())) + len(messages))
            now = Conversation(following - count, following, 9, 1.0)
            conversations[name] = ConversationChange(now, tuple(messages if name else ())) if count else None
            if not name:
                conversations[name] = ConversationChange(Conversation(0, keep, 9, 1.0)) if keep else None
        return replace(changes, conversations=conversations)

    def apply(self, changes: Changes, version: int) -> None:
        """Do to the model what a commit does to a record."""
        if changes.forget:
            self.__init__(applied=self.applied, marks=self.marks, forgotten=version)  # type: ignore[misc]
        self.version, self.exists = version, True
        parts = ((self.state, changes.state), (self.fsm, changes.fsm), (self.marks, changes.marks))
        for kept, changed in parts:
            for key, value in changed.items():
                if value is None:
                    kept.pop(key, None)
                else:
                    kept[key] = orjson.loads(value)
        if changes.clear_history:
            self.history = []
        self.history += changes.messages
        if changes.keep_history is not None:
            self.history = self.history[max(0, len(self.history) - changes.keep_history) :]
        for name, change in changes.conversations.items():
            if change is None:
                self.conversations.pop(name, None)
                self.others.pop(name, None)
                continue
            self.conversations[name] = change.now
            if name:
                self.others[name] = [*self.others.get(name, ()), *change.messages][-change.kept :]
        self.applied = [*self.applied, *changes.applied][-APPLIED_LIMIT:]
        for update_id, entry in changes.outbox.items():
            self.outbox.pop(update_id, None)
            if entry is not None:
                self.outbox[update_id] = OutboxEntry.from_json(orjson.loads(entry))
        self.outbox = {key: entry for key, entry in self.outbox.items() if key in self.all_applied}

    @property
    def all_applied(self) -> set[int]:
        """What is noted as applied, in one way or another."""
        return {*self.applied, *(int(name) for name in self.marks if name.isdecimal())}


@st.composite
def all_changes(draw: st.DrawFn) -> Changes:
    """Any commit a turn could make, and some that none would."""
    encoded = st.none() | VALUES.map(orjson.dumps)
    steps = st.text("st", max_size=2)
    flow = st.none() | steps.map(lambda step: orjson.dumps({"state": step, "data": {}}))
    applied = draw(st.lists(UPDATE_IDS, max_size=3, unique=True))
    outbox: dict[int, bytes | None] = dict.fromkeys(draw(st.lists(UPDATE_IDS, max_size=2)))
    for update_id in applied:
        if draw(st.booleans()):
            reply = {"method": "sendMessage", "params": {"text": str(update_id)}}
            outbox[update_id] = encode_entry(OutboxEntry([reply], 1.0))
    marks = st.none() | st.just(b"[1,2]")
    return Changes(
        state=draw(st.dictionaries(KEYS, encoded, max_size=3)),
        fsm=draw(st.dictionaries(KEYS, flow, max_size=2)),
        messages=tuple(draw(st.lists(MESSAGES, max_size=3))),
        clear_history=draw(st.booleans()),
        keep_history=draw(st.none() | st.integers(0, 6)),
        applied=tuple(applied),
        outbox=outbox,
        marks=draw(st.dictionaries(MARKS, marks, max_size=2)),
        size=draw(st.sampled_from([0, MAX_BYTES, MAX_BYTES + 1])),
    )


class StoreMachine(RuleBasedStateMachine):
    """One store, one model, and every sequence hypothesis can think of."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.models: dict[str, Model] = {}
        self.spent: set[int] = set()
        self.last: tuple[str, Changes, int | None] | None = None
        self.touched = ""

    @initialize()
    def open(self) -> None:
        self.harness: Harness = make_harness()
        limits = Limits(max_bytes=MAX_BYTES)
        self.store: OperatorStore = self.runner.run(self.harness.open(limits, ttl=3600))

    def teardown(self) -> None:
        try:
            if hasattr(self, "store"):
                for user_id in self.models:
                    self.agrees_about(user_id)
                self.lists_its_users()
        finally:
            if hasattr(self, "harness"):
                self.runner.run(self.harness.close())
            self.runner.close()

    def commit(self, user_id: str, changes: Changes, expect: int | None) -> int:
        return self.runner.run(self.store.commit(user_id, changes, expect=expect))

    def applied(self, user_id: str, changes: Changes, expect: int | None) -> None:
        """Commit on both sides."""
        model = self.models.setdefault(user_id, Model())
        version = self.commit(user_id, changes, expect)
        assert version > model.version
        assert version not in self.spent, "a version was used twice"
        self.spent.add(version)
        model.apply(changes, version)
        self.last = (user_id, changes, expect)

    @rule(user_id=USERS, changes=all_changes(), is_merge=st.booleans(), talks=TALKS)
    def commits(self, user_id: str, changes: Changes, is_merge: bool, talks: Any) -> None:
        self.touched = user_id
        model = self.models.get(user_id, Model())
        expect = None if is_merge else model.version
        if not is_merge:
            changes = model.with_talks(changes, talks)
        if changes.size <= MAX_BYTES:
            self.applied(user_id, changes, expect)
            return
        try:
            self.commit(user_id, changes, expect)
        except StateTooLarge:
            return
        raise AssertionError("a record beyond the limit was taken")

    @rule(user_id=USERS, changes=all_changes(), age=st.integers(1, 10**6))
    def commits_late(self, user_id: str, changes: Changes, age: int) -> None:
        self.touched = user_id
        version = self.models.get(user_id, Model()).version
        for expect in {0, version + age, max(1, version - age)} - {version}:
            try:
                self.commit(user_id, changes, expect)
            except StateConflict:
                continue
            except StateTooLarge:
                assert changes.size > MAX_BYTES
                continue
            raise AssertionError(f"version {expect} was accepted where {version} was due")

    @rule()
    def repeats_the_last_commit(self) -> None:
        """As after a lost answer; nothing must happen, unless somebody committed since."""
        if self.last is None:
            return
        user_id, changes, expect = self.last
        self.touched = user_id
        model = self.models[user_id]
        if model.exists and expect is not None:
            assert self.commit(user_id, changes, expect) == model.version

    @rule(user_id=USERS)
    def forgets(self, user_id: str) -> None:
        self.touched = user_id
        model = self.models.setdefault(user_id, Model())
        had_something = model.exists and not model.is_marker
        assert self.runner.run(self.store.forget(user_id)) is had_something
        version = self.runner.run(self.store.load(user_id)).version
        assert version > model.version
        self.spent.add(version)
        model.apply(Changes(forget=True), version)
        self.last = None

    @rule(user_id=USERS)
    def expires(self, user_id: str) -> None:
        self.touched = user_id
        model = self.models.get(user_id)
        if model is None or not model.exists:
            return
        self.runner.run(self.harness.expire(user_id))
        self.models[user_id] = Model()
        self.last = None

    @invariant()
    def agrees_with_the_model(self) -> None:
        """Looks at the record just worked on; `teardown` at all of them, for a look may be slow."""
        if self.touched:
            self.agrees_about(self.touched)

    def agrees_about(self, user_id: str) -> None:
        model = self.models.get(user_id, Model())
        for name in model.others:
            record = self.runner.run(self.store.load(user_id, name))
            assert (record.history, record.others) == (model.others[name], {})
        record = self.runner.run(self.store.load(user_id, None))
        assert record.others == model.others
        if not model.conversations.keys() == record.conversations.keys() == {""}:
            # The record's own place is noted beside others only: alone it need not be.
            assert record.conversations == ({} if model.conversations.keys() == {""} else model.conversations)
        record = self.runner.run(self.store.load(user_id))
        assert record.version == model.version
        assert record.state == model.state
        assert record.fsm == model.fsm
        assert record.history == model.history
        assert list(record.acknowledged) == [each for each in model.applied if str(each) not in model.marks]
        assert set(record.applied) == model.all_applied
        assert record.marks == model.marks
        assert record.outbox == model.outbox
        assert record.forgotten == model.forgotten

    def lists_its_users(self) -> None:
        async def listed() -> set[str]:
            return {user_id async for user_id in self.store.users()}

        expected = {user_id for user_id, model in self.models.items() if model.exists and not model.is_marker}
        assert self.runner.run(listed()) == expected


TestStore = StoreMachine.TestCase
TestStore.settings = settings(stateful_step_count=25)
