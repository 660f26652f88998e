"""Flood protection: a user who writes too much is told so, and the agent is spared.

The count stands in the user's record and is part of the turn, so it is right whatever the number of replicas,
and an update that comes again ends as it did before.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from aiogram import BaseMiddleware
from aiogram.types import Message, TelegramObject

from bot.runtime import metrics
from bot.runtime.state.turn import Turn, current_turn
from bot.runtime.telegram.commands import has_text, is_by_a_person
from bot.runtime.telegram.texts import MENU, TextTable

FLOW = "flood"
"""Where the count stands among the record's flows: it expires, is exported and forgotten with them."""

ALWAYS = {f"/{command}" for command in MENU}
"""What works in the middle of a flood, too."""

Handler = Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]]


class FloodProtection(BaseMiddleware):
    """Takes `limit` messages of a user within `seconds`, and answers the first beyond them with how it is.

    The time is Telegram's, so messages that waited while the bot was down are no flood.
    """

    def __init__(self, limit: int, seconds: int, texts: TextTable) -> None:
        """Protect the handlers of messages."""
        self._limit = limit
        self._seconds = seconds
        self._texts = texts

    async def __call__(self, handler: Handler, event: TelegramObject, data: dict[str, Any]) -> Any:
        """Pass a message on, or do not."""
        turn = current_turn()
        if turn is None or not isinstance(event, Message) or not await _is_said(event):
            return await handler(event, data)
        if _command(event) in ALWAYS:
            count = turn.fsm.get(FLOW)
            result = await handler(event, data)
            if count:
                turn.fsm[FLOW] = count  # /reset is no way around
            return result
        began, number = self._count(turn, event)
        if number <= self._limit:
            return await handler(event, data)
        metrics.FLOODED.inc()
        if number > self._limit + 1:
            return None
        left = began + self._seconds - int(event.date.timestamp())
        texts = self._texts.of(event.from_user.language_code if event.from_user else None)
        return event.answer(texts.flood.format(limit=self._limit, period=self._seconds, left=max(1, left)))

    def _count(self, turn: Turn, message: Message) -> tuple[int, int]:
        """Count a message: when the period began that it falls into, and its number in there."""
        sent = int(message.date.timestamp())
        began, number = turn.fsm.get(FLOW, {}).get("data", {}).get("period", (sent, 0))
        if sent >= began + self._seconds:
            began, number = sent, 0
        turn.fsm[FLOW] = {"data": {"period": [began, number + 1]}}
        return began, number + 1


async def _is_said(message: Message) -> bool:
    """Whether somebody wrote or sent this."""
    return await has_text(message) or await is_by_a_person(message)


def _command(message: Message) -> str:
    """The command a message consists of or begins with, without the bot's name."""
    words = (message.text or "").split(maxsplit=1)
    return words[0].partition("@")[0] if words else ""
