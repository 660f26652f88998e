"""The agent that asks before it sends mail, with a mail service on this machine."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from bot.mail_agent import Agent, assistant
from bot.runtime.testing import Chat, OperatorStore, Owner, Restart

ASKED = 'Shall I send this mail?\n{"to":"ann","text":"hi"}'


class MailService:
    """Sends each mail once, by its key; what it sent, and how often it was asked."""

    def __init__(self) -> None:
        self.sent: dict[str, dict[str, Any]] = {}
        self.asked = 0
        self.failures = 0

    async def post(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.sent.setdefault(request.headers["Idempotency-Key"], await request.json())
        if self.asked <= self.failures:  # it was sent all the same
            return web.Response(status=503)
        return web.Response()


def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    """Want to send a mail, and say what came of it."""
    parts = [part for message in messages for part in message.parts]
    calls = [part for part in parts if isinstance(part, ToolCallPart)]
    if isinstance(parts[-1], ToolReturnPart):
        return ModelResponse([TextPart(f"Well: {parts[-1].content}")])
    if "talk" in str(parts[-1]):
        return ModelResponse([TextPart(f"I made {len(calls)} calls.")])
    return ModelResponse([ToolCallPart("send_mail", {"to": "ann", "text": "hi"})])


@pytest.fixture
async def mail(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MailService]:
    """The service, and the setting that leads to it."""
    service, app = MailService(), web.Application()
    app.router.add_post("/mails", service.post)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("MAIL_URL", f"http://127.0.0.1:{runner.addresses[0][1]}/mails")
    yield service
    await runner.cleanup()


@pytest.fixture
def owner(mail: MailService) -> Iterator[Owner]:
    """The agent, with a model that does what these tests need."""
    with assistant.override(model=FunctionModel(answer)):
        yield Owner(agent=Agent)


async def test_nothing_is_sent_without_consent(chat: Chat, mail: MailService) -> None:
    assert await chat.say("Write to Ann") == [ASKED]
    assert chat.buttons == ["Send it", "Leave it"]
    assert mail.sent == {}
    assert await chat.press("Send it") == [f"{ASKED}\n\nSend it", "Well: The mail is sent."]
    assert list(mail.sent.values()) == [{"to": "ann", "text": "hi"}]
    assert await chat.say("let us talk") == ["I made 1 calls."]


async def test_a_no_goes_to_the_model(chat: Chat, mail: MailService) -> None:
    await chat.say("Write to Ann")
    assert (await chat.press("Leave it"))[-1] == "Well: They said no."
    assert mail.sent == {}


async def test_after_an_hour_it_is_too_late(chat: Chat, mail: MailService) -> None:
    await chat.say("Write to Ann")
    assert await chat.wait(timedelta(hours=2)) == ["Well: They did not answer."]
    await chat.press("Send it")
    assert chat.texts[-1] == "It is too late to answer this."
    assert mail.sent == {}


async def test_pressed_twice_it_is_sent_once(chat: Chat, mail: MailService) -> None:
    await chat.say("Write to Ann")
    button = chat.telegram.buttons(chat.chat)[0]
    await chat.press(button)
    await chat.press(button)
    assert chat.texts[-1] == "This question is closed: it was answered, or taken back."
    assert mail.asked == len(mail.sent) == 1


async def test_in_a_group_nobody_else_can_agree(chat: Chat, mail: MailService) -> None:
    group = await chat.group("Club", "Bob")
    await group.say("@local_bot Write to Ann")
    await group.person("Bob").press(group.telegram.buttons(group.chat)[0])
    assert group.texts[-1] == "This button is not for you."
    assert mail.sent == {}
    await group.press("Send it")
    assert len(mail.sent) == 1


async def test_talk_comes_in_between(chat: Chat, mail: MailService) -> None:
    """The call that waits is not in the history until there is something that it returned."""
    await chat.say("Write to Ann")
    button = chat.telegram.buttons(chat.chat)[0]
    assert await chat.say("let us talk") == ["I made 0 calls."]
    assert (await chat.press(button))[-1] == "Well: The mail is sent."
    assert await chat.say("let us talk") == ["I made 1 calls."]


async def test_a_service_that_fails_is_asked_again_with_the_same_key(chat: Chat, mail: MailService) -> None:
    mail.failures = 1
    await chat.say("Write to Ann")
    await chat.press("Send it")
    assert await chat.wait(timedelta(minutes=5)) == ["Well: The mail is sent."]
    assert (mail.asked, len(mail.sent)) == (2, 1)


@pytest.mark.parametrize("command", ["/reset", "/forget"])
async def test_the_question_is_taken_back(chat: Chat, mail: MailService, command: str) -> None:
    await chat.say("Write to Ann")
    button = chat.telegram.buttons(chat.chat)[0]
    await chat.say(command)
    if command == "/forget":
        await chat.press("Erase everything")
    await chat.press(button)
    assert chat.texts[-1] == "This question is closed: it was answered, or taken back."
    assert await chat.wait(timedelta(hours=2)) == []
    assert mail.sent == {}


async def test_a_question_outlives_the_process(
    chat: Chat, mail: MailService, store: OperatorStore, restart: Restart
) -> None:
    await chat.say("Write to Ann")
    await restart()
    assert (await chat.press("Send it"))[-1] == "Well: The mail is sent."
    assert len(mail.sent) == 1
