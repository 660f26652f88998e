"""A server's clock that can be set wrong, where libfaketime is installed (`apt install libfaketime`)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

LIBRARY = next(Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1"), None)


class ServerClock:
    """The clock of every process that is started under it; the right time, without the library."""

    def __init__(self, file: Path) -> None:
        """Make it; the file tells the processes what time it is."""
        self._file = file
        self.set(0)

    def set(self, shift: float) -> None:
        """Set it so many seconds ahead of the right time."""
        self._file.write_text(f"{shift:+.3f}")

    @contextmanager
    def rules(self) -> Iterator[None]:
        """Start processes in here."""
        variables = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        with patch.dict(os.environ, variables if LIBRARY else {}):
            yield
