"""Disks that fail: they stand before the real one, as file systems of SQLite's own (VFS)."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from threading import Lock
from typing import Any

import apsw

REAL = apsw.vfs_names()[0]
"""The system's own."""

SECTOR = 512
"""Bytes that a disk writes whole or not at all."""


class FailingDisk(apsw.VFS):
    """Does what a file says: `well`, `full`, `read-only`, `broken`, or `slow SECONDS` for each flush."""

    def __init__(self, told: Path) -> None:
        super().__init__("failing", REAL, makedefault=True)
        self.told = told

    def xOpen(self, name: Any, flags: list[int]) -> "FailingFile":  # noqa: N802
        return FailingFile(self, name, flags)

    def condition(self) -> list[str]:
        try:
            return self.told.read_text().split() or ["well"]
        except OSError:
            return ["well"]


class FailingFile(apsw.VFSFile):
    def __init__(self, disk: FailingDisk, name: Any, flags: list[int]) -> None:
        super().__init__(REAL, name, flags)
        self._disk = disk

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        match self._disk.condition():
            case ["full"]:
                raise apsw.FullError("told to")
            case ["read-only"]:
                raise apsw.ReadOnlyError("told to")
            case ["broken"]:
                raise apsw.IOError("told to")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        match self._disk.condition():
            case ["slow", seconds]:
                time.sleep(float(seconds))
            case ["broken"]:
                raise apsw.IOError("told to")
        super().xSync(flags)


_installed: list[FailingDisk] = []
"""One that nobody refers to is gone."""


def install(told: Path) -> None:
    """Have every connection of this process use a disk that does what the file says."""
    _installed.append(FailingDisk(told))


class ForgetfulDisk(apsw.VFS):
    """Knows what a power failure would leave: what was flushed, and any part of what was not."""

    def __init__(self) -> None:
        super().__init__("forgetful", REAL, makedefault=True)
        self.lock = Lock()
        self.flushed: dict[str, bytearray] = {}
        self.waiting: dict[str, list[tuple[int, bytes | None]]] = {}
        self.flushes = 0

    def xOpen(self, name: Any, flags: list[int]) -> "ForgetfulFile":  # noqa: N802
        return ForgetfulFile(self, name, flags)

    def xDelete(self, name: str, sync_folder: bool) -> None:  # noqa: N802
        super().xDelete(name, sync_folder)
        with self.lock:
            self.flushed.pop(name, None)
            self.waiting.pop(name, None)

    def write(self, name: str, offset: int, data: bytes | None) -> None:
        """Data, or a new size."""
        with self.lock:
            self.waiting.setdefault(name, []).append((offset, data))

    def flush(self, name: str) -> None:
        with self.lock:
            self.flushes += 1
            for offset, data in self.waiting.pop(name, ()):
                _apply(self.flushed.setdefault(name, bytearray()), offset, data)

    def fail(self, folder: Path, chance: Random | None = None) -> None:
        """Put into a folder what is left; `chance` has some sectors written that were not flushed."""
        with self.lock:
            for name in self.flushed.keys() | self.waiting.keys():
                content = bytearray(self.flushed.get(name, b""))
                for offset, data in self.waiting.get(name, ()):
                    if chance is None:
                        break
                    for start in range(0, len(data or b""), SECTOR):
                        if chance.random() < 0.5:
                            _apply(content, offset + start, (data or b"")[start : start + SECTOR])
                folder.joinpath(Path(name).name).write_bytes(content)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


class ForgetfulFile(apsw.VFSFile):
    def __init__(self, disk: ForgetfulDisk, name: Any, flags: list[int]) -> None:
        super().__init__(REAL, name, flags)
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._disk.write(self._name, offset, bytes(data))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        super().xTruncate(size)
        self._disk.write(self._name, size, None)

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        self._disk.flush(self._name)


@contextmanager
def forgetful_disk() -> Iterator[ForgetfulDisk]:
    """What connections use that are opened in here."""
    disk = ForgetfulDisk()
    try:
        yield disk
    finally:
        disk.unregister()
