"""Agents whose model fails, stalls and breaks off, while their bot is killed: the books have to balance."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest

from suite.bot_api import FakeTelegram
from suite.bot_api.chats import Sent
from suite.support.model import Call, ModelServer, Step, results_in, said_last
from suite.torture.driver import Setup, short_setups
from suite.torture.link import Link
from suite.torture.model_bot import AGENT, OPENAI_AGENTS, PYDANTIC_AI
from suite.torture.names import DEFERRED
from suite.torture.processes import Replica, balancer, running

PEOPLE, ROUNDS, MESSAGES = 5, 6, 16
PATIENCE = 120.0
KEY = "sk-the-key-of-the-model"
TOOLS = {"note": "fact", "mail": "to", "remind": "text"}
"""What people want, and the argument with which a message is named."""


class Model:
    """Calls the tool that a message names, and says that it is done; unless it fails.

    Attributes:
        is_well: whether nothing goes wrong.
        wrong: how often what went wrong.
    """

    def __init__(self, chance: Random) -> None:
        self.is_well = False
        self.wrong: Counter[str] = Counter()
        self._chance = chance
        self._deck: list[str] = []

    def __call__(self, request: dict[str, Any]) -> Step:
        step = self._answer(request)
        if not self._deck:
            self._deck = [kind for kind, count in self.FAILURES.items() for _ in range(count)]
            self._chance.shuffle(self._deck)
        kind = "nothing" if self.is_well else self._deck.pop()
        if kind == "nothing":
            return Step(step.text, calls=step.calls, pause=self._chance.uniform(0, 0.01))
        self.wrong[kind] += 1
        match kind:
            case "500":
                return Step(status=500)
            case "429":
                return Step(status=429, retry_after=self._chance.uniform(0, 0.3))
            case "stalls":
                return Step(step.text, calls=step.calls, stalls=self._chance.uniform(0.5, 4))
            case "stalls in between":
                return Step(step.text, calls=step.calls, pause=self._chance.uniform(0.2, 1.5))
            case _:
                return Step(step.text, calls=step.calls, cut=self._chance.randint(0, 5))

    FAILURES: ClassVar[dict[str, int]] = {
        "nothing": 28,
        "500": 3,
        "429": 3,
        "stalls": 2,
        "stalls in between": 2,
        "breaks off": 3,
    }
    """And how many of so many answers each of them befalls."""

    def _answer(self, request: dict[str, Any]) -> Step:
        if results_in(request):
            calls = [call for each in request["messages"] for call in each.get("tool_calls") or ()]
            arguments = json.loads(calls[-1]["function"]["arguments"])
            return Step(f"{next(arguments[name] for name in TOOLS.values() if name in arguments)} is done")
        match said_last(request).split():
            case ["note", name]:
                return Step("Let me see.", calls=[Call("note", {"fact": name})])
            case ["mail", name]:
                return Step(calls=[Call("send_mail", {"to": name})])
            case ["remind", name]:
                return Step(calls=[Call("remind_me", {"minutes": 0.01, "text": name})])
        return Step("I see.")


def write(
    telegram: FakeTelegram, chance: Random, wants: Sequence[str], written: dict[int, list[str]]
) -> None:
    """People write; each message has a name, which says whose it is."""
    for _ in range(MESSAGES):
        user_id = chance.randint(1, PEOPLE)
        want, name = chance.choice(wants), f"{user_id}x{len(written[user_id])}"
        written[user_id].append(f"{want} {name}")
        telegram.message(f"{want} {name}", user_id=user_id)


async def trouble(
    telegram: FakeTelegram, replicas: list[Replica], links: list[Link], number: int, *, kill: bool
) -> None:
    """Lost answers, updates that come again, cut connections, and a kill in the midst of it all."""
    telegram.drop_answer("sendMessage")
    telegram.fail("sendMessage", status=429, retry_after=1, times=2)
    for update_id in list(telegram.updates)[-20:]:
        telegram.repeat(update_id)

    def said() -> int:
        return sum(each.method == "sendMessage" for each in telegram.sent)

    before = said()
    await telegram.wait_for(lambda: said() > before + 3, PATIENCE)
    for link in links:
        link.cut()
    if kill:
        await replicas[number % len(replicas)].kill()
    await telegram.wait_for(lambda: said() > before + MESSAGES / 2, PATIENCE)


async def agree(telegram: FakeTelegram) -> None:
    """Press the first button of each question, twice."""
    pressed = 0
    while True:
        await asyncio.sleep(0.05)
        for sent in telegram.sent[pressed:]:
            if sent.method == "sendMessage" and '"ask:' in sent.params.get("reply_markup", ""):
                with suppress(KeyError):  # it was answered meanwhile
                    for _ in range(2):
                        telegram.press(sent, 0, 0, user_id=sent.chat_id)
        pressed = len(telegram.sent)


def problems_of(
    user_id: int, written: Sequence[str], texts: Sequence[str], state: dict[str, Any]
) -> list[str]:
    """What is wrong with one person's books: each message is done once and answered, or apologised for."""
    found = []
    done = {
        "note": Counter(state.get("notes", [])),
        "mail": Counter(state.get("mails", [])),
        "remind": Counter(state.get("reminded", [])),
    }
    for message in written:
        want, name = message.split()
        times, is_sorry = done[want].pop(name, 0), f"{message} sorry" in texts
        is_answered = any(text.endswith(f"{name} is done") for text in texts)
        if times != (0 if is_sorry else 1):
            found.append(f"{message}: done {times} times, {'apologised' if is_sorry else 'no apology'}")
        if is_answered == is_sorry:
            found.append(f"{message}: answered {is_answered}, apologised {is_sorry}")
        if want == "remind" and (f"{name} reminded" in texts) == is_sorry:
            found.append(f"{message}: not reminded")
    found += [f"nobody wrote {name} of user {user_id}" for each in done.values() for name in each]
    notes = [message.split()[1] for message in written]
    kept = [name for name in state.get("notes", []) if name in notes]
    if sorted(kept, key=notes.index) != kept:
        found.append(f"notes of user {user_id} are out of order: {kept}")
    return found


