"""The command line with an agent whose answers grow: `python -m suite.speaking_bot run`."""

import sys
from typing import TYPE_CHECKING

from bot.runtime.cli import main
from suite.owner import replace_owner

if TYPE_CHECKING:
    from bot.runtime.app import Owner


def speaking_owner() -> "Owner":
    """An owner who wrote no more than such an agent. More frames are shown of it than people see."""
    from bot.runtime.app import Owner
    from bot.runtime.telegram import streaming
    from suite.agents import SpeakingAgent

    streaming.DRAFT_DELAY, streaming.DRAFT_GAP = 0.02, 0.05
    streaming.MESSAGE_DELAY, streaming.FIRST_GAP, streaming.MESSAGE_GAP = 0.02, 0.05, 0.1
    return Owner(agent=SpeakingAgent)


if __name__ == "__main__":
    sys.argv[0] = "bot"
    replace_owner(speaking_owner)
    main()
