"""Answers that are shown while they grow, and stopped."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from aiogram import Router
from aiogram.methods import TelegramMethod
from aiogram.types import Message

from bot.agent_adapter import TelegramAgentAdapter
from bot.runtime.app import Owner
from bot.runtime.errors import OperatorError
from bot.runtime.state import jobs
from bot.runtime.state.jobs import Claim
from bot.runtime.state.record import waiting_for
from bot.runtime.state.store import Changes
from bot.runtime.telegram import outbox, streaming
from bot.runtime.telegram.streaming import fitting
from bot.runtime.telegram.texts import Texts
from suite.agents import CountingAgent, Gate, ShowingAgent, SpeakingAgent
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Mode, Runtime

pytestmark = pytest.mark.clause("streaming")

GROUP = -7
SORRY = Texts().sorry
FRAMES = ("sendMessageDraft", "sendMessage", "editMessageText")

PRIVATE_OR_GROUP = pytest.mark.parametrize("chat", [1, GROUP], ids=["private", "group"])
EITHER_AGENT = pytest.mark.parametrize("agent", [SpeakingAgent, ShowingAgent], ids=["yields", "shows"])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds takes less."""
    monkeypatch.setattr(streaming, "DRAFT_DELAY", 0.05)
    monkeypatch.setattr(streaming, "DRAFT_GAP", 0.1)
    monkeypatch.setattr(streaming, "MESSAGE_DELAY", 0.05)
    monkeypatch.setattr(streaming, "FIRST_GAP", 0.1)
    monkeypatch.setattr(streaming, "MESSAGE_GAP", 0.2)


@asynccontextmanager
async def speaking(
    make_runtime: MakeRuntime,
    mode: Mode = "polling",
    agent: type[TelegramAgentAdapter] = SpeakingAgent,
    **settings: Any,
) -> AsyncIterator[Runtime]:
    bot = make_runtime(mode, **settings)
    bot.agent_class, bot.owner = agent, Owner(agent=agent)
    async with bot:
        yield bot


def left(telegram: FakeTelegram, chat: int) -> list[str]:
    """What the bot's messages in a chat say now."""
    return [
        message.get("text", "")
        for (chat_id, _), message in telegram.messages.items()
        if chat_id == chat and message.get("from", {}).get("is_bot")
    ]


def frames(telegram: FakeTelegram, chat: int) -> list[str]:
    """All that was tried to be shown in a chat, in order; the answer is the last of them."""
    calls = (call for call in telegram.calls if call.params.get("chat_id") == str(chat))
    return [call.params.get("text", "") for call in calls if call.method in FRAMES]


async def shown(telegram: FakeTelegram, chat: int, text: str) -> None:
    """Wait until a frame shows this."""
    await telegram.wait_for(lambda: any(text in each for each in frames(telegram, chat)), 10)


async def over(bot: Runtime) -> None:
    """Wait until all is answered, also what was acknowledged at once."""
    await bot.telegram.settled()
    for _ in range(1_000):
        if not (await bot.store.due(10**9, 9)).due:
            break
        await asyncio.sleep(0.01)
    assert not (await bot.store.due(10**9, 9)).due
    assert not (await bot.store.load(waiting_for("1"))).fsm


async def is_tidy(bot: Runtime) -> bool:
    """Whether nothing is kept of what was shown."""
    return not any(name.startswith("shown:") for name in (await bot.record(1)).marks)


# --- Shown while it grows -------------------------------------------------------------------------


@PRIVATE_OR_GROUP
@EITHER_AGENT
async def test_an_answer_grows_and_stands_there_once(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, chat: int, agent: Any
) -> None:
    async with speaking(make_runtime, mode, agent) as bot:
        telegram.message("say 0.15 one two three four five", user_id=1, chat_id=chat)
        await over(bot)
        said = frames(telegram, chat)
        assert said[-1] == "one two three four five"
        assert len(said) > 3
        assert all(later.startswith(earlier) or earlier == "…" for earlier, later in pairwise(said))
        assert left(telegram, chat) == ["one two three four five"]
        if chat == GROUP:
            assert said[0] == "…"
            assert telegram.drafts.frames == []
            assert await is_tidy(bot)
        else:
            assert len({frame.draft_id for frame in telegram.drafts.frames}) == 1
            assert telegram.drafts.shown(1) is None
        telegram.message("again", user_id=1, chat_id=chat)
        await over(bot)
        assert left(telegram, chat)[1:] == ["again #2"]
        record = await bot.store.load("1", None)
    history = record.history if chat == 1 else record.others[f"{GROUP}::"]
    assert [(each.role, each.text) for each in history] == [
        ("user", "say 0.15 one two three four five"),
        ("assistant", "one two three four five"),
        ("user", "again"),
        ("assistant", "again #2"),
    ]


