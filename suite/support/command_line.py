"""The command line as real processes, with the suite's agent in place of all that the owner wrote."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from suite.support import warm

ROOT = Path(__file__).resolve().parents[2]
"""The project under test."""

BOT = (sys.executable, "-m", "suite.counting_bot")
"""The command `bot`."""


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """The environment of a bot that sees no settings but these, and those of the test's harness.

    The folder becomes its project: what belongs there, such as `.env` and `.data/`, is the test's own.
    """
    for name in ("bot", "suite", "pyproject.toml"):
        with suppress(FileExistsError):
            (folder / name).symlink_to(ROOT / name)
    return os.environ | {"PYTHONPATH": str(folder), "HOME": str(folder), "NO_COLOR": "1"} | settings


def run(
    folder: Path, *arguments: str, stdin: str = "", module: str = BOT[-1], **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end in an empty folder."""
    command = [sys.executable, "-m", module, *arguments]
    return warm.run(command, cwd=folder, env=environment(folder, **settings), stdin=stdin)


@asynccontextmanager
async def running(
    folder: Path, *arguments: str, **settings: str
) -> AsyncIterator[warm.Process | asyncio.subprocess.Process]:
    """Run the command line beside the test; killed in the end."""
    process = await warm.start(
        [*BOT, *arguments],
        cwd=folder,
        env=environment(folder, HOST="127.0.0.1", PORT="0", **settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
