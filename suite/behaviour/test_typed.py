"""A state of a declared shape: what is kept of it, what becomes of older ones, and what does not fit."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel, RootModel

from bot.agent_adapter import TelegramAgentAdapter, Texts, Turn
from bot.runtime.errors import OperatorError, StateError, StateValueError
from bot.runtime.logs import configure_logs
from bot.runtime.state.store import OperatorStore
from bot.runtime.state.turn import mutate
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Mode
from suite.travelling_bot import Stop, Travelling

pytestmark = pytest.mark.clause("memory.typed")


async def put(store: OperatorStore, **state: Any) -> None:
    """Keep a state, whatever its shape."""

    async def change(turn: Turn) -> None:
        turn.state |= state

    await mutate(store, "1", change)


async def say(telegram: FakeTelegram, *said: str) -> str:
    """The answer to the last of these."""
    for text in said:
        telegram.message(text, user_id=1)
    await telegram.settled()
    return telegram.texts(1)[-1]


async def test_a_model_is_kept_as_json(make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode) -> None:
    async with make_runtime(mode, agent_class=Travelling) as bot:
        assert await say(telegram, "hi") == "nowhere NOK 0"
        assert (await bot.record(1)).state == {}, "nothing was changed"
        await say(telegram, "go Oslo", "stop Bergen", "begin 2026-12-24", "tag warm far")
        state = (await bot.record(1)).state
        state["tags"].sort()
        assert state == {
            "_version": 3,
            "city": "Oslo",
            "currency": "NOK",
            "begins": "2026-12-24",
            "stops": [{"town": "Bergen", "nights": 1}],
            "tags": ["far", "warm"],
        }
        assert await say(telegram, "stop Voss") == "Oslo NOK 2"


async def test_a_renamed_a_new_and_a_removed_field(
    make_runtime: MakeRuntime, telegram: FakeTelegram, store: OperatorStore
) -> None:
    await put(store, town="Rome", stops=[{"town": "Bari"}], rating=5)
    async with make_runtime("polling", agent_class=Travelling) as bot:
        assert await say(telegram, "hi") == "Rome EUR 1"
        assert (await bot.record(1)).state == {
            "_version": 3,
            "city": "Rome",
            "currency": "EUR",
            "begins": None,
            "stops": [{"town": "Bari", "nights": 2}],
            "tags": [],
        }
        assert await say(telegram, "pay NOK", "hi") == "Rome NOK 1", "it is upgraded once"


async def test_a_state_is_upgraded_from_where_it_was(
    make_runtime: MakeRuntime, telegram: FakeTelegram, store: OperatorStore
) -> None:
    await put(store, _version=2, city="Paris")
    async with make_runtime("polling", agent_class=Travelling):
        assert await say(telegram, "hi") == "Paris EUR 0"


UNFIT: list[tuple[dict[str, Any], str]] = [
    (
        {"_version": 3, "city": 7, "currency": "secret"},
        "is no Trip: city string_type, currency literal_error",
    ),
    ({"_version": 3, "city": "secret" * 9, "currency": "EUR"}, "is no Trip: city value_error"),
    ({"_version": 3, "currency": "EUR", "stops": [{"secret": 1}]}, "is no Trip: stops.0.town missing"),
    ({"rating": "secret"}, "upgrade failed from version 0 on (KeyError in travelling_bot.py, line "),
    ({"_version": 2, "city": 1, "stops": ["secret"]}, "upgrade failed from version 2 on (TypeError in"),
    ({"_version": 4, "city": "secret"}, "its state is of a newer version than 3 of Trip"),
    ({"_version": "secret"}, "its state is of a newer version than 3 of Trip"),
]


@pytest.mark.parametrize(("state", "reason"), UNFIT)
async def test_what_does_not_fit_is_left_alone_and_told_without_content(
    make_runtime: MakeRuntime,
    telegram: FakeTelegram,
    store: OperatorStore,
    capfd: pytest.CaptureFixture[str],
    state: dict[str, Any],
    reason: str,
) -> None:
    await put(store, **state)
    async with make_runtime("polling", agent_class=Travelling) as bot:
        configure_logs(bot.settings)
        assert await say(telegram, "go Oslo") == Texts().sorry_corrupt
        assert (await bot.record(1)).state == state
        logged = capfd.readouterr().err
        assert reason in logged
        assert "secret" not in logged
        kept = state["currency"] if state.get("currency") == "EUR" else "NOK"
        assert await say(telegram, "/reset", "hi") == f"nowhere {kept} 0", "there is a way out"


async def test_a_turn_that_would_keep_what_does_not_fit_fails(
    make_runtime: MakeRuntime, telegram: FakeTelegram, capfd: pytest.CaptureFixture[str]
) -> None:
    async with make_runtime("polling", agent_class=Travelling) as bot:
        configure_logs(bot.settings)
        await say(telegram, "go Oslo", "stop Bergen")
        before = (await bot.record(1)).state
        for wrong in ("spoil", "pay secrets", f"go {'secret' * 9}", "key other", "key currency"):
            assert await say(telegram, wrong) == Texts().sorry
            assert (await bot.record(1)).state == before
        logged = capfd.readouterr().err
        assert "secret" not in logged
        assert "stops.0.nights int_type" in logged or "stops.0.nights int_parsing" in logged
        assert "is no field of Trip" in logged


async def test_changes_by_key_meet_those_of_the_model(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with make_runtime("polling", agent_class=Travelling) as bot:
        agent = bot.agent
        await agent.update_user_state("1", "city", "Oslo")
        assert (await bot.record(1)).state["city"] == "Oslo"

        async def both(turn: Turn) -> str:
            turn.state["city"] = "Rome"
            seen: str = turn.typed.city
            turn.typed.currency = "EUR"
            turn.state["stops"] = [{"town": "Bari"}]
            return seen

        assert await agent.mutate("1", both) == "Rome"
        state = (await bot.record(1)).state
        assert (state["city"], state["currency"]) == ("Rome", "EUR")
        assert state["stops"] == [{"town": "Bari"}]
        assert await say(telegram, "hi") == "Rome EUR 1"
        with pytest.raises(StateValueError, match=r"state\['beer'\] is no field of Trip"):
            await agent.update_user_state("1", "beer", 1)
        await say(telegram, "clear")
        assert (await bot.record(1)).state == {}
        await agent.update_user_state("1", "city", "Oslo")
        await agent.clear_user_state("1")
        assert (await bot.record(1)).state == {}


async def test_no_change_is_lost_or_made_twice(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    async with make_runtime(mode, agent_class=Travelling) as bot:

        async def disturb(turn: Turn) -> None:
            turn.typed.stops.append(Stop(town="x"))

        for number in range(10):
            telegram.message("count", user_id=1)
            await mutate(bot.store, "1", disturb, memory=bot.agent.remembers)
            if number % 3 == 0:
                telegram.repeat(list(telegram.updates)[-1])
        await telegram.settled()
        state = (await bot.record(1)).state
        assert (len(state["tags"]), len(state["stops"])) == (10, 10)


async def test_kept_fields_survive_a_reset(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with make_runtime("polling", agent_class=Travelling) as bot:
        await say(telegram, "go Rome", "pay EUR", "/reset")
        record = await bot.record(1)
        assert (record.state["currency"], record.state["city"], record.history) == ("EUR", "", [])
        assert await say(telegram, "hi") == "nowhere EUR 0"
        telegram.callback("forget:1:1", user_id=1)
        await telegram.settled()
        assert (await bot.record(1)).state == {}


async def test_a_reset_keeps_fields_of_older_versions(
    make_runtime: MakeRuntime, telegram: FakeTelegram, store: OperatorStore
) -> None:
    await put(store, town="Paris")
    async with make_runtime("polling", agent_class=Travelling):
        assert await say(telegram, "/reset", "hi") == "nowhere EUR 0"


async def test_a_job_has_it_too(make_runtime: MakeRuntime) -> None:
    async with make_runtime("polling", agent_class=Travelling) as bot, asyncio.timeout(60):
        await bot.agent.later("1", timedelta(0), bot.agent.pack)  # type: ignore[attr-defined]
        while not (await bot.record(1)).state:  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.05)
        assert (await bot.record(1)).state["tags"] == ["packed"]


async def test_it_can_only_be_read_while_a_query_is_answered(store: OperatorStore) -> None:
    agent = Travelling("", store)
    await agent.update_user_state("1", "city", "Oslo")
    turn = Turn(await store.load("1"), store.limits, is_read_only=True, memory=agent.remembers)
    assert turn.typed.city == "Oslo"
    turn.check_unchanged()
    turn.typed.city = "Rome"
    with pytest.raises(StateError, match="nothing can be kept"):
        turn.check_unchanged()


class Empty(BaseModel):
    """It has a field without a default."""

    secret: str


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"state_type": Empty},
            r"Agent.new_state gives no Empty \(secret missing\): give every field a default",
        ),
        ({"state_type": dict}, "has to be a pydantic model with fields"),
        ({"state_type": RootModel[dict[str, int]]}, "has to be a pydantic model with fields"),
        ({"state_type": Stop, "state_version": 0}, "has to be a whole number from 1 on"),
    ],
)
async def test_what_cannot_work_is_refused_at_the_start(
    make_runtime: MakeRuntime, settings: dict[str, Any], reason: str
) -> None:
    agent = type("Agent", (TelegramAgentAdapter,), settings)
    with pytest.raises(OperatorError, match=reason):
        await make_runtime("polling", agent_class=agent).start()


async def test_an_agent_without_a_shape_has_no_typed_state(store: OperatorStore) -> None:
    turn = Turn(await store.load("1"), store.limits)
    with pytest.raises(StateError, match="declares no state_type"):
        _ = turn.typed
