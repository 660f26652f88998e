"""Whose record an update changes, and which conversation its turn sees."""

import asyncio
from contextlib import suppress
from typing import Any

import orjson
import pytest
from aiogram.fsm.storage.base import StorageKey
from aiogram.types import Update

from bot.agent_adapter import Author, Message, Place, RecordId, TelegramAgentAdapter, Texts, Turn, chat
from bot.runtime.errors import StateUnavailable
from bot.runtime.state.fsm import RecordStorage, upgrade_group
from bot.runtime.state.jobs import jobs_in
from bot.runtime.state.record import FORGETTING, UserRecord
from bot.runtime.state.store import OperatorStore
from bot.runtime.state.turn import mutate
from bot.runtime.telegram import agent
from bot.runtime.telegram.updates import sender_of
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Mode, Runtime

GROUP = -1001234567890

THE_GROUP, THE_TOPIC = f"{GROUP}::", f"{GROUP}:77:"


class Recalling(TelegramAgentAdapter):
    """Says what it knows of the conversation so far."""

    def wants(self, update: Update) -> bool:
        return True

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        state["last"] = message
        return " | ".join(said.text for said in self.turn.history if said.role == "user")


def texts(record: UserRecord) -> dict[str, list[str]]:
    """What people wrote, by conversation."""
    conversations = {"": record.history} | record.others
    return {
        name: [said.text for said in messages if said.role == "user"]
        for name, messages in conversations.items()
    }


