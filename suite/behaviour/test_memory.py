"""Summaries of old messages, made while nobody waits for them, and keys of the state that /reset leaves."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import orjson
import pytest

from bot.agent_adapter import Message, Place, RecordId, TelegramAgentAdapter, chat
from bot.runtime.errors import StateError
from bot.runtime.logs import configure_logs
from bot.runtime.state.record import Limits, UserRecord
from bot.runtime.state.turn import COMPACTING_SECONDS, Turn, mutate
from suite.behaviour.test_places import walked
from suite.bot_api import FakeTelegram
from suite.contract.harness import Harness
from suite.support.runtime import MakeRuntime, Runtime

GROUP = -1001234567890

compacts = pytest.mark.clause("memory.compact")


class Summing(TelegramAgentAdapter):
    """Answers, and sums up what was said when it may."""

    asked: ClassVar[list[list[str]]]
    may: ClassVar[asyncio.Event]
    outcome: ClassVar[Callable[[], Any]]

    def wants(self, update: object) -> bool:
        return True

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        return f"re {message}"

    async def compact(self, old: Sequence[Message]) -> str | None:
        self.asked.append([each.text for each in old])
        await self.may.wait()
        summary: str | None = type(self).outcome()
        return summary


class Shared(Summing):
    """The same, with one record for a group."""

    def record_of(self, place: Place) -> RecordId | None:
        return chat(place.group) if place.group else super().record_of(place)


@pytest.fixture(autouse=True)
def begin_anew() -> None:
    """Nobody has been asked yet, and nobody has to wait."""
    Summing.asked, Summing.may = [], asyncio.Event()
    Summing.outcome = lambda: f"summary {len(Summing.asked)}"
    Summing.compact_seconds = 60
    Summing.may.set()


@pytest.fixture
async def make_bot(make_runtime: MakeRuntime, harness: Harness) -> Callable[..., Any]:
    """Make a bot whose store keeps short histories."""

    async def make(agent: type[TelegramAgentAdapter] = Summing, **limits: int) -> Runtime:
        bot = make_runtime("polling", agent_class=agent, agent_timeout=1)
        bot.store = await harness.open(Limits(**({"history": 8} | limits)))
        return bot

    return make


async def texts(bot: Runtime, conversation: str = "", record: str = "1") -> list[str]:
    """What stands in a conversation."""
    return [message.text for message in (await bot.store.load(record, conversation)).history]


async def say(bot: Runtime, *said: str, user_id: int = 1, **where: Any) -> None:
    """Say this, and wait for the answers, but for no summary."""
    for text in said:
        bot.telegram.message(text, user_id=user_id, **where)
        await bot.telegram.settled()


@compacts
@pytest.mark.parametrize(("where", "name"), [({}, ""), ({"chat_id": GROUP}, f"{GROUP}::")])
async def test_a_summary_takes_the_place_of_old_messages(make_bot: Any, where: Any, name: str) -> None:
    async with await make_bot() as bot:
        await say(bot, "a", "b", **where)
        await bot.agent.drain(10)
        assert Summing.asked == [], "there is room"
        await say(bot, "c", **where)
        await bot.agent.drain(10)
        assert Summing.asked == [["a", "re a", "b", "re b"]], "about half, in whole exchanges"
        history = (await bot.store.load("1", name)).history
        assert [each.text for each in history] == ["summary 1", "c", "re c"]
        assert [each.is_summary for each in history] == [True, False, False]
        assert history[0].role == "assistant"
        assert history[0].data["summary"] == 4
        assert history[0].at < history[1].at
        await say(bot, "d", "e", **where)
        await bot.agent.drain(10)
        assert Summing.asked[1] == ["summary 1", "c", "re c", "d", "re d"]
        history = (await bot.store.load("1", name)).history
        assert [each.text for each in history] == ["summary 2", "e", "re e"]
        assert history[0].data["summary"] == 8


@compacts
async def test_a_summary_is_asked_for_when_the_record_is_nearly_full(make_bot: Any) -> None:
    async with await make_bot(history=100, max_bytes=4_000) as bot:
        await say(bot, *[letter * 300 for letter in "abcd"])
        await bot.agent.drain(10)
        assert [len(old) for old in Summing.asked] == [4]
        assert (await texts(bot))[0] == "summary 1"


@compacts
async def test_nobody_waits_for_a_summary_and_what_is_said_meanwhile_stays(
    make_bot: Any, telegram: FakeTelegram
) -> None:
    Summing.may.clear()
    async with await make_bot() as bot:
        await say(bot, "a", "b", "c", "d")
        assert telegram.texts(1)[-1] == "re d"
        assert len(Summing.asked) == 1, "that is at it"
        Summing.may.set()
        await bot.agent.drain(10)
        assert await texts(bot) == ["summary 1", "c", "re c", "d", "re d"]
        await say(bot, "e")
        await bot.agent.drain(10)
        assert len(Summing.asked) == 2, "the next one at once"


@compacts
async def test_what_had_to_go_meanwhile_is_in_the_summary(make_bot: Any) -> None:
    Summing.may.clear()
    async with await make_bot() as bot:
        await say(bot, *"abcde")
        assert await texts(bot) == ["b", "re b", "c", "re c", "d", "re d", "e", "re e"]
        Summing.may.set()
        await bot.agent.drain(10)
        assert await texts(bot) == ["summary 1", "c", "re c", "d", "re d", "e", "re e"]
        assert len(Summing.asked) == 1


@compacts
async def test_a_summary_that_comes_too_late_is_left_out(make_bot: Any) -> None:
    Summing.may.clear()
    async with await make_bot() as bot:
        await say(bot, *"abcdefg")
        Summing.may.set()
        await bot.agent.drain(10)
        assert (await texts(bot))[::2] == list("defg")


def fail() -> str:
    raise ValueError("".join(["sec", "ret"]))


@compacts
@pytest.mark.parametrize(
    ("outcome", "seconds", "said"),
    [
        (fail, 60, "ValueError"),
        (lambda: None, 60, ""),
        (lambda: "", 60, ""),
        (lambda: 7, 60, "Summing.compact returned int, not str"),
        (lambda: "long" * 999, 60, "summary dropped"),
        ("late", 0.05, "compact took too long"),
    ],
)
async def test_without_a_summary_old_messages_go_when_they_have_to(
    make_bot: Any, capfd: pytest.CaptureFixture[str], outcome: Any, seconds: float, said: str
) -> None:
    Summing.compact_seconds = seconds
    if outcome == "late":
        Summing.may.clear()
    else:
        Summing.outcome = outcome
    async with await make_bot() as bot:
        configure_logs(bot.settings)
        await say(bot, *"abc")
        await bot.agent.drain(10)
        await say(bot, *"defg")
        await bot.agent.drain(10)
        assert await texts(bot) == ["d", "re d", "e", "re e", "f", "re f", "g", "re g"]
        assert len(Summing.asked) == 1, "not again for an hour"
    logged = capfd.readouterr().err
    assert said in logged
    assert "secret" not in logged


@compacts
async def test_of_several_processes_one_makes_the_summary(make_bot: Any, telegram: FakeTelegram) -> None:
    Summing.may.clear()
    first, second = await make_bot(), await make_bot()
    async with first:
        await say(first, *"abc")
        async with second:
            for text in "de":
                await second.agent.handle_message(user_id="1", message=text)
            assert len(Summing.asked) == 1
            Summing.may.set()
            await first.agent.drain(10)
            assert (await texts(second))[0] == "summary 1"


@compacts
async def test_an_hour_later_it_is_asked_again(make_bot: Any) -> None:
    Summing.outcome = fail
    async with await make_bot() as bot:
        await say(bot, *"abc")
        await bot.agent.drain(10)

        async def let_time_pass(turn: Turn) -> None:
            for name, (until, count) in turn.counters.items():
                turn.counters[name] = [until - COMPACTING_SECONDS - 1, count]

        await mutate(bot.store, "1", let_time_pass)
        await say(bot, "d")
        await bot.agent.drain(10)
        assert [old[0] for old in Summing.asked] == ["a", "a"]


@compacts
@pytest.mark.parametrize("how", ["/reset", "forget:1:1"])
async def test_what_is_cleared_meanwhile_does_not_come_back(
    make_bot: Any, telegram: FakeTelegram, how: str
) -> None:
    Summing.may.clear()
    async with await make_bot() as bot:
        await say(bot, *"abc")
        if how == "/reset":
            await say(bot, how)
        else:
            telegram.callback(how, user_id=1)
            await telegram.settled()
            assert [name for name in (await bot.store.load("1")).marks if not name.isdecimal()] == []
        await say(bot, "new")
        Summing.may.set()
        await bot.agent.drain(10)
        assert await texts(bot) == ["new", "re new"]


@compacts
async def test_a_process_that_is_killed_leaves_the_messages(make_bot: Any) -> None:
    Summing.may.clear()
    async with await make_bot() as bot:
        await say(bot, *"abc")
        await bot.cut_off()
    assert [message.text for message in (await bot.record(1)).history][::2] == list("abc")


@pytest.mark.clause("forget.erases")
async def test_forgetting_a_person_reaches_data_and_summaries_in_groups(
    make_bot: Any, telegram: FakeTelegram
) -> None:
    """Either may repeat what they said."""

    async def note(turn: Turn) -> None:
        turn.history[-1:] = [Message("assistant", "re", turn.history[-1].at, json=b'"said"')]

    async with await make_bot(Shared) as bot:
        await say(bot, "a", "b", user_id=1, chat_id=GROUP)
        await say(bot, "c", user_id=2, chat_id=GROUP)
        await bot.agent.drain(10)
        assert (await texts(bot, record=str(GROUP)))[0] == "summary 1"
        Summing.outcome = lambda: None
        for user_id in (1, 2):
            await say(bot, "d", user_id=user_id, chat_id=GROUP)
            await mutate(bot.store, str(GROUP), note)
        telegram.callback("forget:1:1", user_id=1)
        await telegram.settled()
        await walked(bot)
        left = [(each.text, each.data) for each in (await bot.store.load(str(GROUP))).history]
        assert left == [("c", None), ("re c", None), ("re", None), ("d", None), ("re", "said")]


@pytest.mark.clause("forget.erases")
async def test_a_summary_under_way_brings_back_no_words_of_who_is_forgotten(
    make_bot: Any, telegram: FakeTelegram
) -> None:
    Summing.may.clear()
    async with await make_bot(Shared) as bot:
        await say(bot, "a", user_id=1, chat_id=GROUP)
        await say(bot, "b", "c", user_id=2, chat_id=GROUP)
        telegram.callback("forget:1:1", user_id=1)
        await telegram.settled()
        await walked(bot)
        Summing.may.set()
        await bot.agent.drain(10)
        assert await texts(bot, record=str(GROUP)) == ["re a", "b", "re b", "c", "re c"]


# --- Kept keys ------------------------------------------------------------------------------------


class Polyglot(TelegramAgentAdapter):
    """Knows the person's language."""

    kept = frozenset({"language", "zone"})

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        language: str = state.setdefault("language", message)
        state["said"] = message
        return language


