"""The command line with the packing list of `docs/examples`: `python -m suite.packing_bot run`."""

from typing import TYPE_CHECKING

from bot.runtime.cli import main
from suite.owner import replace_owner

if TYPE_CHECKING:
    from bot.runtime.app import Owner


def packing_owner() -> "Owner":
    """An owner who wrote no more than that agent."""
    from bot.runtime.app import Owner
    from suite.packing_list import Agent
    from suite.torture.bot import hurry

    hurry()
    return Owner(agent=Agent)


if __name__ == "__main__":
    replace_owner(packing_owner)
    main()