async def exported(telegram: FakeTelegram, user_id: int) -> dict[str, Any]:
    """What the bot keeps about somebody, as it tells them."""

    def documents() -> list[Sent]:
        return [each for each in telegram.sent if each.method == "sendDocument" and each.chat_id == user_id]

    telegram.message("/export", user_id=user_id)
    await telegram.wait_for(documents, PATIENCE)
    (content,) = documents()[-1].files.values()
    told: dict[str, Any] = json.loads(content)
    return told


WANTS = {PYDANTIC_AI: ["note", "remind"], OPENAI_AGENTS: ["note", "mail"]}

CASES = [
    pytest.param(setup, framework, is_deferred, id=f"{setup.name}, {framework}{', deferred' * is_deferred}")
    for number, setup in enumerate(short_setups())
    for framework, is_deferred in ((PYDANTIC_AI, number == 1), (OPENAI_AGENTS, number == 0))
]
"""Each framework by polling and by webhook, once deferred and once not."""


@pytest.mark.rarely
@pytest.mark.clause("torture.balances")
@pytest.mark.parametrize(("setup", "framework", "is_deferred"), CASES)
async def test_nothing_is_lost_or_done_twice(
    setup: Setup, framework: str, is_deferred: bool, tmp_path: Path
) -> None:
    chance = Random(f"{setup.name} {framework} {is_deferred}")
    script = Model(chance)
    written: dict[int, list[str]] = {user_id: [] for user_id in range(1, PEOPLE + 1)}
    telegram = FakeTelegram(webhook_timeout=10, max_delay=0.3, max_retry_after=0.3)
    async with AsyncExitStack() as stack:
        backend = setup.backend(tmp_path)
        stack.push_async_callback(backend.close)
        await backend.open()
        await stack.enter_async_context(telegram)
        model = await stack.enter_async_context(ModelServer(script))
        links = [await stack.enter_async_context(Link(server.address)) for server in backend.servers]
        settings = {
            "BOT_TOKEN": telegram.token,
            "TELEGRAM_API_URL": telegram.url,
            "SHUTDOWN_TIMEOUT": "5",
            "AGENT_TIMEOUT": "4",
            "MODEL_URL": model.url,
            "LLM_MODEL": "local",
            "LLM_URL": model.url,
            "LLM_KEY": KEY,
            AGENT: framework,
            **({DEFERRED: "true"} if is_deferred else {}),
            **backend.settings(links),
        }
        if setup.mode == "webhook":
            settings["WEBHOOK_URL"] = "https://bot.example/hook"

        def replica(number: int) -> Replica:
            command = [setup.python, "-m", "suite.torture.model_bot", "run"]
            return Replica(number, command, tmp_path, settings)

        replicas = await stack.enter_async_context(running(setup.replicas, replica))
        telegram.webhook_address = await stack.enter_async_context(balancer(replicas))
        agreeing = asyncio.create_task(agree(telegram))
        for number in range(ROUNDS):
            write(telegram, chance, WANTS[framework], written)
            await trouble(telegram, replicas, links, number, kill=backend.survives_exit)
        script.is_well = True
        await telegram.settled(PATIENCE)

        def open_books() -> list[str]:
            return [
                message
                for user_id, messages in written.items()
                for message in messages
                if f"{message} sorry" not in telegram.texts(user_id)
                and not any(f"{message.split()[1]} is done" in text for text in telegram.texts(user_id))
            ]

        with suppress(TimeoutError):
            await telegram.wait_for(lambda: not open_books(), PATIENCE)
        await asyncio.sleep(2)  # for reminders of half a second
        for user_id in written:
            telegram.message("and now?", user_id=user_id)  # the model is shown all that is kept
        await telegram.settled(PATIENCE)
        exports = {user_id: await exported(telegram, user_id) for user_id in written}
        agreeing.cancel()
        await asyncio.gather(*(each.stop() for each in replicas))
        surprises = [text for each in replicas for text in each.surprises]
    problems = [
        problem
        for user_id, messages in written.items()
        for problem in problems_of(user_id, messages, telegram.texts(user_id), exports[user_id]["state"])
    ]
    assert problems == []
    assert surprises == []
    assert model.orphans == [], "no call is without its result"
    for request in model.requests:
        whose = {name.split("x")[0] for name in names_in(request)}
        assert len(whose) <= 1, "nobody's words are told to a model for somebody else"
    assert set(script.wrong) == set(Model.FAILURES) - {"nothing"}, "all of it happened"
    assert await asyncio.to_thread(leaks, tmp_path) == []
    answered = sum("is done" in text for user_id in written for text in telegram.texts(user_id))
    assert answered > ROUNDS * MESSAGES / 3


def leaks(folder: Path) -> list[str]:
    """The logs that hold the model's key."""
    logs = list(folder.glob("*.log"))
    assert logs
    return [str(path) for path in logs if KEY in path.read_text(errors="replace")]


def names_in(request: dict[str, Any]) -> set[str]:
    """The names of messages in a request."""
    words = json.dumps(request["messages"]).replace('"', " ").replace("\\", " ").split()
    return {word for word in words if word[0].isdecimal() and "x" in word}
