"""After the commit: replies that cannot be sent, now or ever, hold up nobody, and end."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiogram import Bot, Router
from aiogram.client.telegram import TelegramAPIServer
from aiogram.filters import Command
from aiogram.methods import SendDocument, SendMessage, TelegramMethod
from aiogram.types import BufferedInputFile, CallbackQuery, Message
from aiohttp import FormData, web

from bot.agent_adapter import TelegramAgentAdapter
from bot.runtime import metrics
from bot.runtime.logs import configure_logs
from bot.runtime.telegram import outbox
from bot.runtime.telegram.calls import Session, prepare
from bot.runtime.telegram.texts import Texts
from suite.agents import CountingAgent
from suite.bot_api import ApiError, Call, FakeTelegram
from suite.support.runtime import MakeRuntime, Mode, Runtime

SORRY = Texts().sorry_undelivered

Fault = Callable[[Call], Awaitable[None]]


class Answer(ApiError):
    """An answer that is not Telegram's own."""

    def __init__(self, status: int, body: str, content_type: str = "text/html") -> None:
        super().__init__(status, body)
        self._content_type = content_type

    def response(self) -> web.Response:
        return web.Response(status=self.status, text=str(self), content_type=self._content_type)


def raises(error: ApiError) -> Fault:
    async def fault(call: Call) -> None:
        raise error

    return fault


def refuses(status: int, description: str, retry_after: int | None = None) -> Fault:
    return raises(ApiError(status, description, retry_after))


def page(status: int) -> Fault:
    return raises(Answer(status, f"<html><h1>{status}</h1></html>"))


async def resets(call: Call) -> None:
    """The connection is reset before anything is done."""
    call.cut = True
    raise ApiError(500, "never read")


async def loses_answers(call: Call) -> None:
    """It is done, and the connection is lost before the answer."""
    call.cut = True


def only(word: str, fault: Fault) -> Fault:
    """A fault of those calls that have the word in their text or chat."""

    async def maybe(call: Call) -> None:
        if word in (call.params.get("text", ""), call.params.get("chat_id", "")) or (
            word in call.params.get("text", "").split()
        ):
            await fault(call)

    return maybe


def always(telegram: FakeTelegram, word: str, fault: Fault, method: str = "sendMessage") -> None:
    telegram.fault(method, only(word, fault), times=10**9)


def attempts(telegram: FakeTelegram, word: str) -> int:
    """How often the bot tried to say this."""
    return sum(word in call.params.get("text", "").split() for call in telegram.calls)


def given_up() -> float:
    """How many replies were given up so far."""
    return sum(
        sample.value
        for family in metrics.GIVEN_UP.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    )


