"""The memory engine has no server, and loses everything when its process ends."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from suite.torture.backend import Server, Trouble
from suite.torture.link import Link


class MemoryBackend:
    """Nothing that could break."""

    label: ClassVar[str] = ""
    survives_exit: ClassVar[bool] = False
    spared: ClassVar[Mapping[str, str]] = {}
    servers: Sequence[Server] = ()

    def __init__(self, folder: Path) -> None:
        pass

    async def open(self) -> None:
        pass

    def settings(self, links: Sequence[Link]) -> dict[str, str]:
        return {}

    def troubles(self) -> Mapping[str, Trouble]:
        return {}

    async def close(self) -> None:
        pass


BACKEND = MemoryBackend
