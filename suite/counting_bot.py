"""The command line with the tests' agent in place of the owner's: `python -m suite.counting_bot run`."""

import sys
from typing import TYPE_CHECKING

from bot.runtime.cli import main
from suite.owner import replace_owner

if TYPE_CHECKING:
    from bot.runtime.app import Owner


def counting_owner() -> "Owner":
    """An owner who wrote no more than an agent that counts."""
    from bot.runtime.app import Owner
    from suite.agents import CountingAgent

    return Owner(agent=CountingAgent)


if __name__ == "__main__":
    sys.argv[0] = "bot"  # as the help and errors of the installed command have it
    replace_owner(counting_owner)
    main()
