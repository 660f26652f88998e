"""An owner who kept the template's conversation: `python -m suite.flow.owner run`.

The folder `example/` is the template's `bot/flow`; `./do prove` puts it here.
"""

import sys
from typing import TYPE_CHECKING

from bot.runtime.cli import main
from suite.owner import replace_owner

if TYPE_CHECKING:
    from bot.runtime.app import Owner

BOT = "suite.flow.owner"
"""The module to run in a process."""


def flow_owner() -> "Owner":
    """An agent that counts, and the conversation."""
    from bot.runtime.app import Owner
    from bot.runtime.telegram.texts import TextTable
    from suite.agents import CountingAgent
    from suite.flow.example import MENU, router

    return Owner(agent=CountingAgent, flows=[router()], texts=TextTable(menus=[MENU]))


if __name__ == "__main__":
    sys.argv[0] = "bot"
    replace_owner(flow_owner)
    main()
