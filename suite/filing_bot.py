"""A bot that takes files and replies with files, and tells how it fared: `python -m suite.filing_bot run`."""

import asyncio
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.agent_adapter import TelegramAgentAdapter
from bot.runtime.cli import main
from suite.owner import replace_owner

if TYPE_CHECKING:
    from bot.runtime.app import Owner

BEAT_SECONDS = 0.005


class FilingAgent(TelegramAgentAdapter):
    """Takes `file BYTES` and `report`: for how long the event loop was busy, and how much memory it took.

    Of a file it tells what it is.
    """

    accepts = frozenset({"text", "animation", "audio", "document", "photo", "video", "voice"})

    async def connect(self) -> None:
        await super().connect()
        self._longest = 0.0
        self._memory = _resident()
        self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        """Measure the processor time between two turns of the loop: a busy machine has no part in it."""
        while True:
            before = time.thread_time()
            await asyncio.sleep(BEAT_SECONDS)
            self._longest = max(self._longest, time.thread_time() - before)

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        from aiogram.methods import SendDocument
        from aiogram.types import BufferedInputFile

        for file in self.turn.attachments:
            content = await file.read()
            return f"{file.kind} {file.name!r} of {len(content)} bytes, {message!r}"
        state["count"] = state.get("count", 0) + 1
        match message.split():
            case ["file", size]:
                # Which differs each time: what comes twice was kept.
                content = await asyncio.to_thread(os.urandom, int(size))
                self._longest, self._memory = 0.0, _resident()
                document = BufferedInputFile(content, "a.bin")
                self.turn.reply(SendDocument(chat_id=int(self.turn.user_id), document=document))
                return f"filed #{state['count']}"
            case ["report"]:
                return f"{self._longest:.3f} s, {_resident('HWM') - self._memory:.1f} MiB"
        return "what?"


def _resident(kind: str = "RSS") -> float:
    """This process' memory, now or (`HWM`) at most, in MiB."""
    found = re.search(rf"Vm{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def filing_owner() -> "Owner":
    """An owner who wrote no more than that agent."""
    from bot.runtime.app import Owner

    return Owner(agent=FilingAgent)


if __name__ == "__main__":
    replace_owner(filing_owner)
    main()
