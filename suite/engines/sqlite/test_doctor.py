"""`bot doctor` on a file that is kept well, and on others."""

# ruff: noqa: ASYNC240 - files are what is tested here

from pathlib import Path

import pytest

from bot.runtime.engines.sqlite import connection
from bot.runtime.engines.sqlite.store import SqliteStore
from bot.runtime.state.store import Changes
from suite.engines.sqlite.conftest import Open
from suite.support.command_line import run

pytestmark = pytest.mark.clause("doctor.server")


async def warnings(store: SqliteStore) -> list[str]:
    return [finding.text for finding in await store.diagnose() if finding.level == "warning"]


async def test_a_file_that_is_kept_well(direct: SqliteStore, path: Path) -> None:
    findings = await direct.diagnose()
    assert {finding.level for finding in findings} == {"ok"}
    said = "\n".join(finding.text for finding in findings)
    for part in ("SQLite 3.", str(path), "is sound", "before it is acknowledged", "a disk of this machine"):
        assert part in said


async def test_commits_that_do_not_wait_for_the_disk(open_store: Open) -> None:
    (text,) = await warnings(await open_store(sync="normal"))
    assert "SQLITE_SYNC=normal" in text


async def test_a_file_that_others_may_read(direct: SqliteStore, path: Path) -> None:
    path.chmod(0o644)
    (text,) = await warnings(direct)
    assert "others may read" in text


async def test_a_disk_with_little_room(direct: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FREE_BYTES", 10**18)
    (text,) = await warnings(direct)
    assert "make room" in text


async def test_a_log_that_nobody_takes_over(direct: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LARGE_WAL_BYTES", 100)
    await direct.commit("1", Changes(), expect=0)
    (text,) = await warnings(direct)
    assert "read without an end" in text


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("nfs4", "warning"),
        ("cifs", "warning"),
        ("9p", "warning"),
        ("virtiofs", "warning"),
        ("fuse.sshfs", "warning"),
        ("tmpfs", "warning"),
        ("ext4", "ok"),
        ("overlay", "ok"),
    ],
)
def test_a_network_share(tmp_path: Path, kind: str, level: str) -> None:
    mounts = tmp_path / "mounts"
    share = tmp_path / "my share"
    share.mkdir()
    mounts.write_text(
        "proc /proc proc rw 0 0\n"
        "/dev/vda / ext4 rw 0 0\n"
        f"server:/x {str(share).replace(' ', chr(92) + '040')} {kind} rw 0 0\n"
    )
    assert connection.file_system(share / "bot.sqlite3", mounts).level == level
    assert connection.file_system(tmp_path / "bot.sqlite3", mounts).level == "ok"
    assert connection.file_system(tmp_path / "bot.sqlite3", tmp_path / "none").level == "ok"


async def test_the_command(tmp_path: Path) -> None:
    result = run(tmp_path, "doctor", SQLITE_PATH=str(tmp_path / "kept/bot.sqlite3"))
    assert "ok  the sqlite store answers" in result.stdout
    assert "the file is sound" in result.stdout
