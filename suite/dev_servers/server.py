"""Around the development server of the rendered engine: its processes, and a chat that uses it."""

import importlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bot.runtime.chosen import ENGINE
from bot.runtime.engines.dev_server import DevServer
from suite.support.command_line import environment


def make_server() -> DevServer:
    """The server as one more process would see it."""
    importlib.import_module(f"bot.runtime.engines.{ENGINE}.dev_server")
    (kind,) = DevServer.__subclasses__()
    return kind()


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.02)


def wait_until_gone(server: DevServer) -> None:
    """Until there is neither a server nor a keeper."""
    wait_until(lambda: not (server.is_kept or server.answers()))


def process_ids(server: DevServer) -> tuple[int, int]:
    """The process of a server, and its keeper."""
    ps = subprocess.run(["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    processes = [line.split(maxsplit=2) for line in ps.stdout.splitlines()]
    keeping = f"-m {type(server).__module__} {server.folder.absolute()}"
    (keeper,) = [int(pid) for pid, _, command in processes if command.endswith(keeping)]
    (pid,) = [int(pid) for pid, parent, _ in processes if int(parent) == keeper]
    return pid, keeper


def chat(folder: Path) -> "subprocess.Popen[str]":
    """Begin a chat with the counting bot."""
    return subprocess.Popen(
        [sys.executable, "-m", "suite.counting_bot", "chat"],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def say(chat: "subprocess.Popen[str]", text: str) -> str:
    """The answer to a message."""
    assert chat.stdin
    assert chat.stdout
    chat.stdin.write(f"{text}\n")
    chat.stdin.flush()
    return chat.stdout.readline().rstrip("\n")
