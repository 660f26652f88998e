"""Conversations of one record: kept apart, loaded one at a time, bounded together."""

from typing import Any

import pytest
from orjson import dumps

from bot.runtime.errors import StateConflict
from bot.runtime.state.record import (
    HOME,
    Author,
    Conversation,
    Limits,
    Message,
    Place,
    UserRecord,
    identity,
    topic,
)
from bot.runtime.state.record import chat as chat_
from bot.runtime.state.record import person as person_
from bot.runtime.state.store import Changes, ConversationChange, OperatorStore
from bot.runtime.state.transfer import export_lines, import_lines
from bot.runtime.state.turn import Turn, mutate
from suite.contract.harness import Harness

GROUP, TOPIC = "-100::", "-100:7:"


async def say(store: OperatorStore, conversation: str, *texts: str, user_id: str = "1") -> None:
    """Append messages to a conversation."""

    async def change(turn: Turn) -> None:
        for text in texts:
            turn.remember("user", text)

    await mutate(store, user_id, change, conversation=conversation)


async def said(store: OperatorStore, conversation: str, user_id: str = "1") -> list[str]:
    """The texts of a conversation."""
    record = await store.load(user_id, conversation)
    assert record.conversation == conversation
    assert record.others == {}
    return [message.text for message in record.history]


async def all_said(store: OperatorStore, user_id: str = "1") -> dict[str, list[str]]:
    """The texts of all conversations that have any, as `load` gives them all, and one by one."""
    record = await store.load(user_id, None)
    texts = {HOME: [message.text for message in record.history]}
    texts |= {name: [message.text for message in messages] for name, messages in record.others.items()}
    for name, expected in texts.items():
        assert await said(store, name, user_id) == expected
    assert texts.keys() - {HOME} == record.conversations.keys() - {HOME}
    for name, noted in record.conversations.items():
        assert noted.next - noted.first == len(texts[name])
    return {name: each for name, each in texts.items() if each}


@pytest.mark.clause("history.apart")
async def test_what_was_said_elsewhere_is_not_in_a_conversation(store: OperatorStore) -> None:
    await say(store, HOME, "my PIN is 1234")
    await say(store, GROUP, "hello all")
    await say(store, TOPIC, "on topic")
    await say(store, HOME, "still there?")
    await say(store, GROUP, "bye all")
    assert await said(store, HOME) == ["my PIN is 1234", "still there?"]
    assert await said(store, GROUP) == ["hello all", "bye all"]
    assert await said(store, TOPIC) == ["on topic"]
    assert await said(store, "-200::") == []
    assert await all_said(store) == {
        HOME: ["my PIN is 1234", "still there?"],
        GROUP: ["hello all", "bye all"],
        TOPIC: ["on topic"],
    }


@pytest.mark.clause("history.apart")
async def test_a_record_of_one_conversation_is_as_it_always_was(store: OperatorStore) -> None:
    await say(store, HOME, "hello")
    record = await store.load("1", None)
    assert (record.conversations, record.others) == ({}, {})
    assert set(record.to_json()) == {"user_id", "state", "history", "fsm", "applied", "outbox", "marks"}


@pytest.mark.clause("history.apart")
async def test_of_more_messages_than_are_kept_the_oldest_are_dropped(store: OperatorStore) -> None:
    version = 0
    for first in (7, 10, 13):
        messages = tuple(Message("user", f"{first}.{n}", 1.0) for n in range(3))
        change = ConversationChange(Conversation(first, first + 2, 9, 1.0), messages)
        version = await store.commit("1", Changes(conversations={GROUP: change}), expect=version)
        assert (await said(store, GROUP))[-2:] == [f"{first}.1", f"{first}.2"]
        assert len(await said(store, GROUP)) == 2


@pytest.mark.clause("history.apart")
async def test_a_name_may_be_anything(store: OperatorStore) -> None:
    for name in (names := ["a b", "ü:1:x", "%", "__x__", "1.2", "*", "-1::" + "b" * 200]):
        await say(store, name, name)
    assert await all_said(store) == {name: [name] for name in names}


@pytest.mark.clause("history.newest")
async def test_each_conversation_keeps_its_newest_messages(harness: Harness) -> None:
    store = await harness.open(Limits(history=3))
    await say(store, HOME, "a")
    for number in range(5):
        await say(store, GROUP, f"{number}")
    await say(store, TOPIC, *"uvwxyz")
    assert await all_said(store) == {HOME: ["a"], GROUP: ["2", "3", "4"], TOPIC: ["x", "y", "z"]}


