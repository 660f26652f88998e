"""The parts of the torture suite: that each fault of a bot is noticed, and that each cut of a link is one."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer

from suite.bot_api import Call, FakeTelegram
from suite.bot_api.server import Planned
from suite.torture import driver, faults
from suite.torture.backend import Felt, times
from suite.torture.driver import setups, torture
from suite.torture.faults import Stage
from suite.torture.ledger import Balance, Ledger, Place, felt, table
from suite.torture.link import Link
from suite.torture.names import file_of
from suite.torture.plan import Step

pytestmark = pytest.mark.clause("kit.torture")

PLACE, GROUP = Place(1, 1), Place(1, -1)


def balance(
    effects: list[str],
    said: list[str],
    history: list[str] | None = None,
    shuffled: frozenset[int] = frozenset(),
) -> Balance:
    """Of a user who wrote p1 and p2 in private and g3 in a group, where all is well."""
    ledger = Ledger(shuffled=set(shuffled))
    for number, (place, name) in enumerate([(PLACE, "p1"), (PLACE, "p2"), (GROUP, "g3")], start=1):
        ledger.write(place, name, number)
    export: dict[str, Any] = {"state": {"effects": effects}}
    if history is not None:
        said_there = {
            letter: [{"role": "user", "text": f"{name} 0.1"} for name in history if name[0] == letter]
            for letter in "pg"
        }
        export |= {"history": said_there["p"], "conversations": {"-1::": said_there["g"]}}
    group = [f"g3 #{effects.index('g3') + 1}"]
    return ledger.balance({1: export}, {1: said, -1: group})


def test_a_clean_sheet() -> None:
    for effects in (["p1", "p2", "g3"], ["g3", "p1", "p2"]):
        said = [f"{name} #{effects.index(name) + 1}" for name in ("p1", "p2")]
        for history in (None, effects, effects[1:]):
            assert balance(effects, [said[0], *said, "Hello!", said[0]], history) == Balance(sent=3)


def test_half_an_answer_is_noticed() -> None:
    ledger = Ledger()
    for number, name in enumerate(("p1", "p2"), start=1):
        ledger.write(PLACE, name, number)
    assert ledger.halves({1: ["p1 #1", "p2 #2", "p1 sorry", "p1 reminded", "…", "Hello!"]}) == []
    half = {1: ["p1 #1 la", "p2 #2 la la"]}
    assert len(ledger.halves(half)) == 2
    ledger.stop([2])
    assert ledger.halves(half) == ["'p1 #1 la' in chat 1"]
    # Stopped before it begins it has no effect, but one that counts is told truly.
    assert ledger.balance({1: {"state": {"effects": ["p1"]}}}, {1: ["p1 #1"]}).is_clean
    assert not ledger.balance({1: {"state": {"effects": ["p1", "p2", "p2"]}}}, {1: ["p1 #1"]}).is_clean


@pytest.mark.parametrize(
    ("effects", "said", "history", "row"),
    [
        (["p1", "g3"], ["p1 #1", "p2 #2"], None, [3, 1, 0, 0, 1, 0]),
        (["p1", "p2", "g3", "p1"], ["p1 #1", "p2 #2"], None, [3, 0, 1, 0, 0, 0]),
        (["p1", "p2", "g3", "p9"], ["p1 #1", "p2 #2"], None, [3, 0, 1, 0, 0, 0]),
        (["p1", "p2", "g3"], ["p1 #1"], None, [3, 0, 0, 1, 0, 0]),
        (["p1", "p2", "g3"], ["p1 #1", "p2 #1", "p2 #2"], None, [3, 0, 0, 0, 1, 0]),
        (["p1", "p2", "g3"], ["p2 #2", "p1 #1", "p2 #2"], None, [3, 0, 0, 0, 0, 1]),
        (["p2", "p1", "g3"], ["p1 #2", "p2 #1"], None, [3, 0, 0, 0, 0, 1]),
        (["p1", "p2", "g3"], ["p1 #1", "p2 #2"], ["p1", "g3"], [3, 1, 1, 0, 0, 0]),
    ],
    ids=["lost", "doubled", "of nothing", "no reply", "untrue", "replies in disorder", "disorder", "history"],
)
def test_each_fault_is_noticed(
    effects: list[str], said: list[str], history: list[str] | None, row: list[int]
) -> None:
    found = balance(effects, said, history)
    assert found.row == row
    assert not found.is_clean
    assert str(row[0]) in table({"run": found})


@pytest.mark.clause("history.apart")
def test_what_is_kept_in_the_wrong_place_or_as_somebody_elses_is_noticed() -> None:
    shared = Place(-500, -500)
    ledger = Ledger()
    ledger.write(PLACE, "p1", 1)
    for number, (name, author) in enumerate([("s1", 1), ("s2", 2), ("s3", 1)], start=2):
        ledger.write(shared, name, number, author)

    def balance(private: list[str], group: list[tuple[str, int | None]]) -> Balance:
        messages: list[Any] = [{"role": "user", "text": name, "author": {"id": by}} for name, by in group]
        exports = {
            1: {
                "state": {"effects": ["p1"]},
                "history": [{"role": "user", "text": name} for name in private],
            },
            -500: {"state": {"effects": ["s1", "s2", "s3"]}, "history": messages},
        }
        return ledger.balance(exports, {1: ["p1 #1"], -500: ["s1 #1", "s2 #2", "s3 #3"]})

    assert balance(["p1"], [("s1", 1), ("s2", 2), ("s3", 1)]) == Balance(sent=4)
    assert balance(["p1"], [("s2", 2), ("s3", 1)]) == Balance(sent=4), "the newest"
    assert balance(["p1"], [("p1", None), ("s3", 1)]).untrue == ["p1 of user -500, kept in chat -500"]
    assert balance(["s2"], [("s3", 1)]).untrue == ["s2 of user 1, kept in chat 1"]
    assert balance(["p1"], [("s1", 1), ("s2", 1), ("s3", 1)]).untrue == ["s2 of user -500, kept in chat -500"]
    assert balance(["p1"], [("s1", 1), ("s1", 1), ("s3", 1)]).row[2] == 1
    ledger.forget(1, 9, beside=[])
    assert balance([], [("s2", 2), ("s3", 1)]).untrue == []


def test_an_apology_takes_the_place_of_effect_and_reply() -> None:
    said = ["Oh dear", "p1 sorry", "p1 sorry", "p2 #1"]
    assert balance(["p2", "g3"], said) == Balance(sent=3, apologies=["p1 of user 1"])
    assert balance(["p1", "p2", "g3"], ["p1 sorry", "p2 #2"]).row == [3, 0, 1, 0, 0, 0], "but not beside it"


def test_who_was_forgotten_has_no_effects_from_before() -> None:
    ledger = Ledger()
    for number, name in enumerate(["p1", "p2", "p4", "p5"], start=1):
        ledger.write(PLACE, name, number * 10)
    ledger.forget(1, 25, beside=[30])
    said = {1: ["p1 #1", "p2 #2", "p4 #3", "p5 #1"]}
    for effects in (["p5"], ["p4", "p5"]):
        replies = {1: [*said[1][:3], f"p5 #{len(effects)}"]}
        assert ledger.balance({1: {"state": {"effects": effects}}}, replies) == Balance(sent=4)
    assert ledger.balance({1: {"state": {"effects": ["p2", "p5"]}}}, said).doubled == ["p2 of user 1"]
    assert ledger.balance({1: {"state": {}}}, said).lost == ["p5 of user 1"]
    assert ledger.balance({1: {"state": {"effects": ["p5"]}}}, {1: []}).missing == ["p5 of user 1, 40"]


def test_no_order_is_expected_of_what_was_shuffled() -> None:
    assert balance(["p2", "p1", "g3"], ["p2 #1", "p1 #2"], None, frozenset({1})).is_clean


def test_files_are_there_and_whole() -> None:
    ledger = Ledger()
    for number, name in enumerate(["p1", "p10", "p20"], start=1):
        ledger.write(PLACE, name, number)
    whole = {(1, name): [file_of(name) or b""] for name in ("p10", "p20")}
    assert ledger.files(whole).is_clean
    assert ledger.files(whole | {(1, "p10"): []}).row == [0, 0, 0, 1, 0, 0]
    assert ledger.files(whole | {(1, "p20"): [whole[1, "p20"][0], b"half"]}).row == [0, 0, 0, 0, 1, 0]
    assert ledger.files(whole | {(1, "p1"): [b"none"]}).row == [0, 0, 0, 0, 1, 0]


def test_how_often_each_fault_was_felt() -> None:
    async def fault(call: Call) -> None:
        pass

    planned = Planned(fault, times=5, felt=3)
    assert [times(each) for each in (None, 0, 7, [planned, planned], [])] == [1, 0, 7, 6, 0]
    printed = felt({"polling": {"cut": 1_234, "slow": 0}, "webhook": {"cut": 0}}).splitlines()
    assert [line.split() for line in printed[1:]] == [["cut", "1,234", "0"], ["slow", "0", "-"]]


async def test_a_fault_that_never_happens_is_a_problem(tmp_path: Path) -> None:
    """A refusal for nobody: all is well, and the run is not."""

    def plan(names: Sequence[str], chance: Random) -> list[Step]:
        return [("Telegram: duplicates",), ("Telegram: polls fail",), ("Telegram: poison replies",)]

    async def nothing(stage: Stage, chance: Random) -> Felt:
        return [stage.telegram.fail("sendMessage", chat_id=10**10)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(faults.OF_TELEGRAM, "Telegram: poison replies", nothing)
        (setup,) = [each for each in setups() if each.mode == "polling" and not each.is_special]
        outcome = await torture(setup, 1, tmp_path, plan)
    assert outcome.balance.is_clean
    assert outcome.problems == ["polling: this never happened: Telegram: poison replies"]
    assert outcome.felt["Telegram: duplicates"] == 20
    assert outcome.felt["agent: files in replies"] > 0


async def test_who_gets_on_is_not_stuck(telegram: FakeTelegram, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes in all."""
    monkeypatch.setattr(driver, "PATIENCE", 1.0)
    updates = [telegram.message("hi", user_id=1) for _ in range(6)]

    async def acknowledge_one_by_one() -> None:
        async with AiohttpSession(api=TelegramAPIServer.from_base(telegram.url)) as session:
            bot = Bot(telegram.token, session=session)
            for update_id in updates:
                await bot.get_updates(offset=update_id + 1, limit=1, timeout=0)
                await asyncio.sleep(0.4)

    working = asyncio.create_task(acknowledge_one_by_one())
    await driver._settled(telegram)
    await working
    telegram.message("hi", user_id=1)
    with pytest.raises(TimeoutError):
        await driver._settled(telegram)


