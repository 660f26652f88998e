"""Who is compared: where its source is, what it needs, and how it is started."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = Path(os.environ.get("COMPARE_CACHE", ROOT / ".cache" / "compare"))
"""What is installed and rendered, and what was only tried: outside of git."""

Mode = Literal["polling", "webhook"]
Kind = Literal["python", "node", "ours"]


class CannotRunError(Exception):
    """Something that is needed is missing, or could not be installed; the text says what to do."""


@dataclass(frozen=True)
class Contestant:
    """A bot.

    Attributes:
        folder: of its source, beside this file.
        variant: the file that is run; of ours, the backend.
        says: what is special about it, for the table.
        keeps: where it keeps state.
        modes: how it can get its updates.
    """

    folder: str
    variant: str
    says: str
    keeps: Literal["memory", "file", "redis"]
    modes: tuple[Mode, ...] = ("polling", "webhook")

    @property
    def name(self) -> str:
        return f"{self.folder}/{self.variant}"

    @property
    def kind(self) -> Kind:
        if self.folder == "ours":
            return "ours"
        return "node" if (HERE / self.folder / "package.json").exists() else "python"

    @property
    def sources(self) -> list[Path]:
        """What its owner writes."""
        folder = HERE / self.folder
        if self.folder == "tgbot-template":
            return [folder / "tgbot" / "handlers" / name for name in ("__init__.py", "counter.py")]
        if self.kind == "ours":
            return [folder / "agent.py"]
        ending = ".js" if self.kind == "node" else ".py"
        return [folder / f"{name}{ending}" for name in ("counter", self.variant)]

    @property
    def lines(self) -> int:
        """Lines that its owner writes: neither blank, nor comments, nor what only the comparison asks for."""
        return sum(lines_of(path.read_text("utf-8")) for path in self.sources)

    @property
    def version(self) -> str:
        """Of the library it is built on, as pinned."""
        folder = HERE / self.folder
        if self.kind == "ours":
            return _told("git", "describe", "--always", "--dirty")
        if self.kind == "node":
            pinned = json.loads((folder / "package.json").read_text("utf-8"))["dependencies"]
            return str(pinned[{"vercel-chat": "chat"}.get(self.folder, self.folder)])
        return (folder / "requirements.txt").read_text("utf-8").splitlines()[0].partition("==")[2]

    def install(self) -> list[str]:
        """Bring what it needs, unless it is there; the command that runs it.

        Raises:
            CannotRunError: it cannot be had.
        """
        if self.kind == "ours":
            return _render(self.variant)
        place = CACHE / self.folder
        needs = HERE / self.folder / ("package.json" if self.kind == "node" else "requirements.txt")
        wanted = hashlib.sha256(needs.read_bytes() + sys.version.encode()).hexdigest()
        stamp = place / "installed"
        if not stamp.exists() or stamp.read_text("utf-8") != wanted:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            if self.kind == "node":
                shutil.copy(needs, place)
                _run("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", folder=place)
            else:
                _run("uv", "venv", "--quiet", "--python", sys.executable, "venv", folder=place)
                install = ("uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", "venv")
                _run(*install, "-r", str(needs), folder=place)
            stamp.write_text(wanted, "utf-8")
        # Beside what was installed, where Node looks for it, and where nothing gets into git.
        app = place / "app"
        shutil.rmtree(app, ignore_errors=True)
        shutil.copytree(HERE / self.folder, app, ignore=shutil.ignore_patterns("__pycache__"))
        if self.kind == "node":
            return [node(), str(app / f"{self.variant}.js")]
        script = "bot.py" if self.folder == "tgbot-template" else f"{self.variant}.py"
        return [str(place / "venv" / "bin" / "python"), str(app / script)]


CONTESTANTS = (
    Contestant("ours", "sqlite", "**this template, sqlite**", "file"),
    Contestant("ours", "redis", "**this template, redis**", "redis"),
    Contestant("aiogram", "defaults", "aiogram, by default", "memory"),
    Contestant("aiogram", "redis_storage", "aiogram, Redis", "redis"),
    Contestant("aiogram", "simple_isolation", "aiogram, Redis, `SimpleEventIsolation`", "redis"),
    Contestant("aiogram", "redis_isolation", "aiogram, Redis, `RedisEventIsolation`", "redis"),
    Contestant("python-telegram-bot", "defaults", "python-telegram-bot, by default", "memory"),
    Contestant(
        "python-telegram-bot", "pickle_persistence", "python-telegram-bot, `PicklePersistence`", "file"
    ),
    Contestant("pytelegrambotapi", "defaults", "pyTelegramBotAPI, by default", "memory"),
    Contestant("pytelegrambotapi", "redis_storage", "pyTelegramBotAPI, Redis", "redis"),
    Contestant("grammy", "defaults", "grammY, by default", "memory"),
    Contestant("grammy", "production", "grammY, Redis, its deployment checklist", "redis"),
    Contestant("telegraf", "defaults", "telegraf, by default", "memory"),
    Contestant("telegraf", "production", "telegraf, Redis", "redis"),
    Contestant("vercel-chat", "defaults", "Chat SDK, by default", "memory"),
    Contestant("vercel-chat", "production", "Chat SDK, Redis, `queue`", "redis"),
    Contestant("tgbot-template", "redis", "tgbot_template_v3, Redis", "redis", ("polling",)),
)

OURS, PLAIN = CONTESTANTS[0], CONTESTANTS[2]
"""With whose speed that of the others is compared."""


def lines_of(source: str) -> int:
    """How many lines a source has: neither blank, nor comments, nor docstrings, nor the audit."""
    source = re.sub(r"^ *(#|//) audit$.*?^ *(#|//) end of audit$", "", source, flags=re.MULTILINE | re.DOTALL)
    source = re.sub(r'^ *""".*?"""$', "", source, flags=re.MULTILINE | re.DOTALL)
    lines = (line.strip() for line in source.splitlines())
    return sum(not (line == "" or line.startswith(("#", "//")) or line.endswith("# audit")) for line in lines)


def node() -> str:
    """Where Node.js is.

    Raises:
        CannotRunError: it is not there, or too old.
    """
    found = shutil.which("node")
    if not (found and shutil.which("npm")):
        raise CannotRunError("Node.js 20 or newer and npm are needed, and not on PATH (https://nodejs.org)")
    version = _told(found, "--version")
    if int(version.lstrip("v").partition(".")[0]) < 20:
        raise CannotRunError(f"Node.js 20 or newer is needed, and {found} is {version}")
    return found


def _render(backend: str) -> list[str]:
    """A project of this working tree, with the counter as its agent and the environment of a deployment."""
    place = CACHE / f"ours-{backend}"
    project = place / "project"
    shutil.rmtree(project, ignore_errors=True)
    copy = (
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "copier",
        "copy",
        "--quiet",
        "--defaults",
        "--vcs-ref",
        "HEAD",
    )
    _run(*copy, "--data", f"backend={backend}", str(ROOT), str(project), folder=ROOT)
    shutil.copy(HERE / "ours" / "agent.py", project / "bot" / "agent.py")
    environment = place / "venv"
    sync = ("uv", "sync", "--quiet", "--no-dev", "--compile-bytecode", "--python", sys.executable)
    _run(*sync, folder=project, UV_PROJECT_ENVIRONMENT=str(environment))
    return [str(environment / "bin" / "bot"), "run"]


def _run(*command: str, folder: Path, **variables: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    if not shutil.which(command[0]):
        raise CannotRunError(f"{command[0]} is needed, and not on PATH (`./do compare` brings uv along)")
    done = subprocess.run(
        command,
        cwd=folder,
        env=kept | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-5:])
        raise CannotRunError(f"`{' '.join(command[:3])} …` failed in {folder}:\n{last}")


def _told(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8").stdout.strip()


def chosen(names: Sequence[str]) -> list[Contestant]:
    """Those of a folder, or with a full name; all without names.

    Raises:
        CannotRunError: there is none of a name.
    """
    unknown = [name for name in names if not any(name in (each.folder, each.name) for each in CONTESTANTS)]
    if unknown:
        known = dict.fromkeys(each.folder for each in CONTESTANTS)
        raise CannotRunError(
            f"nobody is called {unknown[0]}: there are {', '.join(known)}; --list names each"
        )
    return [each for each in CONTESTANTS if not names or {each.folder, each.name} & set(names)]
