"""Conversations with your bot: agent, commands and routers together, on a Telegram inside the test.

Change these tests along with `bot/agent.py` and `bot/handlers.py`.
"""

import json

from bot.handlers import TEXTS
from bot.runtime.testing import Chat

WORDS = TEXTS["en"]


async def test_it_remembers_what_was_said(chat: Chat) -> None:
    (answer,) = await chat.say("hi")
    said = [(message.role, message.text) for message in await chat.history()]
    assert said == [("user", "hi"), ("assistant", answer)]


async def test_it_keeps_people_apart(chat: Chat) -> None:
    await chat.say("hi")
    bob = chat.person("Bob")
    assert (await bob.state(), await bob.history()) == ({}, [])


async def test_it_answers_where_it_is_asked(chat: Chat) -> None:
    group = await chat.group("Friends", "Bob")
    assert await group.person("Bob").say("hi all") == [], "people among themselves"
    answers = await group.person("Bob").say(f"{group.bot}, hi")
    assert len(answers) == 1
    assert group.texts == answers
    assert chat.texts == []


async def test_start_is_answered(chat: Chat) -> None:
    assert len(await chat.say("/start")) == 1
    assert await chat.state() == {}, "the agent was not asked"


async def test_help_lists_the_commands(chat: Chat) -> None:
    (shown,) = await chat.say("/help")
    for command, what in WORDS.menu.items():
        assert f"/{command} - {what}" in shown


async def test_reset_starts_afresh(chat: Chat) -> None:
    await chat.say("hi")
    assert await chat.say("/reset") == [WORDS.reset]
    assert (await chat.state(), await chat.history()) == ({}, [])


async def test_export_sends_everything_that_is_kept(chat: Chat) -> None:
    await chat.say("hi")
    assert await chat.say("/export") == [WORDS.export]
    ((_, content),) = chat.replies[0].files.values()
    exported = json.loads(content)
    assert exported["user_id"] == "1"
    assert exported["state"] == await chat.state()


async def test_forget_asks_before_it_erases(chat: Chat) -> None:
    await chat.say("hi")
    before = await chat.state()

    assert await chat.say("/forget") == [WORDS.forget]
    assert await chat.press(WORDS.forget_no) == [WORDS.not_forgotten]
    assert await chat.state() == before

    await chat.say("/forget")
    assert await chat.press(WORDS.forget_yes) == [WORDS.forgotten]
    assert (await chat.state(), await chat.history()) == ({}, [])


async def test_a_picture_is_answered(chat: Chat) -> None:
    assert len(await chat.send_photo(b"a picture")) == 1
