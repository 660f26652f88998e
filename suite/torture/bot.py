"""The bot under torture: `python -m suite.torture.bot run`.

It is this project's, but for its agent, which leaves a trace of every message, and for its clock, which can
be set wrong: SIGUSR1 moves it to where the file `TORTURE_CLOCK` says, in seconds from the right time.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncGenerator
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from bot.agent_adapter import Place, RecordId, TelegramAgentAdapter, chat, job
from bot.runtime.chosen import ENGINE
from bot.runtime.cli import main
from suite.owner import replace_owner
from suite.torture.names import DEFERRED, LAST_PIECE, PIECES, SHARED, STOPPABLE, STREAMS, TELL, file_of

if TYPE_CHECKING:
    from bot.runtime.app import Owner


class TorturedAgent(TelegramAgentAdapter):
    """Does what a message `NAME SECONDS` says: thinks for so long, and notes the name."""

    accepts = frozenset({"text", "photo"})
    deferred: ClassVar[bool | None] = DEFERRED in os.environ

    def record_of(self, place: Place) -> RecordId | None:
        return chat(place.chat) if place.chat in SHARED else super().record_of(place)

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        from aiogram.methods import SendDocument
        from aiogram.types import BufferedInputFile

        if message == TELL:
            told = {"state": state, "history": [said.to_json() for said in self.turn.history]}
            document = BufferedInputFile(json.dumps(told).encode(), "told.json")
            self.turn.reply(SendDocument(chat_id=int(self.turn.user_id), document=document))
            return "told"
        if photos := [each.file_id for each in self.turn.attachments]:
            state.setdefault("photos", []).append(photos)
        if not message:  # the rest of an album, of which something else came in between
            return "more"
        name, seconds, *later = message.split()
        effects = state.setdefault("effects", [])
        await asyncio.sleep(float(seconds))
        effects.append(name)
        for delay in later:
            self.turn.later(timedelta(seconds=float(delay)), self.remind, name=name, asked=time.monotonic())
        if content := file_of(name):
            chat_id = -1_000 - int(self.turn.user_id) if name[0] == "g" else int(self.turn.user_id)
            self.turn.reply(SendDocument(chat_id=chat_id, document=BufferedInputFile(content, name)))
        return f"{name} #{len(effects)}"

    @job
    async def remind(self, name: str, asked: float) -> str:
        """Note how long it took, by the clock that nobody sets; and the run, where no turn can undo it."""
        with open(os.environ["TORTURE_RUNS"], "a") as runs:  # noqa: ASYNC230 - a line is written at once
            runs.write(f"{self.turn.user_id} {name}\n")
        await asyncio.sleep(0.01)
        self.turn.state.setdefault("reminded", []).append([name, time.monotonic() - asked])
        return f"{name} reminded"


class TorturedSpeaker(TorturedAgent):
    """The same, piece by piece."""

    deferred = None

    async def agent_logic(self, message: str, state: dict[str, Any]) -> AsyncGenerator[str, None]:  # type: ignore[override]
        if message in (TELL, ""):  # the latter is the rest of an album
            yield await super().agent_logic(message, state)
            return
        name, seconds, *later = message.split()
        yield await super().agent_logic(" ".join((name, "0", *later)), state)
        for piece in PIECES:
            await asyncio.sleep(min(STOPPABLE * float(seconds), 2 + float(seconds)) / len(PIECES))
            yield piece
        yield LAST_PIECE


def hurry() -> None:
    """Let nothing wait long before it is tried again, and let all wait that comes."""
    from bot.runtime.state import jobs
    from bot.runtime.telegram import inbox, outbox, streaming

    streaming.DRAFT_DELAY, streaming.DRAFT_GAP = 0.02, 0.05
    streaming.MESSAGE_DELAY, streaming.FIRST_GAP, streaming.MESSAGE_GAP = 0.02, 0.05, 0.1
    streaming.FRAME_SECONDS, streaming.LOOK_SECONDS = 2, 0.2

    outbox.DOUBLINGS = 3
    inbox.MOST_UPDATES = 10_000  # somebody writes in 400 groups at once
    jobs.MOST_CLAIMS = 10  # it is none of their doing that processes are killed
    jobs.CLAIM_SECONDS, jobs.OWED_SECONDS, jobs.OWN_SECONDS = 3.0, 6, 2


def tortured_owner() -> "Owner":
    """An owner who wrote no more than that agent, and a shop whose payments it books."""
    from aiogram import F, Router
    from aiogram.methods import TelegramMethod
    from aiogram.types import Message

    from bot.runtime.app import Owner

    hurry()
    shop = Router()

    @shop.message(F.successful_payment)
    async def paid(message: Message, agent: TelegramAgentAdapter) -> TelegramMethod[Any]:
        assert message.successful_payment
        said = message.successful_payment.invoice_payload
        return message.answer(await agent.handle_message(user_id=agent.turn.user_id, message=said))

    return Owner(agent=TorturedSpeaker if STREAMS in os.environ else TorturedAgent, before=[shop])


def let_clock_jump(file: Path) -> None:
    """Make this process's clock follow the file."""
    right_time, right_time_ns = time.time, time.time_ns
    shift = 0.0

    def set_clock(*_: object) -> None:
        nonlocal shift
        shift = float(file.read_text())

    time.time = lambda: right_time() + shift
    time.time_ns = lambda: right_time_ns() + int(shift * 1e9)
    if find_spec("grpc"):
        # Its core is no Python and keeps the right time, but gets its deadlines from here.
        vars(import_module("grpc.aio._utils"))["time"] = SimpleNamespace(time=right_time)
    signal.signal(signal.SIGUSR1, set_clock)
    set_clock()


def let_disk_fail() -> None:
    """Put a disk that fails when it is told to before the real one, where the engine has such a thing."""
    if file := os.environ.get("TORTURE_DISK"):
        import_module(f"suite.engines.{ENGINE}.disk").install(Path(file))


if __name__ == "__main__":
    let_clock_jump(Path(os.environ["TORTURE_CLOCK"]))
    let_disk_fail()
    replace_owner(tortured_owner)
    main()
