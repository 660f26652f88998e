"""What the emulator for development has to itself."""

import os
import signal
from pathlib import Path

import pytest

from bot.runtime.config import Settings
from bot.runtime.engines import create_store
from bot.runtime.engines.dev_server import DevServer
from bot.runtime.engines.firestore import dev_server as embedded_firestore
from bot.runtime.engines.firestore.dev_server import FirestoreDevServer
from bot.runtime.errors import OperatorError
from bot.runtime.state.store import Changes
from suite.dev_servers.server import process_ids, wait_until, wait_until_gone
from suite.support.command_line import run

pytestmark = pytest.mark.timeout(180)


async def test_one_whose_keeper_was_killed_exports_and_ends(dev_server: DevServer) -> None:
    store = create_store(Settings())
    await store.connect()
    await store.commit("1", Changes(state={"a": b"1"}), expect=0)
    _, keeper = process_ids(dev_server)
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: not dev_server.is_kept)
    assert dev_server.answers(), "nobody stops it yet"
    await store.close()
    await store.connect()
    assert (await store.load("1")).state == {"a": 1}
    await store.close()
    wait_until_gone(dev_server)


def test_where_it_is_not_installed_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_firestore, "INSTALLED", "nowhere")
    with pytest.raises(OperatorError, match="GOOGLE_CLOUD_PROJECT nor FIRESTORE_EMULATOR_HOST"):
        FirestoreDevServer().join()
    done = run(tmp_path, "state", "show", "1", PATH="/nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: neither GOOGLE_CLOUD_PROJECT nor FIRESTORE_EMULATOR_HOST is set")
