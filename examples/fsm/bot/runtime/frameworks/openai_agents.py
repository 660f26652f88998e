"""A session of the OpenAI Agents SDK that is the conversation in the record.

    result = await Runner.run(assistant, message, session=RecordSession(self.turn))

What a run adds is kept beside the answer that the agent returns, and so committed with it, or not at all.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from bot.runtime.state.codec import dumps
from bot.runtime.state.record import Message, exchanges, signed
from bot.runtime.state.turn import Turn

KEY = "openai_agents"
"""What the data beside a message of the history is called that is a run's."""

Item = dict[str, Any]
"""A part of a run, as the SDK has it."""


class RecordSession:
    """The conversation of a turn, to a run of the SDK.

    Messages without a run's items, such as those from before there was the SDK, are given as texts. A call of
    a tool is given right before what it returned, or not at all: also one that waited for somebody's consent
    while the conversation went on.

    Attributes:
        session_id: names the conversation.
    """

    session_settings: Any = None

    def __init__(self, turn: Turn) -> None:
        """Open it, for this turn only."""
        self._turn = turn
        self.session_id = f"{turn.user_id}/{turn.conversation}"

    async def get_items(self, limit: int | None = None) -> list[Any]:
        """The newest items, or all: of the conversation before this message, and of runs in this turn."""
        items = [item for exchange in exchanges(self._before()) for item in _items_in(exchange)]
        items = _paired(items + self._added())
        return items if limit is None else _paired(items[max(0, len(items) - limit) :])

    async def add_items(self, items: Sequence[Any]) -> None:
        """Keep items beside the answer, without files; what cannot be kept is a `StateValueError`."""
        self._keep([*self._added(), *map(_without_files, items)])

    async def pop_item(self) -> Any | None:
        """Take away the newest item; `None` if there is none."""
        if added := self._added():
            item = added.pop()
            self._keep(added)
            return item
        last = [[], *exchanges(before := self._before())][-1]
        items = list(_items_in(last))
        if not items:
            return None
        # What is left of the exchange stands beside its first message: the texts are as people saw them.
        item = items.pop()
        begin = len(before) - len(last)
        kept = [replace(last[0], json=dumps({KEY: items}, "data"))] if items else []
        self._turn.history[begin : len(before)] = kept
        return item

    async def clear_session(self) -> None:
        """Take away everything but the message that is answered."""
        self._keep([])
        del self._turn.history[: len(self._before())]

    def _before(self) -> Sequence[Message]:
        """The conversation without the message that is answered."""
        history = self._turn.history
        is_answered = history and history[-1].role == "user" and history[-1].data is None
        return history[:-1] if is_answered else history[:]

    def _added(self) -> list[Item]:
        """What runs have added in this turn."""
        return _run(self._turn.beside) or []

    def _keep(self, items: Sequence[Item]) -> None:
        self._turn.remember_beside({KEY: items} if items else None)


def _items_in(exchange: Sequence[Message]) -> Iterator[Item]:
    """The items of runs in an exchange, and the texts of what no run has."""
    runs = [_run(message.data) for message in exchange]
    is_asked = any(item.get("role") == "user" for run in runs for item in run or ())
    for message, run in zip(exchange, runs, strict=True):
        yield from run or ()
        if message.role == "user" and not is_asked:
            yield {"role": "user", "content": signed(message.text, message.author)}
        is_said = run and run[-1].get("role") == "assistant"  # else it waits for an answer to this text
        if message.role == "assistant" and message.text and not is_said:
            yield _said(message.text)


def _run(data: Any) -> list[Item] | None:
    """The items of a run in the data beside a message; `None` if it is no run's."""
    return data[KEY] if isinstance(data, dict) and KEY in data else None


def _said(text: str) -> Item:
    """A text of the bot's, in the form that a run which waits can keep, too; with the SDK's id for no id."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "role": "assistant", "id": "__fake_id__", "content": content}


def _paired(items: Sequence[Item]) -> list[Item]:
    """The items, with each call of a tool near what it returned: no provider takes one without the other."""
    placed: list[Item] = []
    thoughts: list[Item] = []  # belong to what comes after them
    near: dict[str, list[Item]] = {}  # calls since something was said last
    far: dict[str, list[Item]] = {}
    for item in [*items, {}]:  # where the conversation ends, no call waits any longer
        call = item.get("call_id")
        if item.get("type") == "reasoning":
            thoughts.append(item)
            continue
        if call is None:
            far |= near
            placed = [*_without(placed, near.values()), *thoughts, item]
            near = {}
        elif not str(item.get("type")).endswith("_output"):
            placed = [*_without(placed, [near.get(call, [])]), *thoughts, item]
            near[call] = [*thoughts, item]
        elif near.pop(call, None):
            placed.append(item)
        elif parts := far.pop(call, None):
            placed += [*parts, item]
        thoughts = []
    return placed[:-1]


def _without(items: Sequence[Item], parts: Iterable[Sequence[Item]]) -> list[Item]:
    apart = {id(each) for some in parts for each in some}
    return [each for each in items if id(each) not in apart]


def _without_files(item: Item) -> Item:
    """The item with a word in the place of each file in it."""
    content = item.get("content")
    if item.get("role") != "user" or not isinstance(content, list):
        return item
    words = [
        part if "text" in part else {"type": "input_text", "text": f"[{part['type']}]"} for part in content
    ]
    return {**item, "content": words}