@pytest.mark.clause("history.apart")
async def test_a_group_never_sees_what_was_said_in_private(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    async with make_runtime(mode, agent_class=Recalling) as bot:
        telegram.message("my PIN is 1234", user_id=1)
        await telegram.settled()
        telegram.message("hi all", user_id=1, chat_id=GROUP)
        telegram.message("topical", user_id=1, chat_id=GROUP, message_thread_id=77, is_topic_message=True)
        telegram.message("a reply", user_id=1, chat_id=GROUP, message_thread_id=5)
        await telegram.settled()
        telegram.message("still private", user_id=1)
        await telegram.settled()
        assert telegram.texts(GROUP) == ["hi all", "topical", "hi all | a reply"]
        record = await bot.store.load("1", None)
        assert record.state == {"last": "still private"}
        assert texts(record) == {
            "": ["my PIN is 1234", "still private"],
            THE_GROUP: ["hi all", "a reply"],
            THE_TOPIC: ["topical"],
        }


@pytest.mark.clause("commands")
async def test_reset_clears_the_conversation_it_is_sent_in(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    async with make_runtime(mode, agent_class=Recalling) as bot:
        telegram.message("private", user_id=1)
        telegram.message("in the group", user_id=1, chat_id=GROUP)
        telegram.message("/reset", user_id=1, chat_id=GROUP)
        await telegram.settled()
        record = await bot.store.load("1", None)
        assert (record.state, record.others) == ({}, {})
        assert [said.text for said in record.history] == ["private", "private"]
        telegram.message("in the group", user_id=1, chat_id=GROUP)
        telegram.message("/reset", user_id=1)
        await telegram.settled()
        record = await bot.store.load("1", None)
        assert (record.history, list(record.others)) == ([], [THE_GROUP])


@pytest.mark.clause("commands")
async def test_export_and_forget_cover_all_conversations(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    async with make_runtime(mode, agent_class=Recalling) as bot:
        telegram.message("private", user_id=1)
        telegram.message("in the group", user_id=1, chat_id=GROUP)
        telegram.message("/export", user_id=1)
        await telegram.settled()
        (document,) = [sent for sent in telegram.sent if sent.method == "sendDocument"]
        (content,) = document.files.values()
        data = orjson.loads(content)
        assert [said["text"] for said in data["history"]] == ["private", "private"]
        assert [said["text"] for said in data["conversations"][THE_GROUP]] == ["in the group"] * 2
        telegram.message("/forget", user_id=1)
        await telegram.settled()
        telegram.press(telegram.sent[-1], 0, 0, user_id=1)
        await telegram.settled()
        record = await bot.store.load("1", None)
        assert record.is_empty
        assert (record.others, record.conversations) == ({}, {})


CHATS: dict[str, Any] = {
    "private": {"id": 1, "type": "private", "first_name": "A"},
    "group": {"id": GROUP, "type": "supergroup", "title": "G"},
    "channel": {"id": -1002, "type": "channel", "title": "C"},
}
PERSON = {"id": 1, "is_bot": False, "first_name": "A", "last_name": "B"}


def said(chat: str, **fields: Any) -> dict[str, Any]:
    return {"message_id": 1, "date": 1, "chat": CHATS[chat], "from": PERSON, "text": "x"} | fields


def pressed(message: dict[str, Any]) -> dict[str, Any]:
    return {"id": "1", "from": PERSON, "chat_instance": "1", "data": "x", "message": message}


UPDATES: dict[str, tuple[dict[str, Any], Place, str | None, str]] = {
    "private": ({"message": said("private")}, Place(1, person=1), "1", ""),
    "topic in private": (
        {"message": said("private", message_thread_id=5, is_topic_message=True)},
        Place(1, 5, person=1),
        "1",
        "1:5:",
    ),
    "group": ({"edited_message": said("group")}, Place(GROUP, person=1), "1", THE_GROUP),
    "thread": ({"message": said("group", message_thread_id=5)}, Place(GROUP, person=1), "1", THE_GROUP),
    "direct messages of a channel": (
        {"message": said("group", direct_messages_topic={"topic_id": 9})},
        Place(GROUP, 9, person=1),
        "1",
        f"{GROUP}:9:",
    ),
    "business": (
        {"business_message": said("private", business_connection_id="b")},
        Place(1, business_connection="b", person=1),
        "1",
        "1::b",
    ),
    "anonymous": (
        {"message": said("group", sender_chat=CHATS["group"])},
        Place(GROUP, identity=GROUP),
        None,
        "",
    ),
    "post": (
        {"channel_post": said("channel", sender_chat=CHATS["channel"]) | {"from": None}},
        Place(-1002, identity=-1002),
        None,
        "",
    ),
    "button": (
        {"callback_query": {"id": "1", "from": PERSON, "chat_instance": "1", "message": said("group")}},
        Place(GROUP, person=1),
        "1",
        THE_GROUP,
    ),
    "button in business": (
        {"callback_query": pressed(said("private", business_connection_id="b"))},
        Place(1, business_connection="b", person=1),
        "1",
        "1::b",
    ),
    "button in a topic": (
        {"callback_query": pressed(said("group", message_thread_id=5, is_topic_message=True))},
        Place(GROUP, 5, person=1),
        "1",
        f"{GROUP}:5:",
    ),
    # Of a message that is no longer accessible Telegram tells the chat and no topic. One of a business always
    # is: the server tells of its button together with the whole message (tdlib/telegram-bot-api,
    # Client.cpp, `add_new_business_callback_query`).
    "button under an inaccessible message": (
        {"callback_query": pressed({"chat": CHATS["private"], "message_id": 1, "date": 0})},
        Place(1, person=1),
        "1",
        "",
    ),
    "button under an inaccessible message of a group or topic": (
        {"callback_query": pressed({"chat": CHATS["group"], "message_id": 1, "date": 0})},
        Place(GROUP, person=1),
        "1",
        THE_GROUP,
    ),
    "button under a message elsewhere": (
        {"callback_query": {"id": "1", "from": PERSON, "chat_instance": "1", "inline_message_id": "1"}},
        Place(person=1),
        "1",
        "::",
    ),
    "inline": (
        {"inline_query": {"id": "1", "from": PERSON, "query": "", "offset": ""}},
        Place(person=1),
        "1",
        "::",
    ),
}


@pytest.mark.clause("history.apart")
@pytest.mark.parametrize("name", UPDATES)
def test_an_update_has_a_place_a_record_and_a_conversation(name: str) -> None:
    event, place, record, conversation = UPDATES[name]
    update = Update.model_validate({"update_id": 1, **event})
    sender = sender_of(update, TelegramAgentAdapter("").record_of)
    assert (sender.place, sender.user_id, sender.conversation) == (place, record, conversation)


# --- A record for a whole group -------------------------------------------------------------------


class Listing(TelegramAgentAdapter):
    """Keeps a list that all members of a group write to."""

    def wants(self, update: Update) -> bool:
        return True

    def record_of(self, place: Place) -> RecordId | None:
        return chat(place.group) if place.group else super().record_of(place)

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        state.setdefault("things", []).append(message)
        await asyncio.sleep(0.01)
        return f"{len(state['things'])}: {message}"


ADMIN = 7


@pytest.mark.clause("record.shared")
async def test_a_group_has_one_record_for_all_who_write_in_it(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    async with make_runtime(mode, agent_class=Listing) as bot:
        for number in range(10):
            for user in (1, 2, 3):
                telegram.message(f"{user}-{number}", user_id=user, chat_id=GROUP)
        telegram.message("mine", user_id=1)
        await telegram.settled()
        for update_id in list(telegram.updates)[:5]:
            telegram.repeat(update_id)
        await telegram.settled()
        record = await bot.store.load(chat(GROUP), None)
        things = [f"{user}-{number}" for number in range(10) for user in (1, 2, 3)]
        assert record.state == {"things": things}
        assert telegram.texts(GROUP) == [f"{place}: {thing}" for place, thing in enumerate(things, 1)]
        asked = [said for said in record.history if said.role == "user"]
        assert [(said.author, said.text) for said in asked] == [
            (Author(int(thing[0]), f"User {thing[0]}"), thing) for thing in things[-len(asked) :]
        ]
        assert all(said.author is None for said in record.history if said.role == "assistant")
        assert (record.others, record.conversations) == ({}, {})
        private = await bot.store.load("1", None)
        assert private.state == {"things": ["mine"]}
        assert [(said.text, said.author) for said in private.history] == [("mine", None), ("1: mine", None)]


@pytest.mark.clause("record.shared")
async def test_what_concerns_all_is_for_administrators(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    telegram.administrators.add((GROUP, ADMIN))
    words = Texts()
    async with make_runtime(mode, agent_class=Listing) as bot:
        for command in ("socks", "/reset", "/forget", "/export"):
            telegram.message(command, user_id=1, chat_id=GROUP)
        await telegram.settled()
        refusals = [words.only_admins, words.only_admins, words.only_in_private]
        assert telegram.texts(GROUP) == ["1: socks", *refusals]
        telegram.message("/reset", user_id=ADMIN, chat_id=GROUP)
        telegram.message("boots", user_id=1, chat_id=GROUP)
        telegram.message("/reset", user_id=2, chat_id=GROUP, sender_chat=telegram.chat(GROUP))
        await telegram.settled()
        assert telegram.texts(GROUP)[4:] == [words.reset, "1: boots", words.reset]
        telegram.message("boots", user_id=1, chat_id=GROUP)
        telegram.message("/forget", user_id=ADMIN, chat_id=GROUP)
        await telegram.settled()
        record = await bot.store.load(chat(GROUP), None)
        assert record.is_empty
        assert record.forgotten
        assert telegram.texts(GROUP)[-1] == words.forgotten_here
        calls = [call for call in telegram.calls if call.method == "getChatMember"]
        assert len(calls) == 2, "asked once of each"


@pytest.mark.clause("record.shared")
async def test_when_telegram_does_not_say_who_administrates_nothing_is_erased(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with make_runtime("polling", agent_class=Listing) as bot:
        telegram.message("socks", user_id=ADMIN, chat_id=GROUP)
        telegram.fail("getChatMember", status=500)
        telegram.message("/forget", user_id=ADMIN, chat_id=GROUP)
        await telegram.settled()
        assert telegram.texts(GROUP)[-1] == Texts().admins_unknown
        assert (await bot.store.load(chat(GROUP))).state == {"things": ["socks"]}


@pytest.mark.clause("forget.erases")
async def test_forgetting_a_person_reaches_what_they_wrote_in_groups(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    other = GROUP - 1
    async with make_runtime(mode, agent_class=Listing, agent_timeout=1) as bot:
        bot.agent.timetable.shift = -100_000  # the store's clock is behind
        for group in (GROUP, other):
            for user in (1, 2):
                telegram.message(f"from {user}", user_id=user, chat_id=group)
        topic = {"message_thread_id": 5, "is_topic_message": True}
        telegram.message("topical from 1", user_id=1, chat_id=GROUP, **topic)
        telegram.message("hi", user_id=1)
        await telegram.settled()
        telegram.callback("forget:1:1", user_id=1)
        await telegram.settled()
        telegram.message("back from 1", user_id=1, chat_id=GROUP)
        await telegram.settled()
        await walked(bot)
        left = texts(await bot.store.load(chat(GROUP), None))
        assert left == {"": ["from 2", "back from 1"], f"{GROUP}:5:": []}
        assert texts(await bot.store.load(chat(other), None)) == {"": ["from 2"]}
        assert (await bot.store.load("1")).is_empty


async def walked(bot: Runtime) -> None:
    """Wait until nobody is left who is to be forgotten in shared records."""
    async with asyncio.timeout(20):
        while jobs_in((await bot.store.load(FORGETTING)).fsm):  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.05)


@pytest.mark.clause("forget.erases")
async def test_who_asks_within_an_hour_is_forgotten_in_one_walk(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = 0

    async def in_all(*arguments: Any) -> None:
        nonlocal walks
        walks += 1
        await end_walk(*arguments)

    end_walk = agent._end_walk
    monkeypatch.setattr(agent, "_end_walk", in_all)
    async with make_runtime("polling", agent_class=Listing, agent_timeout=0.5) as bot:
        for user in range(1, 6):
            telegram.message(f"from {user}", user_id=user, chat_id=GROUP)
        await telegram.settled()
        telegram.callback("forget:1:1", user_id=1)
        await telegram.settled()
        await walked(bot)
        for user in range(2, 5):
            telegram.callback(f"forget:{user}:1", user_id=user)
        await telegram.settled()
        await asyncio.sleep(1.5)
        assert texts(await bot.store.load(chat(GROUP), None)) == {"": [f"from {n}" for n in range(2, 6)]}
        bot.agent.timetable.shift += 3_600 * 10**6
        bot.agent.timetable.noted()
        await walked(bot)
        assert texts(await bot.store.load(chat(GROUP), None)) == {"": ["from 5"]}
        assert walks == 2


class Slow(Listing):
    """Takes its time, and has its messages kept."""

    deferred = True
    begins = asyncio.Event()

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        Slow.begins.set()
        await asyncio.sleep(3)
        return "done"


@pytest.mark.clause("forget.erases")
async def test_what_waits_for_a_group_is_forgotten_with_whoever_wrote_it(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody else's; whoever handles what waits goes on."""
    monkeypatch.setattr(Slow, "begins", asyncio.Event())
    async with make_runtime("webhook", agent_class=Slow, agent_timeout=4) as bot:
        telegram.message("from 2", user_id=2, chat_id=GROUP)
        await Slow.begins.wait()
        for user in (1, 2):
            telegram.message(f"later from {user}", user_id=user, chat_id=GROUP)
        await telegram.settled()
        bot.agent.timetable.shift += 4 * 10**6
        await agent.ask_to_forget(bot.agent, 1)
        bot.agent.timetable.shift += 4 * 10**6
        bot.agent.timetable.noted()
        await walked(bot)
        await telegram.wait_for(lambda: len(telegram.texts(GROUP)) == 2, 20)
        assert texts(await bot.store.load(chat(GROUP), None)) == {"": ["from 2", "later from 2"]}


class Careless(Listing):
    """Chooses records it cannot have."""

    def record_of(self, place: Place) -> RecordId | None:
        match place.chat:
            case -1:
                raise RuntimeError("no")
            case -2:
                return 5  # type: ignore[return-value]
            case -3:
                return RecordId("")
        return None


@pytest.mark.clause("record.shared")
async def test_a_record_that_cannot_be_is_the_persons(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with make_runtime("polling", agent_class=Careless) as bot:
        for group in (-1, -2, -3, -4):
            telegram.message(str(group), user_id=1, chat_id=group)
            await telegram.settled()
        kept = (await bot.store.load("1")).state
        assert kept == {"things": ["-1", "-2", "-3"]}, "and nothing where it chooses none"
        assert telegram.texts(-4) == ["1: -4"]


OLD, NEW = -55, -1_000_000_000_055


@pytest.mark.clause("record.shared")
@pytest.mark.parametrize("told", [[0, 1], [1, 0], [0], [1], []], ids=str)
async def test_a_groups_record_moves_with_it(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, told: list[int]
) -> None:
    """Once, whichever message tells of it, or none but a refusal to send; told again, and after a restart."""
    telegram.group(OLD)
    async with make_runtime(mode, agent_class=Listing) as bot:
        telegram.message("socks", user_id=1, chat_id=OLD)
        await telegram.settled()
        if told:
            messages = telegram.migrate(OLD, NEW, user_id=2, only=told)
        else:  # a reply meets it
            telegram.upgrade(OLD, NEW)
            messages = [telegram.message("late", user_id=2, chat_id=OLD)]
        await telegram.settled()
        telegram.message("boots", user_id=1, chat_id=NEW)
        await telegram.settled()
        for update_id in messages:
            telegram.repeat(update_id)
        await telegram.settled()
        late = [] if told else ["late"]
        assert (await bot.store.load(chat(NEW))).state == {"things": ["socks", *late, "boots"]}
        before = texts(await bot.store.load(chat(NEW), None))
        assert before == {"": ["socks", *late, "boots"]}
    async with make_runtime(mode, agent_class=Listing) as bot:
        for update_id in messages:
            telegram.repeat(update_id)
        if told:
            telegram.message("said before", user_id=3, chat_id=OLD)
            await telegram.settled()
            assert (await bot.store.load(chat(NEW))).state["things"][-1] == "said before"
        record = await bot.store.load(chat(OLD), None)
        assert (record.state, record.history, record.others) == ({}, [], {})


class Recalled(Recalling):
    """Raises when it is told to."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        if message == "raise":
            raise RuntimeError("told to")
        return await super().agent_logic(message, state)


@pytest.mark.clause("history.apart")
@pytest.mark.parametrize("told", [[0, 1], [1, 0], [0], [1]], ids=str)
async def test_a_persons_conversation_moves_with_its_group(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, told: list[int]
) -> None:
    """With the first of their messages that has an effect there; of nobody else, and nowhere else."""
    telegram.group(OLD)
    telegram.group(OLD - 1)
    words = Texts()
    async with make_runtime(mode, agent_class=Recalled) as bot:
        for user in (1, 2):
            telegram.message(f"{user} in private", user_id=user)
            telegram.message(f"{user} in the group", user_id=user, chat_id=OLD)
            telegram.message(f"{user} in another", user_id=user, chat_id=OLD - 1)
        await telegram.settled()
        messages = telegram.migrate(OLD, NEW, user_id=2, only=told)
        await telegram.settled()
        telegram.message("in a third", user_id=1, chat_id=GROUP)
        telegram.message("raise", user_id=1, chat_id=NEW)
        await telegram.settled()
        for text in ("hi", "again"):
            telegram.message(text, user_id=1, chat_id=NEW)
        telegram.message("/export", user_id=1)
        await telegram.settled()
        for update_id in messages:
            telegram.repeat(update_id)
        await telegram.settled()
        assert telegram.texts(NEW) == [
            words.sorry, "1 in the group | hi", "1 in the group | hi | again"
        ]  # fmt: skip
        elsewhere = {f"{OLD - 1}::": ["1 in another"], THE_GROUP: ["in a third"], "": ["1 in private"]}
        assert texts(await bot.store.load("1", None)) == {
            **elsewhere, f"{NEW}::": ["1 in the group", "hi", "again"]
        }  # fmt: skip
        assert texts(await bot.store.load("2", None))[f"{OLD}::"] == ["2 in the group"]


@pytest.mark.clause("history.apart")
@pytest.mark.parametrize("command", ["/export", "/reset"])
async def test_a_command_is_the_first_that_is_said_in_the_supergroup(
    make_runtime: MakeRuntime, telegram: FakeTelegram, command: str
) -> None:
    telegram.group(OLD)
    async with make_runtime("polling", agent_class=Recalling) as bot:
        telegram.message("in the group", user_id=1, chat_id=OLD)
        telegram.message("in private", user_id=1)
        await telegram.settled()
        telegram.migrate(OLD, NEW, user_id=2)
        telegram.message(command, user_id=1, chat_id=NEW)
        await telegram.settled()
        telegram.message("hi", user_id=1, chat_id=NEW)
        await telegram.settled()
        before = [] if command == "/reset" else ["in the group"]
        assert texts(await bot.store.load("1", None)) == {"": ["in private"], f"{NEW}::": [*before, "hi"]}


@pytest.mark.clause("record.shared")
@pytest.mark.parametrize("commits", range(4))
async def test_a_group_moves_once_though_killed_in_between(store: OperatorStore, commits: int) -> None:
    """What was said in the new chat since is kept, and what was cleared there does not come back."""
    old, new = chat(OLD), chat(NEW)

    async def begin(turn: Turn) -> None:
        turn.state.update(a=1, b=1)
        turn.history.append(Message("user", "old", 1.0, Author(1, "Ann")))
        turn.fsm[f"42:{OLD}:::x:1"] = {"state": "s", "at": 1.0}

    async def go_on(turn: Turn) -> None:
        turn.state["b"] = 2
        turn.history.append(Message("user", "new", 2.0, Author(1, "Ann")))

    async def clear(turn: Turn) -> None:
        turn.reset()

    await mutate(store, old, begin)
    await mutate(store, new, go_on)
    left, commit = commits, store.commit

    async def killed(*args: Any, **options: Any) -> int:
        nonlocal left
        if not left:
            raise StateUnavailable("killed")
        left -= 1
        return await commit(*args, **options)

    store.commit = killed  # type: ignore[method-assign]
    with suppress(StateUnavailable):
        await upgrade_group(store, OLD, NEW)
    store.commit = commit  # type: ignore[method-assign]
    for _ in range(2):
        await upgrade_group(store, OLD, NEW)
        record = await store.load(new, None)
        assert record.state == {"a": 1, "b": 2}
        assert [said.text for said in record.history] == ["old", "new"]
        assert f"42:{NEW}:::x:1" in record.fsm
        record = await store.load(old, None)
        assert (record.state, record.history, list(record.fsm)) == ({}, [], ["upgraded_to"])
    await mutate(store, new, clear)


@pytest.mark.clause("fsm.storage")
async def test_flows_of_a_chat_with_a_record_are_part_of_its_turns(store: OperatorStore) -> None:
    """Those of its members, each their own, and the one of the whole chat: inside a turn and outside."""
    storage = RecordStorage(store, record_of=Listing("").record_at)
    of_chat = StorageKey(bot_id=42, chat_id=GROUP, user_id=GROUP)
    of_ann, of_bob = (StorageKey(bot_id=42, chat_id=GROUP, user_id=user_id) for user_id in (1, 2))

    async def change(turn: Turn) -> None:
        for key in (of_chat, of_ann, of_bob):
            await storage.set_data(key, {"whose": key.user_id})
        assert (await store.load(chat(GROUP))).fsm == {}, "not before the turn is committed"

    await mutate(store, chat(GROUP), change)
    assert [user async for user in store.users()] == [chat(GROUP)]
    for key in (of_chat, of_ann, of_bob):
        assert await storage.get_data(key) == {"whose": key.user_id}
        assert await storage.update_data(key, {"more": 1}) == {"whose": key.user_id, "more": 1}
    private = StorageKey(bot_id=42, chat_id=1, user_id=1)
    assert await storage.get_data(private) == {}
    await storage.set_data(private, {"a": 1})
    assert len((await store.load("1")).fsm) == 1
