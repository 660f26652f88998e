"""Whose record an update changes, and which conversation its turn sees."""

from typing import Any

import orjson
import pytest

from bot.agent_adapter import TelegramAgentAdapter
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Mode

GROUP = -1001234567890

THE_GROUP, THE_TOPIC = f"{GROUP}::", f"{GROUP}:77:"


class Recalling(TelegramAgentAdapter):
    """Says what it knows of the conversation so far."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        state["last"] = message
        return " | ".join(said.text for said in self.turn.history if said.role == "user")


@pytest.mark.clause("history.apart")
async def test_a_group_never_sees_what_was_said_in_private(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    async with make_runtime(mode, agent_class=Recalling) as bot:
        connection = telegram.connect_business(9)
        telegram.message("my PIN is 1234", user_id=1)
        await telegram.settled()
        telegram.message("hi all", user_id=1, chat_id=GROUP)
        telegram.message("topical", user_id=1, chat_id=GROUP, message_thread_id=77, is_topic_message=True)
        telegram.message("a reply", user_id=1, chat_id=GROUP, message_thread_id=5)
        telegram.push(
            {
                "business_message": telegram.new_message(
                    1,
                    {
                        "from": {"id": 1, "is_bot": False, "first_name": "A"},
                        "text": "dear shop",
                        "business_connection_id": connection,
                    },
                )
            }
        )
        telegram.message("still private", user_id=1)
        await telegram.settled()
        assert telegram.texts(GROUP) == ["hi all", "topical", "hi all | a reply"]
        assert telegram.texts(1)[0] == "my PIN is 1234"
        assert telegram.texts(1)[-1] == "my PIN is 1234 | still private"
        record = await bot.store.load("1", None)
        assert record.state == {"last": "still private"}
        assert {name: [each.text for each in said if each.role == "user"] for name, said in record.others.items()} == {
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
        ((_, content),) = document.files.values()
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