async def until_over(bot: Runtime, user_id: int) -> None:
    """Wait until nothing is on its way to a user, nor owed."""
    for _ in range(3_000):
        if not any(entry.is_owed for entry in (await bot.record(user_id)).outbox.values()):
            return
        await asyncio.sleep(0.01)
    raise TimeoutError("something is still owed")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a quarter of an hour takes a few seconds."""
    monkeypatch.setattr(outbox, "FIRST_DELAY", 0.0002)


class Trouble:
    """Every message is refused with 500 until it is over."""

    is_over = False

    async def __call__(self, call: Call) -> None:
        if not self.is_over:
            raise ApiError(500, "Internal Server Error")


@pytest.fixture
def trouble(telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch) -> Trouble:
    """Replies fail, and are put off at once; their updates are soon let go."""
    monkeypatch.setattr(outbox, "FIRST_DELAY", 0.05)
    monkeypatch.setattr(outbox, "SHORT_WAIT", 0.0)
    monkeypatch.setattr(outbox, "HOLD_SECONDS", 0.1)
    telegram.fault("sendMessage", trouble := Trouble(), times=10**9)
    return trouble


# --- Replies that can never be sent ---------------------------------------------------------------

ONCE: dict[str, Fault] = {
    "400": refuses(400, "Bad Request: not like this"),
    "403": refuses(403, "Forbidden: bot was blocked by the user"),
    "404": refuses(404, "Not Found"),
    "409": refuses(409, "Conflict"),
    "413": refuses(413, "Request Entity Too Large"),
    "400 by a proxy": page(400),
    "403 by a proxy": page(403),
    "413 by a proxy": page(413),
    "431 by a proxy": page(431),
    "429 of two hours": refuses(429, "Too Many Requests: retry after 7200", 7200),
    "migrated to itself": raises(
        Answer(
            400,
            '{"ok": false, "description": "Bad Request: group chat was upgraded", '
            '"parameters": {"migrate_to_chat_id": 1}}',
            "application/json",
        )
    ),
}
"""What another attempt does not help against."""

OFTEN: dict[str, Fault] = {
    "401": refuses(401, "Unauthorized"),
    "500": refuses(500, "Internal Server Error"),
    "500 without a word": raises(Answer(500, '{"ok": false}', "application/json")),
    "502 by a proxy": page(502),
    "408 by a proxy": page(408),
    "429 by a proxy": page(429),
    "connection reset": resets,
    "answers lost": loses_answers,
    "200 with a page": page(200),
    "200 with a list": raises(Answer(200, "[]", "application/json")),
    "not even text": raises(Answer(502, "\udcff", "text/plain")),
}
"""What may pass."""


@pytest.mark.parametrize("fault", ONCE.values(), ids=ONCE)
@pytest.mark.clause("reply.given-up")
async def test_a_refused_reply_is_tried_once(
    make_runtime: MakeRuntime, telegram: FakeTelegram, fault: Fault, capfd: pytest.CaptureFixture[str]
) -> None:
    always(telegram, "poison", fault)
    before = given_up()
    async with make_runtime("webhook") as bot:
        configure_logs(bot.settings)
        telegram.message("poison", user_id=1)
        telegram.message("hi", user_id=1)
        await telegram.settled()
    assert attempts(telegram, "poison") == 1
    assert given_up() == before + 1
    assert "reply given up" in capfd.readouterr().err
    cannot_be_told = fault in (ONCE["403"], ONCE["403 by a proxy"], ONCE["429 of two hours"])
    assert telegram.texts(1) == [*([] if cannot_be_told else [SORRY]), "Processed: hi (#2)"]


@pytest.mark.parametrize("fault", OFTEN.values(), ids=OFTEN)
@pytest.mark.clause("reply.given-up")
@pytest.mark.usefixtures("quick")
async def test_a_reply_that_fails_each_time_is_given_up(
    make_runtime: MakeRuntime, telegram: FakeTelegram, fault: Fault, capfd: pytest.CaptureFixture[str]
) -> None:
    async with make_runtime("webhook") as bot:
        configure_logs(bot.settings)
        always(telegram, "poison", fault)
        before = given_up()
        telegram.message("poison", user_id=1)
        telegram.message("hi", user_id=1)
        await telegram.settled()
        await telegram.wait_for(lambda: "Processed: hi (#2)" in telegram.texts(1))
        assert 1 < attempts(telegram, "poison") <= outbox.ATTEMPTS
        assert given_up() == before + 1
    assert "reply given up" in capfd.readouterr().err
    said = telegram.texts(1)
    copies = said.count("Processed: poison (#1)")
    assert copies == (5 if fault is loses_answers else 0), "of which each may be one more"
    assert said[copies:] == [SORRY, "Processed: hi (#2)"]


class Sends(TelegramAgentAdapter):
    """Sends a file, whose name or content is as the message says."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        name, _, size = message.partition(" ")
        file = BufferedInputFile(b"x" * int(size or 1), name)
        self.turn.reply(SendDocument(chat_id=int(self.turn.user_id), document=file))
        return ""


