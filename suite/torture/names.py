"""What the driver and the owner's bot under torture have agreed on."""

import re

OWNERS_BOT = "suite.torture.owners_bot"

ASK = "/what-the-torture-noted"
"""The message at which the bot tells every name it noted about a user."""

NAME = re.compile(r"[pg]\d+(?= \d+\.\d+$)")
"""The name of a message, as people under torture write it."""
