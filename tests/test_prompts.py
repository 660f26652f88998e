"""`copier copy` in a terminal: with typing mistakes, arrow keys and second thoughts."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pyte
import pytest
import yaml

from support import ASKED, QUESTIONS, clean_env

ENTER = "\r"
CTRL_U = "\x15"  # empties the line
CTRL_C = "\x03"
UP, DOWN = "\x1b[A", "\x1b[B"

WIDTH = 80


class Terminal:
    """`copier copy TEMPLATE out`, and the screen a person would see."""

    def __init__(self, questionnaire: Path, cwd: Path) -> None:
        self._screen = pyte.HistoryScreen(WIDTH, 24, history=1000)
        self._stream = pyte.Stream(self._screen)
        self._process = pexpect.spawn(
            sys.executable,
            ["-m", "copier", "copy", str(questionnaire), "out"],
            cwd=str(cwd),
            env=clean_env(PROMPT_TOOLKIT_NO_CPR="1", TERM="xterm"),
            dimensions=(24, WIDTH),
            encoding="utf-8",
        )

    def press(self, *keys: str) -> None:
        """Type text, or press a key."""
        for key in keys:
            self._process.send(key)

    def sees(self, text: str) -> None:
        """Wait until some line of the screen contains the text."""
        deadline = time.monotonic() + 30
        while not any(text in line for line in self._screen.display):
            assert time.monotonic() < deadline, f"no {text!r} in:\n" + self._shown()
            assert self._read(), f"ended without {text!r}:\n" + self._shown()

    def ends(self) -> tuple[str, int | None]:
        """Wait for the end; return all that is on the screen, and the exit code."""
        while self._read():
            pass
        self.close()
        return self._shown(), self._process.exitstatus

    def close(self) -> None:
        """End the process if it still runs."""
        self._process.close(force=True)

    def _read(self) -> bool:
        try:
            self._stream.feed(self._process.read_nonblocking(4096, timeout=0.2))
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        return True

    def _shown(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display)


@pytest.fixture
def terminal(questionnaire: Path, tmp_path: Path) -> Iterator[Terminal]:
    """A terminal in which Copier has just been started."""
    session = Terminal(questionnaire, tmp_path)
    yield session
    session.close()


def answers(folder: Path) -> dict[str, str]:
    """What the rendered project remembers."""
    loaded: dict[str, str] = yaml.safe_load((folder / ".copier-answers.yml").read_text("utf-8"))
    return {name: value for name, value in loaded.items() if name in ASKED}


NAME, SLUG, BACKEND = "What is your bot called", "A short name", "Where should the bot keep"
FSM_STORAGE, AGENT = "Where should the steps be kept", "What should the bot answer with"


def test_four_times_enter(terminal: Terminal, tmp_path: Path) -> None:
    """Whoever just presses Enter gets a project, and is told what to do with it."""
    for question in (NAME, SLUG, BACKEND, AGENT):
        terminal.sees(question)
        terminal.press(ENTER)
    screen, code = terminal.ends()
    assert code == 0, screen
    assert "    cd out\n" in screen
    assert answers(tmp_path / "out") == {
        "project_name": "My Bot",
        "project_slug": "my-bot",
        "backend": "sqlite",
        "agent": "echo",
    }


def test_wrong_answers_are_asked_again(terminal: Terminal, tmp_path: Path) -> None:
    """A wrong answer shows its reason within 80 columns and is asked again."""
    terminal.sees(NAME)
    for wrong, reason in {
        "../x": "not allowed: /",
        "a{b": "not allowed: {",
        "🤖": "not allowed: 🤖",
        "": "must not be empty",
        "-x": "must start with a letter or digit",
        "x" * 61: "at most 60 characters, not 61",
    }.items():
        terminal.press(CTRL_U, wrong, ENTER)
        terminal.sees(reason)
    terminal.press(CTRL_U, "Wetter für Köln", ENTER)
    terminal.sees(SLUG)
    terminal.sees("wetter-fur-koln")
    for wrong, reason in {
        "Ab": "must start with a letter a-z",
        "a_b": "only a-z, 0-9 and hyphens",
        "a--b": "only single hyphens",
        "null": "null has a meaning of its own",
    }.items():
        terminal.press(CTRL_U, wrong, ENTER)
        terminal.sees(reason)
    terminal.press(CTRL_U, "koeln", ENTER)
    for question in (BACKEND, AGENT):
        terminal.sees(question)
        terminal.press(ENTER)
    screen, code = terminal.ends()
    assert code == 0, screen
    assert answers(tmp_path / "out") == {
        "project_name": "Wetter für Köln",
        "project_slug": "koeln",
        "backend": "sqlite",
        "agent": "echo",
    }


def test_arrow_keys_choose_the_backend(terminal: Terminal, tmp_path: Path) -> None:
    """The backends are a list to walk through; each line, uncut, says what it costs."""
    for question in (NAME, SLUG):
        terminal.sees(question)
        terminal.press(ENTER)
    terminal.sees(BACKEND)
    offered = QUESTIONS["backend"]["choices"]
    for text in offered:
        terminal.sees(text)
    # Once down past the end comes back to the top; then up from the end.
    ups = len(offered) - list(offered.values()).index("postgres")
    terminal.press(*[DOWN] * len(offered), *[UP] * ups, ENTER)
    terminal.sees(AGENT)
    for text in QUESTIONS["agent"]["choices"]:
        terminal.sees(text)
    terminal.press(DOWN, ENTER)
    screen, code = terminal.ends()
    assert code == 0, screen
    found = answers(tmp_path / "out")
    assert (found["backend"], found["agent"]) == ("postgres", "llm")


def test_fsm_asks_where_its_steps_are_kept(terminal: Terminal, tmp_path: Path) -> None:
    """One more list, of the engines there are, and only there."""
    for question in (NAME, SLUG):
        terminal.sees(question)
        terminal.press(ENTER)
    terminal.sees(BACKEND)
    terminal.press(*[DOWN] * list(QUESTIONS["backend"]["choices"].values()).index("fsm"), ENTER)
    terminal.sees(FSM_STORAGE)
    offered = QUESTIONS["fsm_storage"]["choices"]
    for text in offered:
        terminal.sees(text)
    terminal.press(DOWN, ENTER)
    terminal.sees(AGENT)
    terminal.press(ENTER)
    screen, code = terminal.ends()
    assert code == 0, screen
    found = answers(tmp_path / "out")
    assert (found["backend"], found["fsm_storage"]) == ("fsm", list(offered.values())[1])


@pytest.mark.parametrize("answered", [0, 2])
def test_ctrl_c_leaves_nothing_behind(terminal: Terminal, tmp_path: Path, answered: int) -> None:
    """Ctrl-C at any question ends with a line, not a traceback, and without a folder."""
    questions = [NAME, SLUG, BACKEND]
    for question in questions[:answered]:
        terminal.sees(question)
        terminal.press(ENTER)
    terminal.sees(questions[answered])
    terminal.press(CTRL_C)
    screen, code = terminal.ends()
    assert code == 1
    assert "Traceback" not in screen
    assert "stopped by user" in screen
    assert list(tmp_path.iterdir()) == []
