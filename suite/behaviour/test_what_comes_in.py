"""Every kind of update and of content that aiogram knows, sent to a running bot, against the table."""

import itertools
import types
import typing
from collections.abc import Iterator
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple

import pytest
from aiogram import Router
from aiogram.dispatcher.event.bases import SkipHandler
from aiogram.enums import ContentType, UpdateType
from aiogram.types import Message, TelegramObject, Update
from pydantic import BaseModel

from bot.agent_adapter import TelegramAgentAdapter, Texts
from bot.runtime.app import Owner
from bot.runtime.config import Settings
from bot.runtime.logs import configure_logs
from bot.runtime.telegram.updates import SENT_BY_PEOPLE
from suite import what_comes_in
from suite.bot_api import FakeTelegram
from suite.bot_api.call import Call, Json
from suite.support.runtime import MakeRuntime, Mode
from suite.what_comes_in import CONTENT, HOOK, UPDATES, WAYS

pytestmark = pytest.mark.clause("what-comes-in")

ONLY_TEXT = Texts().only_text


def sample(kind: Any) -> Any:
    """The least JSON that aiogram takes for a type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return sample(arguments[0])
    if origin is typing.Literal:
        return arguments[0].value if isinstance(arguments[0], Enum) else arguments[0]
    if origin in (typing.Union, types.UnionType):
        return sample(next(each for each in arguments if each is not type(None)))
    if origin is list:
        return []
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {
            field.alias or name: sample(field.annotation)
            for name, field in kind.model_fields.items()
            if field.is_required() or typing.get_origin(field.annotation) is typing.Literal
        }
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(iter(kind)).value
    return {bool: True, int: 1, float: 1.0, str: "x", datetime: 1}.get(kind, 1)


def content(kind: str) -> Json:
    """The field of a Message that makes it one of the kind."""
    if kind == "unknown":
        return {"hologram": {"secret": "my words"}}
    annotation = Message.model_fields[kind].annotation
    value = sample(annotation)
    if value == []:  # of which there has to be one
        (listed,) = (each for each in typing.get_args(annotation) if typing.get_origin(each) is list)
        value = [sample(typing.get_args(listed)[0])]
    return {kind: value}


class Case(NamedTuple):
    way: str
    kind: str
    number: int

    @property
    def chat_id(self) -> int:
        return self.number if self.way in ("private", "business") else -self.number

    def push(self, telegram: FakeTelegram, connection: str = "") -> int:
        """Have it come; 0 when the bot did not ask for that."""
        person = {"id": self.number, "is_bot": False, "first_name": "P"}
        message: Json = {"from": person, **content(self.kind)}
        match self.way:
            case "group or topic, addressed":
                chat = telegram.chat(self.chat_id)
                mine = {"message_id": 1, "date": 1, "chat": chat, "from": telegram.me(), "text": "?"}
                message |= {"reply_to_message": mine}
            case "channel":
                message |= {
                    "from": None,
                    "sender_chat": {"id": self.chat_id, "type": "channel", "title": "C"},
                }
            case "business":
                message |= {"business_connection_id": connection}
            case "guest":
                message |= {"guest_query_id": str(self.number)}
        if self.number % 2 and "group" in self.way:
            message |= {"message_thread_id": 7, "is_topic_message": True}
        kinds = {"channel": "channel_post", "business": "business_message", "guest": "guest_message"}
        return telegram.push({kinds.get(self.way, "message"): telegram.new_message(self.chat_id, message)})


KINDS = sorted(kind.value for kind in ContentType if kind != ContentType.ANY)
CASES = [Case(way, kind, 1_000 + n) for n, (way, kind) in enumerate(itertools.product(WAYS, KINDS))]


class Agent(TelegramAgentAdapter):
    """Notes what reaches it."""

    def __init__(self, bot_token: str) -> None:
        super().__init__(bot_token)
        self.heard: set[int] = set()
        self.unknown: list[Json] = []

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        assert self.turn.update
        self.heard.add(self.turn.update.update_id)
        return "heard"

    async def on_unknown(self, update: Json) -> None:
        self.unknown.append(update)


class Hearing(Agent):
    """Accepts everything."""

    accepts = frozenset({"text", *SENT_BY_PEOPLE, "edited", "business", "guest"})


class Elsewhere(Agent):
    """Accepts texts, wherever they come from."""

    accepts = frozenset({"text", "edited", "business", "guest"})


class Routers:
    """The owner's routers, which note what comes, and leave it to others."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.router = Router()
        for kind in UpdateType:
            self.router.observers[kind.value].register(self._note)

    async def _note(self, event: TelegramObject, event_update: Update) -> None:
        self.seen.add(event_update.update_id)
        raise SkipHandler


