"""A bot whose groups have records of their own: `python -m suite.forgetting_bot run`.

It kills itself in the middle of its first walk through them.
"""

import sys
from typing import TYPE_CHECKING, Any

from bot.agent_adapter import Place, RecordId, TelegramAgentAdapter, chat
from bot.runtime.cli import main
from suite.owner import replace_owner
from suite.reminding_bot import die

if TYPE_CHECKING:
    from bot.runtime.app import Owner


class SharingAgent(TelegramAgentAdapter):
    """Has one record for each group."""

    def wants(self, update: Any) -> bool:
        return True

    def record_of(self, place: Place) -> RecordId | None:
        return chat(place.group) if place.group else super().record_of(place)

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        return "ok"


def sharing_owner() -> "Owner":
    """An owner who wrote no more than that agent; what waits for a dead process waits shortly."""
    from bot.runtime.app import Owner
    from bot.runtime.state import jobs
    from bot.runtime.telegram import agent

    jobs.CLAIM_SECONDS, jobs.OWED_SECONDS, jobs.OWN_SECONDS = 2.0, 1, 0
    forget_in = agent._forget_in

    async def forget_or_die(*arguments: Any) -> int:
        if erased := await forget_in(*arguments):
            die("erased")
        return erased

    setattr(agent, "_forget_in", forget_or_die)  # noqa: B010 - which nobody else replaces
    return Owner(agent=SharingAgent)


if __name__ == "__main__":
    sys.argv[0] = "bot"
    replace_owner(sharing_owner)
    main()
