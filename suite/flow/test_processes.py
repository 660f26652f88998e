"""The conversation with a bot that is killed, and with two replicas of it, as real processes."""

import random
from pathlib import Path

import pytest

from bot.runtime.state.store import OperatorStore
from suite.bot_api import FakeTelegram
from suite.flow.example import handlers
from suite.flow.example.steps import ConversationStates
from suite.flow.owner import BOT
from suite.flow.person import NAME, STYLE, SUMMARY, YEAR, Person
from suite.support.replicas import balanced, replicas

pytestmark = pytest.mark.clause("flow.example")

ACTIONS = ["/profile", "Ann", "1990", "[In detail]", "[Yes, save it]"]
TEXTS = [NAME, YEAR.format("Ann"), STYLE, SUMMARY.format("Ann", 1990, "in detail"), handlers.SAVED]
SENDING = ("sendMessage", "editMessageText")
PROFILE = {"name": "Ann", "born": 1990, "style": "detailed"}


def settings(mode: str) -> dict[str, str]:
    return {"WEBHOOK_URL": "https://bot.example/hook"} if mode == "webhook" else {}


async def test_killed_between_any_two_steps(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore, mode: str
) -> None:
    ann = Person(telegram, 1)
    for action in ACTIONS:
        async with replicas(1, tmp_path, telegram, BOT, **settings(mode)) as (bot,):  # killed at the end
            telegram.webhook_address = f"http://127.0.0.1:{bot.port}"
            await ann.does(action)
    assert ann.sees() == TEXTS
    record = await store.load("1")
    assert (record.state, record.fsm) == ({"profile": PROFILE}, {})


async def test_killed_in_the_middle_of_any_step(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    """After the commit and before the reply, which the next process sends."""
    ann = Person(telegram, 1)
    for action in ACTIONS:
        async with replicas(1, tmp_path, telegram, BOT):
            await telegram.settled()
            for method in SENDING:
                telegram.delay(method, 600, times=1)
            seen = len(telegram.calls)
            update_id = ann.presses(action.strip("[]")) if action.startswith("[") else ann.says(action)
            await telegram.wait_for(lambda: any(call.method in SENDING for call in telegram.calls[seen:]))  # noqa: B023
        assert update_id not in telegram.acknowledged
        for method in SENDING:
            telegram.delay(method, 0)
    async with replicas(1, tmp_path, telegram, BOT):
        await telegram.settled()
    assert ann.sees() == TEXTS
    record = await store.load("1")
    assert (record.state, record.fsm) == ({"profile": PROFILE}, {})


async def test_message_and_button_at_the_same_moment_on_two_replicas(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    """Telegram keeps messages and pressed buttons in queues of their own, so both are under way at once."""
    people = [Person(telegram, user_id) for user_id in range(1, 31)]
    async with (
        replicas(2, tmp_path, telegram, BOT, **settings("webhook")) as two,
        balanced(telegram, two) as taken,
    ):
        await telegram.wait_for(lambda: telegram.webhook, timeout=120)
        for text in ("/profile", "Ann"):
            for person in people:
                person.says(text)
            await telegram.settled(180)
        for person in people:
            for is_message in random.sample([True, False], 2):
                _ = person.says("1990") if is_message else person.presses("Back")
        await telegram.settled(180)
    assert min(taken) >= 5, "both had their share"
    for person in people:
        (flow,) = (await store.load(str(person.user_id))).fsm.values()
        data = {key: value for key, value in flow["data"].items() if key != "run"}
        shown = set(person.sees()[2:])
        if flow["state"] == ConversationStates.step_3.state:
            assert (data, shown) == ({"name": "Ann", "born": 1990}, {STYLE}), "the message came first"
        else:
            assert flow["state"] == ConversationStates.step_2.state
            assert (data, shown) == ({"name": "1990"}, {NAME, YEAR.format("1990")}), "the button came first"
