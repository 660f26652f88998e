"""The command line with an agent that yields what the model writes: `python stream_bot.py run`."""

import sys
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from model import written

from bot.agent_adapter import TelegramAgentAdapter
from bot.runtime.cli import main
from suite.owner import replace_owner

if TYPE_CHECKING:
    from bot.runtime.app import Owner


class Agent(TelegramAgentAdapter):
    """Counts messages, and says what the model writes."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> AsyncGenerator[str, None]:
        """Yield it as it comes."""
        state["message_count"] = state.get("message_count", 0) + 1
        async for piece in written(message):
            yield piece


def owner() -> "Owner":
    """An owner who wrote no more than that."""
    from bot.runtime.app import Owner

    return Owner(agent=Agent)


sys.argv[0] = "bot"
replace_owner(owner)
main()
