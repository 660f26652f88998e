"""A bot whose agents ask a language model: `python -m suite.model_bot run`.

`MODEL_URL` says where that is, see `suite.support.model`. What its tools do is in the state.
"""

import json
import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import agents
from openai import AsyncOpenAI

from bot.agent_adapter import TelegramAgentAdapter, job
from bot.runtime.cli import main
from bot.runtime.frameworks.openai_agents import RecordSession
from suite.owner import replace_owner

if TYPE_CHECKING:
    from bot.runtime.app import Owner

CHOICES = {"yes": "Send it", "no": "Leave it"}


class OpenAIAgent(TelegramAgentAdapter):
    """Answers by a run of the OpenAI Agents SDK, and asks its person before it sends anything."""

    def wants(self, update: Any) -> bool:
        return True

    async def connect(self) -> None:
        await super().connect()
        agents.set_tracing_disabled(True)
        self.client = AsyncOpenAI(base_url=os.environ["MODEL_URL"], api_key="none", max_retries=0)
        self.assistant = agents.Agent[Any](
            "assistant",
            tools=[
                agents.function_tool(self.note),
                agents.function_tool(self.send_mail, needs_approval=True),
            ],
            model=agents.OpenAIChatCompletionsModel("local", self.client),
        )

    async def close(self) -> None:
        await self.client.close()
        await super().close()

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        state["asked"] = state.get("asked", 0) + 1
        return await self.run(message)

    async def run(self, said: Any) -> str:
        """Run, until there is an answer or something to ask."""
        result = await agents.Runner.run(self.assistant, said, session=RecordSession(self.turn))
        if not result.interruptions:
            return str(result.final_output)
        calls = [f"{each.name} {each.arguments}" for each in result.interruptions]
        waiting = result.to_state().to_json()
        self.turn.ask(", ".join(calls) + "?", CHOICES, timedelta(hours=1), self.go_on, waiting=waiting)
        return ""

    @job(retries=10)
    async def go_on(self, answer: str | None, waiting: dict[str, Any]) -> str:
        """Go on with a run that waited for consent."""
        state = await agents.RunState.from_json(self.assistant, waiting)
        for call in state.get_interruptions():
            state.approve(call) if answer == "yes" else state.reject(call)
        return await self.run(state)

    async def note(self, fact: str) -> str:
        """Note a fact."""
        self.turn.state.setdefault("notes", []).append(fact)
        return f"noted {fact}"

    async def send_mail(self, to: str) -> str:
        """Send mail."""
        self.turn.state.setdefault("mails", []).append(to)
        return f"mail to {to} is sent"


def model_owner() -> "Owner":
    """An owner who wrote no more than that agent."""
    from bot.runtime.app import Owner
    from bot.runtime.state import jobs

    jobs.CLAIM_SECONDS, jobs.OWED_SECONDS, jobs.OWN_SECONDS = 2.0, 1, 0
    jobs.MOST_CLAIMS = 10  # on a busy machine a claim may end while its process lives
    return Owner(agent=OpenAIAgent)


def calls_in(messages: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The tools that were called in a request, with their arguments."""
    calls = [call["function"] for message in messages for call in message.get("tool_calls") or ()]
    return [(call["name"], json.loads(call["arguments"])) for call in calls]


if __name__ == "__main__":
    sys.argv[0] = "bot"
    replace_owner(model_owner)
    main()