@pytest.fixture
def answered(telegram: FakeTelegram) -> dict[str, str]:
    """What the bot answered as a guest, by query."""
    answers: dict[str, str] = {}

    @telegram.method("answerGuestQuery", "guest_query_id result")
    async def answer(call: Call) -> Json:
        assert call.params["guest_query_id"] not in answers, "there is one answer"
        answers[call.params["guest_query_id"]] = call.params["result"]
        return {"inline_message_id": "1"}

    return answers


def test_the_table_is_complete() -> None:
    """Of what this aiogram knows nothing is missing, and each kind stands there once."""
    kinds = [kind for row in CONTENT for kind in row.kinds.split()]
    assert sorted(kinds) == KINDS
    updates = [kind for row in UPDATES for kind in row.kinds.split()]
    assert sorted(updates) == sorted(kind.value for kind in UpdateType)
    assert {kind for row in CONTENT[1:3] for kind in row.kinds.split()} == SENT_BY_PEOPLE


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_what_they_are_for(kind: str) -> None:
    message = {"message_id": 1, "date": 1, "chat": {"id": 1, "type": "private"}, **content(kind)}
    assert Message.model_validate(message).content_type == kind


@pytest.mark.parametrize("agent_class", [Hearing, Elsewhere])
async def test_every_kind_of_content_from_everywhere(
    make_runtime: MakeRuntime,
    telegram: FakeTelegram,
    agent_class: type[Agent],
    answered: dict[str, str],
    mode: Mode,
    capfd: pytest.CaptureFixture[str],
) -> None:
    bot, routers = make_runtime(mode, agent_class=agent_class), Routers()
    bot.owner = Owner(agent=agent_class, after=[routers.router])
    async with bot:
        configure_logs(Settings())
        await telegram.wait_for(lambda: telegram.allowed_updates)
        connection = telegram.connect_business(5)
        ids = {case: case.push(telegram, connection) for case in CASES}
        await telegram.settled(240)
        assert isinstance(bot.agent, Agent)
    expected = {
        (kind, way): cell
        for row in CONTENT
        for kind in row.kinds.split()
        for way, cell in zip(WAYS, row.outcomes, strict=True)
    }
    found: dict[Case, str] = {}
    for case, update_id in ids.items():
        assert update_id in telegram.acknowledged, case
        said = telegram.texts(case.chat_id) + [answered[key] for key in answered if key == str(case.number)]
        assert len(said) <= 1, case
        if update_id in bot.agent.heard:
            found[case] = what_comes_in.AGENT
            assert "heard" in said[0], case
        elif said:
            found[case] = "`only_text`"
            assert ONLY_TEXT in said[0], case
            assert update_id in routers.seen, "they are asked before that"
        elif update_id in routers.seen:
            found[case] = what_comes_in.ROUTERS
        else:
            found[case] = what_comes_in.NOTHING
    accepted = agent_class.accepts
    for case, outcome in found.items():
        cell = expected[case.kind, case.way]
        first, _, second = cell.partition(", or ")
        if second:
            cell = first if case.kind in accepted else second
            if cell == what_comes_in.NOTHING:
                cell = what_comes_in.ROUTERS  # but for those of the owner, nothing
        assert outcome == cell.removeprefix("`on_unknown`, "), case
    unknown = [ids[case] for case in CASES if expected[case.kind, case.way] == HOOK]
    assert sorted(raw["update_id"] for raw in bot.agent.unknown) == sorted(unknown)
    written = capfd.readouterr().err
    assert "hologram" in written
    assert "my words" not in written


