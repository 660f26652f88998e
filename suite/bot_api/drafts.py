"""Drafts of messages: what a bot streams while it makes up an answer.

A chat (or topic) shows one draft at a time. It goes after half a minute, or with the bot's next message
there. The person may stop it where the bot allows that. Telegram does not document what becomes of further
frames of a draft that was stopped: here they are accepted, and not shown.
"""

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from suite.bot_api.call import Call, Json, integer, is_true
from suite.bot_api.errors import bad_request
from suite.bot_api.rich import rich_message_of
from suite.bot_api.text import formatted

if TYPE_CHECKING:
    from suite.bot_api.people import People

PARAMETERS = "chat_id draft_id message_thread_id can_stop keep_on_stop "
HIGHEST = 2**63 - 1


@dataclass(eq=False)
class Frame:
    """One accepted call: what the chat shows from then on.

    Attributes:
        chat_id: the person's chat.
        thread_id: the topic in it; 0: none.
        draft_id: the bot's id of the draft.
        text: as people read it; empty where only "Thinking…" is shown.
        content: what a Message of it would have.
        can_stop: whether there is a button to stop it.
        keep_on_stop: whether it stays when that is pressed.
        is_animated: whether it goes on with the draft that was shown.
        at: when it came, monotonic.
    """

    chat_id: int
    thread_id: int
    draft_id: int
    text: str
    content: Json
    can_stop: bool
    keep_on_stop: bool
    is_animated: bool
    at: float = field(default_factory=time.monotonic)


class Drafts:
    """All frames that came, and which are seen.

    Attributes:
        life: for how many seconds a frame is shown.
        frames: every accepted call, in order.
    """

    def __init__(self, telegram: "People") -> None:
        self.life: float = 30
        self.frames: list[Frame] = []
        self._telegram = telegram
        self._shown: dict[
            tuple[int, int], tuple[Frame, int]
        ] = {}  # chat, topic -> and how much was sent by then
        self._stopped: set[tuple[int, int, int]] = set()  # chat, topic, draft
        telegram.method("sendMessageDraft", PARAMETERS + "text parse_mode entities")(self._send_text)
        telegram.method("sendRichMessageDraft", PARAMETERS + "rich_message")(self._send_rich)

    def shown(self, chat_id: int, thread_id: int = 0) -> Frame | None:
        """What the chat shows now; None: no draft."""
        frame, sent = self._shown.get((chat_id, thread_id), (None, 0))
        if frame is None or time.monotonic() > frame.at + self.life:
            return None
        later = self._telegram.sent[sent:]
        if any(s.method.startswith("send") and _place(s.params) == (chat_id, thread_id) for s in later):
            return None
        return frame

    def texts(self, chat_id: int, draft_id: int | None = None) -> list[str]:
        """The texts of all frames in the chat, in order; of one draft, or of all."""
        return [f.text for f in self.frames if f.chat_id == chat_id and draft_id in (None, f.draft_id)]

    def stop(self, chat_id: int, thread_id: int = 0) -> int:
        """The person presses Stop; returns the update's id.

        Raises:
            ValueError: nothing is shown that could be stopped.
        """
        frame = self.shown(chat_id, thread_id)
        if frame is None or not frame.can_stop:
            raise ValueError("there is nothing to stop")
        self._stopped.add((chat_id, thread_id, frame.draft_id))
        if frame.keep_on_stop:
            frame.can_stop = False
        else:
            del self._shown[chat_id, thread_id]
        stopped = {"chat": self._telegram.chat(chat_id), "draft_id": frame.draft_id}
        topic = {"message_thread_id": thread_id} if thread_id else {}
        return self._telegram.push({"stopped_message_generation": stopped | topic})

    async def _send_text(self, call: Call) -> bool:
        content = formatted(call.params, "text", 4096, may_be_empty=True)
        return self._accept(call, content, content["text"])

    async def _send_rich(self, call: Call) -> bool:
        content, text = rich_message_of(self._telegram.files, call, is_draft=True)
        return self._accept(call, content, text)

    def _accept(self, call: Call, content: Json, text: str) -> bool:
        chat_id = self._telegram.writable(call)
        if self._telegram.chat(chat_id)["type"] != "private":
            raise bad_request("message drafts can be sent only to private chats")
        draft_id = integer(call.params, "draft_id", 0, -HIGHEST, HIGHEST)
        if not draft_id:
            raise bad_request("draft identifier must be non-zero")
        place = (chat_id, integer(call.params, "message_thread_id", 0, 0))
        can_stop, keep = (is_true(call.params.get(name, "")) for name in ("can_stop", "keep_on_stop"))
        before = self.shown(*place)
        is_animated = before is not None and before.draft_id == draft_id
        frame = Frame(*place, draft_id, text, content, can_stop, keep, is_animated)
        self.frames.append(frame)
        if (*place, draft_id) not in self._stopped:
            self._shown[place] = (frame, len(self._telegram.sent))
        return True


def _place(params: dict[str, str]) -> tuple[int, int]:
    """The chat and the topic that a message went to."""
    chat_id = params.get("chat_id", "")
    return (
        int(chat_id) if re.fullmatch(r"-?\d+", chat_id) else 0,
        int(params.get("message_thread_id") or 0),
    )
