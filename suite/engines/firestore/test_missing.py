"""Without an emulator, tests and torture say what to install, in one line."""

import asyncio
import os
import sys
from pathlib import Path

from suite.engines.firestore.server import NONE

ROOT = Path(__file__).parents[3]


async def without_java(folder: Path, *arguments: str) -> tuple[int | None, str]:
    """Run a module of Python where no emulator can be started: its exit code, and all it said."""
    foreign = ("TEST_FIRESTORE_HOST", "FIRESTORE_EMULATOR_HOST")
    env = {name: value for name, value in os.environ.items() if name not in foreign}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments,
        cwd=ROOT, env=env | {"PATH": str(folder), "TMPDIR": str(folder)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    return process.returncode, said.decode()


async def test_tests_are_skipped(tmp_path: Path) -> None:
    code, said = await without_java(
        tmp_path, "pytest", "-rs", "-k", "load_is_one_call", "suite/engines/firestore/test_wire.py"
    )
    assert code == 0, said
    (line,) = [line for line in said.splitlines() if line.startswith("SKIPPED")]
    assert line.endswith(NONE)
    assert "1 skipped" in said.splitlines()[-1]


async def test_torture_does_not_begin(tmp_path: Path) -> None:
    code, said = await without_java(tmp_path, "suite.torture", "--short")
    assert code == 2
    assert said.splitlines()[-1] == NONE
    assert "Traceback" not in said
    assert os.listdir(tmp_path) == [], "it left something behind"
