"""Files of replies, by a process that is killed, and one that must not stand still."""

import re
import sys
from pathlib import Path

import pytest

from bot.runtime.state.store import OperatorStore
from suite.bot_api import FakeTelegram
from suite.support.replicas import replicas

pytestmark = pytest.mark.clause("outbox.files")

MODULE = "suite.filing_bot"
LIMIT = str(50 * 2**20)


def documents(telegram: FakeTelegram) -> list[bytes]:
    """The content of every document that was sent, answered or not."""
    calls = (call for call in telegram.calls if call.method == "sendDocument")
    return [call.files["a.bin"] for call in calls if call.files]


@pytest.mark.clause("reply.at-least-once")
async def test_a_file_whose_sending_is_killed_comes_again_as_it_was(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    telegram.delay("sendDocument", 60, times=1)
    update_id = telegram.message("file 700000", user_id=1)
    async with replicas(1, tmp_path, telegram, MODULE):
        await telegram.wait_for(lambda: documents(telegram), 120)
        record = await store.load("1")
        (file,) = record.outbox[update_id].kept_files()
        content = await store.read_file("1", file)
    async with replicas(1, tmp_path, telegram, MODULE):
        await telegram.settled(120)
    assert content
    assert documents(telegram) == [content, content]
    assert telegram.texts(1) == ["filed #1"], "the agent ran once"
    assert await store.read_file("1", file) is None


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
async def test_a_large_file_neither_stalls_the_bot_nor_fills_its_memory(
    tmp_path: Path, telegram: FakeTelegram, store: OperatorStore
) -> None:
    async with replicas(1, tmp_path, telegram, MODULE, REPLY_FILE_BYTES=LIMIT):
        for text in ("file 1000", "report", f"file {20 * 2**20}", "report"):  # the first one builds models
            telegram.message(text, user_id=1)
            await telegram.settled(120)
    assert len(documents(telegram)[-1]) == 20 * 2**20
    found = re.fullmatch(r"([\d.]+) s, ([\d.]+) MiB", telegram.texts(1)[-1])
    assert found, telegram.texts(1)
    assert float(found[1]) < 0.2
    assert float(found[2]) < 100