class Echo:
    """A server that sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.got: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(100):
                self.got.append(data)
                writer.write(data)
        writer.close()


class Client:
    """A connection by way of the link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self) -> None:
        self.close()
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._link.port)

    async def ask(self, text: bytes) -> bytes:
        """The answer; nothing when the connection is cut; TimeoutError when there is none."""
        assert self._writer
        self._writer.write(text)
        async with asyncio.timeout(0.3):
            try:
                return await self._reader.read(100)
            except ConnectionError:
                return b""

    def close(self) -> None:
        if self._writer:
            self._writer.close()


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.fixture
async def link(echo: Echo) -> AsyncIterator[Link]:
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Link(lambda: ("127.0.0.1", port)) as link:
        yield link
    server.close()


@pytest.fixture
async def client(link: Link) -> AsyncIterator[Client]:
    client = Client(link)
    await client.connect()
    assert await client.ask(b"hello") == b"hello"
    yield client
    client.close()


async def test_cut(link: Link, client: Client, echo: Echo) -> None:
    link.cut()
    assert await client.ask(b"a") == b""
    await client.connect()
    assert await client.ask(b"b") == b"b"
    assert echo.got == [b"hello", b"b"]


async def test_a_lost_request_does_not_arrive(link: Link, client: Client, echo: Echo) -> None:
    link.lose_requests(1)
    assert await client.ask(b"a") == b""
    await client.connect()
    assert await client.ask(b"b") == b"b"
    assert echo.got == [b"hello", b"b"]


async def test_a_lost_answer_was_asked_for(link: Link, client: Client, echo: Echo) -> None:
    link.lose_answers(2)
    assert await client.ask(b"a") == b""
    link.lose_no_more()
    await client.connect()
    assert await client.ask(b"b") == b"b"
    assert echo.got == [b"hello", b"a", b"b"]


@pytest.mark.parametrize("deaf", [False, True])
async def test_half_open(link: Link, client: Client, echo: Echo, deaf: bool) -> None:
    link.fall_silent(deaf)
    with pytest.raises(TimeoutError):
        await client.ask(b"a")
    await client.connect()
    assert await client.ask(b"b") == b"b"
    assert (b"a" in echo.got) is not deaf


async def test_far_away(link: Link, client: Client) -> None:
    link.latency = 0.1
    before = asyncio.get_running_loop().time()
    assert await client.ask(b"a") == b"a"
    assert asyncio.get_running_loop().time() - before >= 0.2
