"""An agent that asks before its model may send mail."""

from datetime import timedelta
from typing import Any

import pydantic_ai
from aiohttp import ClientSession, ClientTimeout
from pydantic import Field
from pydantic_ai import DeferredToolRequests, DeferredToolResults, RunContext, ToolDenied
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter

from bot.agent_adapter import Environment, TelegramAgentAdapter, job, load
from bot.runtime.frameworks.llm import LlmSettings, make_model
from bot.runtime.frameworks.pydantic_ai import keep, messages_of

CHOICES = {"yes": "Send it", "no": "Leave it"}


class MailSettings(Environment):
    """The service that sends mail."""

    mail_url: str = Field(description="Address to which a mail is posted.")


class Agent(TelegramAgentAdapter):
    """Answers by a model, which may send mail when its person has agreed."""

    async def connect(self) -> None:
        """Open the connections, once for all users."""
        await super().connect()
        self.model = await self.enter(make_model(load(LlmSettings)))
        self.mail_url = load(MailSettings).mail_url
        self.http = ClientSession(timeout=ClientTimeout(total=20))

    async def close(self) -> None:
        """Close them."""
        await self.http.close()
        await super().close()

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        """Have the model answer, or ask for consent."""
        before = messages_of(self.turn)
        result = await assistant.run(message, message_history=before, model=self.model, deps=self)
        if isinstance(result.output, DeferredToolRequests):
            # Without the message itself, which stands in the history already.
            return self.ask_for(result.output, result.new_messages()[1:])
        keep(self.turn, result.new_messages())
        return result.output

    def ask_for(self, wanted: DeferredToolRequests, run: list[ModelMessage]) -> str:
        """Ask whether the model may do what it wants; until then its run lies beside the question."""
        question = "\n".join(call.args_as_json_str() for call in wanted.approvals)
        self.turn.ask(
            f"Shall I send this mail?\n{question}",
            CHOICES,
            timedelta(hours=1),
            self.go_on,
            calls=[call.tool_call_id for call in wanted.approvals],
            run=ModelMessagesTypeAdapter.dump_python(run, mode="json"),
        )
        return ""

    @job(retries=3)
    async def go_on(self, answer: str | None, calls: list[str], run: list[Any]) -> str:
        """Go on with the run, by the answer; `None` is none within the hour."""
        refusal = "They said no." if answer else "They did not answer."
        consent = True if answer == "yes" else ToolDenied(refusal)
        so_far = ModelMessagesTypeAdapter.validate_python(run)
        result = await assistant.run(
            message_history=[*messages_of(self.turn), *so_far],
            deferred_tool_results=DeferredToolResults(approvals=dict.fromkeys(calls, consent)),
            model=self.model,
            deps=self,
        )
        so_far += result.new_messages()
        if isinstance(result.output, DeferredToolRequests):
            return self.ask_for(result.output, so_far)
        keep(self.turn, so_far)
        return result.output


assistant = pydantic_ai.Agent(deps_type=Agent, output_type=[str, DeferredToolRequests])


@assistant.tool(requires_approval=True)
async def send_mail(run: RunContext[Agent], to: str, text: str) -> str:
    """Send a mail."""
    # The call's id was kept with the question: however often this runs, the service sees one mail.
    headers = {"Idempotency-Key": str(run.tool_call_id)}
    mail = {"to": to, "text": text}
    async with run.deps.http.post(run.deps.mail_url, json=mail, headers=headers, raise_for_status=True):
        return "The mail is sent."
