"""`./do prove` and `./do torture`: on a bot that its owner has made their own, and on one that is broken."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from conftest import Project
from support import ROOT, clean_env, run, tree

AGENT = '''"""An agent as people build them: a model that is slow, fails, and is told the conversation."""

import asyncio
import zlib
from typing import Any

from bot.agent_adapter import TelegramAgentAdapter


class Overloaded(Exception):
    """The model has no time."""


class Agent(TelegramAgentAdapter):
    """What the bot says."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        """Ask the model."""
        luck = zlib.crc32(message.encode()) % 7
        await asyncio.sleep(0.02 * luck)
        if luck == 3:
            raise Overloaded("try again later")
        if luck == 4:
            state.clear()
        if luck == 5:
            return ""
        heard = [said.text for said in self.turn.history if said.role == "user"]
        state["summary"] = " / ".join(heard)[-200:]
        return f"You said {len(heard)} things, the last being *{message}*"

    async def on_error(self, error: Exception) -> str | None:
        """Say it in other words."""
        return "My model is overloaded." if isinstance(error, Overloaded) else None
'''

HANDLERS = '''"""Routers and texts of this bot's own."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiogram import F, Router
from aiogram.filters import Command, CommandStart
from aiogram.methods import TelegramMethod
from aiogram.types import Message, TelegramObject

from bot.agent_adapter import Texts

before = Router(name="before")
after = Router(name="after")

Handler = Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]]


@before.message.outer_middleware()
async def only_friends(handler: Handler, event: TelegramObject, data: dict[str, Any]) -> Any:
    """Talk to nobody whose id ends with 5."""
    user = data["event_from_user"]
    return None if user.id % 10 == 5 else await handler(event, data)


@before.message(CommandStart())
async def start(message: Message) -> TelegramMethod[Any]:
    """Say hello in this bot's own way."""
    return message.answer("Ahoy!")


@before.message(Command("export"))
async def export(message: Message) -> TelegramMethod[Any]:
    """Nobody takes anything along."""
    return message.answer("No.")


@before.message(F.text.contains("7"))
async def seven(message: Message) -> TelegramMethod[Any]:
    """Answer some messages without the agent."""
    return message.answer("Seven!")


@after.message(F.photo)
async def photo(message: Message) -> TelegramMethod[Any]:
    """Like every picture."""
    return message.answer("Nice picture.")


