"""What was sent or begun before `/forget` ends without effect; whoever writes after it is a new person."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import structlog
from aiogram import Router
from aiogram.types import CallbackQuery

from bot.agent_adapter import current_turn
from bot.runtime.app import Owner
from bot.runtime.errors import StateUnavailable
from bot.runtime.state.record import UserRecord
from bot.runtime.state.store import OperatorStore
from bot.runtime.telegram import outbox
from suite.agents import CountingAgent, Gate
from suite.bot_api import FakeTelegram
from suite.support.runtime import MakeRuntime, Mode, Runtime

pytestmark = pytest.mark.clause("forget.erases")

FORGET = "forget:1:1"


@contextmanager
def refused(store: OperatorStore) -> Iterator[set[int]]:
    """Updates for which the store is away: those whose ids are in the set."""
    load, ids = store.load, set[int]()

    async def refusing(user_id: str, conversation: str | None = "") -> UserRecord:
        if structlog.contextvars.get_contextvars().get("update_id") in ids:
            raise StateUnavailable("it does not answer")
        return await load(user_id, conversation)

    store.load = refusing  # type: ignore[method-assign]
    yield ids
    store.load = load  # type: ignore[method-assign]


@asynccontextmanager
async def another_replica(
    make_runtime: MakeRuntime, telegram: FakeTelegram, **settings: Any
) -> AsyncIterator[tuple[Runtime, FakeTelegram]]:
    """Another process of the bot, with a way of its own to Telegram."""
    async with FakeTelegram(token=telegram.token, max_retry_after=0.1) as elsewhere:
        elsewhere.next_update_id = telegram.next_update_id + 1_000
        other = make_runtime("webhook", **settings)
        other.telegram = elsewhere
        other.settings.telegram_api_url = elsewhere.url
        async with other:
            yield other, elsewhere
        await other.store.connect()  # which it closed, and both of them use here


@pytest.mark.parametrize("restarts", [False, True], ids=["same process", "after a kill"])
async def test_a_message_refused_before_it_has_no_effect_after_it(
    make_runtime: MakeRuntime, telegram: FakeTelegram, store: OperatorStore, restarts: bool
) -> None:
    bot = await make_runtime("webhook").start()
    telegram.message("hi", user_id=1)
    await telegram.settled()
    with refused(store) as ids:
        ids.add(telegram.next_update_id)
        old = telegram.message("my secret", user_id=1)
        await telegram.wait_for(lambda: telegram.attempts[old])
        pressed = telegram.callback(FORGET, user_id=1)
        await telegram.wait_for(lambda: pressed in telegram.acknowledged)
        if restarts:
            await bot.cut_off()
    if restarts:
        bot = await make_runtime("webhook").start()
    await telegram.settled()
    record = await bot.record(1)
    assert record.is_empty
    assert record.forgotten
    assert telegram.texts(1)[:1] == ["Processed: hi (#1)"]
    assert not any("secret" in text for text in telegram.texts(1)), "acknowledged, and not answered"
    telegram.repeat(old)
    telegram.message("me again", user_id=1)
    await telegram.settled()
    assert telegram.texts(1)[-1] == "Processed: me again (#1)"
    assert "secret" not in str(await bot.record(1))
    await bot.stop()


async def test_a_button_pressed_before_it_has_no_effect_after_it(
    make_runtime: MakeRuntime, telegram: FakeTelegram, store: OperatorStore
) -> None:
    """Presses have no date; and this one comes again after Telegram brought what followed."""
    router = Router()

    @router.callback_query(lambda query: query.data == "buy")
    async def buy(query: CallbackQuery) -> None:
        turn = current_turn()
        assert turn
        turn.state["bought"] = True

    bot = make_runtime("webhook")
    bot.owner = Owner(agent=CountingAgent, before=[router])
    async with bot:
        telegram.message("hi", user_id=1)
        await telegram.settled()
        with refused(store) as ids:
            ids.add(telegram.next_update_id)
            # In another user's queue at Telegram, for the two not to wait for each other.
            update_id = telegram.callback("buy", user_id=1)
            await telegram.wait_for(lambda: telegram.attempts[update_id])
            forgets = telegram.next_update_id
            async with another_replica(make_runtime, telegram) as (_, elsewhere):
                elsewhere.next_update_id = forgets
                elsewhere.callback(FORGET, user_id=1)
                await elsewhere.settled()
        await telegram.settled()
        assert (await bot.record(1)).is_empty
        telegram.next_update_id = elsewhere.next_update_id
        telegram.callback("buy", user_id=1)
        await telegram.settled()
        assert (await bot.record(1)).state == {"bought": True}


async def test_a_turn_that_another_replica_began_before_it_has_no_effect(
    make_runtime: MakeRuntime, telegram: FakeTelegram, gate: Gate
) -> None:
    async with (
        make_runtime("webhook") as bot,
        another_replica(make_runtime, telegram) as (_, elsewhere),
    ):
        telegram.message("hi", user_id=1)
        await telegram.settled()
        elsewhere.message("hold", user_id=1, chat_id=-100)
        await gate.reached.wait()
        telegram.callback(FORGET, user_id=1)
        await telegram.settled()
        assert (await bot.record(1)).is_empty
        gate.opened.set()
        await elsewhere.settled()
        assert (await bot.record(1)).is_empty
        assert elsewhere.texts(-100) == []
        elsewhere.message("hi", user_id=1, chat_id=-100)
        await elsewhere.settled()
        assert elsewhere.texts(-100) == ["Processed: hi (#1)"]


async def test_a_reply_that_another_replica_tries_again_is_not_sent_after_it(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with (
        make_runtime("webhook") as bot,
        another_replica(make_runtime, telegram) as (_, elsewhere),
    ):
        failing = elsewhere.fail("sendMessage", status=500, times=1)
        elsewhere.message("my secret", user_id=1)
        await elsewhere.wait_for(lambda: failing.felt)
        telegram.callback(FORGET, user_id=1)
        await telegram.settled()
        await elsewhere.settled()
        assert (await bot.record(1)).is_empty
        assert elsewhere.texts(1) == []


async def test_nor_is_one_behind_it(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "SHORT_WAIT", 0.1)
    monkeypatch.setattr(outbox, "HOLD_SECONDS", 0.1)  # then Telegram brings the next one
    async with (
        make_runtime("webhook") as bot,
        another_replica(make_runtime, telegram) as (_, elsewhere),
    ):
        elsewhere.fail("sendMessage", status=500, times=1)
        elsewhere.message("my secret", user_id=1)
        elsewhere.message("another secret", user_id=1)
        while len((await bot.record(1)).outbox) < 2:  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.01)
        telegram.callback(FORGET, user_id=1)
        await telegram.settled()
        await elsewhere.settled()
        await asyncio.sleep(1)
        assert (await bot.record(1)).is_empty
        assert elsewhere.texts(1) == []


async def test_what_an_operator_forgot_counts_for_what_runs(
    make_runtime: MakeRuntime, telegram: FakeTelegram, store: OperatorStore, mode: Mode, gate: Gate
) -> None:
    """Also for what was sent before, by the clocks."""
    async with make_runtime(mode) as bot:
        telegram.message("hold", user_id=1)
        await gate.reached.wait()
        telegram.message("sent long ago", user_id=1, date=int(time.time()) - 60)
        await store.forget("1")
        gate.opened.set()
        await telegram.settled()
        assert (await bot.record(1)).is_empty
        assert telegram.texts(1) == []
        telegram.message("hi", user_id=1)
        await telegram.settled()
        assert telegram.texts(1) == ["Processed: hi (#1)"]


@pytest.mark.parametrize("ids", ["go on", "restart", "restart higher"])
async def test_who_comes_back_is_new_and_served_at_once(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, ids: str
) -> None:
    async with make_runtime(mode) as bot:
        telegram.next_update_id = 900_000_000
        telegram.message("hi", user_id=1)
        await telegram.settled()
        telegram.callback(FORGET, user_id=1)
        if ids == "go on":
            telegram.message("me again", user_id=1)
        await telegram.settled()
        if ids.startswith("restart"):
            telegram.next_update_id = 17 if ids == "restart" else 2_000_000_000
            telegram.message("me again", user_id=1)
            await telegram.settled()
        assert telegram.texts(1)[-1] == "Processed: me again (#1)"
        assert (await bot.record(1)).state["message_count"] == 1


async def test_ids_that_restart_a_week_later_just_below_are_new_updates(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with make_runtime("webhook"):
        telegram.next_update_id = 1_000
        telegram.message("hi", user_id=1)
        telegram.callback(FORGET, user_id=1)
        await telegram.settled()
        telegram.next_update_id = 900
        telegram.message("me again", user_id=1, date=int(time.time()) + 8 * 86_400)
        await telegram.settled()
        assert telegram.texts(1)[-1] == "Processed: me again (#1)"


async def test_a_change_from_outside_waits_and_finds_a_new_person(
    make_runtime: MakeRuntime, telegram: FakeTelegram, gate: Gate
) -> None:
    async with make_runtime("webhook") as bot:
        telegram.message("hi", user_id=1)
        telegram.message("hold", user_id=1)
        await gate.reached.wait()
        telegram.callback(FORGET, user_id=1)
        await asyncio.sleep(0.1)
        change = asyncio.create_task(bot.agent.update_user_state("1", "from", "outside"))
        gate.opened.set()
        await change
        await telegram.settled()
        record = await bot.record(1)
        assert record.forgotten
        assert record.state == {"from": "outside"}


class Viewer(CountingAgent):
    """It takes pictures, so those of an album wait for each other."""

    accepts = frozenset({"text", "photo"})


async def test_a_part_of_an_album_refused_before_it_has_no_effect_after_it(
    make_runtime: MakeRuntime, telegram: FakeTelegram, store: OperatorStore
) -> None:
    async with make_runtime("webhook", agent_class=Viewer) as bot:
        telegram.message("hi", user_id=1)
        await telegram.settled()
        with refused(store) as ids:
            ids.add(telegram.next_update_id)
            size = {"file_id": "p", "file_unique_id": "p", "width": 1, "height": 1, "file_size": 10}
            old = telegram.message(None, user_id=1, photo=[size], media_group_id="album", caption="secret")
            await telegram.wait_for(lambda: telegram.attempts[old])
            pressed = telegram.callback(FORGET, user_id=1)
            await telegram.wait_for(lambda: pressed in telegram.acknowledged)
        await telegram.wait_for(lambda: old in telegram.acknowledged, 20)
        await asyncio.sleep(1.5)  # longer than a part waits for the next
        record = await bot.record(1)
        assert (record.state, record.history, record.fsm) == ({}, [], {})
