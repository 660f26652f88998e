"""What people do: they write, edit, press buttons and send files."""

import random
import re
import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from suite.bot_api.call import Json
from suite.bot_api.chats import Chats, Sent
from suite.bot_api.files import Files, content_of


@dataclass(eq=False, repr=False)
class People(Chats):
    """Makes the updates that people cause."""

    _: KW_ONLY
    query_life: float = 150  # for how long a callback query may be answered

    def __post_init__(self) -> None:
        super().__post_init__()
        self.files = Files(self)
        self.queries: dict[str, tuple[float, Json]] = {}  # not answered yet: made at, message

    def message(
        self,
        text: str | None,
        *,
        user_id: int,
        chat_id: int | None = None,
        **fields: Any,
    ) -> int:
        """Someone writes, in private or (negative `chat_id`) in a supergroup.

        `fields` are further fields of the Message; None removes one. Returns the update's id, or 0
        when the bot did not ask for messages (so do all that follow).
        """
        chat_id = user_id if chat_id is None else chat_id
        content = {"from": person(user_id), **_text_fields(text), **fields}
        return self.push({"message": self.new_message(chat_id, content)})

    def attachment(
        self,
        kind: str,
        content: bytes = b"x",
        *,
        user_id: int,
        chat_id: int | None = None,
        caption: str | None = None,
        of_file: Json | None = None,
        **fields: Any,
    ) -> int:
        """Someone sends a file, which `getFile` then knows.

        Args:
            kind: the field of the Message, such as photo, document, voice, video, audio, sticker.
            content: what is downloaded.
            user_id: who sends it.
            chat_id: where, if not in private.
            caption: the text with it.
            of_file: further fields of the file's own object, such as `{"file_name": "a.pdf"}`; a `file_size`
                stands for content of that size.
            fields: further fields of the Message.
        """
        file = self.files.add(content, kind, **(of_file or {}))
        return self.message(
            None, user_id=user_id, chat_id=chat_id, caption=caption, **content_of(kind, file), **fields
        )

    def album(
        self,
        *contents: bytes,
        user_id: int,
        chat_id: int | None = None,
        kind: str = "photo",
        caption: str | None = None,
    ) -> list[int]:
        """Someone sends several files at once: an update for each, all with one `media_group_id`.

        The caption is the first one's, as people's apps have it.
        """
        if not 2 <= len(contents) <= 10:
            raise ValueError("an album has 2 to 10 items")
        group = new_media_group_id()
        captions = [caption, *[None] * (len(contents) - 1)]
        return [
            self.attachment(
                kind, content, user_id=user_id, chat_id=chat_id, caption=text, media_group_id=group
            )
            for content, text in zip(contents, captions, strict=True)
        ]

    def channel_post(self, text: str | None, chat_id: int, **fields: Any) -> int:
        """A post in a channel: it has no user."""
        channel = {"id": chat_id, "type": "channel", "title": "Channel"}
        channel = self._chats.setdefault(chat_id, channel)
        content = {"sender_chat": channel, **_text_fields(text), **fields}
        return self.push({"channel_post": self.new_message(chat_id, content)})

    def edit(self, update_id: int, text: str, **fields: Any) -> int:
        """The author changes the message (or channel post) which that update brought."""
        kind, old = self.content(update_id)
        old = {key: value for key, value in old.items() if key != "entities"}
        message = old | _text_fields(text) | {"edit_date": int(time.time())} | fields
        self.messages[message["chat"]["id"], message["message_id"]] = message
        return self.push({f"edited_{kind.removeprefix('edited_')}": message})

    def callback(
        self,
        data: str,
        *,
        user_id: int,
        message: Sent | int | None = None,
        chat_id: int | None = None,
    ) -> int:
        """Someone presses a button.

        `message` is what the button is under: its id, or what is in `sent`. An unknown id arrives
        as an inaccessible message, as old ones do; for None the bot has just sent one.
        """
        chat_id = user_id if chat_id is None else chat_id
        if isinstance(message, Sent):
            chat_id, message = message.chat_id, message.message_id
        if message is None:
            keyboard = {"inline_keyboard": [[{"text": data, "callback_data": data}]]}
            content = {"from": self.me(), "text": "?", "reply_markup": keyboard}
            under = self.new_message(chat_id, content)
        else:
            gone = {"chat": self.chat(chat_id), "message_id": message, "date": 0}
            under = self.messages.get((chat_id, message), gone)
        query_id = str(random.getrandbits(62))
        self.queries[query_id] = (time.monotonic(), under)
        query = {"id": query_id, "from": person(user_id), "message": under, "data": data}
        return self.push({"callback_query": query | {"chat_instance": "1"}})

    def press(self, sent: Sent, row: int, column: int, *, user_id: int) -> int:
        """Presses that button of the message as it is now."""
        markup = self.messages[sent.chat_id, sent.message_id]["reply_markup"]
        data: str = markup["inline_keyboard"][row][column]["callback_data"]
        return self.callback(data, user_id=user_id, message=sent)

    def migrate(self, chat_id: int, new_id: int, *, user_id: int, only: Sequence[int] = (0, 1)) -> list[int]:
        """Someone makes a supergroup of a group; the ids of the updates that tell of it.

        The old chat ends with one of them, by that person, and the new chat begins with the other, by nobody.
        `only` says which of them come, and in which order.
        """
        self.upgrade(chat_id, new_id)
        anonymous = {
            "id": 1_087_968_824,
            "is_bot": True,
            "first_name": "Group",
            "username": "GroupAnonymousBot",
        }
        last = {"chat_id": chat_id, "user_id": user_id, "migrate_to_chat_id": new_id}
        first = {"chat_id": new_id, "user_id": user_id, "migrate_from_chat_id": chat_id, "from": anonymous}
        first["sender_chat"] = self.chat(new_id)
        return [self.message(None, **(last, first)[number]) for number in only]

    def connect_business(self, user_id: int) -> str:
        """Someone connects the bot to a business account; returns the connection's id."""
        connection = {
            "id": f"business-{user_id}-{len(self._connections_of)}",
            "user": person(user_id),
            "user_chat_id": user_id,
            "date": int(time.time()),
            "rights": {"can_reply": True},
            "is_enabled": True,
        }
        self._connections_of[str(connection["id"])] = connection
        self.push({"business_connection": connection})
        return str(connection["id"])


def person(user_id: int) -> Json:
    """A User."""
    return {"id": user_id, "is_bot": False, "first_name": f"User {user_id}"}


def new_media_group_id() -> str:
    return str(random.getrandbits(62))


def _text_fields(text: str | None) -> Json:
    """The text and what Telegram marks in it: a command at its start."""
    if text is None:
        return {}
    command = re.match(r"/[A-Za-z0-9_]{1,64}(@\w+)?", text)
    if command is None:
        return {"text": text}
    entity = {"type": "bot_command", "offset": 0, "length": len(command[0])}
    return {"text": text, "entities": [entity]}
