"""What the driver and the owner's bot under torture have agreed on."""

import re

OWNERS_BOT = "suite.torture.owners_bot"

ASK = "/what-the-torture-noted"
"""The message at which the bot tells every name it noted about a user."""

DEFERRED = "TORTURE_DEFERRED"
"""Set where the bot's agent is to have its messages kept."""

STREAMS = "TORTURE_STREAMS"
"""Set where the bot's agent is to yield its answers piece by piece."""

PIECES, LAST_PIECE = (" la",) * 12, " end"
"""What an answer that grows says after what counts."""

STOPPABLE = 25.0
"""How many times as long as others such an answer takes: long enough to be seen, and stopped."""

SHARED = (-500, -501)
"""Groups that have a record of their own, in which everybody writes."""

TELL = "/tell"
"""The message at which the bot sends what it keeps about such a group."""

FILE_BYTES = 300_000
"""Of the file that comes with some replies: more than one part."""


def file_of(name: str) -> bytes | None:
    """The content of the file that comes with the reply to a message, if one does: to one in ten."""
    return name.encode().ljust(FILE_BYTES, b"\xff") if name.endswith("0") else None


NAME = re.compile(r"[pgs]\d+(?= \d+\.\d+$)")
"""The name of a message, as people under torture write it."""