@pytest.mark.parametrize(
    "name", ["a\nb.txt", "a\r\nb.txt", "a\x01b.txt", "a\ud800b.txt", "\x7f.txt", "\0.txt"]
)
@pytest.mark.clause("reply.given-up")
async def test_a_file_is_sent_whatever_its_name(
    make_runtime: MakeRuntime, telegram: FakeTelegram, name: str
) -> None:
    """Some characters cannot stand in a request."""

    class SendsFile(TelegramAgentAdapter):
        async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
            file = BufferedInputFile(b"x", name)
            self.turn.reply(SendDocument(chat_id=int(self.turn.user_id), document=file))
            return "Here it is."

    async with make_runtime("polling", agent_class=SendsFile):
        telegram.message("a file, please", user_id=1)
        await telegram.settled()
    assert [list(sent.files.values()) for sent in telegram.sent] == [[b"x"], []]
    assert telegram.texts(1) == ["Here it is."]


class Clumsy(Session):
    """Cannot even ask for it."""

    def build_form_data(self, bot: Bot, method: TelegramMethod[Any]) -> FormData:
        raise ValueError("not like this")


@pytest.mark.clause("reply.given-up")
async def test_what_cannot_even_be_asked_for_is_tried_once(telegram: FakeTelegram) -> None:
    session = Clumsy(api=TelegramAPIServer.from_base(telegram.url))
    async with Bot(telegram.token, session=session) as bot:
        reply = await prepare(bot, SendMessage(chat_id=1, text="hi"))
        before = given_up()
        async with asyncio.timeout(1):
            await outbox.send(bot, reply)
    assert given_up() == before + 1


# --- Who waits holds back nobody else -------------------------------------------------------------


@pytest.mark.parametrize("seconds", [60, 3600])
@pytest.mark.clause("reply.holds-up-nobody")
async def test_a_group_that_has_to_wait_is_no_private_users_wait(
    bot: Runtime, telegram: FakeTelegram, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "HOLD_SECONDS", 1.0)
    always(telegram, "-100", refuses(429, f"Too Many Requests: retry after {seconds}", seconds))
    telegram.message("in the group", user_id=1, chat_id=-100)
    await telegram.wait_for(lambda: any(call.status == 429 for call in telegram.calls))
    telegram.message("in private", user_id=1)
    telegram.message("elsewhere", user_id=1, chat_id=-200)
    telegram.message("hi", user_id=2)
    await telegram.wait_for(lambda: telegram.texts(1) and telegram.texts(-200) and telegram.texts(2), 5)
    assert telegram.texts(-100) == []
    if seconds > 100:
        await telegram.settled(5)


@pytest.mark.clause("reply.holds-up-nobody")
async def test_replies_stay_in_order_behind_one_that_waits(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, trouble: Trouble
) -> None:
    async with make_runtime(mode) as bot:
        for n in range(1, 4):
            telegram.message(f"m{n}", user_id=1)
        await telegram.settled()
        assert telegram.texts(1) == [], "all are acknowledged, and owed"
        assert (await bot.record(1)).state["message_count"] == 3
        trouble.is_over = True
        await telegram.wait_for(lambda: len(telegram.texts(1)) == 3)
        assert telegram.texts(1) == [f"Processed: m{n} (#{n})" for n in range(1, 4)]
        await until_over(bot, 1)
        assert not (await bot.record(1)).outbox