def every_update(telegram: FakeTelegram) -> Iterator[tuple[str, int]]:
    for number, kind in enumerate(UpdateType, start=1):
        event = sample(Update.model_fields[kind.value].annotation)
        if "chat" in event:
            event["chat"] = {"id": number, "type": "private", "first_name": "P"}
        if "from" in event or "message_id" in event:
            event["from"] = {"id": number, "is_bot": False, "first_name": "P"}
        yield kind.value, telegram.push({kind.value: event})


async def test_every_kind_of_update_reaches_a_router_that_asks_for_it(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    bot, routers = make_runtime(mode, agent_class=Agent), Routers()
    bot.owner = Owner(agent=Agent, before=[routers.router])
    async with bot:
        await telegram.wait_for(lambda: telegram.allowed_updates)
        assert telegram.allowed_updates == {kind.value for kind in UpdateType}
        ids = dict(every_update(telegram))
        assert all(ids.values())
        await telegram.settled()
    assert {kind for kind, update_id in ids.items() if update_id not in routers.seen} == set()


@pytest.mark.parametrize(
    ("accepts", "more"),
    [
        ({"text"}, set()),
        ({"text", "edited"}, {"edited_message"}),
        ({"text", "business"}, {"business_message"}),
        ({"text", "guest"}, {"guest_message"}),
        (
            {"edited", "business"},
            {"edited_message", "business_message", "edited_business_message"},
        ),
    ],
)
async def test_what_telegram_is_asked_for(
    make_runtime: MakeRuntime, telegram: FakeTelegram, accepts: set[str], more: set[str]
) -> None:
    async with make_runtime("webhook", agent_class=type("Asking", (Agent,), {"accepts": accepts})):
        await telegram.wait_for(lambda: telegram.allowed_updates)
    always = {kind for row in UPDATES if row.is_asked == what_comes_in.YES for kind in row.kinds.split()}
    assert telegram.allowed_updates == always | more


UNREADABLE = {
    "a kind of update": {"telepathy": {"secret": "my words"}},
    "another form": {"message": {"message_id": "many", "chat": {"id": 1}, "secret": "my words"}},
    "no form at all": {"poll": {"id": [[["my words"]]]}},
}


@pytest.mark.parametrize("event", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("fails", [False, True])
async def test_what_aiogram_cannot_read_reaches_the_owner(
    make_runtime: MakeRuntime,
    telegram: FakeTelegram,
    mode: Mode,
    event: Json,
    fails: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Failing(Agent):
        async def on_unknown(self, update: Json) -> None:
            await super().on_unknown(update)
            if fails:
                raise LookupError(str(update))

    async with make_runtime(mode, agent_class=Failing) as bot:
        configure_logs(Settings())
        await telegram.wait_for(lambda: telegram.allowed_updates)
        telegram.allowed_updates = None
        update_id = telegram.push(event)
        telegram.message("hi", user_id=1)
        await telegram.settled()
        assert isinstance(bot.agent, Agent)
        assert bot.agent.unknown == [{"update_id": update_id, **event}]
    assert telegram.texts(1) == ["heard"]
    written = capfd.readouterr().err
    assert "unknown kind" in written or "not understood" in written
    assert "my words" not in written


class TestBusiness:
    """The agent answers a business' customers, in its name, and nobody else."""

    async def test_a_customer(self, make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode) -> None:
        async with make_runtime(mode, agent_class=Hearing):
            await telegram.wait_for(lambda: telegram.allowed_updates)
            connection = telegram.connect_business(5)
            owner = {"id": 5, "is_bot": False, "first_name": "O"}
            customer = {"id": 6, "is_bot": False, "first_name": "C"}
            for writer in (customer, owner):
                message = telegram.new_message(
                    6, {"from": writer, "text": "hi", "business_connection_id": connection}
                )
                telegram.push({"business_message": message})
            await telegram.settled()
        (sent,) = [call.params for call in telegram.calls if call.method == "sendMessage"]
        assert (sent["business_connection_id"], sent["chat_id"], sent["text"]) == (connection, "6", "heard")


async def test_a_guest_whose_agent_fails_apologises(
    make_runtime: MakeRuntime, telegram: FakeTelegram, answered: dict[str, str]
) -> None:
    class Failing(Hearing):
        async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
            raise LookupError

    async with make_runtime("webhook", agent_class=Failing):
        Case("guest", "text", 7).push(telegram)
        await telegram.settled()
    assert Texts().sorry in answered["7"]
