"""Questions with buttons: what waits for the answer goes on once, whoever presses, whenever, wherever."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from bot.agent_adapter import Place, RecordId, TelegramAgentAdapter, Texts, chat, job, person
from bot.runtime.errors import StateError
from bot.runtime.state.jobs import Job, jobs_in
from bot.runtime.state.record import Limits, UserRecord
from bot.runtime.state.transfer import export_lines, import_lines
from bot.runtime.state.turn import Incoming, Turn
from suite.bot_api import FakeTelegram
from suite.bot_api.chats import Sent
from suite.support.runtime import MakeRuntime, Mode, Runtime

pytestmark = pytest.mark.clause("questions.once")

GROUP, SHARED = -100, -200
CHOICES = {"yes": "Send it", "no": "Leave it"}
LONG, SOON = timedelta(hours=1), timedelta(milliseconds=300)
CLOSED, LATE, NOT_YOURS = Texts().closed, Texts().too_late, Texts().not_your_button


class Asking(TelegramAgentAdapter):
    """Asks before it does what it is told to. What it did is in the state, and how often it tried here."""

    tries: ClassVar[list[str]] = []
    fails: ClassVar[int] = 0

    def wants(self, update: Any) -> bool:
        return True

    def record_of(self, place: Place) -> RecordId | None:
        return chat(place.chat) if place.chat == SHARED else super().record_of(place)

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        match message.split():
            case ["send", what]:
                state["question"] = self.turn.ask(f"Send {what}?", CHOICES, LONG, self.send_it, what=what)
            case ["soon", what]:
                self.turn.ask(f"Send {what}?", CHOICES, SOON, self.send_it, what=what)
            case ["withdraw"]:
                return str(self.turn.cancel(state["question"]))
            case ["tell", who, what]:
                self.turn.tell(person(int(who)), self.ask_other, what=what)
            case ["group", what]:
                self.turn.tell(chat(SHARED), self.ask_other, what=what)
            case _:
                return "said"
        return ""

    @job
    async def ask_other(self, what: str) -> None:
        self.turn.ask(f"Send {what}?", CHOICES, LONG, self.send_it, what=what)

    @job(retries=3)
    async def send_it(self, answer: str | None, what: str) -> str:
        self.tries.append(f"{answer} {what}")
        if len(self.tries) <= self.fails:
            raise ConnectionError("the mail server is away")
        assert self.turn.job
        self.turn.state.setdefault("done", []).append([answer, what, self.turn.job.id])
        return f"{answer} {what}"


@pytest.fixture(autouse=True)
def asking() -> None:
    Asking.tries, Asking.fails = [], 0


@asynccontextmanager
async def asked(
    make_runtime: MakeRuntime, telegram: FakeTelegram, message: str = "send mail", **where: Any
) -> AsyncIterator[tuple[Runtime, Sent]]:
    """A bot that has asked, by default User 1 in private, and its question."""
    async with make_runtime("webhook", agent_class=Asking) as bot:
        telegram.message(message, **({"user_id": 1} | where))
        await telegram.settled()
        await telegram.wait_for(lambda: [each for each in telegram.sent if each.method == "sendMessage"])
        yield bot, telegram.sent[-1]


def said(telegram: FakeTelegram) -> list[str]:
    """What the bot said to a press, the first first; an empty text only releases the button."""
    return [each.text for each in telegram.sent if each.method == "answerCallbackQuery"]


async def done(bot: Runtime, record: str = "1") -> list[list[str]]:
    found: list[list[str]] = (await load(bot, record)).state.get("done", [])
    return found


async def load(bot: Runtime, record: str = "1") -> UserRecord:
    await bot.store.connect()
    return await bot.store.load(record)


async def questions(bot: Runtime, record: str = "1") -> list[Job]:
    return jobs_in((await load(bot, record)).fsm)


async def until(telegram: FakeTelegram, is_so: Callable[[], Any]) -> None:
    await telegram.wait_for(is_so, 20)


async def test_the_answer_goes_to_the_method(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    async with make_runtime(mode, agent_class=Asking) as bot:
        telegram.message("send mail", user_id=1)
        await telegram.settled()
        (question,) = telegram.sent
        assert question.text == "Send mail?"
        (waiting,) = await questions(bot)
        assert (waiting.choices, waiting.arguments) == (CHOICES, {"answer": None, "what": "mail"})
        assert waiting.shown(arguments=False)["asks"] == ["yes", "no"]
        telegram.press(question, 1, 0, user_id=1)
        await until(telegram, lambda: len(telegram.texts(1)) == 2)
        edited = [each for each in telegram.sent if each.method == "editMessageText"]
        assert [each.text for each in edited] == ["Send mail?\n\nLeave it"]
        assert "reply_markup" not in telegram.messages[1, question.message_id]
        assert said(telegram) == [""]
        assert telegram.texts(1) == ["Send mail?", "no mail"]
        assert await done(bot) == [["no", "mail", waiting.id]]
        record = await load(bot)
        assert [(each.role, each.text) for each in record.history] == [
            ("user", "send mail"),
            ("assistant", "Send mail?"),
            ("user", "Leave it"),
            ("assistant", "no mail"),
        ]
        assert await questions(bot) == []


class DeferredAsking(Asking):
    deferred = True


async def test_a_press_may_wait_for_its_turn(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with make_runtime("webhook", agent_class=DeferredAsking) as bot:
        telegram.message("send mail", user_id=1)
        await until(telegram, lambda: telegram.texts(1))
        telegram.press(telegram.sent[-1], 0, 0, user_id=1)
        await until(telegram, lambda: len(telegram.texts(1)) == 2)
        assert [each[0] for each in await done(bot)] == ["yes"]


async def test_without_an_answer_the_method_runs_at_the_end_of_the_time(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with asked(make_runtime, telegram, "soon mail") as (bot, question):
        await until(telegram, lambda: len(telegram.texts(1)) == 2)
        assert telegram.texts(1)[1] == "None mail"
        telegram.press(question, 0, 0, user_id=1)
        await until(telegram, lambda: said(telegram))
        assert said(telegram) == [LATE]
        assert [each[0] for each in await done(bot)] == [None]


async def test_a_press_after_the_time_is_late_though_the_bot_was_down_until_then(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asked(make_runtime, telegram, "soon mail") as (bot, question):
        await bot.cut_off()
        await asyncio.sleep(SOON.total_seconds() + 0.1)
        monkeypatch.setattr("bot.runtime.telegram.jobs.JobRunner._begin", lambda *_: None)  # not first
        telegram.press(question, 0, 0, user_id=1)
        async with bot:
            await until(telegram, lambda: said(telegram))
            assert said(telegram) == [LATE]
            assert Asking.tries == []
            monkeypatch.undo()
            bot.agent.timetable.noted()
            await until(telegram, lambda: Asking.tries)
        assert [each[0] for each in await done(bot)] == [None]


async def test_pressed_twice_it_counts_once(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with asked(make_runtime, telegram) as (bot, question):
        telegram.press(question, 0, 0, user_id=1)
        telegram.press(question, 1, 0, user_id=1)
        await until(telegram, lambda: len(said(telegram)) == 2 and len(telegram.texts(1)) == 2)
        assert sorted(said(telegram)) == ["", CLOSED]
        assert [each[0] for each in await done(bot)] == ["yes"]


async def test_a_press_that_telegram_brings_twice_counts_once(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with asked(make_runtime, telegram) as (bot, question):
        update_id = telegram.press(question, 0, 0, user_id=1)
        await until(telegram, lambda: len(telegram.texts(1)) == 2)
        telegram.repeat(update_id)
        await telegram.settled()
        assert len(await done(bot)) == 1


@pytest.mark.parametrize(("place", "record"), [(GROUP, "1"), (SHARED, str(SHARED))])
async def test_only_who_is_asked_can_answer(
    make_runtime: MakeRuntime, telegram: FakeTelegram, place: int, record: str
) -> None:
    """Whether each person has a record, or the group has one."""
    async with asked(make_runtime, telegram, chat_id=place) as (bot, question):
        telegram.press(question, 0, 0, user_id=2)
        await until(telegram, lambda: said(telegram))
        assert said(telegram) == [NOT_YOURS]
        assert len(await questions(bot, record)) == 1
        (waiting,) = await questions(bot, record)
        telegram.callback(f"ask:{waiting.id}:0:2:9999999999", user_id=2, message=question)  # no client's data
        telegram.callback(f"ask:{waiting.id}:0:0:9999999999", user_id=2, message=question)
        await until(telegram, lambda: len(said(telegram)) == 3)
        assert len(await questions(bot, record)) == 1
        telegram.press(question, 0, 0, user_id=1)
        await until(telegram, lambda: len(telegram.texts(place)) == 2)
        assert [each[0] for each in await done(bot, record)] == ["yes"]
        assert telegram.texts(place)[1] == "yes mail"


async def test_in_a_group_that_is_asked_anybody_answers(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with make_runtime("webhook", agent_class=Asking) as bot:
        telegram.message("group mail", user_id=1)
        await until(telegram, lambda: telegram.texts(SHARED))
        telegram.press(telegram.sent[-1], 0, 0, user_id=7)
        await until(telegram, lambda: len(telegram.texts(SHARED)) == 2)
        assert [each[0] for each in await done(bot, str(SHARED))] == ["yes"]


async def test_somebody_else_can_be_asked(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with make_runtime("webhook", agent_class=Asking) as bot:
        telegram.message("tell 5 mail", user_id=1)
        await until(telegram, lambda: telegram.texts(5))
        telegram.press(telegram.sent[-1], 0, 0, user_id=5)
        await until(telegram, lambda: len(telegram.texts(5)) == 2)
        assert [each[0] for each in await done(bot, "5")] == ["yes"]


@pytest.mark.parametrize(
    "data", ["ask:{id}:2:1:{until}", "ask:{id}:-1:1:{until}", "ask:ffffffff:0:1:{until}"]
)
async def test_data_that_no_button_has_answers_nothing(
    make_runtime: MakeRuntime, telegram: FakeTelegram, data: str
) -> None:
    async with asked(make_runtime, telegram) as (bot, question):
        (waiting,) = await questions(bot)
        until_ = waiting.at // 1_000_000
        telegram.callback(data.format(id=waiting.id, until=until_), user_id=1, message=question)
        await until(telegram, lambda: said(telegram))
        assert said(telegram) == [CLOSED]
        assert await questions(bot) == [waiting]


@pytest.mark.parametrize("command", ["/reset", "/forget", "withdraw"])
async def test_a_question_can_be_taken_back(
    make_runtime: MakeRuntime, telegram: FakeTelegram, command: str
) -> None:
    async with asked(make_runtime, telegram) as (bot, question):
        telegram.message(command, user_id=1)
        await telegram.settled()
        if command == "/forget":
            telegram.press(telegram.sent[-1], 0, 0, user_id=1)
            await telegram.settled()
        assert await questions(bot) == []
        before = len(said(telegram))
        telegram.press(question, 0, 0, user_id=1)
        await until(telegram, lambda: len(said(telegram)) > before)
        assert said(telegram)[-1] == CLOSED
        await telegram.settled()
        assert Asking.tries == []
        assert await done(bot) == []
        assert "1" not in dict((await bot.store.due(10**9, 9)).due)


async def test_reset_leaves_what_is_answered(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    """Who has agreed has agreed; only the question is taken back."""
    Asking.fails = 1
    async with asked(make_runtime, telegram) as (bot, question):
        telegram.press(question, 0, 0, user_id=1)
        await until(telegram, lambda: Asking.tries)
        telegram.message("/reset", user_id=1)
        await telegram.settled()
        (waiting,) = await questions(bot)
        assert (waiting.choices, waiting.arguments["answer"]) == ({}, "yes")


async def test_one_that_fails_is_tried_again_without_asking_again(
    make_runtime: MakeRuntime, telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.runtime.telegram.jobs.FIRST_RETRY", 0.1)
    Asking.fails = 2
    async with asked(make_runtime, telegram) as (bot, question):
        telegram.press(question, 0, 0, user_id=1)
        await until(telegram, lambda: len(Asking.tries) == 3 and len(telegram.texts(1)) == 2)
        assert telegram.texts(1) == ["Send mail?", "yes mail"]
        assert len(await done(bot)) == 1


async def test_another_replica_takes_the_answer(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    async with (
        asked(make_runtime, telegram) as (bot, question),
        make_runtime("webhook", agent_class=Asking) as other,
    ):
        assert telegram.webhook_address == f"http://127.0.0.1:{other.port}"
        telegram.press(question, 0, 0, user_id=1)
        await until(telegram, lambda: len(telegram.texts(1)) == 2)
        assert len(await done(bot)) == 1


@pytest.mark.parametrize("is_pressed_before", [True, False])
async def test_it_waits_for_the_answer_while_the_bot_is_down(
    make_runtime: MakeRuntime,
    telegram: FakeTelegram,
    is_pressed_before: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut off before the press, or after the press is kept and before its method runs."""
    async with asked(make_runtime, telegram) as (bot, question):
        monkeypatch.setattr("bot.runtime.telegram.jobs.JobRunner._begin", lambda *_: None)
        if is_pressed_before:
            telegram.press(question, 0, 0, user_id=1)
            await until(telegram, lambda: said(telegram))
        await bot.cut_off()
        monkeypatch.undo()
        assert Asking.tries == []
        async with bot:
            if not is_pressed_before:
                telegram.press(question, 0, 0, user_id=1)
            await until(telegram, lambda: len(telegram.texts(1)) == 2)
        assert [each[0] for each in await done(bot)] == ["yes"]


