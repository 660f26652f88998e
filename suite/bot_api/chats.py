"""Chats and what stands in them, and what the bot did that people see."""

import itertools
import re
import time
from collections import defaultdict
from dataclasses import dataclass, field

from suite.bot_api.call import Call, Json, integer, json_object
from suite.bot_api.errors import ApiError, bad_request
from suite.bot_api.markup import shown_markup
from suite.bot_api.server import BLOCKED
from suite.bot_api.webhooks import Webhooks

UPGRADED = "Bad Request: group chat was upgraded to a supergroup chat"


@dataclass(eq=False)
class Sent:
    """One accepted call that a person sees: messages, edits, answers to pressed buttons."""

    method: str
    params: dict[str, str]
    files: dict[str, bytes]  # file name -> content
    chat_id: int
    message_id: int
    text: str  # as shown, tags gone; of a file its caption
    ok: bool = True  # False: done, but the bot was not told (drop_answer)
    at: float = field(default_factory=time.monotonic)


@dataclass(eq=False, repr=False)
class Chats(Webhooks):
    """Every chat there is, with its messages."""

    sent: list[Sent] = field(default_factory=list, init=False)
    messages: dict[tuple[int, int], Json] = field(default_factory=dict, init=False)  # chat id, id

    def __post_init__(self) -> None:
        super().__post_init__()
        self._message_ids = itertools.count(1)
        self._chats: dict[int, Json] = {}
        self.administrators: set[tuple[int, int]] = set()  # chat and user
        self._blocked: set[int] = set()
        self._upgraded: dict[int, int] = {}  # groups by id, and what they became
        self._texts: defaultdict[int, list[str]] = defaultdict(list)
        self._connections_of: dict[str, Json] = {}  # business connections, by id

    def texts(self, chat_id: int) -> list[str]:
        """Texts of the messages sent to the chat, in order (edits and captions are in `sent`)."""
        return list(self._texts[chat_id])

    def me(self) -> Json:
        """The bot, as a User."""
        bot_id = int(self.token.partition(":")[0])
        return {"id": bot_id, "is_bot": True, "first_name": "Test bot", "username": "test_bot"}

    def chat(self, chat_id: int) -> Json:
        """The Chat of that id. One nobody knows is private or, where the id is negative, a supergroup."""
        if chat_id not in self._chats:
            private = {"id": chat_id, "type": "private", "first_name": f"User {chat_id}"}
            group = {"id": chat_id, "type": "supergroup", "title": f"Group {chat_id}"}
            self._chats[chat_id] = private if chat_id > 0 else group
        return self._chats[chat_id]

    def block(self, chat_id: int) -> None:
        """From now on everything sent there is 403, until `unblock`."""
        self._blocked.add(chat_id)

    def unblock(self, chat_id: int) -> None:
        self._blocked.discard(chat_id)

    def group(self, chat_id: int) -> None:
        """Makes the chat a group that is no supergroup (yet)."""
        self._chats[chat_id] = {"id": chat_id, "type": "group", "title": f"Group {chat_id}"}

    def upgrade(self, chat_id: int, new_id: int) -> None:
        """The group becomes a supergroup: what is sent to the old one is 400. `migrate` tells it, too."""
        self._upgraded[chat_id] = new_id

    # --- What methods are made of -------------------------------------------------------------

    def new_message(self, chat_id: int, content: Json) -> Json:
        """A message in the chat: `content` has further fields of the Message; None removes one."""
        message_id = next(self._message_ids)
        message = {"message_id": message_id, "date": int(time.time()), "chat": self.chat(chat_id)}
        message |= {key: value for key, value in content.items() if value is not None}
        self.messages[chat_id, message_id] = message
        return message

    def post(self, call: Call, content: Json, text: str = "") -> Json:
        """The bot's own message, where the call wants it, with the call's buttons; noted in `sent`."""
        chat_id = self.writable(call)
        self._check_quote(call, chat_id)
        message = {"from": self.me(), **content, "reply_markup": shown_markup(call.params)}
        if "message_thread_id" in call.params:
            thread_id = integer(call.params, "message_thread_id", 0, 1)
            message |= {"message_thread_id": thread_id, "is_topic_message": True}
        if connection := self.business_connection_of(call):
            message |= {"business_connection_id": connection["id"], "sender_business_bot": self.me()}
        return self.record(call, self.new_message(chat_id, message), text)

    def writable(self, call: Call) -> int:
        """The chat id, if the bot may write there."""
        value = call.params.get("chat_id", "")
        if not value:
            raise bad_request("chat_id is empty")
        if not re.fullmatch(r"-?[1-9]\d*", value):
            raise bad_request("chat not found")
        if int(value) in self._blocked:
            raise ApiError(403, BLOCKED)
        if new := self._upgraded.get(int(value)):
            raise ApiError(400, UPGRADED, migrate_to_chat_id=new)
        return int(value)

    def _check_quote(self, call: Call, chat_id: int) -> None:
        """A message can be the reply to one that is there."""
        if "reply_parameters" not in call.params:
            return
        given = json_object(call.params, "reply_parameters", "ReplyParameters")
        there = given.get("chat_id", chat_id), given.get("message_id")
        if there not in self.messages and not given.get("allow_sending_without_reply"):
            raise bad_request("message to be replied not found")

    def business_connection_of(self, call: Call) -> Json | None:
        """The business connection that the call names; None where it names none."""
        name = call.params.get("business_connection_id", "")
        if name and name not in self._connections_of:
            raise bad_request("business connection not found")
        return self._connections_of[name] if name else None

    def own_message(self, call: Call, purpose: str) -> Json:
        """The message that the call names; `purpose` is a verb. Only the bot's own can be edited."""
        chat_id, message_id = self.writable(call), integer(call.params, "message_id", 0)
        message = self.messages.get((chat_id, message_id))
        if message is None:
            raise bad_request(f"message to {purpose} not found")
        if purpose == "edit" and message.get("from") != self.me():
            raise bad_request("message can't be edited")
        return message

    def record(self, call: Call, message: Json, text: str = "") -> Json:
        """Notes in `sent` that the call made or changed the message; hands the message back."""
        chat_id, message_id = message["chat"]["id"], message["message_id"]
        ok = not call.cut
        self.sent.append(Sent(call.method, call.params, call.files, chat_id, message_id, text, ok))
        if call.method == "sendMessage":
            self._texts[chat_id].append(text)
        return message
