"""An agent on the OpenAI Agents SDK, which asks before it orders anything."""

from datetime import timedelta
from typing import Any

from agents import Agent as Assistant
from agents import Runner, RunState, function_tool, set_tracing_disabled

from bot.agent_adapter import TelegramAgentAdapter, current_turn, job
from bot.runtime.frameworks.openai_agents import RecordSession

CHOICES = {"yes": "Order it", "no": "Leave it"}

set_tracing_disabled(True)  # else what people say goes to OpenAI's traces, whatever the model is


@function_tool(needs_approval=True)
async def order(meal: str) -> str:
    """Order a meal."""
    turn = current_turn()
    assert turn, "runs are part of turns"
    turn.state.setdefault("orders", []).append(meal)
    return f"{meal} is ordered."


assistant = Assistant[None]("Cook", instructions="Answer briefly.", tools=[order])


class Agent(TelegramAgentAdapter):
    """Answers by runs of the SDK, whose items are kept in the record."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        """Have the model answer, or ask for consent."""
        return await self.run(message)

    async def run(self, what: str | RunState[None]) -> str:
        """Begin a run, or go on with one."""
        result = await Runner.run(assistant, what, session=RecordSession(self.turn))
        if not result.interruptions:
            return str(result.final_output)
        question = "\n".join(f"{call.name} {call.arguments}" for call in result.interruptions)
        waiting = result.to_state().to_json()
        self.turn.ask(question, CHOICES, timedelta(hours=1), self.go_on, waiting=waiting)
        return ""

    @job
    async def go_on(self, answer: str | None, waiting: dict[str, Any]) -> str:
        """Go on with a run that waited, by the answer; `None` is none within the hour."""
        state: RunState[None] = await RunState.from_json(assistant, waiting)
        for call in state.get_interruptions():
            if answer == "yes":
                state.approve(call)
            else:
                state.reject(call)
        return await self.run(state)