async def test_an_old_question_is_answered_whose_message_telegram_no_longer_shows(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with asked(make_runtime, telegram) as (bot, question):
        markup = telegram.messages[1, question.message_id]["reply_markup"]
        data = markup["inline_keyboard"][0][0]["callback_data"]
        telegram.callback(data, user_id=1, message=10**6)
        await until(telegram, lambda: len(telegram.texts(1)) == 2)
        assert said(telegram) == ["Send it"]
        assert [each[0] for each in await done(bot)] == ["yes"]


async def test_a_question_that_is_full_loses_its_buttons_only(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with asked(make_runtime, telegram, f"send {'x' * 4_088}") as (bot, question):
        telegram.press(question, 0, 0, user_id=1)
        await until(telegram, lambda: len(telegram.texts(1)) == 2)
        assert said(telegram) == ["Send it"]
        message = telegram.messages[1, question.message_id]
        assert "reply_markup" not in message
        assert message["text"] == question.text
        assert [each[0] for each in await done(bot)] == ["yes"]


async def test_a_topic_is_where_it_was_asked(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    where: dict[str, Any] = {"chat_id": GROUP, "message_thread_id": 5, "is_topic_message": True}
    async with asked(make_runtime, telegram, **where) as (_, question):
        assert question.params["message_thread_id"] == "5"
        telegram.press(question, 0, 0, user_id=1)
        await until(telegram, lambda: len(telegram.texts(GROUP)) == 2)
        assert [
            each.params["message_thread_id"] for each in telegram.sent if each.method == "sendMessage"
        ] == [
            "5",
            "5",
        ]


async def test_an_open_question_is_carried_to_another_store(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    async with asked(make_runtime, telegram) as (bot, question):
        before = await questions(bot)
        lines = [line async for line in export_lines(bot.store)]
        await bot.store.forget("1")
        async for _ in import_lines(bot.store, lines, with_forgotten=True):
            pass
        assert await questions(bot) == before
        telegram.press(question, 0, 0, user_id=1)
        await until(telegram, lambda: len(telegram.texts(1)) == 2)
        assert [each[0] for each in await done(bot)] == ["yes"]


class Careless(Asking):
    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        match message:
            case "nothing":
                self.turn.ask("?", {}, LONG, self.send_it, what="x")
            case "unmarked":
                self.turn.ask("?", CHOICES, LONG, self.agent_logic)
            case "no answer":
                self.turn.ask("?", CHOICES, LONG, self.ask_other, what="x")
        return "asked"


@pytest.mark.parametrize("message", ["nothing", "unmarked", "no answer"])
async def test_what_cannot_be_asked_fails_at_once(
    make_runtime: MakeRuntime, telegram: FakeTelegram, message: str
) -> None:
    async with make_runtime("webhook", agent_class=Careless) as bot:
        telegram.message(message, user_id=1)
        await telegram.settled()
        assert telegram.texts(1) == [Texts().sorry]
        assert await questions(bot) == []


async def test_a_query_asks_nothing() -> None:
    turn = Turn(UserRecord("1"), Limits(), incoming=Incoming(place=Place(1)), is_read_only=True)
    with pytest.raises(StateError):
        turn.ask("?", CHOICES, LONG, Asking("").send_it, what="x")


async def test_one_that_nobody_answered_stays_closed_while_it_is_tried_again(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    Asking.fails = 1
    async with asked(make_runtime, telegram, "soon mail") as (bot, question):
        await until(telegram, lambda: Asking.tries == ["None mail"])
        telegram.press(question, 0, 0, user_id=1)
        await until(telegram, lambda: said(telegram))
        assert said(telegram) == [LATE]
        (waiting,) = await questions(bot)
        assert (waiting.tries, waiting.arguments["answer"]) == (1, None)
