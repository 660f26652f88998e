"""`bot settings`: every setting, its default, what it means, and whether it is set."""

import subprocess
import sys
from pathlib import Path

import pytest

from bot.runtime.config import Environment, Settings
from suite.support import warm
from suite.support.command_line import environment, run

pytestmark = pytest.mark.clause("settings")

SECRET = "123456:a-secret-of-its-own"

OWNER = """
import sys
import types
from pydantic import Field
from bot.runtime.config import Environment, load
from bot.runtime.telegram.agent import TelegramAgentAdapter

class ModelSettings(Environment):
    \"\"\"The model that answers.\"\"\"
    model_name: str = Field(description="Which model.")
    model_words: list[str] = Field(default_factory=list, description="Words.")
    temperature: float = Field(0.5, description="How inventive it is.")

{at_import}
agent = types.ModuleType("bot.agent")
agent.Agent = TelegramAgentAdapter
sys.modules["bot.agent"] = agent
sys.argv = ["bot", "settings"]
from bot.runtime.cli import main
main()
"""


def row(output: str, name: str) -> str:
    """What the table says about a setting."""
    (line,) = [line for line in output.splitlines() if line.split()[:1] == [name]]
    return line


def test_every_setting_of_the_bot_and_its_engine_is_listed(tmp_path: Path) -> None:
    result = run(tmp_path, "settings", WEBHOOK_URL="https://bot.example/telegram")
    assert (result.returncode, result.stderr) == (0, "")
    for kind in Environment.__subclasses__():  # imported by the fixture of every test
        if kind.__module__.startswith("bot.runtime"):
            for name, field in kind.model_fields.items():
                assert (field.description or "") in row(result.stdout, name.upper())
    assert row(result.stdout, "PORT").split()[1:3] == ["8080", "Port"]
    assert row(result.stdout, "WEBHOOK_URL").split()[1] == "set"


def test_values_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"WEBHOOK_SECRET={SECRET.replace(':', '-')}\n")
    result = run(tmp_path, "settings", BOT_TOKEN=SECRET)
    assert result.returncode == 0
    assert "secret-of-its-own" not in result.stdout + result.stderr
    assert row(result.stdout, "BOT_TOKEN").split()[1] == "set"
    assert row(result.stdout, "WEBHOOK_SECRET").split()[1] == "set"


def test_what_cannot_be_used_is_said_in_its_row(tmp_path: Path) -> None:
    result = run(tmp_path, "settings", PORT="http", BOT_TOKEN=f"{SECRET}/", LOG_LEVEL="debug")
    assert (result.returncode, result.stderr) == (0, "")
    assert row(result.stdout, "PORT").split()[1:5] == ["wrong", "8080", "Input", "should"]
    assert "is not a bot token" in row(result.stdout, "BOT_TOKEN")
    assert row(result.stdout, "LOG_LEVEL").split()[1] == "set"


def test_markdown_has_every_setting_and_nothing_of_this_machine(tmp_path: Path) -> None:
    result = run(tmp_path, "settings", "--markdown", PORT="http", HOST="127.0.0.1")
    assert (result.returncode, result.stderr) == (0, "")
    names = [line.split("`")[1] for line in result.stdout.splitlines() if line.startswith("| `")]
    assert len(names) == len(set(names))
    assert {name.upper() for name in Settings.model_fields} <= set(names)
    assert "127.0.0.1" not in result.stdout
    assert "http`" not in result.stdout


def settings_of(
    folder: Path, at_import: str, *, command: str = "settings", **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run the command where an owner has settings of their own."""
    code = OWNER.replace("{at_import}", at_import).replace('["bot", "settings"]', f'["bot", "{command}"]')
    return run_code(folder, code, **settings)


def run_code(folder: Path, code: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a module of that code."""
    (folder / "told.py").write_text(code, "utf-8")
    return warm.run([sys.executable, "-m", "told"], cwd=folder, env=environment(folder, **settings))


def test_an_owners_settings_are_listed(tmp_path: Path) -> None:
    result = settings_of(tmp_path, "", MODEL_NAME="large", TEMPERATURE="hot")
    assert (result.returncode, result.stderr) == (0, "")
    assert "\nThe model that answers\n" in result.stdout
    assert row(result.stdout, "MODEL_NAME").split()[1:] == ["set", "Which", "model."]
    assert row(result.stdout, "TEMPERATURE").split()[1] == "wrong"
    result = settings_of(tmp_path, "", MODEL_WORDS="no list")
    assert result.returncode == 0
    assert 'cannot be used: error parsing value for field "model_words"' in result.stdout


def test_doctor_reads_an_owners_settings(tmp_path: Path) -> None:
    result = settings_of(tmp_path, "", command="doctor")
    assert result.returncode == 1
    assert "  error  bad settings: MODEL_NAME: Field required\n" in result.stdout
    assert "the settings can be used" not in result.stdout
    result = settings_of(tmp_path, "", command="doctor", MODEL_NAME="large", TEMPERATURE="hot")
    assert "  error  bad settings: TEMPERATURE: Input should be a valid number" in result.stdout
    result = settings_of(tmp_path, "", command="doctor", MODEL_NAME="large")
    assert "     ok  the settings can be used\n" in result.stdout


def test_settings_that_an_import_needs_are_no_obstacle(tmp_path: Path) -> None:
    result = settings_of(tmp_path, "load(ModelSettings)")
    assert result.returncode == 1, "the module fails before there is a command"
    broken = """
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "bot.agent":
            load(ModelSettings)
sys.meta_path.insert(0, Finder())
"""
    code = OWNER.replace("{at_import}", broken).replace('sys.modules["bot.agent"] = agent', "")
    result = run_code(tmp_path, code)
    assert result.returncode == 0
    assert result.stderr.startswith("warning: settings of your own may be missing")
    assert "MODEL_NAME" in result.stderr
    assert row(result.stdout, "MODEL_NAME").split()[1] == "wrong"
