"""The owner's bot under torture: `python -m suite.torture.owners_bot run`.

Agent, routers and texts are the owner's. Around whatever they do with a message, in the same turn, a witness
notes the message's name in the record and replies with it. When they raise, the turn is dropped with what was
noted, and the witness has the apology bear the name.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.runtime.cli import main
from bot.runtime.state.turn import current_turn
from bot.runtime.telegram.fast_import import import_aiogram
from suite.torture.bot import hurry, let_clock_jump, let_disk_fail
from suite.torture.names import ASK, NAME

if TYPE_CHECKING:
    from aiogram import Bot, Dispatcher
    from aiogram.types import Message, Update

    from bot.agent_adapter import TelegramAgentAdapter

KEY = "noted by the torture"
"""Where in the state the names are."""

PATIENCE = 3.0
"""Seconds for the owner's `on_error`: less than the runtime gives, so that the name is told in any case."""

_under_way: ContextVar[str] = ContextVar("the message under way")

Handler = Callable[["Message", dict[str, Any]], Awaitable[Any]]


async def witness(handler: Handler, message: "Message", data: dict[str, Any]) -> Any:
    """Note a message, whatever the owner's code makes of it."""
    turn = current_turn()
    assert turn
    if message.text == ASK:
        return _tell(message, turn.state.get(KEY, []))
    if not (message.text and (name := NAME.match(message.text))):
        return await handler(message, data)
    noted = [*turn.state.get(KEY, []), name[0]]  # kept here, as the agent may clear its state
    result = await handler(message, data)
    turn.state[KEY] = noted
    turn.reply(message.answer(f"{name[0]} #{len(noted)}"))
    return result


def _tell(message: "Message", noted: list[str]) -> Any:
    """Everything that was noted about a user, as a file."""
    import orjson
    from aiogram.types import BufferedInputFile

    content = orjson.dumps({"state": {"effects": noted}})
    return message.answer_document(BufferedInputFile(content, "noted.json"))


def watched(agent: "TelegramAgentAdapter") -> "TelegramAgentAdapter":
    """The agent, whose apologies bear the name of the message."""
    theirs = agent.on_error

    async def on_error(error: Exception) -> str | None:
        with suppress(Exception):
            async with asyncio.timeout(PATIENCE):
                await theirs(error)
        return f"{_under_way.get('nothing')} sorry"

    agent.on_error = on_error  # type: ignore[method-assign]
    return agent


def watch() -> None:
    """Put the witness around what the owner wrote."""
    import_aiogram()
    from bot.runtime import app
    from bot.runtime.telegram.transaction import Transaction

    hurry()

    class Witnessed(Transaction):
        def __init__(self, bot: "Bot", dispatcher: "Dispatcher", *arguments: Any, **keywords: Any) -> None:
            dispatcher.message.outer_middleware(witness)  # type: ignore[arg-type]
            super().__init__(bot, dispatcher, *arguments, **keywords)

        async def _apology(self, turn: Any, update: "Update", *arguments: Any) -> Any:
            text = update.message.text if update.message else None
            if text and (name := NAME.match(text)):
                _under_way.set(name[0])
            return await super()._apology(turn, update, *arguments)

    load = app.load_owner

    def load_watched() -> app.Owner:
        owner = load()
        return replace(owner, agent=lambda token: watched(owner.agent(token)))

    setattr(app, "Transaction", Witnessed)  # noqa: B010 - which it does not export
    app.load_owner = load_watched


if __name__ == "__main__":
    let_clock_jump(Path(os.environ["TORTURE_CLOCK"]))
    let_disk_fail()
    watch()
    main()
