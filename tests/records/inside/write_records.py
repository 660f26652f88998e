"""Has a rendered bot keep users, and writes down what it kept: `python -m suite.old.write_records FOLDER`.

The users of `seed.jsonl`, and one who talks to the bot.
"""

import asyncio
import importlib
import os
import subprocess
import sys
from pathlib import Path

from bot.runtime.chosen import ENGINE
from suite.contract.harness import make_harness

HERE = Path(__file__).parent


def bot(*arguments: str | Path, stdin: str = "") -> None:
    """Run the bot's command line."""
    program = [sys.executable, "-c", "from bot.runtime.cli import main; main()"]
    subprocess.run([*program, *map(str, arguments)], input=stdin, encoding="utf-8", check=True)


async def main(folder: Path) -> None:
    """Write `export.jsonl`, and the files of the engine."""
    folder.mkdir(parents=True, exist_ok=True)
    harness = make_harness()
    store = await harness.open()
    settings = await asyncio.to_thread(harness.settings)
    os.environ.update(settings, STATE_TTL="0", HYBRID_FLUSH_INTERVAL="60")
    await asyncio.to_thread(bot, "state", "import", HERE / "seed.jsonl")
    await asyncio.to_thread(bot, "chat", "--user", "12", stdin="Hello\nIs anybody there? 👋\n")
    await asyncio.to_thread(bot, "state", "export", folder / "export.jsonl")
    stored = importlib.import_module(f"suite.old.{ENGINE}_stored")
    await stored.dump(settings, folder)
    await store.close()
    await harness.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
