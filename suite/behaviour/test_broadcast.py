"""`bot broadcast`: everybody gets it, whatever happens to the command."""

import asyncio
import signal
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bot.runtime.state.store import Changes, OperatorStore
from suite.bot_api import Call, FakeTelegram
from suite.support import warm
from suite.support.command_line import environment

pytestmark = [pytest.mark.clause("broadcast.everybody"), pytest.mark.usefixtures("people")]

PEOPLE = 120
MODULE = (sys.executable, "-m", "suite.broadcasting_bot")


@pytest.fixture
async def people(store: OperatorStore) -> None:
    for number in range(1, PEOPLE + 1):
        await store.commit(str(number), Changes(state={"a": b"1"}), expect=0)
    for record in ("-100", "waiting:1", "identity:-5", "topic:-100:3"):
        await store.commit(record, Changes(state={"a": b"1"}), expect=0)


class Command:
    """Runs the command; where its process is killed, its lease ends after a second."""

    def __init__(self, telegram: FakeTelegram, folder: Path) -> None:
        self._telegram, self._folder = telegram, folder

    async def start(
        self, *arguments: str, text: str = "News!", name: str = "news", lease: int = 1
    ) -> warm.Process | asyncio.subprocess.Process:
        file = self._folder / "text"
        file.write_text(text)
        settings = {"BOT_TOKEN": self._telegram.token, "TELEGRAM_API_URL": self._telegram.url}
        return await warm.start(
            [*MODULE, "broadcast", str(file), "--name", name, "--yes", *arguments],
            cwd=self._folder,
            env=environment(self._folder, LEASE=str(lease), **settings),
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str, **more: Any) -> tuple[int, str]:
        process = await self.start(*arguments, **more)
        _, said = await process.communicate()
        assert said is not None
        return process.returncode or 0, said.decode()


@pytest.fixture
def command(telegram: FakeTelegram, tmp_path: Path) -> Command:
    return Command(telegram, tmp_path)


def received(telegram: FakeTelegram, text: str = "News!") -> Counter[int]:
    return Counter(each.chat_id for each in telegram.sent if each.text == text)


def has_reached(telegram: FakeTelegram, count: int) -> bool:
    return len(received(telegram)) >= count


async def test_everybody_gets_it_once(telegram: FakeTelegram, command: Command, store: OperatorStore) -> None:
    telegram.fail("sendMessage", status=403, times=1, chat_id=7)
    telegram.fail("sendMessage", status=429, retry_after=1, times=1, chat_id=9)
    before = (await store.load("1")).version
    code, said = await command.run()
    assert code == 0, said
    assert f"{PEOPLE - 1} sent, 1 blocked the bot" in said
    assert received(telegram) == Counter({number: 1 for number in range(1, PEOPLE + 1) if number != 7})
    assert (await store.load("1")).version == before, "it is no change of theirs"
    code, said = await command.run()
    assert code == 1
    assert "is over" in said
    code, said = await command.run("--groups", text="More", name="other")
    assert code == 0, said
    assert received(telegram, "More").keys() == {*range(1, PEOPLE + 1), -100}


async def test_killed_five_times(telegram: FakeTelegram, command: Command) -> None:
    for kill in range(1, 6):
        process = await command.start()
        await telegram.wait_for(partial(has_reached, telegram, 15 * kill))
        process.send_signal(signal.SIGKILL)
        await process.communicate()
        await asyncio.sleep(1)
    code, said = await command.run()
    assert code == 0, said
    counts = received(telegram)
    assert counts.keys() == set(range(1, PEOPLE + 1))
    assert counts.total() - PEOPLE <= 5 * 5, "no more twice than were under way"
    assert "had it already" in said


@pytest.mark.rarely
async def test_ten_thousand_people_killed_five_times(
    telegram: FakeTelegram, command: Command, store: OperatorStore
) -> None:
    """Each has it, and no more have it twice than there were sends under way when the command was killed."""
    many = 10_000
    for first in range(PEOPLE + 1, many + 1, 200):
        numbers = range(first, min(first + 200, many + 1))
        await asyncio.gather(
            *(store.commit(str(each), Changes(state={"a": b"1"}), expect=0) for each in numbers)
        )
    for kill in range(1, 6):
        process = await command.start()
        await telegram.wait_for(lambda goal=kill * many // 6: len(telegram.sent) >= goal, 600)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        await process.communicate()
        await asyncio.sleep(1)
    code, said = await command.run()
    assert code == 0, said
    counts = received(telegram)
    assert counts.keys() == set(range(1, many + 1))
    assert counts.total() - many <= 5 * 5


async def test_two_at_a_time_are_one_too_many(telegram: FakeTelegram, command: Command) -> None:
    has_failed = asyncio.Event()

    async def wait(_: Call) -> None:
        await has_failed.wait()

    telegram.fault("sendMessage", wait, times=5)
    process = await command.start(lease=60)
    await telegram.wait_for(lambda: any(each.method == "sendMessage" for each in telegram.calls))
    code, said = await command.run()
    assert code == 1
    assert "another process" in said
    has_failed.set()
    await process.communicate()
    assert received(telegram).total() == PEOPLE


async def test_who_was_not_reached_is_tried_again(telegram: FakeTelegram, command: Command) -> None:
    failing = telegram.fail("sendMessage", status=429, retry_after=10**6, times=10**6, chat_id=3)
    code, said = await command.run()
    assert code == 1
    assert "1 were not reached" in said
    failing.chat_id = 0
    code, said = await command.run()
    assert code == 0, said
    assert received(telegram) == Counter(range(1, PEOPLE + 1))


async def test_another_text_needs_another_name(telegram: FakeTelegram, command: Command) -> None:
    process = await command.start()
    await telegram.wait_for(lambda: received(telegram))
    process.send_signal(signal.SIGKILL)
    await process.communicate()
    await asyncio.sleep(1)
    code, said = await command.run(text="Other news!")
    assert code == 1
    assert "something else" in said
    assert not received(telegram, "Other news!")


@pytest.mark.parametrize(("text", "name", "reason"), [(" ", "news", "empty"), ("Hi", "a b", "--name")])
async def test_nonsense_is_refused(command: Command, text: str, name: str, reason: str) -> None:
    code, said = await command.run(text=text, name=name)
    assert code == 1
    assert reason in said
    assert "Traceback" not in said
