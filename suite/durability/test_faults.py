"""The backend or Telegram fails: what the bot does, row by row."""

import asyncio
from typing import Any

import aiohttp
import pytest

from bot.runtime.errors import StateTooLarge, StateUnavailable
from bot.runtime.logs import configure_logs
from bot.runtime.state.record import Limits, UserRecord
from bot.runtime.state.store import Changes, OperatorStore
from bot.runtime.telegram import outbox, processor, transaction
from bot.runtime.telegram.receiver import SECRET_HEADER
from bot.runtime.telegram.texts import Texts
from suite.bot_api import FakeTelegram
from suite.contract.harness import Harness
from suite.support.runtime import MakeRuntime, Mode, Runtime


class Faults:
    """Stands in front of a store and lets its calls fail, as a network would."""

    def __init__(self, store: OperatorStore) -> None:
        self._store = store
        self.loads_to_refuse = 0
        self.commits_to_refuse = 0
        self.answers_to_lose = 0
        self.commits_to_overtake = 0
        self.loads_to_break = 0
        self.commits_to_break = 0
        self.is_full = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def load(self, user_id: str, conversation: str | None = "") -> UserRecord:
        if self.loads_to_refuse:
            self.loads_to_refuse -= 1
            raise StateUnavailable("connection refused", user_id)
        if self.loads_to_break:
            self.loads_to_break -= 1
            raise RuntimeError("a driver's own words")
        return await self._store.load(user_id, conversation)

    async def commit(self, user_id: str, changes: Changes, *, expect: int | None) -> int:
        if self.commits_to_refuse:
            self.commits_to_refuse -= 1
            raise StateUnavailable("connection refused", user_id)
        if self.commits_to_break:
            self.commits_to_break -= 1
            raise RuntimeError("a driver's own words")
        if self.is_full:
            raise StateTooLarge("no room for bookkeeping either", user_id)
        if self.commits_to_overtake:
            self.commits_to_overtake -= 1
            overtaking = Changes(state={"overtaken": b"true"})
            await self._store.commit(user_id, overtaking, expect=None)
        version = await self._store.commit(user_id, changes, expect=expect)
        if self.answers_to_lose:
            self.answers_to_lose -= 1
            raise StateUnavailable("connection reset", user_id)
        return version


@pytest.fixture
def faults(store: OperatorStore) -> Faults:
    return Faults(store)


