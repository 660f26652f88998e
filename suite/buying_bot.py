"""The command line with an agent on pydantic-ai that dies where told: `python -m suite.buying_bot run`."""

import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.runtime.cli import main
from suite.owner import replace_owner

if TYPE_CHECKING:
    from bot.runtime.app import Owner

TOLD = Path("told")
"""In the bot's folder: a line for each time it was told to die."""


def die_at(place: str, message: str) -> None:
    """End this process as `kill -9` does, at the place that a message names, once."""
    if f" {place} " in message and message not in TOLD.read_text().splitlines():
        with TOLD.open("a") as file:
            file.write(f"{message}\n")
            file.flush()
            os.fsync(file.fileno())
        os.kill(os.getpid(), signal.SIGKILL)


def buying_owner() -> "Owner":
    """An owner who wrote no more than such an agent."""
    from pydantic_ai import Agent as Run
    from pydantic_ai import RunContext
    from pydantic_ai.messages import ModelMessage, ToolReturnPart, UserPromptPart
    from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

    from bot.agent_adapter import TelegramAgentAdapter
    from bot.runtime.app import Owner
    from bot.runtime.frameworks.pydantic_ai import keep, messages_of, prompt_of, texts

    async def say(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
        """Call the tool once for each message; complain of a call that nothing answers, or the other way."""
        parts = [part for message in messages for part in message.parts]
        calls = [part.tool_call_id for part in parts if part.part_kind == "tool-call"]
        answers = [part.tool_call_id for part in parts if part.part_kind == "tool-return"]
        asked = sum(isinstance(part, UserPromptPart) for part in parts)
        if calls != answers or len(calls) != asked - (not isinstance(parts[-1], ToolReturnPart)):
            yield f"orphans: {calls} {answers} {asked}"
        elif isinstance(parts[-1], ToolReturnPart):
            yield f"bought {len(answers)}"
        else:
            yield {0: DeltaToolCall("buy", "{}", tool_call_id=f"call-{asked}")}

    class BuyingAgent(TelegramAgentAdapter):
        """Buys one thing for each message."""

        async def agent_logic(self, message: str, state: dict[str, Any]) -> AsyncGenerator[str, None]:
            """Run the model."""
            prompt, before = await prompt_of(self.turn, message), messages_of(self.turn)
            async with shop.run_stream_events(prompt, message_history=before, deps=self) as events:
                async for text in texts(events):
                    die_at("said", message)
                    yield text
                result = events.result
            assert result
            keep(self.turn, result.new_messages())
            die_at("kept", message)

    shop = Run(FunctionModel(stream_function=say), deps_type=BuyingAgent)

    @shop.tool
    async def buy(run: RunContext[BuyingAgent]) -> int:
        """Buy something."""
        turn = run.deps.turn
        turn.state["bought"] = turn.state.get("bought", 0) + 1
        die_at("called", turn.history[-1].text)
        return turn.state["bought"]  # type: ignore[no-any-return]

    TOLD.touch()
    return Owner(agent=BuyingAgent)


if __name__ == "__main__":
    sys.argv[0] = "bot"
    replace_owner(buying_owner)
    main()