@pytest.mark.clause("reply.holds-up-nobody")
async def test_the_window_does_not_fill_with_one_chat(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Telegram shows a poller no more than 100 updates that are not acknowledged."""
    monkeypatch.setattr(outbox, "HOLD_SECONDS", 3600.0)
    always(telegram, "-100", refuses(429, "Too Many Requests: retry after 600", 600))
    async with make_runtime("polling"):
        for n in range(150):
            telegram.message("hi", user_id=1 + n % 3, chat_id=-100)
        telegram.message("hi", user_id=9)
        await telegram.wait_for(lambda: telegram.texts(9))
    assert telegram.texts(-100) == []


@pytest.mark.clause("reply.holds-up-nobody")
async def test_an_answer_that_does_not_come_holds_up_only_its_chat(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "LANE_SECONDS", 0.2)
    go_on = asyncio.Event()

    async def hangs(call: Call) -> None:
        await go_on.wait()

    telegram.fault("sendMessage", only("-100", hangs))
    async with make_runtime(mode, max_concurrent_updates=1):
        telegram.message("in the group", user_id=1, chat_id=-100)
        await telegram.wait_for(lambda: attempts(telegram, "group"))
        telegram.message("in private", user_id=1)
        telegram.message("hi", user_id=2)
        await telegram.wait_for(lambda: telegram.texts(1) and telegram.texts(2))
        go_on.set()
        await telegram.settled()
    assert telegram.texts(-100) == ["Processed: in the group (#1)"]


# --- Uploads --------------------------------------------------------------------------------------


async def upload(telegram: FakeTelegram, *, seconds: float, size: int) -> None:
    """Send a file by a client that gives up after so many seconds, but for what the size allows."""
    session = Session(api=TelegramAPIServer.from_base(telegram.url), timeout=seconds)
    async with Bot(telegram.token, session=session) as bot:
        method = SendDocument(chat_id=1, document=BufferedInputFile(b"x" * size, "a.bin"))
        reply = await prepare(bot, method)
        await outbox.send(bot, reply)


@pytest.mark.clause("reply.given-up")
async def test_an_upload_gets_time_by_its_size(telegram: FakeTelegram) -> None:
    telegram.delay("sendDocument", 1.5)
    await upload(telegram, seconds=0.2, size=4 * outbox.UPLOAD_RATE)
    assert len(telegram.sent) == 1


@pytest.mark.clause("reply.given-up")
async def test_an_upload_that_takes_too_long_leaves_few_copies(
    telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(outbox, "UPLOAD_RATE", 10**9)
    telegram.delay("sendDocument", 1.5)
    with pytest.raises(outbox.DeliveryFailed):
        await upload(telegram, seconds=0.2, size=1_000)
    assert len([call for call in telegram.calls if call.method == "sendDocument"]) <= 3


# --- Restarts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [413, 500])
@pytest.mark.clause("reply.given-up")
@pytest.mark.usefixtures("quick")
async def test_a_restart_does_not_revive_what_was_given_up(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, status: int
) -> None:
    always(telegram, "poison", refuses(status, "no"))
    async with make_runtime(mode):
        update_id = telegram.message("poison", user_id=1)
        await telegram.settled()
        await telegram.wait_for(lambda: telegram.texts(1))
    tried = attempts(telegram, "poison")
    async with make_runtime(mode) as bot:
        telegram.repeat(update_id)
        telegram.message("hi", user_id=1)
        await telegram.settled()
        assert update_id not in (await bot.record(1)).outbox
    assert attempts(telegram, "poison") == tried
    assert telegram.texts(1) == [SORRY, "Processed: hi (#2)"]


@pytest.mark.clause("reply.given-up")
async def test_attempts_are_counted_across_restarts(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(outbox, "SHORT_WAIT", 0.0)
    always(telegram, "poison", refuses(500, "no"))
    update_id = telegram.message("poison", user_id=1)
    restarts = failures = 0
    is_over = False
    while not is_over:
        bot = await make_runtime("polling").start()
        for _ in range(3_000):
            entry = (await bot.record(1)).outbox.get(update_id)
            is_over = bool(telegram.texts(1))
            if is_over or (entry and entry.failures >= failures + 3):
                break
            await asyncio.sleep(0.01)
        failures = entry.failures if entry else 0
        if not is_over:
            await bot.cut_off()
            restarts += 1
    await bot.stop()
    assert restarts > 2
    assert attempts(telegram, "poison") <= outbox.ATTEMPTS + restarts, "killed, one may not be noted yet"


# --- What Telegram does not bring again -----------------------------------------------------------


def with_buttons(bot: Runtime) -> Runtime:
    """The bot, which answers presses; `data` is what it says."""
    router = Router()

    @router.callback_query()
    async def pressed(query: CallbackQuery) -> TelegramMethod[Any]:
        assert query.message
        return query.message.answer(f"You chose {query.data}")

    bot.owner = replace(bot.owner, before=[router])
    return bot


@pytest.mark.clause("reply.owed")
async def test_a_press_leaves_nothing_in_the_outbox(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    async with with_buttons(make_runtime(mode)) as bot:
        for data in ("tea", "milk"):
            telegram.callback(data, user_id=1)
        await telegram.settled()
        assert telegram.texts(1) == ["You chose tea", "You chose milk"]
        await until_over(bot, 1)
        assert not (await bot.record(1)).outbox


@pytest.mark.parametrize("chat_id", [1, -100])
@pytest.mark.clause("reply.owed")
async def test_a_press_is_answered_though_its_update_is_gone(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, chat_id: int
) -> None:
    """Killed after the commit; Telegram has given the press up since. A later update brings the answer."""
    bot = await with_buttons(make_runtime(mode)).start()
    telegram.delay("sendMessage", 30, times=1)
    update_id = telegram.callback("tea", user_id=1, chat_id=chat_id)
    await telegram.wait_for(lambda: attempts(telegram, "tea"))
    await bot.cut_off()
    assert update_id in (await bot.record(1)).outbox
    telegram.expire(update_id)
    async with with_buttons(make_runtime(mode)) as bot:
        telegram.message("hi", user_id=1)
        await telegram.settled()
        await until_over(bot, 1)
        assert update_id not in (await bot.record(1)).outbox
    assert telegram.texts(chat_id)[0] == "You chose tea"
    assert telegram.texts(1)[-1] == "Processed: hi (#1)"
    assert attempts(telegram, "tea") == 2


@pytest.mark.clause("reply.owed")
async def test_a_reply_handed_over_comes_after_the_restart(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, trouble: Trouble
) -> None:
    bot = await make_runtime(mode).start()
    telegram.message("m1", user_id=1)
    await telegram.settled()
    await bot.cut_off()
    assert telegram.texts(1) == []
    trouble.is_over = True
    async with make_runtime(mode) as bot:
        telegram.message("m2", user_id=1)
        await telegram.settled()
        await until_over(bot, 1)
    assert telegram.texts(1) == ["Processed: m1 (#1)", "Processed: m2 (#2)"]


@pytest.mark.clause("reply.owed")
async def test_replies_handed_over_come_in_order(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode, trouble: Trouble
) -> None:
    """Whatever the order in which a store gives what waits in a record."""
    bot = await make_runtime(mode).start()
    for n in range(1, 9):
        telegram.message(f"m{n}", user_id=1)
    await telegram.settled()
    await bot.cut_off()
    trouble.is_over = True
    async with make_runtime(mode) as bot:
        telegram.message("m9", user_id=1)
        await telegram.settled()
        await until_over(bot, 1)
    assert telegram.texts(1) == [f"Processed: m{n} (#{n})" for n in range(1, 10)]


@pytest.mark.clause("reply.owed")
async def test_what_is_owed_does_not_overtake_what_comes_again(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply to a press is owed at once, the one before it only when it has waited."""
    monkeypatch.setattr(outbox, "LANE_SECONDS", 0.1)
    bot = await with_buttons(make_runtime("polling")).start()
    telegram.delay("sendMessage", 30, times=1)
    telegram.message("hi", user_id=1, chat_id=-100)
    pressed = telegram.callback("tea", user_id=1, chat_id=-100)
    for _ in range(3_000):
        if pressed in (record := await bot.record(1)).outbox:
            break
        await asyncio.sleep(0.01)
    assert [entry.is_owed for _, entry in sorted(record.outbox.items())] == [False, True]
    await bot.cut_off()
    async with with_buttons(make_runtime("polling")) as bot:
        await telegram.settled()
        await until_over(bot, 1)
    assert telegram.texts(-100) == ["Processed: hi (#1)", "You chose tea"]


@pytest.mark.clause("reply.owed")
async def test_none_overtakes_one_that_a_stopping_bot_leaves(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    """Both are owed, and were taken over by the turn of an update from elsewhere."""
    always(telegram, "-100", refuses(429, "Too Many Requests: retry after 600", 600))
    async with make_runtime(mode):
        for n in (1, 2):
            telegram.message(f"m{n}", user_id=1, chat_id=-100)
        await telegram.settled()
    tried = attempts(telegram, "m1")
    async with make_runtime(mode):
        telegram.message("in private", user_id=1)
        await telegram.settled()
        await telegram.wait_for(lambda: attempts(telegram, "m1") > tried)
        await asyncio.sleep(0.1)  # it waits now
    assert attempts(telegram, "m2") == 0


# --- What a turn begins ---------------------------------------------------------------------------


class Overtakes(CountingAgent):
    """Begins work that says something at once."""

    begun = 0

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        if message != "hi":
            self.background(self.find_out, self.turn.user_id)
        return await super().agent_logic(message, state)

    async def find_out(self, user_id: str) -> None:
        type(self).begun += 1
        await self.send(user_id, "Found.")


@pytest.mark.parametrize("fault", [refuses(500, "no"), loses_answers], ids=["refused", "lost"])
@pytest.mark.clause("agent.background")
@pytest.mark.usefixtures("quick")
async def test_background_work_does_not_overtake_the_reply(
    make_runtime: MakeRuntime, telegram: FakeTelegram, fault: Fault
) -> None:
    async with make_runtime("polling", agent_class=Overtakes):
        telegram.fault("sendMessage", fault)
        telegram.message("what", user_id=1)
        await telegram.settled()
        await telegram.wait_for(lambda: "Found." in telegram.texts(1))
    assert [*dict.fromkeys(telegram.texts(1))] == ["Processed: what (#1)", "Found."]
    assert telegram.texts(1).count("Found.") == 1


@pytest.mark.clause("agent.background")
async def test_nor_one_that_is_put_off(
    make_runtime: MakeRuntime, telegram: FakeTelegram, trouble: Trouble
) -> None:
    async with make_runtime("webhook", agent_class=Overtakes):
        telegram.message("what", user_id=1)
        await telegram.settled()
        trouble.is_over = True
        await telegram.wait_for(lambda: "Found." in telegram.texts(1))
    assert telegram.texts(1) == ["Processed: what (#1)", "Found."]


@pytest.mark.clause("agent.background")
async def test_a_turn_that_changed_nothing_is_run_once(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    """Its replies and what it begins are noted like those of any other."""
    router, runs = Router(), 0

    @router.message(Command("look"))
    async def look(message: Message, agent: TelegramAgentAdapter) -> TelegramMethod[Any]:
        nonlocal runs
        runs += 1
        agent.background(agent.send, str(message.chat.id), f"found by run {runs}")
        return message.answer(f"looking, run {runs}")

    bot = make_runtime("polling")
    bot.owner = replace(bot.owner, before=[router])
    telegram.delay("sendMessage", 30, times=1)
    async with bot:
        update_id = telegram.message("/look", user_id=1)
        await telegram.wait_for(lambda: attempts(telegram, "looking,"))
        await bot.cut_off()
        await bot.start()
        await telegram.settled()
        assert update_id in (await bot.record(1)).applied
        assert runs == 1
        assert telegram.texts(1) == ["looking, run 1"], "killed, it takes along what it would have begun"
        telegram.message("/look", user_id=1)
        await telegram.settled()
        await telegram.wait_for(lambda: len(telegram.texts(1)) == 3)
    assert telegram.texts(1)[1:] == ["looking, run 2", "found by run 2"]