@PRIVATE_OR_GROUP
async def test_dots_are_shown_until_the_first_piece(
    make_runtime: MakeRuntime, telegram: FakeTelegram, chat: int
) -> None:
    async with speaking(make_runtime):
        telegram.message("think 0.4 at last", user_id=1, chat_id=chat)
        await telegram.settled()
    said = frames(telegram, chat)
    assert said[0] == "…"
    assert set(said) == {"…", "at last"}
    assert left(telegram, chat) == ["at last"]
    assert "sendChatAction" not in {call.method for call in telegram.calls}


async def test_the_first_piece_is_shown_at_once(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    monkeypatch.setattr(streaming, "DRAFT_DELAY", 20)
    async with speaking(make_runtime):
        telegram.message("hold", user_id=1)
        await shown(telegram, 1, "held")
        gate.opened.set()
        await telegram.settled()
    assert frames(telegram, 1)[0] == "held"


async def test_the_first_piece_does_not_wait_for_the_dots(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    monkeypatch.setattr(streaming, "DRAFT_GAP", 20)
    async with speaking(make_runtime):
        telegram.message("hold 0.5", user_id=1)
        await shown(telegram, 1, "held")
        gate.opened.set()
        await telegram.settled()
    assert frames(telegram, 1) == ["…", "held", "held and freed"]


async def test_a_draft_is_renewed_before_it_dies(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    monkeypatch.setattr(streaming, "DRAFT_LIFE", 0.3)
    telegram.drafts.life = 0.6
    async with speaking(make_runtime):
        telegram.message("hold", user_id=1)
        await shown(telegram, 1, "held")
        for _ in range(15):
            await asyncio.sleep(0.1)
            draft = telegram.drafts.shown(1)
            assert draft
            assert draft.text == "held"
        assert telegram.drafts.texts(1).count("held") < 8
        gate.opened.set()
        await telegram.settled()
    assert left(telegram, 1) == ["held and freed"]


@PRIVATE_OR_GROUP
async def test_ten_thousand_pieces_are_few_calls(
    make_runtime: MakeRuntime, telegram: FakeTelegram, chat: int
) -> None:
    async with speaking(make_runtime):
        began = time.monotonic()
        telegram.message("tiny 10000", user_id=1, chat_id=chat)
        await telegram.settled()
        seconds = time.monotonic() - began
        calls = [call for call in telegram.calls if call.params.get("chat_id") == str(chat)]
    assert len(calls) <= 4 + seconds / 0.1
    assert "".join(left(telegram, chat)) == "x" * 10_000
    assert [len(text) for text in left(telegram, chat)] == [4096, 4096, 1808]


async def test_calls_are_bounded_by_time_not_by_pieces(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the intervals that people see."""
    monkeypatch.undo()
    async with speaking(make_runtime):
        for chat in (1, GROUP):
            telegram.message(f"say 0.01 {'word ' * 250}", user_id=1 if chat == 1 else 2, chat_id=chat)
        await telegram.settled()
    assert len(frames(telegram, 1)) <= 10
    assert len(frames(telegram, GROUP)) <= 4
    edits = [call.at for call in telegram.calls if call.method == "editMessageText"]
    assert 0.9 < edits[0] - next(each.at for each in telegram.sent if each.chat_id == GROUP) < 3


async def test_rates_that_chats_take(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group takes 20 messages and edits a minute, of which one lasts a second and a half here."""
    monkeypatch.undo()
    monkeypatch.setattr(streaming, "FIRST_GAP", streaming.FIRST_GAP / 40)
    monkeypatch.setattr(streaming, "MESSAGE_GAP", streaming.MESSAGE_GAP / 40)
    telegram.limits = {"group": (20, 60 / 40), "private": (1, 1), "draft": (3, 1)}
    async with speaking(make_runtime):
        for user, chat in ((1, 1), (2, GROUP)):
            telegram.message(f"say 0.02 {'word ' * 200}", user_id=user, chat_id=chat)
        await telegram.settled()
    assert len(frames(telegram, GROUP)) > 20
    assert [call.method for call in telegram.calls if call.status == 429] == []


async def test_an_answer_that_yields_nothing_is_none(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with speaking(make_runtime) as bot:
        for chat in (1, GROUP):
            telegram.message("nothing", user_id=1, chat_id=chat)
        telegram.message("think 0.3", user_id=1, chat_id=GROUP)
        await telegram.settled()
        assert left(telegram, 1) == left(telegram, GROUP) == []
        record = await bot.record(1)
    assert [each.role for each in record.history] == ["user"]


@PRIVATE_OR_GROUP
@pytest.mark.parametrize(
    ("said", "settings"), [("raise 0.3", {}), ("ever", {"agent_timeout": 0.5}), ("number", {})]
)
async def test_an_answer_that_fails_leaves_no_half(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, chat: int, said: str, settings: Any
) -> None:
    async with speaking(make_runtime, mode, **settings) as bot:
        telegram.message(said, user_id=1, chat_id=chat)
        await over(bot)
        assert left(telegram, chat) == [SORRY]
        assert isinstance(bot.agent, SpeakingAgent)
        assert bot.agent.ended == [said]
        count = len(telegram.calls)
        await asyncio.sleep(0.3)
        assert not [call for call in telegram.calls[count:] if call.method in FRAMES]
        assert (await bot.record(1)).state == {}
        assert await is_tidy(bot)


@PRIVATE_OR_GROUP
async def test_a_rerun_takes_the_place_of_what_was_shown(
    make_runtime: MakeRuntime, telegram: FakeTelegram, chat: int, gate: Gate
) -> None:
    async with speaking(make_runtime) as bot:
        telegram.message("hold", user_id=1, chat_id=chat)
        await shown(telegram, chat, "held")
        await bot.store.commit("1", Changes(state={"count": b"41"}), expect=None)
        gate.opened.set()
        await telegram.settled()
        assert isinstance(bot.agent, SpeakingAgent)
        assert bot.agent.heard == ["hold", "hold"]
        assert (await bot.record(1)).state == {"count": 42}
    assert left(telegram, chat) == ["held and freed"]
    assert len({frame.draft_id for frame in telegram.drafts.frames}) <= 1


@PRIVATE_OR_GROUP
async def test_cut_off_and_started_again(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, chat: int, gate: Gate
) -> None:
    bot = make_runtime(mode)
    bot.agent_class, bot.owner = SpeakingAgent, Owner(agent=SpeakingAgent)
    await bot.start()
    telegram.message("hold", user_id=1, chat_id=chat)
    await shown(telegram, chat, "held")
    await bot.cut_off()
    count = len(telegram.calls)
    gate.opened.set()
    async with bot:
        await over(bot)
    assert left(telegram, chat) == ["held and freed"]
    assert all(
        call.params.get("text") != "…" for call in telegram.calls[count:] if call.method == "sendMessage"
    )


@pytest.mark.parametrize("said", ["quick", "raise 0"])
async def test_a_rerun_that_shows_nothing_leaves_no_half(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt shows something and is killed; the second one does without."""
    attempts: list[str] = []

    class Fickle(ShowingAgent):
        async def agent_logic(self, message: str, state: dict[str, Any]) -> str:  # type: ignore[override]
            attempts.append(message)
            if len(attempts) == 1:
                self.turn.show("half an answer")
                await asyncio.sleep(60)
            if said == "raise 0":
                raise RuntimeError("the agent raised")
            return said

    bot = make_runtime(mode)
    bot.agent_class, bot.owner = Fickle, Owner(agent=Fickle)
    await bot.start()
    telegram.message("hi", user_id=1, chat_id=GROUP)
    await shown(telegram, GROUP, "half an answer")
    await bot.cut_off()
    async with bot:
        await telegram.settled()
        assert left(telegram, GROUP) == ["quick" if said == "quick" else SORRY]
        assert await is_tidy(bot)


async def test_a_message_that_could_not_be_kept_at_once_is_kept_by_the_rerun(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another commit was first when "…" was sent. Killed in the rerun, that leaves no half answer either."""
    monkeypatch.setattr(streaming, "MESSAGE_DELAY", 0.3)

    class Twice(SpeakingAgent):
        async def agent_logic(self, message: str, state: dict[str, Any]) -> AsyncGenerator[str, None]:
            self.heard.append(message)
            yield "half"
            await asyncio.sleep(0.8 if len(self.heard) == 1 else 60)

    async with speaking(make_runtime, agent=Twice) as bot:
        agent = bot.agent
        assert isinstance(agent, Twice)
        telegram.message("hi", user_id=1, chat_id=GROUP)
        await telegram.wait_for(lambda: agent.heard)
        await bot.store.commit("1", Changes(state={"overtaken": b"true"}), expect=None)
        await shown(telegram, GROUP, "half")
        assert len(agent.heard) == 2
        (place,) = [at for at, each in telegram.messages.items() if each.get("text") == "half"]
        kept = (await bot.record(1)).marks
        assert [mark[1] for name, mark in kept.items() if name.startswith("shown:")] == [place[1]]
        await bot.cut_off()


async def test_one_that_slept_past_its_lease_neither_commits_nor_shows(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a frozen machine does. Another process is at it, and what that one shows must stay."""

    class Sleeper(SpeakingAgent):
        def __init__(self, bot_token: str) -> None:
            super().__init__(bot_token)
            self.wakes = asyncio.Event()

        async def agent_logic(self, message: str, state: dict[str, Any]) -> AsyncGenerator[str, None]:
            state["count"] = state.get("count", 0) + 1
            yield "held"
            await self.wakes.wait()
            yield " and freed"
            self.ended.append(message)

    async def forget_to_prolong(_: Claim) -> None:
        """A frozen process does nothing."""

    monkeypatch.setattr(Claim, "prolong", forget_to_prolong)
    monkeypatch.setattr(jobs, "CLAIM_SECONDS", 0.5)
    async with speaking(make_runtime, "webhook", Sleeper, jobs_seconds=0.1) as first:
        telegram.message("hi", user_id=1, chat_id=GROUP)
        await shown(telegram, GROUP, "held")
        async with speaking(make_runtime, "webhook", Sleeper, jobs_seconds=0.1) as second:
            one, other = first.agent, second.agent
            assert isinstance(one, Sleeper)
            assert isinstance(other, Sleeper)
            monkeypatch.setattr(jobs, "CLAIM_SECONDS", 30.0)
            await telegram.wait_for(lambda: bool(other.streams and other.streams.is_busy), 10)
            one.wakes.set()
            await telegram.wait_for(lambda: one.ended, 10)
            await asyncio.sleep(0.5)
            assert (await first.record(1)).state == {}
            other.wakes.set()
            await over(second)
            assert (await first.record(1)).state == {"count": 1}
    assert left(telegram, GROUP) == ["held and freed"]


async def test_forgotten_after_a_kill_nothing_is_left(
    make_runtime: MakeRuntime, telegram: FakeTelegram, gate: Gate
) -> None:
    bot = make_runtime("polling")
    bot.agent_class, bot.owner = SpeakingAgent, Owner(agent=SpeakingAgent)
    await bot.start()
    telegram.message("hold", user_id=1, chat_id=GROUP, date=int(time.time()) - 60)
    await shown(telegram, GROUP, "held")
    await bot.cut_off()
    await bot.store.connect()
    await bot.store.commit("1", Changes(forget=True), expect=None)
    async with bot:
        await telegram.settled()
        assert isinstance(bot.agent, SpeakingAgent)
        assert bot.agent.heard == []
        assert await is_tidy(bot)
    assert left(telegram, GROUP) == []


async def test_keeping_an_id_makes_no_agent_run_again(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with speaking(make_runtime) as bot:
        telegram.message("say 0.2 a b c d", user_id=1, chat_id=GROUP)
        await telegram.settled()
        assert isinstance(bot.agent, SpeakingAgent)
        assert len(bot.agent.heard) == 1


@PRIVATE_OR_GROUP
async def test_long_answers(make_runtime: MakeRuntime, telegram: FakeTelegram, chat: int) -> None:
    words = [f"{number:09}" for number in range(600)]
    async with speaking(make_runtime):
        telegram.message("count 600", user_id=1, chat_id=chat)
        await telegram.settled()
    assert " ".join(left(telegram, chat)).split() == words
    assert len(left(telegram, chat)) == 2


@PRIVATE_OR_GROUP
async def test_markdown_is_rendered_while_it_grows(
    make_runtime: MakeRuntime, telegram: FakeTelegram, chat: int
) -> None:
    class Marking(SpeakingAgent):
        format = "markdown"

    async with speaking(make_runtime, agent=Marking):
        telegram.message("say 0.1 **bold** and `code` and more", user_id=1, chat_id=chat)
        await telegram.settled()
    said = frames(telegram, chat)
    assert any(each.startswith("bold and") for each in said[:-1])
    assert not any("**" in each for each in said[:-1])
    assert left(telegram, chat) == ["bold and code and more"]


def test_a_frame_shows_the_end() -> None:
    assert fitting("  \n") == "…"
    assert fitting("a" * 4096) == "a" * 4096
    assert fitting("a" + "b" * 4096) == "…" + "b" * 4095
    clefs = fitting("a" + "\N{MUSICAL SYMBOL G CLEF}" * 3000)
    assert clefs[0] == "…"
    assert 4094 <= len(clefs.encode("utf-16-le")) // 2 <= 4096


async def test_what_was_sent_may_be_gone(
    make_runtime: MakeRuntime, telegram: FakeTelegram, gate: Gate
) -> None:
    """An administrator deletes the message: the answer comes as a new one."""
    async with speaking(make_runtime):
        telegram.message("hold", user_id=1, chat_id=GROUP, message_thread_id=5, is_topic_message=True)
        await shown(telegram, GROUP, "held")
        for place in [place for place in telegram.messages if place[0] == GROUP]:
            del telegram.messages[place]
        gate.opened.set()
        await telegram.settled()
    assert left(telegram, GROUP) == ["held and freed"]
    assert telegram.sent[-1].params["message_thread_id"] == "5"


async def test_an_owners_handler_may_ask_the_agent(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    """What it answers takes the place of what was shown: edited, or, where an edit will not do, anew."""
    router = Router()

    @router.message()
    async def ask(message: Message, agent: TelegramAgentAdapter) -> TelegramMethod[Any]:
        said = await agent.handle_message(user_id="1", message=message.text or "")
        return (
            message.reply(f"{said}!")
            if "quote" in said
            else message.answer_dice()
            if "dice" in said
            else message.answer(f"{said}!")
        )

    bot = make_runtime("polling")
    bot.agent_class, bot.owner = SpeakingAgent, Owner(agent=SpeakingAgent, before=[router])
    async with bot:
        for words in ("just a text", "with a quote"):
            telegram.message(f"say 0.1 {words}", user_id=1, chat_id=GROUP)
        await telegram.settled()
    assert left(telegram, GROUP) == ["just a text!", "with a quote!"]
    assert [sent.method for sent in telegram.sent if sent.text == "with a quote!"] == ["sendMessage"]


async def test_by_business_connection(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    class Businesslike(SpeakingAgent):
        accepts = frozenset({"text", "business"})

    async with speaking(make_runtime, agent=Businesslike):
        await telegram.wait_for(lambda: telegram.allowed_updates)
        connection = telegram.connect_business(1)
        sender = {"id": 2, "is_bot": False, "first_name": "Customer"}
        message = telegram.new_message(
            2, {"from": sender, "text": "say 0.1 a b c", "business_connection_id": connection}
        )
        telegram.push({"business_message": message})
        await telegram.settled()
    assert left(telegram, 2) == ["a b c"]
    assert telegram.drafts.frames == []
    assert {call.params["business_connection_id"] for call in telegram.calls if call.method in FRAMES} == {
        connection
    }


async def test_outside_of_updates_there_is_the_answer_alone(make_runtime: MakeRuntime) -> None:
    for kind in (SpeakingAgent, ShowingAgent):
        agent = kind("")
        assert await agent.handle_message(user_id="1", message="say 0 a b") == "a b"
        assert [each.text for each in (await agent.store.load("1")).history] == ["say 0 a b", "a b"]


# --- Telegram's limits ----------------------------------------------------------------------------


@PRIVATE_OR_GROUP
async def test_no_frames_while_telegram_asks_for_none(
    make_runtime: MakeRuntime, telegram: FakeTelegram, chat: int
) -> None:
    method = "sendMessageDraft" if chat == 1 else "editMessageText"
    telegram.fail(method, status=429, retry_after=1, after=1)
    async with speaking(make_runtime):
        telegram.message(f"say 0.1 {'word ' * 20}", user_id=1, chat_id=chat)
        telegram.message("next", user_id=1, chat_id=chat)
        await telegram.settled()
    calls = [call for call in telegram.calls if call.method == method]
    refused = next(call for call in calls if call.status == 429)
    following = [call.at for call in calls if call.at > refused.at]
    assert min(following) - refused.at > 0.9
    assert len(following) > 1
    assert left(telegram, chat) == [" ".join(["word"] * 20), "next #2"]


async def test_the_answer_keeps_its_place(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    telegram.fail("editMessageText", status=429, retry_after=1, times=2, after=1)
    async with speaking(make_runtime):
        telegram.message("say 0.1 one two three", user_id=1, chat_id=GROUP)
        telegram.message("next", user_id=1, chat_id=GROUP)
        await telegram.settled()
    assert left(telegram, GROUP) == ["one two three", "next #2"]


async def test_no_answer_is_begun_above_one_that_waits(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that may not be sent yet stays before the next one, though that has begun to grow."""
    monkeypatch.setattr(outbox, "SHORT_WAIT", 0.5)
    waiting = telegram.fail("sendMessage", status=429, retry_after=1)
    async with speaking(make_runtime):
        telegram.message("first", user_id=1, chat_id=GROUP)
        await telegram.wait_for(lambda: waiting.felt)
        telegram.message(f"say 0.1 {'word ' * 20}", user_id=1, chat_id=GROUP)
        await telegram.settled()
    assert left(telegram, GROUP) == ["first #1", " ".join(["word"] * 20)]
    assert any(each.startswith("word") for each in frames(telegram, GROUP)[:-1])


@PRIVATE_OR_GROUP
@pytest.mark.parametrize("status", [400, 403, 404, 500, 502])
async def test_frames_that_fail_change_nothing(
    make_runtime: MakeRuntime, telegram: FakeTelegram, chat: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_DELAY", 0.01)
    telegram.fail("sendMessageDraft" if chat == 1 else "editMessageText", status=status, times=1)
    async with speaking(make_runtime) as bot:
        telegram.message("say 0.1 one two three four", user_id=1, chat_id=chat)
        await telegram.settled()
        assert isinstance(bot.agent, SpeakingAgent)
        assert len(bot.agent.heard) == 1
    assert left(telegram, chat) == ["one two three four"]


async def test_slow_frames_hold_up_no_agent_and_never_come_last(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    telegram.delay("sendMessageDraft", 0.5)
    telegram.delay("editMessageText", 0.5, times=1)
    async with speaking(make_runtime) as bot:
        for chat in (1, GROUP):
            telegram.message("say 0.02 a b c d e f g h i j", user_id=abs(chat), chat_id=chat)
        agent = bot.agent
        assert isinstance(agent, SpeakingAgent)
        await telegram.wait_for(lambda: len(agent.ended) == 2, 1.5)
        await telegram.settled()
        await asyncio.sleep(0.6)
    for chat in (1, GROUP):
        assert left(telegram, chat) == ["a b c d e f g h i j"]
        assert frames(telegram, chat)[-1] == "a b c d e f g h i j"
    assert telegram.drafts.shown(1) is None


async def test_an_edit_without_an_answer_is_never_the_last(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows when it comes: so the answer is a message of its own."""
    monkeypatch.setattr(streaming, "FRAME_SECONDS", 1)
    telegram.delay("editMessageText", 2.5, times=1)
    async with speaking(make_runtime):
        telegram.message("say 0.1 a b c d e f", user_id=1, chat_id=GROUP)
        await telegram.settled()
        await asyncio.sleep(2)
    assert left(telegram, GROUP) == ["a b c d e f"]


async def test_the_store_away_for_the_id_shows_no_more(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be found after a kill never says more than that there will be something."""
    async with speaking(make_runtime) as bot:
        commit = bot.store.commit

        async def refuse(user_id: str, changes: Changes, *, expect: int | None) -> int:
            if any(name.startswith("shown:") and mark for name, mark in changes.marks.items()):
                raise OSError("away")
            return await commit(user_id, changes, expect=expect)

        monkeypatch.setattr(bot.store, "commit", refuse)
        telegram.message("say 0.1 a b c d e f", user_id=1, chat_id=GROUP)
        await telegram.settled()
    assert frames(telegram, GROUP) == ["…", "a b c d e f"]
    assert left(telegram, GROUP) == ["a b c d e f"]


# --- Stop -----------------------------------------------------------------------------------------


def by_telegram(telegram: FakeTelegram, chat: int) -> None:
    telegram.drafts.stop(chat)


def by_command(telegram: FakeTelegram, chat: int) -> None:
    telegram.message("/stop", user_id=1, chat_id=chat)


def by_button(telegram: FakeTelegram, chat: int) -> None:
    telegram.press(next(each for each in telegram.sent if each.chat_id == chat), 0, 0, user_id=1)


STOPS = pytest.mark.parametrize(
    ("chat", "stop"),
    [(1, by_telegram), (1, by_command), (GROUP, by_button), (GROUP, by_command)],
    ids=["Telegram's", "/stop", "button", "/stop in a group"],
)


@STOPS
@EITHER_AGENT
@pytest.mark.clause("streaming.stop")
async def test_stop(
    make_runtime: MakeRuntime,
    telegram: FakeTelegram,
    chat: int,
    stop: Callable[[FakeTelegram, int], None],
    agent: Any,
    gate: Gate,
) -> None:
    async with speaking(make_runtime, agent=agent) as bot:
        telegram.message("hold", user_id=1, chat_id=chat)
        await shown(telegram, chat, "held")
        stop(telegram, chat)
        speaker = bot.agent
        assert isinstance(speaker, SpeakingAgent)
        await telegram.wait_for(lambda: speaker.ended, 1)
        await telegram.settled()
        by_command(telegram, chat)  # late: it does nothing
        telegram.message("next", user_id=1, chat_id=chat)
        await telegram.settled()
        assert left(telegram, chat) == ["held", "next #2"]
        assert speaker.heard == ["hold", "next"]
        record = await bot.store.load("1", None)
    history = record.history if chat == 1 else record.others[f"{GROUP}::"]
    assert [each.text for each in history] == ["hold", "held", "next", "next #2"]
    assert record.state == {"count": 2}


@STOPS
@pytest.mark.clause("streaming.stop")
async def test_stop_by_webhook_where_messages_do_not_wait_at_telegram(
    make_runtime: MakeRuntime,
    telegram: FakeTelegram,
    chat: int,
    stop: Callable[[FakeTelegram, int], None],
    gate: Gate,
) -> None:
    async with speaking(make_runtime, "webhook") as bot:
        telegram.message("hold", user_id=1, chat_id=chat)
        await shown(telegram, chat, "held")
        stop(telegram, chat)
        speaker = bot.agent
        assert isinstance(speaker, SpeakingAgent)
        await telegram.wait_for(lambda: speaker.ended, 1)
        telegram.message("next", user_id=1, chat_id=chat)
        await telegram.wait_for(lambda: left(telegram, chat) == ["held", "next #2"], 10)
        assert speaker.heard == ["hold", "next"]


@pytest.mark.clause("streaming.stop")
async def test_forgotten_in_mid_answer_nothing_of_it_is_left(
    make_runtime: MakeRuntime, telegram: FakeTelegram, gate: Gate
) -> None:
    class Patient(SpeakingAgent):
        deferred = True

    async with speaking(make_runtime, "polling", Patient):
        telegram.message("hold", user_id=1, chat_id=GROUP)
        await shown(telegram, GROUP, "held")
        telegram.message("/forget", user_id=1)
        await telegram.wait_for(lambda: telegram.texts(1))
        telegram.press(next(each for each in telegram.sent if each.chat_id == 1), 0, 0, user_id=1)
        await telegram.wait_for(lambda: not left(telegram, GROUP), 10)


@pytest.mark.clause("streaming.stop")
async def test_stopped_and_overtaken_the_agent_does_not_run_again(
    make_runtime: MakeRuntime, telegram: FakeTelegram, gate: Gate
) -> None:
    async with speaking(make_runtime) as bot:
        telegram.message("hold", user_id=1)
        await shown(telegram, 1, "held")
        await bot.store.commit("1", Changes(state={"overtaken": b"true"}), expect=None)
        by_telegram(telegram, 1)
        by_command(telegram, 1)
        await telegram.settled()
        assert isinstance(bot.agent, SpeakingAgent)
        assert bot.agent.heard == ["hold"]
        record = await bot.record(1)
    assert left(telegram, 1) == ["held"]
    assert [each.text for each in record.history] == ["hold", "held"]


@pytest.mark.clause("streaming.stop")
async def test_an_agent_that_clings_is_stopped_all_the_same(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with speaking(make_runtime) as bot:
        telegram.message("cling", user_id=1)
        await shown(telegram, 1, "clings")
        await bot.store.commit("1", Changes(state={"count": b"1"}), expect=None)
        by_telegram(telegram, 1)
        await telegram.settled()
        telegram.message("next", user_id=1)
        await telegram.settled()
        assert isinstance(bot.agent, SpeakingAgent)
        assert bot.agent.ended == ["cling", "next"]
    assert left(telegram, 1) == ["clings to life", "next #2"]


@pytest.mark.clause("streaming.stop")
async def test_others_cannot_stop_it(make_runtime: MakeRuntime, telegram: FakeTelegram, gate: Gate) -> None:
    async with speaking(make_runtime):
        telegram.message("hold", user_id=1, chat_id=GROUP)
        await shown(telegram, GROUP, "held")
        telegram.message("/stop", user_id=2, chat_id=GROUP)
        telegram.message("/stop@other_bot", user_id=1, chat_id=GROUP)
        telegram.press(telegram.sent[0], 0, 0, user_id=2)
        telegram.message("/stop", user_id=1)
        telegram.callback("stop answer x", user_id=1)
        await asyncio.sleep(0.3)
        gate.opened.set()
        await telegram.settled()
    assert left(telegram, GROUP)[0] == "held and freed"


@pytest.mark.clause("streaming.stop")
async def test_stopped_before_it_begins(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    """What waited while the bot was down: asked, and stopped."""
    bot = make_runtime("polling")
    bot.agent_class, bot.owner = SpeakingAgent, Owner(agent=SpeakingAgent)
    telegram.message("ever", user_id=1)
    by_command(telegram, 1)
    telegram.message("next", user_id=1)
    async with bot:
        await telegram.settled()
        assert isinstance(bot.agent, SpeakingAgent)
        assert bot.agent.heard == ["next"]
    assert left(telegram, 1) == ["next #1"]


@pytest.mark.clause("streaming.stop")
async def test_the_next_message_may_stop_it(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, gate: Gate
) -> None:
    class Impatient(SpeakingAgent):
        while_busy = "stop"

    async with speaking(make_runtime, mode, Impatient) as bot:
        telegram.message("hold", user_id=1)
        await shown(telegram, 1, "held")
        telegram.message("next", user_id=1)
        await over(bot)
        assert isinstance(bot.agent, SpeakingAgent)
        assert bot.agent.heard == ["hold", "next"]
    assert left(telegram, 1) == ["held", "next #2"]


@pytest.mark.clause("streaming.stop")
async def test_what_cannot_work_is_refused(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    class Impatient(SpeakingAgent):
        while_busy = "stop"
        deferred = False

    class Whole(CountingAgent):
        while_busy = "stop"

    class Misspelt(SpeakingAgent):
        while_busy = "halt"  # type: ignore[assignment]

    refused = (
        (Impatient, "webhook", "deferred = True"),
        (Whole, "webhook", "deferred = True"),
        (Misspelt, "polling", "'halt'"),
    )
    for agent, mode, words in refused:
        with pytest.raises(OperatorError, match=words):
            async with speaking(make_runtime, mode, agent):  # type: ignore[arg-type]
                pass


@pytest.mark.clause("streaming.stop")
async def test_no_stop_is_offered_where_it_would_come_too_late(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    class Hasty(SpeakingAgent):
        deferred = False

    async with speaking(make_runtime, "webhook", Hasty):
        telegram.message("say 0.1 a b", user_id=1)
        telegram.message("say 0.1 a b", user_id=1, chat_id=GROUP)
        await telegram.settled()
    assert not any(frame.can_stop for frame in telegram.drafts.frames)
    assert not any("reply_markup" in call.params for call in telegram.calls)


async def test_a_bot_whose_answers_come_whole_has_no_stop(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with speaking(make_runtime, agent=CountingAgent) as bot:
        telegram.message("/stop", user_id=1)
        await telegram.settled()
        assert bot.agent.streams is None
    assert left(telegram, 1) == ["Processed: /stop (#1)"]
