"""What the development server of DynamoDB has to itself."""

from pathlib import Path

from bot.runtime.engines.dev_server import DevServer
from suite.support.command_line import run


def test_a_server_that_does_not_start(dev_server: DevServer, tmp_path: Path) -> None:
    dev_server.folder.mkdir(parents=True)
    (dev_server.folder / "journal.jsonl").write_text("nonsense\n")
    result = run(tmp_path, "state", "show", "1")
    assert result.returncode == 1
    assert "does not start: see server.log there" in result.stderr
    assert result.stderr.count("\n") == 1
