"""The template as it stands, a project rendered from it, and processes that run in its environment."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from support import ROOT, UV, choices, clean_env, commit_all, must

INSIDE = ROOT / "benchmarks" / "inside"

AIOSQLITE = "aiosqlite>=0.22,<1"
"""What baselines on SQLite keep users with."""
"""Programs that run in the rendered project's environment."""

TOKEN = "42:TEST"
PATIENCE = 180.0
"""Seconds to wait for a program to be ready."""


class Workshop:
    """A folder with everything the benchmarks need; made on first use, so that each pays for its own only."""

    def __init__(self, folder: Path) -> None:
        """Make nothing yet."""
        self.folder = folder
        self._template: Path | None = None
        self._projects: dict[str, Path] = {}

    @property
    def template(self) -> Path:
        """The working tree, committed or not, as a git repository of its own with a tag."""
        if self._template is None:
            self._template = self.folder / "template"
            listing = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
            for name in filter(None, must(*listing, cwd=ROOT).split("\0")):
                if (ROOT / name).exists():
                    (self._template / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / name, self._template / name)
            commit_all(self._template, "Snapshot", tag="v0.0.1")
        return self._template

    @property
    def project(self) -> Path:
        """A project with the default answers and the environment a deployment gets, compiled."""
        return self.rendered("memory", "--no-dev")

    def rendered(self, backend: str, *sync: str) -> Path:
        """A project of a backend or provider, with the environment that `uv sync` makes, compiled."""
        if backend not in self._projects:
            folder = self.folder / f"{backend}-bot"
            provider = () if backend in choices("backend") else ("--data", f"cloud_provider={backend}")
            answers = ("--data", f"backend={'cloud' if provider else backend}", *provider)
            copy = (sys.executable, "-m", "copier", "copy", "--quiet", "--defaults", *answers)
            must(*copy, str(self.template), str(folder), cwd=self.folder)
            environment = (UV, "sync", "--quiet", "--compile-bytecode", "--python", sys.executable, *sync)
            must(*environment, cwd=folder, timeout=600)
            must(folder / ".venv" / "bin" / "python", "-m", "compileall", "-q", "bot", cwd=folder)
            shutil.copytree(ROOT / "suite", folder / "suite")
            self._projects[backend] = folder
        return self._projects[backend]

    def add(self, project: Path, package: str) -> None:
        """Have a package in a project's environment that only baselines need."""
        python = project / ".venv" / "bin" / "python"
        must(UV, "pip", "install", "--quiet", "--python", str(python), package, cwd=self.folder, timeout=600)

    @property
    def python(self) -> Path:
        """The interpreter of the project's environment."""
        return self.project / ".venv" / "bin" / "python"

    @property
    def bot(self) -> Path:
        """The project's console script."""
        return self.project / ".venv" / "bin" / "bot"

    def versions(self) -> dict[str, str]:
        """The versions that count, in the environments of all projects that have been rendered."""
        found: dict[str, str] = {}
        for project in self._projects.values():
            found |= json.loads(must(project / ".venv/bin/python", INSIDE / "versions.py", cwd=self.folder))
        return found

    @contextmanager
    def process(
        self, *command: str | Path, settings: Mapping[str, str], talk: bool = False
    ) -> Iterator["subprocess.Popen[str]"]:
        """Run a program until the end of the block.

        Args:
            command: the program and its arguments.
            settings: variables of its environment.
            talk: whether its input and output are pipes, and it ends with its input; otherwise both are
                closed. Standard error goes into a file, whose end is shown when the block gives up.
        """
        pipe = subprocess.PIPE if talk else subprocess.DEVNULL
        log = self.folder / f"{Path(command[-1]).name}.log"
        with log.open("a") as errors:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.project,
                env=clean_env(**settings),
                stdin=pipe,
                stdout=pipe,
                stderr=errors,
                encoding="utf-8",
            )
        try:
            yield process
        except SystemExit:
            print(*log.read_text("utf-8").splitlines()[-10:], sep="\n", file=sys.stderr)
            raise
        finally:
            if process.stdin:
                _end_gently(process)
            process.send_signal(signal.SIGKILL)
            process.communicate()


def _end_gently(process: "subprocess.Popen[str]") -> None:
    """End the input of a program that reads it: so it can stop servers that it has started."""
    assert process.stdin
    with suppress(BrokenPipeError):
        process.stdin.close()
    process.stdin = None  # `communicate` would flush it
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=30)


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until_ready(process: "subprocess.Popen[str]", url: str) -> float:
    """Wait until an address answers 200; the monotonic time at which it did."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended with {process.returncode}; its log says why")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return time.monotonic()
        except (urllib.error.URLError, OSError):
            time.sleep(0.01)
    raise SystemExit(f"{url} was not ready within {PATIENCE:.0f} s")


def memory(process: "subprocess.Popen[str]") -> dict[str, float]:
    """Memory of a process in MiB: `VmRSS` now, `VmHWM` at most so far."""
    found: dict[str, float] = {}
    for line in Path(f"/proc/{process.pid}/status").read_text("utf-8").splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            found[name] = int(value.split()[0]) / 1024
    return found


def cpu_seconds(process: "subprocess.Popen[str]") -> float:
    """Seconds of processor time a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def heard(process: "subprocess.Popen[str]") -> Any:
    """The next line of a program that talks JSON."""
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args!r} went away; its log says why")
    return json.loads(line)


def tell(process: "subprocess.Popen[str]", value: object) -> None:
    """Send a line of JSON to a program."""
    assert process.stdin
    process.stdin.write(json.dumps(value) + "\n")
    process.stdin.flush()


def python_program(workshop: Workshop, name: str, *arguments: str) -> Sequence[str | Path]:
    """The command that runs a program of `inside/` in the project's environment."""
    return (workshop.python, INSIDE / name, *arguments)
