"""The conversation in the terminal, its buttons by numbers."""

from pathlib import Path

import pytest

from suite.flow.example import handlers
from suite.flow.owner import BOT
from suite.flow.person import NAME, STYLE, SUMMARY, YEAR
from suite.support.command_line import run

pytestmark = [pytest.mark.clause("flow.example"), pytest.mark.usefixtures("harness")]


def test_chat_plays_it(tmp_path: Path) -> None:
    lines = ["/profile", "Ann", "1990", "1", "2", "2", "1", "/cancel"]
    result = run(tmp_path, "chat", module=BOT, stdin="\n".join(lines))
    assert (result.returncode, result.stderr) == (0, "")
    hint = "(type a number to press a button)"
    step_3 = [STYLE, "  1) Briefly", "  2) In detail", "  3) Back", "  4) Cancel", hint]
    confirm = ["  1) Yes, save it", "  2) Back", "  3) Cancel", hint]
    assert result.stdout.splitlines() == [
        *[NAME, "  1) Cancel", hint],
        *[YEAR.format("Ann"), "  1) Back", "  2) Cancel", hint],
        *step_3,
        *[SUMMARY.format("Ann", 1990, "briefly"), *confirm],
        *step_3,
        *[SUMMARY.format("Ann", 1990, "in detail"), *confirm],
        handlers.SAVED,
        handlers.NOTHING_TO_CANCEL,
    ]


def test_help_lists_its_commands(tmp_path: Path) -> None:
    shown = run(tmp_path, "chat", module=BOT, stdin="/help\n").stdout
    for command, what in handlers.MENU["en"].items():
        assert f"/{command} - {what}" in shown
