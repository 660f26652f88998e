"""Killed in the middle of an answer that grows."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from bot.runtime.state.store import OperatorStore
from suite.bot_api import ApiError, Call, FakeTelegram
from suite.support.process import BotProcess
from suite.support.runtime import WEBHOOK, Mode

pytestmark = pytest.mark.clause("streaming.killed")

GROUP = -7
WORDS = "one two three four five six seven eight nine ten"
DRAFT, SEND, EDIT = "sendMessageDraft", "sendMessage", "editMessageText"

LAST = -1
"""In the place of a number: the call with the whole answer."""

Place = tuple[int, str, int, bool]
"""The call at which the bot is killed: its chat, its method, how many went before, and whether it is done."""

PLACES: list[Place] = [
    (1, DRAFT, 0, False),
    (GROUP, SEND, 0, True),
    (GROUP, EDIT, 0, True),
    (1, SEND, LAST, True),
    (GROUP, EDIT, LAST, False),
]
"""A few in the ordinary run: each kill takes seconds of a processor."""

EVERYWHERE: list[Place] = [
    *[(1, DRAFT, number, is_done) for number in range(7) for is_done in (False, True)],
    *[(GROUP, EDIT, number, is_done) for number in range(5) for is_done in (False, True)],
    *[(GROUP, SEND, 0, is_done) for is_done in (False, True)],
    *[(chat, method, LAST, done) for chat, method in ((1, SEND), (GROUP, EDIT)) for done in (False, True)],
]
"""30 places; each is a moment by polling and by webhook, for both kinds of agents."""


class Killer:
    """Kills the bot when it makes a certain call."""

    def __init__(self, telegram: FakeTelegram) -> None:
        for method in (DRAFT, SEND, EDIT):
            telegram.fault(method, self.meet, times=10**9)
        self.bot: BotProcess
        self.place: Place | None = None
        self._seen = 0

    def wait_at(self, place: Place) -> None:
        self.place, self._seen = place, 0

    async def meet(self, call: Call) -> None:
        if self.place is None or (int(call.params["chat_id"]), call.method) != self.place[:2]:
            return
        _, _, number, is_done = self.place
        before, self._seen = self._seen, self._seen + 1
        if call.params["text"].startswith(WORDS) if number == LAST else before == number:
            self.place = None
            self.bot.process.kill()
            call.cut = True
            if not is_done:
                raise ApiError(500, "killed before")


@pytest.mark.parametrize(("mode", "agent"), [("polling", "yields"), ("webhook", "shows")], indirect=["mode"])
async def test_killed_at_a_call(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore, mode: Mode, agent: str
) -> None:
    await _killed(PLACES, mode, agent, tmp_path, telegram, store)


@pytest.mark.rarely
@pytest.mark.parametrize("agent", ["yields", "shows"])
async def test_killed_at_every_call(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore, mode: Mode, agent: str
) -> None:
    await _killed(EVERYWHERE, mode, agent, tmp_path, telegram, store)


async def _killed(
    places: list[Place],
    mode: Mode,
    agent: str,
    folder: Path,
    telegram: FakeTelegram,
    store: OperatorStore,
) -> None:
    killer = Killer(telegram)
    settings = {"SPEAKING": agent} | ({"WEBHOOK_URL": WEBHOOK} if mode == "webhook" else {})
    await store.connect()

    async def begin() -> BotProcess:
        killer.bot = await BotProcess(folder / "bot", telegram, "suite.speaking_bot", **settings).__aenter__()
        telegram.webhook_address = killer.bot.url
        return killer.bot

    bot = await begin()
    try:
        for number, place in enumerate(places):
            killer.wait_at(place)
            telegram.message(f"say 0.06 {WORDS} {number}", user_id=1, chat_id=place[0])
            await asyncio.wait_for(bot.process.wait(), 60)
            bot = await begin()
            await _over(telegram, store)
        assert await bot.stop() == 0, bot.written
    finally:
        if bot.process.returncode is None:
            bot.process.kill()
            await bot.process.wait()
    shown = {chat: Counter(_left(telegram, chat)) for chat in (1, GROUP)}
    dots = shown[GROUP].pop("…", 0)
    assert dots <= places.count((GROUP, SEND, 0, True))
    for number, place in enumerate(places):
        again = place == (1, SEND, LAST, True)
        assert shown[place[0]].pop(f"{WORDS} {number}") == 1 + again
    assert shown == {1: {}, GROUP: {}}
    kept = await store.load("1", None)
    assert kept.state == {"count": len(places)}
    assert not any(name.startswith("shown:") for name in kept.marks)


async def _over(telegram: FakeTelegram, store: OperatorStore) -> None:
    """Wait until nothing is to be done any more, also of what was acknowledged at once."""
    await telegram.settled(60)
    for _ in range(3_000):
        if not (await store.due(10**9, 9)).due:
            return
        await asyncio.sleep(0.02)
    assert not (await store.due(10**9, 9)).due


def _left(telegram: FakeTelegram, chat: int) -> list[str]:
    """What the bot's messages in a chat say in the end."""
    return [
        message["text"]
        for (chat_id, _), message in telegram.messages.items()
        if chat_id == chat and message["from"]["is_bot"]
    ]