@pytest.fixture
async def bot(make_runtime: MakeRuntime, mode: Mode, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(processor, "RETRY_DELAYS", (0.02, 0.1))
    monkeypatch.setattr(outbox, "FIRST_DELAY", 0.001)
    bot = make_runtime(mode)
    bot.store = faults  # type: ignore[assignment]
    async with bot:
        yield bot


@pytest.mark.parametrize(
    "fault", ["loads_to_refuse", "commits_to_refuse", "answers_to_lose", "loads_to_break", "commits_to_break"]
)
@pytest.mark.clause("backend.away")
async def test_the_backend_is_away_for_a_while(
    bot: Runtime, telegram: FakeTelegram, faults: Faults, fault: str
) -> None:
    """Whatever a driver raises for it: nothing is lost, and no apology takes the place of an effect."""
    telegram.message("m1", user_id=1)
    await telegram.settled()
    setattr(faults, fault, 3)
    for n in range(2, 6):
        telegram.message(f"m{n}", user_id=1)
    await telegram.settled()
    assert telegram.texts(1) == [f"Processed: m{n} (#{n})" for n in range(1, 6)]
    assert (await bot.record(1)).state["message_count"] == 5


@pytest.mark.clause("backend.away")
async def test_an_unreachable_backend_never_looks_like_a_new_user(
    bot: Runtime, telegram: FakeTelegram, faults: Faults
) -> None:
    telegram.message("m1", user_id=1)
    await telegram.settled()
    faults.loads_to_refuse = 1_000
    update_id = telegram.message("m2", user_id=1)
    await asyncio.sleep(0.5)
    assert telegram.texts(1) == ["Processed: m1 (#1)"]
    assert update_id not in telegram.acknowledged
    faults.loads_to_refuse = 0
    await telegram.settled()
    assert telegram.texts(1) == ["Processed: m1 (#1)", "Processed: m2 (#2)"]


@pytest.mark.clause("backend.away")
async def test_the_webhook_puts_off_what_the_backend_cannot_take(
    make_runtime: MakeRuntime, faults: Faults
) -> None:
    bot = make_runtime("webhook")
    bot.store = faults  # type: ignore[assignment]
    faults.loads_to_refuse = 1
    chat = {"id": 1, "type": "private", "first_name": "U"}
    person = {"id": 1, "is_bot": False, "first_name": "U"}
    message = {"message_id": 1, "date": 1, "chat": chat, "from": person, "text": "hi"}
    async with bot, aiohttp.ClientSession() as http:
        answers = [
            await http.post(
                f"http://127.0.0.1:{bot.port}/telegram",
                json={"update_id": 7, "message": message},
                headers={SECRET_HEADER: bot.settings.secret},
            )
            for _ in range(2)
        ]
    assert [answer.status for answer in answers] == [503, 200]
    assert int(answers[0].headers["Retry-After"]) > 0


@pytest.mark.clause("shutdown.graceful")
async def test_a_bot_told_to_stop_does_not_wait_for_the_backend(
    bot: Runtime, telegram: FakeTelegram, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "RETRY_DELAYS", (600.0, 600.0))
    bot.settings.shutdown_timeout = 600
    faults.loads_to_refuse = 1_000
    update_id = telegram.message("hi", user_id=1)
    await telegram.wait_for(lambda: faults.loads_to_refuse < 1_000)
    await asyncio.wait_for(bot.stop(), timeout=60)
    assert update_id not in telegram.acknowledged


@pytest.mark.clause("commit.no-lost-update")
async def test_a_conflict_runs_the_turn_again(bot: Runtime, telegram: FakeTelegram, faults: Faults) -> None:
    faults.commits_to_overtake = 3
    telegram.message("hi", user_id=1)
    await telegram.settled()
    assert telegram.texts(1) == ["Processed: hi (#1)"]
    state = {"overtaken": True, "last_message": "hi", "message_count": 1}
    assert (await bot.record(1)).state == state


@pytest.mark.clause("commit.no-lost-update")
async def test_conflicts_without_end_are_not_acknowledged(
    bot: Runtime, telegram: FakeTelegram, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "COMMIT_ATTEMPTS", 2)
    faults.commits_to_overtake = 5
    telegram.message("hi", user_id=1)
    await telegram.settled()
    assert telegram.texts(1) == ["Processed: hi (#1)"]


@pytest.mark.clause("record.limit")
async def test_a_state_that_is_too_large(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, harness: Harness
) -> None:
    bot = make_runtime(mode)
    bot.store = await harness.open(Limits(max_bytes=2_000))
    async with bot:
        telegram.message("hi", user_id=1)
        telegram.message("hoard 5000", user_id=1)
        telegram.message("there", user_id=1)
        await telegram.settled()
        assert telegram.texts(1) == [
            "Processed: hi (#1)",
            Texts().sorry_too_large,
            "Processed: there (#2)",
        ]


@pytest.mark.clause("record.limit")
async def test_a_record_without_room_for_an_apology(
    bot: Runtime, telegram: FakeTelegram, faults: Faults
) -> None:
    """A backend has limits of its own, which count bookkeeping: the apology goes out all the same."""
    telegram.message("hi", user_id=1)
    await telegram.settled()
    faults.is_full = True
    telegram.message("there", user_id=1)
    await telegram.settled()
    faults.is_full = False
    telegram.message("again", user_id=1)
    await telegram.settled()
    assert telegram.texts(1) == ["Processed: hi (#1)", Texts().sorry_too_large, "Processed: again (#2)"]


@pytest.mark.clause("json.round-trip")
async def test_a_value_that_is_no_json(bot: Runtime, telegram: FakeTelegram) -> None:
    telegram.message("spoil", user_id=1)
    telegram.message("hi", user_id=1)
    await telegram.settled()
    assert telegram.texts(1) == [Texts().sorry, "Processed: hi (#1)"]


@pytest.mark.clause("record.corrupt")
async def test_a_corrupt_record_is_left_as_it_is(
    bot: Runtime, telegram: FakeTelegram, harness: Harness
) -> None:
    telegram.message("hi", user_id=1)
    await telegram.settled()
    await harness.corrupt("1")
    before = await bot.store.raw("1")
    telegram.message("there", user_id=1)
    telegram.message("hi", user_id=2)
    await telegram.settled()
    assert telegram.texts(1) == ["Processed: hi (#1)", Texts().sorry_corrupt]
    assert telegram.texts(2) == ["Processed: hi (#1)"]
    assert await bot.store.raw("1") == before


@pytest.mark.clause("telegram.away")
async def test_replies_wait_as_long_as_telegram_asks(bot: Runtime, telegram: FakeTelegram) -> None:
    telegram.fail("sendMessage", status=429, retry_after=1, times=1)
    telegram.message("m1", user_id=1)
    telegram.message("m2", user_id=1)
    await telegram.settled()
    assert telegram.texts(1) == ["Processed: m1 (#1)", "Processed: m2 (#2)"]
    calls = [call.at for call in telegram.calls if call.method == "sendMessage"]
    assert calls[1] - calls[0] >= 1


@pytest.mark.parametrize("times", [2, 12], ids=["briefly", "for long"])
@pytest.mark.clause("telegram.away")
async def test_replies_survive_a_telegram_that_is_down(
    bot: Runtime, telegram: FakeTelegram, times: int
) -> None:
    telegram.fail("sendMessage", status=500, times=times)
    telegram.bad_gateway("sendMessage", 1)
    telegram.drop_answer("sendMessage", 1)
    telegram.message("m1", user_id=1)
    telegram.message("m2", user_id=1)
    await telegram.settled()
    said = telegram.texts(1)
    assert sorted(set(said)) == ["Processed: m1 (#1)", "Processed: m2 (#2)"]
    assert said == sorted(said), "a reply may come twice, when its answer was lost, but never out of order"
    assert (await bot.record(1)).state["message_count"] == 2


@pytest.mark.clause("telegram.away")
async def test_a_reply_refused_for_good_counts_as_sent(bot: Runtime, telegram: FakeTelegram) -> None:
    telegram.block(1)
    telegram.message("m1", user_id=1)
    await telegram.settled()
    telegram.unblock(1)
    telegram.fail("sendMessage", status=400, times=1)
    telegram.message("m2", user_id=1)
    telegram.message("m3", user_id=1)
    await telegram.settled()
    assert telegram.texts(1) == [Texts().sorry_undelivered, "Processed: m3 (#3)"]


@pytest.mark.clause("reply.at-least-once")
async def test_a_part_that_was_sent_is_not_sent_again(bot: Runtime, telegram: FakeTelegram) -> None:
    telegram.fail("sendMessage", status=500, times=outbox.ATTEMPTS - 1, after=1)
    telegram.message("x" * 4_000 + " " + "y" * 3_000, user_id=1)
    await telegram.settled()
    first, second = telegram.texts(1)
    assert first.startswith("Processed: xxx")
    assert second.endswith("yyy (#1)")


@pytest.mark.clause("logs.no-secrets")
async def test_logs_name_the_update_and_never_the_token_or_the_text(
    bot: Runtime, telegram: FakeTelegram, capfd: pytest.CaptureFixture[str], faults: Faults
) -> None:
    configure_logs(bot.settings)
    faults.commits_to_refuse = 1
    telegram.fail("sendMessage", status=500, times=2)
    update_id = telegram.message("my secret words", user_id=77)
    telegram.message("raise", user_id=78)
    await telegram.settled()
    await bot.stop()
    logged = capfd.readouterr().err
    lines = [line for line in logged.splitlines() if "update done" in line]
    assert any(f"update_id={update_id}" in line and "user_id=77" in line for line in lines)
    assert "in agent_logic" in logged
    for secret in (telegram.token, bot.settings.secret, "my secret words"):
        assert secret not in logged