@pytest.mark.clause("memory.kept")
async def test_kept_keys_survive_a_reset_and_no_forgetting(make_bot: Any, telegram: FakeTelegram) -> None:
    async with await make_bot(Polyglot) as bot:
        await say(bot, "no", "hei", "/reset")
        record = await bot.store.load("1")
        assert (record.state, record.history) == ({"language": "no"}, [])
        await say(bot, "hei")
        assert telegram.texts(1)[-1] == "no"
        telegram.callback("forget:1:1", user_id=1)
        await telegram.settled()
        assert (await bot.store.load("1")).state == {}


@compacts
@pytest.mark.parametrize(
    "data",
    [{"summary": "1", "authors": [1]}, {"summary": 1, "authors": None}, {"summary": 1, "authors": ["1"]}],
)
def test_what_only_looks_like_a_summary_is_none(data: Any) -> None:
    message = Message("assistant", "", 1.0, None, orjson.dumps(data))
    assert not message.is_summary
    assert Message("assistant", "", 1.0, None, orjson.dumps({"summary": 1, "authors": [1]})).is_summary


@pytest.mark.clause("agent.interface")
def test_counters_are_bounded() -> None:
    turn = Turn(UserRecord("1"), Limits())
    for number in range(100):
        assert turn.count(f"n{number}", 1) == 1
    assert turn.count("n0", 1) == 2
    for name in ("another", "x" * 65, "a\0"):
        with pytest.raises(ValueError, match="counter"):
            turn.count(name, 1)
    query = Turn(UserRecord("1"), Limits(), is_read_only=True)
    assert query.count("n0") == 0, "a query may look"
    with pytest.raises(StateError):
        query.count("n0", 1)
