"""A development server for a test, in a folder of its own."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.runtime import config
from bot.runtime.engines.dev_server import DevServer
from suite.dev_servers.server import make_server, wait_until_gone


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DevServer]:
    """The server of the test's folder, where everybody is; nothing is left running there."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(config, "DATA", tmp_path / ".data")
    server = make_server()
    if not server.is_startable:
        pytest.skip(server.missing)
    yield server
    server.leave()
    wait_until_gone(server)
