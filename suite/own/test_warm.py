"""A process that is forked is as one that is started."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from suite.support import warm

pytestmark = pytest.mark.clause("kit.processes")

TELLS = """
import json, os, sys
shown = {
    "arguments": sys.argv,
    "folder": os.getcwd(),
    "environment": dict(os.environ),
    "path": sys.path,
    "parent": os.getppid(),
    "group": os.getpgid(0),
    "said": sys.stdin.read(),
    "of a bot": [name for name in sys.modules if name.partition(".")[0] in ("bot", "suite")],
    "main": __name__,
    "warnings": sys.warnoptions,
}
print(json.dumps(shown, sort_keys=True))
print("ünïcode", file=sys.stderr)
sys.exit(3)
"""

WAITS = "import time; print('here', flush=True); time.sleep(60)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tells.py").write_text(TELLS, "utf-8")
    (tmp_path / "waits.py").write_text(WAITS, "utf-8")
    return tmp_path


@pytest.mark.parametrize("further", [{}, {"PYTHONWARNINGS": "always"}, {"PYTHONHASHSEED": "7"}])
def test_it_is_told_and_tells_the_same(folder: Path, further: dict[str, str]) -> None:
    env = os.environ | {"PYTHONPATH": str(folder), "ONLY_HERE": "1"} | further
    command = [sys.executable, "-m", "tells", "--an-option", "ü"]
    forked = warm.run(command, cwd=folder, env=env, stdin="hello\n")
    started = subprocess.run(command, cwd=folder, env=env, input="hello\n", capture_output=True, text=True)
    assert (forked.returncode, forked.stdout) == (started.returncode, started.stdout)
    assert forked.stderr == started.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_signals_reach_it_alone(folder: Path, number: signal.Signals) -> None:
    env = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "waits"]
    pipe = asyncio.subprocess.PIPE
    first, second = [await warm.start(command, cwd=folder, env=env, stdout=pipe) for _ in range(2)]
    for each in (first, second):
        assert each.stdout
        assert await each.stdout.readline() == b"here\n"
    first.send_signal(number)
    assert await first.wait() == -number
    assert second.returncode is None
    second.kill()
    assert await second.communicate() == (b"", None)
    with pytest.raises(ProcessLookupError):
        second.kill()


def test_one_that_takes_too_long_is_killed(folder: Path) -> None:
    command = [sys.executable, "-m", "waits"]
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, timeout=0.2)