@pytest.mark.clause("history.newest")
async def test_a_conversation_can_be_rewritten_and_cleared(store: OperatorStore) -> None:
    for name in (HOME, GROUP, TOPIC):
        await say(store, name, *"abc")

    async def rewrite(turn: Turn) -> None:
        turn.history[:] = [turn.history[1], Message("assistant", "new", 5.0)]

    async def clear(turn: Turn) -> None:
        turn.history.clear()

    async def begin_anew(turn: Turn) -> None:
        turn.reset()
        turn.remember("user", "anew")

    await mutate(store, "1", rewrite, conversation=GROUP)
    assert await all_said(store) == {HOME: ["a", "b", "c"], GROUP: ["b", "new"], TOPIC: ["a", "b", "c"]}
    await mutate(store, "1", clear, conversation=TOPIC)
    await mutate(store, "1", begin_anew)
    assert await all_said(store) == {HOME: ["anew"], GROUP: ["b", "new"]}
    await mutate(store, "1", begin_anew, conversation=GROUP)
    await say(store, TOPIC, "back")
    assert await all_said(store) == {HOME: ["anew"], GROUP: ["anew"], TOPIC: ["back"]}
    for name in (GROUP, TOPIC):
        await mutate(store, "1", clear, conversation=name)
    assert await all_said(store) == {HOME: ["anew"]}
    assert (await store.load("1")).conversations == {}


@pytest.mark.clause("history.newest")
async def test_when_a_record_is_full_the_conversation_used_least_recently_gives_way(
    harness: Harness,
) -> None:
    store = await harness.open(Limits(max_bytes=3_000))
    for name, letter in ((HOME, "p"), (GROUP, "g"), (TOPIC, "t")):
        await say(store, name, *(letter * 80 + str(number) for number in range(5)))
    await say(store, HOME, "p" * 80 + "5")
    before = await all_said(store)
    assert {name: len(texts) for name, texts in before.items()} == {HOME: 6, GROUP: 5, TOPIC: 5}
    for _ in range(3):
        await say(store, TOPIC, "t" * 300)
    after = await all_said(store)
    assert after[TOPIC] == before[TOPIC] + ["t" * 300] * 3
    assert after[HOME] == before[HOME]
    assert 0 < len(after[GROUP]) < 5, "as many as have to"
    assert after[GROUP] == before[GROUP][-len(after[GROUP]) :], "the oldest first"
    await say(store, TOPIC, *["t" * 300] * 2)
    after = await all_said(store)
    assert after[TOPIC] == before[TOPIC] + ["t" * 300] * 5
    assert GROUP not in after
    assert 0 < len(after[HOME]) < 6
    assert after[HOME] == before[HOME][-len(after[HOME]) :]
    await say(store, TOPIC, *["t" * 300] * 8)
    assert (await all_said(store)).keys() == {TOPIC}, "then its own"


@pytest.mark.clause("forget.erases")
async def test_forgetting_erases_all_conversations(store: OperatorStore) -> None:
    for name in (HOME, GROUP, TOPIC):
        await say(store, name, "hello")
    assert await store.forget("1") is True
    record = await store.load("1", None)
    assert record.is_empty
    assert await all_said(store) == {}
    assert await store.forget("1") is False
    await say(store, GROUP, "again")
    assert await all_said(store) == {GROUP: ["again"]}
    assert [user async for user in store.users()] == ["1"], "a conversation is something about somebody"


@pytest.mark.clause("forget.erases")
async def test_a_turn_that_forgets_may_begin_a_conversation(store: OperatorStore) -> None:
    for name in (HOME, GROUP, TOPIC):
        await say(store, name, *"abc")

    async def change(turn: Turn) -> None:
        turn.forget()
        turn.remember("user", "first")

    await mutate(store, "1", change, conversation=GROUP)
    assert await all_said(store) == {GROUP: ["first"]}


@pytest.mark.clause("record.expires")
async def test_conversations_expire_with_their_record(harness: Harness) -> None:
    store = await harness.open(ttl=3600)
    for name in (HOME, GROUP, TOPIC):
        await say(store, name, *"abc")
    await harness.expire("1")
    assert (await store.load("1", None)).is_empty
    assert await said(store, GROUP) == []
    await say(store, GROUP, "anew")
    assert await all_said(store) == {GROUP: ["anew"]}
    await harness.expire("1")
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    assert await all_said(store) == {}


@pytest.mark.clause("commit.stale")
async def test_a_stale_commit_changes_no_conversation(store: OperatorStore) -> None:
    await say(store, GROUP, "first")
    record = await store.load("1", GROUP)
    await say(store, TOPIC, "other")
    turn = Turn(record, store.limits)
    turn.remember("user", "stale")
    changes = turn.changes()
    assert changes
    with pytest.raises(StateConflict):
        await store.commit("1", changes, expect=record.version)
    assert await all_said(store) == {GROUP: ["first"], TOPIC: ["other"]}


