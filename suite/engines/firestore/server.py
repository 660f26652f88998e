"""Firestore emulators for the tests: one that most of them share, and throw-away ones.

`TEST_FIRESTORE_HOST` or `FIRESTORE_EMULATOR_HOST` name one that runs already; else Google's is started, where
it is installed. Without any, the tests that need one are skipped and say so.
"""

import atexit
import http.client
import os
import random
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Self

import pytest

from bot.runtime.engines.firestore.connection import FirestoreClient, FirestoreSettings
from bot.runtime.engines.firestore.dev_server import answers, command
from bot.runtime.engines.firestore.store import FirestoreStore

RUNNING = os.environ.get("TEST_FIRESTORE_HOST") or os.environ.get("FIRESTORE_EMULATOR_HOST")
"""Read before the tests begin: they must not see it."""

NONE = (
    "no Firestore emulator: install Java and google-cloud-cli-firestore-emulator, or set TEST_FIRESTORE_HOST"
)
START_SECONDS = 60.0


class Emulator:
    """Google's emulator, which keeps everything in memory."""

    def __init__(self, port: int = 0, options: Sequence[str] = ()) -> None:
        self.port = port or free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def start(self) -> Self:
        line = command(self.port, *self._options) or pytest.skip(NONE)
        silent = subprocess.DEVNULL
        self._process = subprocess.Popen(line, stdin=silent, stdout=silent, stderr=silent)
        give_up = time.monotonic() + START_SECONDS
        while not answers(self.port):
            assert self._process.poll() is None, "it ended"
            assert time.monotonic() < give_up, "it does not answer"
            time.sleep(0.05)
        return self

    def end(self) -> None:
        if self._process:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGCONT)
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


def free_port() -> int:
    """A port that no client takes by chance while its server is down."""
    while True:
        port = random.randrange(12_000, 22_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@cache
def shared_host() -> str:
    """The emulator that the tests share; it ends with them. Skips the test where there is none."""
    if RUNNING:
        return RUNNING
    emulator = Emulator().start()
    atexit.register(emulator.end)
    return emulator.host


def new_project() -> str:
    """A project of a test's own: the emulator takes any."""
    return f"demo-{secrets.token_hex(8)}"


def clear(host: str, project: str) -> None:
    """Delete all documents of a project."""
    name, _, port = host.rpartition(":")
    connection = http.client.HTTPConnection(name, int(port), timeout=30)
    connection.request("DELETE", f"/emulator/v1/projects/{project}/databases/(default)/documents")
    assert connection.getresponse().status == 200
    connection.close()


def make_client(host: str, project: str, **patience: float) -> FirestoreClient:
    """A client for an emulator."""
    settings = {"firestore_emulator_host": host, "google_cloud_project": project}
    return FirestoreClient(FirestoreSettings.model_validate(settings), **patience)


def make_store(host: str, project: str, **options: Any) -> FirestoreStore:
    """A store on an emulator; `options` are `limits`, `ttl` and `turns`."""
    return FirestoreStore(make_client(host, project), "bot", **options)
