"""The command line with an agent whose answers grow: `python -m suite.speaking_bot run`.

With `SPEAKING=shows` it calls `turn.show` instead of yielding.
"""

import os
import sys
from typing import TYPE_CHECKING

from bot.runtime.cli import main
from suite.owner import replace_owner

if TYPE_CHECKING:
    from bot.runtime.app import Owner


def speaking_owner() -> "Owner":
    """An owner who wrote no more than such an agent. More frames are shown, and less is waited for."""
    from bot.runtime.app import Owner
    from bot.runtime.state import jobs
    from bot.runtime.telegram import streaming
    from suite.agents import ShowingAgent, SpeakingAgent

    streaming.DRAFT_DELAY, streaming.DRAFT_GAP = 0.02, 0.05
    streaming.MESSAGE_DELAY, streaming.FIRST_GAP, streaming.MESSAGE_GAP = 0.02, 0.05, 0.1
    jobs.CLAIM_SECONDS, jobs.OWED_SECONDS, jobs.OWN_SECONDS = 2.0, 4, 2
    jobs.MOST_CLAIMS = 100  # it is none of its doing that it is killed

    class Showing(ShowingAgent):
        deferred = "WEBHOOK_URL" in os.environ  # as it is for one that yields

    return Owner(agent=Showing if os.environ.get("SPEAKING") == "shows" else SpeakingAgent)


if __name__ == "__main__":
    sys.argv[0] = "bot"
    replace_owner(speaking_owner)
    main()
