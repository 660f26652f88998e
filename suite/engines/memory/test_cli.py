"""The command line, where nothing outlives the running bot."""

from pathlib import Path

import pytest

from suite.support.command_line import run

pytestmark = pytest.mark.clause("memory.says-so")


@pytest.mark.parametrize("arguments", [["show", "1"], ["export", "-"], ["forget", "1", "--yes"]])
def test_state_says_that_there_is_none_to_look_at(tmp_path: Path, arguments: list[str]) -> None:
    result = run(tmp_path, "state", *arguments)
    assert result.returncode == 1
    assert result.stderr.startswith("error: the memory store keeps nothing outside the running bot")
    assert result.stderr.count("\n") == 1