@pytest.mark.clause("wire.lost-answer")
async def test_a_commit_repeated_appends_once(store: OperatorStore) -> None:
    await say(store, GROUP, "first")
    record = await store.load("1", GROUP)
    turn = Turn(record, store.limits)
    turn.remember("user", "once")
    changes = turn.changes()
    assert changes
    version = await store.commit("1", changes, expect=record.version)
    assert await store.commit("1", changes, expect=record.version) == version
    assert await all_said(store) == {GROUP: ["first", "once"]}


@pytest.mark.clause("history.authors")
async def test_a_message_keeps_its_author(store: OperatorStore) -> None:
    messages = [
        Message("user", "a", 1.0, Author(2**40, 'Ann "ü" 😀')),
        Message("user", "b", 2.0, Author(-(10**12) - 1, "")),
        Message("assistant", "c", 3.0),
    ]

    async def change(turn: Turn) -> None:
        turn.history += messages

    for name in (HOME, GROUP):
        await mutate(store, "-100", change, conversation=name)
        assert (await store.load("-100", name)).history == messages
    assert (await store.load("-100", None)).others == {GROUP: messages}


RECORD = UserRecord(
    "1",
    state={"a": 1},
    history=[Message("user", "private", 1.0)],
    others={
        GROUP: [Message("user", "b", 2.0, Author(7, "Bea")), Message("assistant", "d", 4.0)],
        TOPIC: [Message("user", "t", 3.0)],
    },
)


async def exported(store: OperatorStore) -> list[bytes]:
    return [line async for line in export_lines(store)]


async def test_an_export_has_all_conversations_and_an_import_brings_them(store: OperatorStore) -> None:
    lines = [dumps(RECORD.to_json()) + b"\n"]
    for _ in range(2):
        assert [done async for done in import_lines(store, lines)] == [(1, 0)]
        assert await exported(store) == lines
        assert (await all_said(store))[GROUP] == ["b", "d"]
    await say(store, "-300::", "gone after the next import")
    await say(store, GROUP, "too")
    assert [done async for done in import_lines(store, lines)] == [(1, 0)]
    assert await exported(store) == lines


async def test_an_older_export_is_of_the_private_conversation(store: OperatorStore) -> None:
    line = (
        b'{"user_id":"1","state":{},"history":[{"role":"user","text":"hi","at":1.5}],'
        b'"fsm":{},"applied":[],"outbox":{}}'
    )
    assert [done async for done in import_lines(store, [line])] == [(1, 0)]
    assert await all_said(store) == {HOME: ["hi"]}


async def test_a_merge_keeps_and_adds_conversations(store: OperatorStore) -> None:
    await say(store, "-300::", "ours")
    ours = (Message("user", "b", 2.0, Author(7, "Bea")), Message("user", "c", 3.0))

    async def change(turn: Turn) -> None:
        turn.history += ours

    await mutate(store, "1", change, conversation=GROUP)
    for _ in range(2):
        steps = import_lines(store, [dumps(RECORD.to_json())], merge=True)
        assert [done async for done in steps] == [(1, 0)]
        assert await all_said(store) == {
            HOME: ["private"],
            GROUP: ["b", "c", "d"],
            TOPIC: ["t"],
            "-300::": ["ours"],
        }


async def test_the_raw_record_shows_all_conversations(store: OperatorStore) -> None:
    for name in (HOME, GROUP):
        await say(store, name, f"said in {name or 'private'}")
    raw = await store.raw("1")
    assert "said in private" in raw
    assert f"said in {GROUP}" in raw


def test_no_two_meanings_share_an_id() -> None:
    ids = [
        make(value)
        for value in (7, -7)
        for make in (person_, chat_, identity)
        if (make, value) != (person_, -7)
    ]
    ids += [topic(7, 7), topic(-7, 7), topic(-7, 77)]
    assert len(set(ids)) == len(ids)
    assert person_(7) == "7"


PLACES: list[tuple[Place, Any, str]] = [
    (Place(chat=1, person=1), "1", HOME),
    (Place(chat=1, topic=5, person=1), "1", "1:5:"),
    (Place(chat=-100, person=1), "1", "-100::"),
    (Place(chat=-100, topic=7, person=1), "1", "-100:7:"),
    (Place(chat=2, business_connection="b", person=1), "1", "2::b"),
    (Place(chat=1, business_connection="b", person=1), "1", "1::b"),
    (Place(person=1), "1", "::"),
    (Place(chat=-100, person=1), "-100", HOME),
    (Place(chat=-100, topic=7, person=1), "-100", "-100:7:"),
    (Place(chat=-100, topic=7, person=1), topic(-100, 7), HOME),
    (Place(chat=-100, person=1), topic(-100, 7), "-100::"),
    (Place(chat=-100, identity=-100), identity(-100), HOME),
    (Place(chat=-100, identity=-200), identity(-200), "-100::"),
]


@pytest.mark.parametrize(("place", "record", "conversation"), PLACES)
def test_a_conversation_is_named_by_its_place(place: Place, record: str, conversation: str) -> None:
    assert place.conversation(record) == conversation
