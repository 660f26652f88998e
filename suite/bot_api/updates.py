"""Updates: made once, owed until they are acknowledged, delivered again and in disorder on demand."""

import asyncio
import json
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from suite.bot_api.call import Json, json_list, words
from suite.bot_api.errors import bad_request
from suite.bot_api.server import ApiServer

OPT_IN_KINDS = words("chat_member message_reaction message_reaction_count")
KINDS = OPT_IN_KINDS | words(
    """message edited_message channel_post edited_channel_post business_connection business_message
    edited_business_message deleted_business_messages guest_message inline_query
    chosen_inline_result callback_query shipping_query pre_checkout_query purchased_paid_media
    poll poll_answer my_chat_member chat_join_request chat_boost removed_chat_boost managed_bot
    stopped_message_generation subscription"""
)
MESSAGE_KINDS = words("message edited_message channel_post edited_channel_post")


@dataclass(eq=False)
class Owed:
    """A delivery still owed. A repeated one (`again`) is shown once, whatever the offset."""

    id: int
    lane: str
    rank: float
    again: bool = False
    shown: bool = False


@dataclass(eq=False, repr=False)
class Updates(ApiServer):
    """Makes updates, and remembers which are still owed."""

    updates: dict[int, Json] = field(default_factory=dict, init=False)  # all ever made, by id
    acknowledged: dict[int, float] = field(default_factory=dict, init=False)  # id -> monotonic
    attempts: Counter[int] = field(default_factory=Counter, init=False)  # deliveries, by update id
    dropped: list[int] = field(default_factory=list, init=False)  # forgotten at the bot's request
    drop_requests: int = field(default=0, init=False)  # such requests, though nothing was pending
    filtered: list[Json] = field(default_factory=list, init=False)  # not among allowed_updates
    allowed_updates: set[str] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._next_update_id = random.randint(10**8, 9 * 10**8)
        self._pending: dict[Owed, None] = {}  # in order of delivery
        self._lanes: dict[str, deque[Owed]] = {}  # webhook: one delivery at a time in each

    @property
    def next_update_id(self) -> int:
        return self._next_update_id

    @next_update_id.setter
    def next_update_id(self, value: int) -> None:
        """Telegram restarts the ids at random after a quiet week, so only on an empty queue."""
        if self._pending and value < self._next_update_id:
            raise RuntimeError("ids go back only while nothing is pending")
        self._next_update_id = value

    def push(self, update_fields: Json) -> int:
        """Any update: one field, named for its kind, whether the bot knows it or not.

        Returns the update's id, or 0 when the bot did not ask for that kind.
        """
        ((kind, content),) = update_fields.items()
        allowed = self.allowed_updates
        if (kind in OPT_IN_KINDS) if allowed is None else (kind not in allowed):
            self.filtered.append(update_fields)
            return 0
        update_id = self._next_update_id
        self._next_update_id += 1
        # A copy: what was delivered does not change when the message does.
        self.updates[update_id] = {"update_id": update_id, **json.loads(json.dumps(update_fields))}
        self._enqueue(Owed(update_id, _lane(kind, content, update_id), update_id))
        return update_id

    def repeat(self, update_id: int) -> None:
        """Delivers an update once more, acknowledged or not."""
        lane = _lane(*self.content(update_id), update_id)
        self._enqueue(Owed(update_id, lane, update_id, again=True))

    def expire(self, update_id: int) -> None:
        """Gives up an update, as Telegram does with a press after 150 s, and after a day with the rest."""
        for update in [each for each in self._pending if each.id == update_id]:
            del self._pending[update]
            self.dropped.append(update_id)

    def reorder(self, seed: int) -> None:
        """Shuffles what is pending: within each answer to getUpdates, within each webhook lane.

        Which updates an answer holds stays as it is: an offset confirms everything below it.
        """
        ranks = [update.rank for update in self._pending]
        random.Random(seed).shuffle(ranks)
        for update, rank in zip(self._pending, ranks, strict=True):
            update.rank = rank
        for lane, queue in self._lanes.items():
            self._lanes[lane] = deque(sorted(queue, key=lambda update: update.rank))

    def content(self, update_id: int) -> tuple[str, Json]:
        """The kind of an update, and what it brings."""
        update = self.updates[update_id]
        (kind,) = update.keys() - {"update_id"}
        return kind, update[kind]

    async def settled(self, timeout: float = 30) -> None:
        """Waits until every update was acknowledged; TimeoutError says which were not."""
        try:
            await self.wait_for(lambda: not self._pending, timeout)
        except TimeoutError as error:
            late = [f"{u.id} ({self.attempts[u.id]} attempts)" for u in self._pending]
            shown = ", ".join(late[:20])
            raise TimeoutError(f"{len(late)} updates not acknowledged {error}: {shown}") from None

    async def wait_for(
        self,
        predicate: Callable[[], object],
        timeout: float = 30,
    ) -> None:
        """Looks every 10 ms whether `predicate()` is true; TimeoutError after `timeout`."""
        deadline = time.monotonic() + timeout
        while not predicate():
            if time.monotonic() > deadline:
                raise TimeoutError(f"within {timeout} s")
            await asyncio.sleep(0.01)

    def _enqueue(self, update: Owed) -> None:
        """Owes an update. Those who deliver begin with it here."""
        self._pending[update] = None

    def _acknowledge(self, update: Owed) -> None:
        del self._pending[update]
        self.acknowledged.setdefault(update.id, time.monotonic())

    def _drop(self, keep: int) -> None:
        """Forgets all but the last `keep` updates, unread."""
        self.drop_requests += 1
        for update in list(self._pending)[: max(0, len(self._pending) - keep)]:
            del self._pending[update]
            self.dropped.append(update.id)

    def _allow(self, params: dict[str, str]) -> None:
        """Applies to updates made from now on; without the parameter all stays as it was."""
        if "allowed_updates" in params:
            wanted = json_list(params, "allowed_updates")
            if unknown := [kind for kind in wanted if str(kind) not in KINDS]:
                raise bad_request(f"unknown update kind {unknown[0]!r}")
            self.allowed_updates = set(wanted) or None


def _lane(kind: str, content: Json, update_id: int) -> str:
    """What reaches a webhook one after another: the messages of a chat, the queries of a user."""
    if (
        kind in MESSAGE_KINDS or kind == "stopped_message_generation"
    ):  # which is not documented: the worst case
        return f"chat:{content['chat']['id']}"
    owner = content.get("from" if kind == "callback_query" else "chat") or content.get("from") or {}
    return f"{kind}:{owner['id']}" if "id" in owner else f"update:{update_id}"
