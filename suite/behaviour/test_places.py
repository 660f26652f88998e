"""Whose record an update changes, and which conversation its turn sees."""

from typing import Any

import orjson
import pytest
from aiogram.types import Update

from bot.agent_adapter import TelegramAgentAdapter
from bot.runtime.state.record import Place, UserRecord
from bot.runtime.telegram.updates import sender_of
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Mode

GROUP = -1001234567890

THE_GROUP, THE_TOPIC = f"{GROUP}::", f"{GROUP}:77:"


class Recalling(TelegramAgentAdapter):
    """Says what it knows of the conversation so far."""

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
