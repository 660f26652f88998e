"""Record the picture of a session: `uv run python docs/pictures/session.py`, as `docs/assets/session.svg`.

A shell is started in a pseudo terminal, commands and answers are typed into it, and what a terminal would
show is drawn: nothing else is. The template is the working tree, which git finds under the address that is
typed. What is not shown is the installation of the bot's dependencies, between two of the commands. Needs uv,
git, bash and the network.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pexpect
import pyte
from pyte.screens import Char

ROOT = Path(__file__).resolve().parent.parent.parent
PICTURE = ROOT / "docs" / "assets" / "session.svg"
TITLE = "copier copy, a chat with the bot, kill -9, and the bot remembers"
ADDRESS = "https://github.com/org/tg-state-template.git"

WIDTH, HEIGHT = 84, 20
CELL, LINE = 8.4, 18  # pixels
ENTER = "\r"
KEPT = ("PATH", "LANG", "UV_CACHE_DIR", "SSL_CERT_FILE", "HTTPS_PROXY", "https_proxy", "NO_PROXY")

COLOURS = {
    "default": "#d8dee9",
    "black": "#4c566a",
    "red": "#e0707a",
    "green": "#a3be8c",
    "brown": "#ebcb8b",
    "blue": "#81a1c1",
    "magenta": "#b48ead",
    "cyan": "#88c0d0",
    "white": "#eceff4",
}


@dataclass
class Frame:
    """What the screen showed for a while.

    Attributes:
        rows: the characters of each line, by column.
        seconds: how long it is shown.
    """

    rows: list[list[Char]]
    seconds: float


class Session:
    """A shell in a terminal, and the frames recorded of it."""

    def __init__(self, folder: Path) -> None:
        """Start a shell in `folder`, for which the template stands at its public address."""
        home = folder / "home"
        home.mkdir()
        (home / ".gitconfig").write_text(
            "[user]\nname = Ada\nemail = ada@example.invalid\n[safe]\ndirectory = *\n"
            f'[url "{snapshot(folder)}"]\ninsteadOf = {ADDRESS}\n'
        )
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        uv_cache = subprocess.run(["uv", "cache", "dir"], capture_output=True, text=True, check=True).stdout
        environment = kept | {
            "HOME": str(home),
            "TERM": "xterm-256color",
            "PS1": r"\[\e[32m\]\w\[\e[0m\]$ ",
            "PROMPT_DIRTRIM": "1",
            "PROMPT_TOOLKIT_NO_CPR": "1",
            "UV_CACHE_DIR": uv_cache.strip(),
            "UV_NO_PROGRESS": "1",
            "BASH_SILENCE_DEPRECATION_WARNING": "1",
        }
        self.frames: list[Frame] = []
        self._screen = pyte.Screen(WIDTH, HEIGHT)
        self._stream = pyte.Stream(self._screen)
        self._shell = pexpect.spawn(
            "bash",
            ["--norc", "--noprofile", "-i"],
            cwd=str(home),
            env=environment,
            dimensions=(HEIGHT, WIDTH),
            encoding="utf-8",
        )
        self.waits_for("$ ")

    def types(self, text: str, *, seconds: float = 1.2) -> None:
        """Type a line and show it before it is entered."""
        self._shell.send(text)
        self.waits_for(text)
        self.shows(seconds)
        self._shell.send(ENTER)

    def watches(self, text: str, *, seconds: float = 0.2) -> None:
        """Record what comes, as it comes, until a text is there."""
        while not any(text in line for line in self._screen.display):
            self._read(seconds)
            self.shows(seconds)

    def presses(self, key: str) -> None:
        """Press a key."""
        self._shell.send(key)
        self._settle()

    def kills(self) -> None:
        """Kill what runs in the foreground, as `kill -9` does."""
        os.killpg(os.tcgetpgrp(self._shell.child_fd), signal.SIGKILL)

    def waits_for(self, text: str, *, times: int = 1) -> None:
        """Wait until the screen shows a text on so many lines, and nothing more comes.

        Raises:
            TimeoutError: it does not, within three minutes.
        """
        deadline = time.monotonic() + 180
        while sum(text in line for line in self._screen.display) < times:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {text!r} in:\n" + "\n".join(self._screen.display))
            self._read(0.2)
        self._settle()

    def shows(self, seconds: float) -> None:
        """Record what is on the screen."""
        rows = [[self._screen.buffer[y][x] for x in range(WIDTH)] for y in range(HEIGHT)]
        self.frames.append(Frame(rows, seconds))

    def clear(self) -> None:
        """Begin with an empty screen, as `clear` does."""
        self._shell.send("\x0c")
        self._settle()

    def close(self) -> None:
        """End the shell."""
        self._shell.close(force=True)

    def _settle(self) -> None:
        while self._read(0.5):
            pass

    def _read(self, timeout: float) -> bool:
        try:
            self._stream.feed(self._shell.read_nonblocking(4096, timeout=timeout))
        except pexpect.TIMEOUT:
            return False
        return True


def snapshot(folder: Path) -> Path:
    """The working tree as a git repository with one commit and one tag."""
    repository = folder / "tg-state-template"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, repository / name)
    git = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.invalid"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Snapshot"], ["tag", "v0.1.0"]):
        subprocess.run([*git, *command], cwd=repository, check=True)
    return repository


def record(folder: Path) -> list[Frame]:
    """Make a bot, talk to it, kill it, and ask whether it remembers."""
    session = Session(folder)
    try:
        session.types("uvx copier copy gh:org/tg-state-template mybot")
        session.waits_for("What is your bot called?")
        session.shows(1.2)
        session.presses(ENTER)
        session.waits_for("A short name")
        session.presses(ENTER)
        session.waits_for("Where should the bot keep")
        session.shows(2.4)
        session.presses(ENTER)
        session.waits_for("What should the bot answer with")
        session.shows(1.2)
        session.presses(ENTER)
        session.waits_for("Start from tg-state-template")
        session.shows(2.4)
        session.clear()
        subprocess.run(["uv", "sync", "--quiet"], cwd=folder / "home" / "mybot", check=True)
        session.types("cd mybot")
        session.types("uv run bot chat")
        session.waits_for("you>")
        session.shows(1.2)
        session.types("hi", seconds=0.6)
        session.waits_for("(#1)")
        session.types("remember me", seconds=0.8)
        session.waits_for("(#2)")
        session.shows(1.2)
        session.kills()
        session.waits_for("Killed")
        session.shows(1.6)
        session.types("uv run bot chat")
        session.waits_for("Write to your bot", times=2)
        session.types("and now?", seconds=0.8)
        session.waits_for("(#3)")
        session.shows(7)
    finally:
        session.close()
    return session.frames


def drawn(frames: list[Frame], title: str) -> str:
    """The frames as an animated SVG; without animation, the last one."""
    width, height = round(WIDTH * CELL) + 32, HEIGHT * LINE + 28
    total = sum(frame.seconds for frame in frames)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">',
        f"<title>{title}</title>",
    ]
    style = [
        'text { font: 14px "DejaVu Sans Mono", "Noto Sans Mono", Menlo, Consolas, monospace; }',
        "text { white-space: pre; }",
        ".f { visibility: hidden; } .f:last-of-type { visibility: visible; }",
        "@media (prefers-reduced-motion: no-preference) {",
    ]
    begin = 0.0
    for number, frame in enumerate(frames):
        start, end = 100 * begin / total, 100 * (begin + frame.seconds) / total
        begin += frame.seconds
        hidden = "visibility: hidden"
        before = f"0% {{ {hidden} }} " if start else ""
        after = f" {end:.2f}%, 100% {{ {hidden} }}" if end < 99.99 else " 100% { visibility: visible }"
        style.append(f"@keyframes k{number} {{ {before}{start:.2f}% {{ visibility: visible }}{after} }}")
        style.append(f"#f{number} {{ animation: k{number} {total:.1f}s step-end infinite; }}")
    parts += ["<style>", *style, "}", "</style>", '<rect width="100%" height="100%" rx="8" fill="#242933"/>']
    for number, frame in enumerate(frames):
        parts.append(f'<g class="f" id="f{number}">')
        for y, row in enumerate(frame.rows):
            parts += spans(row, 14 + LINE * (y + 1) - 4)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>\n"])


def spans(row: list[Char], y: float) -> list[str]:
    """The visible text of a line, a piece for each look."""
    drawn_spans = []
    start = 0
    while start < len(row):
        end = start + 1
        while end < len(row) and look(row[end]) == look(row[start]):
            end += 1
        text = "".join(char.data for char in row[start:end])
        stripped = text.rstrip()
        if stripped:
            cells = len(row[start:end]) - (len(text) - len(stripped))
            bold = ' font-weight="bold"' if row[start].bold else ""
            drawn_spans.append(
                f'<text x="{16 + start * CELL:.1f}" y="{y:g}" fill="{colour(row[start])}"{bold} '
                f'textLength="{cells * CELL:.1f}">{escape(stripped, quote=False)}</text>'
            )
        start = end
    return drawn_spans


def look(char: Char) -> tuple[str, bool]:
    """What makes a character look unlike its neighbour."""
    return colour(char), char.bold


def colour(char: Char) -> str:
    """The colour of a character; one on a ground of its own takes that."""
    name = (
        char.fg if char.bg == "default" and not char.reverse else char.bg if char.bg != "default" else char.fg
    )
    return COLOURS.get(name.removeprefix("bright"), f"#{name}" if len(name) == 6 else COLOURS["default"])


def main() -> None:
    """Record and draw."""
    with tempfile.TemporaryDirectory(prefix="session-") as folder:
        frames = record(Path(folder))
    PICTURE.write_text(drawn(frames, TITLE), "utf-8")


if __name__ == "__main__":
    main()