TEXTS = {
    "en": Texts(hello="Ahoy!", sorry="Oops.", menu={"start": "Ahoy", "hours": "When we are open"}),
    "de": Texts(hello="Moin!", sorry="Hoppla.", menu={"start": "Moin", "hours": "Wann wir offen sind"}),
}
'''

SOME = ["suite/contract/test_store.py", "suite/behaviour/test_commands.py", "suite/flow/test_flow.py"]
"""The commands and texts are those that the owner replaced; some of everything else."""


def kit(command: str, folder: Path, *arguments: str) -> CompletedProcess[str]:
    """Run the kit as `./do` does, in the environment that the tests have already."""
    start: list[str | Path] = [sys.executable, "-P", "-m", "suite", command, folder, *arguments]
    return run(
        *start,
        cwd=ROOT,
        env=clean_env(PYTHONPATH=str(ROOT)),
        timeout=900,
    )


@pytest.fixture
def edited(project: Project) -> Callable[[str], Path]:
    """Render a bot and edit it heavily."""

    def make(backend: str) -> Path:
        folder = project({"backend": backend})
        (folder / "bot/agent.py").write_text(AGENT, "utf-8")
        (folder / "bot/handlers.py").write_text(HANDLERS, "utf-8")
        (folder / ".env").write_text("BOT_TOKEN=nonsense\nHISTORY_LIMIT=1\nFLOOD_LIMIT=1\n", "utf-8")
        with (folder / "pyproject.toml").open("a", encoding="utf-8") as settings:
            settings.write('\n[tool.pytest]\naddopts = ["--no-such-option"]\n')
        (folder / "suite").mkdir()
        (folder / "suite/__init__.py").write_text('raise SystemExit("a package of the owner\'s")\n', "utf-8")
        return folder

    return make


@pytest.mark.slow(60)
def test_an_edited_bot_keeps_every_promise(edited: Callable[[str], Path]) -> None:
    """Whatever its owner wrote, in a folder that is not touched."""
    folder = edited("fsm")
    (folder / "bot/flow/steps.py").write_text("raise RuntimeError('half done')\n", "utf-8")
    before = tree(folder)
    done = kit("prove", folder, "-q", "-x", *SOME)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed in " in done.stdout
    assert tree(folder) == before


@pytest.mark.slow(60)
def test_an_owners_agent_under_fire(
    edited: Callable[[str], Path], record_property: Callable[..., None]
) -> None:
    """Whatever it says, each message counts once; what it says instead of answering counts as its reply."""
    done = kit("torture", edited("redis"), "--short", "--seed", "1", "--mode", "webhook")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kill -9 of the bot" in done.stdout
    assert "messages got an apology" in done.stdout, "its agent did raise"
    record_property("torture", f"an owner's agent: {done.stdout[done.stdout.rfind('updates sent') :]}")


TRANSACTION = "bot/runtime/telegram/transaction.py"


def break_runtime(folder: Path, old: str, new: str) -> None:
    """Change how the bot's own transaction works."""
    text = (folder / TRANSACTION).read_text("utf-8")
    assert text.count(old) == 1
    (folder / TRANSACTION).write_text(text.replace(old, new), "utf-8")


@pytest.mark.slow(60)
def test_a_runtime_that_does_not_commit_fails(edited: Callable[[str], Path]) -> None:
    """The kit proves the runtime in the folder, not the template's."""
    folder = edited("memory")
    break_runtime(
        folder,
        "                if changes or replies or turn.begins_work:\n",
        "                if not self.store:\n",
    )
    done = kit("prove", folder, "-q", "suite/behaviour/test_conversation.py", "-k", "fifty")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "failed" in done.stdout


@pytest.mark.slow(60)
def test_a_runtime_that_forgets_what_it_applied_fails_under_fire(edited: Callable[[str], Path]) -> None:
    """Whatever the agent says: effects that count twice are found."""
    folder = edited("redis")
    break_runtime(
        folder,
        "            noted = with_applied(changes, record, update.update_id, queue, date_of(update))",
        "            noted = changes",
    )
    done = kit("torture", folder, "--short", "--seed", "1", "--mode", "webhook")
    assert done.returncode == 1, done.stdout + done.stderr
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("redis, webhook")][-1:]
    assert int(row.split()[-4]) > 0, done.stdout


@pytest.mark.parametrize("command", ["prove", "torture"])
def test_a_folder_that_is_no_bot_is_one_line(tmp_path: Path, command: str) -> None:
    """It says what is missing, and is exit code 2."""
    done = kit(command, tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"{command}: {tmp_path} is no rendered bot: it has no bot/runtime/chosen.py\n"
    assert kit(command, tmp_path / "absent").returncode == 2


def test_help_and_the_list_of_clauses(tmp_path: Path) -> None:
    """Both need no bot."""
    for command in ("prove", "torture"):
        done = kit(command, Path("--help"))
        assert done.returncode == 0
        assert f"./do {command} " in done.stdout
    listed = kit("prove", Path("--list"))
    assert listed.returncode == 0
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    assert "update.once" in names
    assert len(set(names)) == len(names) > 40


def test_do_hands_on_what_it_is_given(tmp_path: Path) -> None:
    """From wherever it is called."""
    (tmp_path / "uv").write_text('#!/bin/sh\n[ "$1" = --version ] || printf "<%s>" "$@"\n', "utf-8")
    (tmp_path / "uv").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = run("sh", ROOT / "do", "prove", "my bot", "-k", "a b", cwd=tmp_path, env=clean_env(PATH=path))
    shown = f"<run><--quiet><--project><{ROOT}><python><-P><-m><suite><prove><my bot><-k><a b>"
    assert done.stdout == shown, done.stderr
