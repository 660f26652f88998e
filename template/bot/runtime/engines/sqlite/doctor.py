"""What `bot doctor` says about the SQLite file: what could cost records, or keep the bot from running."""

import os
import shutil
import stat
from pathlib import Path

import apsw

from bot.runtime.engines.sqlite.connection import Database, describe
from bot.runtime.state.store import Finding

MOUNTS = Path("/proc/self/mounts")

REMOTE = {"9p", "afs", "ceph", "cifs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs", "virtiofs"}
"""File systems on which locks or shared memory may not hold: SQLite's files get damaged there."""

FREE_BYTES = 256 * 1024 * 1024
"""Room on the disk below which to warn: the log and a large reply have to fit."""

CHECKED_BYTES = 512 * 1024 * 1024
"""The size up to which all of the file is looked through, which takes some seconds."""

LARGE_WAL_BYTES = 256 * 1024 * 1024
"""More than it should grow to: somebody reads without an end."""


async def diagnose(database: Database) -> list[Finding]:
    """Look at the file, at its folder and at the disk.

    Raises:
        StateUnavailable: it cannot be read.
    """
    path = database.path
    size = path.stat().st_size
    findings = [Finding("ok", f"SQLite {apsw.sqlite_lib_version()}: {path}, {size / 1e6:,.2f} MB")]
    if size <= CHECKED_BYTES:
        findings.append(await database.read(lambda connection: _integrity(connection, path)))
    findings += [durability(database.sync), file_system(path), access(path), room(path)]
    return findings + log_size(database.wal)


def _integrity(connection: apsw.Connection, path: Path) -> Finding:
    try:
        found = connection.execute("PRAGMA quick_check(1)").get
    except apsw.CorruptError as error:
        return Finding("error", describe(error, path))
    if found != "ok":
        return Finding("error", f"{path} is damaged: stop the bot, keep a copy, and restore a backup")
    return Finding("ok", "the file is sound")


def durability(sync: str) -> Finding:
    """What a power failure costs."""
    if sync == "full":
        return Finding("ok", "a commit is on the disk before it is acknowledged")
    return Finding(
        "warning",
        "commits do not wait for the disk (SQLITE_SYNC=normal): a power failure loses the last ones for good",
    )


def file_system(path: Path, mounts: Path = MOUNTS) -> Finding:
    """Whether the file is on a disk of this machine, as far as that can be told."""
    kind = kind_of_file_system(path, mounts)
    if kind in REMOTE or kind.startswith("fuse."):
        return Finding(
            "warning",
            f"{path} is on a network share or a shared folder ({kind}), where locks do not hold: it can be "
            "damaged; keep it on a disk of this machine, or choose another backend",
        )
    if kind in ("tmpfs", "ramfs"):
        return Finding("warning", f"{path} is in memory ({kind}), and gone when the machine restarts")
    return Finding("ok", f"the file is on a disk of this machine{f' ({kind})' if kind else ''}")


def kind_of_file_system(path: Path, mounts: Path) -> str:
    """What the system calls it; empty where it does not tell."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    found = Path(), ""
    for _, place, kind, *_ in (line.split(" ") for line in lines):
        folder = Path(place.replace("\\040", " "))
        if path.resolve().is_relative_to(folder) and len(folder.parts) >= len(found[0].parts):
            found = folder, kind
    return found[1]


def access(path: Path) -> Finding:
    """Who else may read what people wrote."""
    if os.name != "nt" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding("warning", f"others may read {path}: chmod 600 it, its -wal and its -shm")
    return Finding("ok", "nobody else on this machine may read the file")


def room(path: Path) -> Finding:
    """Whether the disk has room."""
    free = shutil.disk_usage(path.parent).free
    text = f"its disk has {free / 1e6:,.0f} MB left"
    return Finding("ok", text) if free >= FREE_BYTES else Finding("warning", f"{text}: make room")


def log_size(wal: Path) -> list[Finding]:
    """Whether the write-ahead log can be taken over into the file."""
    if not wal.exists() or wal.stat().st_size < LARGE_WAL_BYTES:
        return []
    size = wal.stat().st_size / 1e6
    return [Finding("warning", f"{wal} has {size:,.0f} MB: does another program read without an end?")]
