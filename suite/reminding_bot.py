"""A bot that reminds: `python -m suite.reminding_bot run`.

It kills itself where a job's argument says so, once.
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.agent_adapter import TelegramAgentAdapter, job
from bot.runtime.cli import main
from suite.owner import replace_owner

if TYPE_CHECKING:
    from bot.runtime.app import Owner
    from bot.runtime.state.jobs import Job

MOMENTS = ("claimed", "ran", "committed")
"""Between claim and run, between run and commit, between commit and sending."""


class RemindingAgent(TelegramAgentAdapter):
    """Notes what it reminded of, and when."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        return message

    @job
    async def remind(self, text: str, dies: str = "") -> str:
        self.turn.state.setdefault("reminded", []).append([text, time.time()])
        if dies == "ran":
            die(f"{dies} {text}")
        return f"{text}!"

    @job
    async def fail(self) -> None:
        raise LookupError("in a job")

    @job
    async def wait(self) -> str:
        await asyncio.sleep(0.5)
        return "waited"


def die(name: str) -> None:
    """End this process as a power failure would, unless it happened already."""
    mark = Path(f"died {name}")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def reminding_owner() -> "Owner":
    """An owner who wrote no more than that agent; what waits for a dead process waits shortly."""
    from bot.runtime.app import Owner
    from bot.runtime.state import jobs
    from bot.runtime.telegram.jobs import JobRunner

    jobs.CLAIM_SECONDS, jobs.OWED_SECONDS, jobs.OWN_SECONDS = 2.0, 1, 0
    jobs.MOST_CLAIMS = 10  # on a busy machine a claim may end while its process lives
    do, deliver = JobRunner._do, JobRunner._deliver

    def is_to_die(job: "Job", moment: str) -> None:
        if job.arguments.get("dies") == moment:
            die(f"{moment} {job.arguments['text']}")

    async def do_or_die(self: JobRunner, record: Any, job: "Job", poison: Any) -> None:
        is_to_die(job, "claimed")
        await do(self, record, job, poison)

    async def deliver_or_die(self: JobRunner, record: str, job: "Job", *more: Any) -> None:
        is_to_die(job, "committed")
        await deliver(self, record, job, *more)

    setattr(JobRunner, "_do", do_or_die)  # noqa: B010 - which nobody else replaces
    setattr(JobRunner, "_deliver", deliver_or_die)  # noqa: B010
    return Owner(agent=RemindingAgent)


if __name__ == "__main__":
    sys.argv[0] = "bot"
    replace_owner(reminding_owner)
    main()
