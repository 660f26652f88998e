"""Answers that grow, in an owner's tests and in the terminal."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from bot.runtime import testing
from bot.runtime.app import Owner
from bot.runtime.chat import _Screen
from bot.runtime.telegram.calls import Reply
from bot.runtime.testing import Chat
from suite.agents import ShowingAgent, SpeakingAgent

pytestmark = pytest.mark.clause("testing")

chat = testing.chat
_own_world = testing._own_world
_running_bot, _store_of_chat = testing._running_bot, testing._store_of_chat


class Waiting(SpeakingAgent):
    """Waits in the middle of an answer."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> AsyncGenerator[str, None]:
        if message.endswith("wait"):
            yield "I am "
            await asyncio.sleep(60)
        async for piece in super().agent_logic(message, state):
            yield piece


class Deferred(Waiting):
    """The same, in time."""

    deferred = True


@pytest.fixture(params=[Waiting, Deferred, ShowingAgent], ids=["yields", "deferred", "shows"])
def owner(request: pytest.FixtureRequest) -> Owner:
    return Owner(agent=request.param)


async def test_what_grows_is_shown_apart(chat: Chat) -> None:
    assert await chat.say("say 0.02 one two three") == ["one two three"]
    assert {"one", "one two three"} <= set(chat.frames)
    assert chat.texts == ["one two three"]
    assert [call.method for call in chat.replies] == ["sendMessage"]
    assert await chat.say("nothing") == []
    assert [each.text for each in await chat.history()][:2] == ["say 0.02 one two three", "one two three"]


@pytest.mark.parametrize("owner", [Waiting], indirect=True)
async def test_each_piece_is_a_frame(chat: Chat) -> None:
    await chat.say("say 0 one two three")
    assert chat.frames == ["one", "one two", "one two three"]
    await chat.say("hi")
    assert chat.frames == ["hi #2"]


async def test_in_a_group(chat: Chat) -> None:
    group = await chat.group("Club", "Ben")
    assert await group.say(f"say 0.02 a b {group.bot}") == [f"a b {group.bot}"]
    assert group.frames[0] == "…"
    assert f"a b {group.bot}" in group.frames
    assert chat.frames == []


@pytest.mark.parametrize("owner", [Waiting, Deferred], indirect=True, ids=["yields", "deferred"])
@pytest.mark.parametrize("place", ["private", "group"])
async def test_stop(chat: Chat, place: str) -> None:
    here = chat if place == "private" else await chat.group("Club", "Ben")
    saying = asyncio.create_task(here.say("please wait"))
    while not here.frames:  # noqa: ASYNC110 - there is nothing to wait for
        await asyncio.sleep(0.01)
    await here.stop()
    assert await saying == ["I am "]
    await here.stop()
    assert [each.text for each in await here.history()] == ["please wait", "I am "]


def test_the_terminal_shows_what_an_answer_becomes_longer_by() -> None:
    output: list[str] = []
    screen = _Screen(lambda text: output.append(f"{text}\n"), output.append)

    def frame(text: str) -> None:
        screen.watch_frame(Reply("sendMessageDraft", {"text": text}))

    def answer(text: str) -> None:
        screen.watch(Reply("sendMessage", {"text": text}), None)

    for text in ("…", "one", "one two", "one two", "…cut"):
        frame(text)
    answer("one two three")
    answer("whole")
    frame("half an ")
    answer("Sorry")
    assert "".join(output) == "one two three\nwhole\nhalf an \nSorry\n"
