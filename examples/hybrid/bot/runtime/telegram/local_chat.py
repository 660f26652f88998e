"""One person's side of one chat, in a Telegram inside this process."""

import re
import secrets
import time
from typing import Any, Self

from bot.runtime.telegram.calls import Reply
from bot.runtime.telegram.local import Button, Json, LocalTelegram


class LocalChat:
    """One person's side of one chat: what they do there, and what the bot answers.

    Attributes:
        telegram: where the chat is.
        user: the person, as Telegram's `User`.
        chat: the chat, as Telegram's `Chat`.
        replies: the calls of the bot on account of what the person did last, wherever they show something.
    """

    def __init__(self, telegram: LocalTelegram, user: Json, chat: Json | None = None) -> None:
        """Sit down there.

        Args:
            telegram: where it is.
            user: the person, as `LocalTelegram.person` makes them.
            chat: a group; their private chat with the bot when none is given.
        """
        self.telegram = telegram
        self.user = user
        self.chat = chat or telegram.private_chat(user)
        self.replies: list[Reply] = []
        self._said: Json | None = None
        self._last: Json | None = None

    @property
    def texts(self) -> list[str]:
        """Everything the bot has shown in this chat: texts, captions, edits and alerts, the oldest first."""
        return list(self.telegram.texts(self.chat))

    @property
    def bot(self) -> str:
        """The bot's name, such as `@local_bot`, by which it is addressed in a group."""
        return f"@{self.telegram.me['username']}"

    @property
    def buttons(self) -> list[str]:
        """What the buttons in this chat say, those of the newest message first."""
        return [button.text for button in self.telegram.buttons(self.chat)]

    def person(self, name: str, **fields: Any) -> Self:
        """Somebody else: in this group, or in a private chat of their own when this is one.

        Args:
            name: their first name; the same name is the same person.
            fields: more of Telegram's `User`, such as `language_code`.
        """
        user = self.telegram.person(name, **fields)
        return self._side_of(user, None if self.chat["type"] == "private" else self.chat)

    async def group(self, title: str, *names: str) -> Self:
        """Open a group with these people, and add the bot to it.

        Returns:
            This person's side of it.
        """
        chat = self.telegram.group(title)
        for name in names:
            self.telegram.person(name)
        side = self._side_of(self.user, chat)
        await side._do(
            self.telegram.update(
                my_chat_member=side._membership(self.user, self.telegram.me, "left", "member")
            ),
            self.telegram.update(message=side._message(new_chat_members=[self.telegram.me])),
        )
        return side

    async def join(self, name: str) -> list[str]:
        """Have somebody join this group."""
        user = self.telegram.person(name)
        message = self.telegram.message(self.chat, user, new_chat_members=[user])
        return await self._do(
            self.telegram.update(chat_member=self._membership(user, user, "left", "member")),
            self.telegram.update(message=message),
        )

    async def leave(self, name: str) -> list[str]:
        """Have somebody leave this group."""
        user = self.telegram.person(name)
        message = self.telegram.message(self.chat, user, left_chat_member=user)
        return await self._do(
            self.telegram.update(chat_member=self._membership(user, user, "member", "left")),
            self.telegram.update(message=message),
        )

    async def say(self, text: str, **fields: Any) -> list[str]:
        """Write something.

        Args:
            text: what to write.
            fields: more of Telegram's `Message`, such as `message_thread_id`.

        Returns:
            What the bot answers in this chat: texts, captions, edits and alerts, in order.

        Raises:
            NotAcknowledged: the bot did not deal with it, and Telegram would bring it again.
        """
        if command := re.match(r"/\w+(@\w+)?", text):
            entity = {"type": "bot_command", "offset": 0, "length": command.end()}
            fields = {"entities": [entity], **fields}
        return await self.send(text=text, **fields)

    async def send_photo(self, content: bytes, caption: str | None = None, **fields: Any) -> list[str]:
        """Send a picture. See `say`."""
        return await self.send_media("photo", content, caption=caption, **fields)

    async def send_voice(self, content: bytes, caption: str | None = None, **fields: Any) -> list[str]:
        """Send a voice message. See `say`."""
        return await self.send_media("voice", content, caption=caption, **fields)

    async def send_file(
        self, name: str, content: bytes, caption: str | None = None, **fields: Any
    ) -> list[str]:
        """Send a file. See `say`."""
        return await self.send_media("document", content, name=name, caption=caption, **fields)

    async def send_media(
        self, kind: str, content: bytes, *, name: str | None = None, caption: str | None = None, **fields: Any
    ) -> list[str]:
        """Send a file of any kind. See `say`.

        Args:
            kind: such as `video`, `sticker` or `document`.
            content: its bytes.
            name: what the sender calls it; a photo, a voice message and a sticker have no name.
            caption: the text with it.
            fields: more of Telegram's `Message`.
        """
        if caption is not None:
            fields = {"caption": caption, **fields}
        return await self.send(**self.telegram.media(kind, content, name), **fields)

    async def send(self, **content: Any) -> list[str]:
        """Send a message of any content, given as in Telegram's `Message`. See `say`."""
        return await self._do(self.telegram.update(message=self._message(**content)))

    async def edit(self, text: str) -> list[str]:
        """Change the text of what this person sent last. See `say`."""
        if self._said is None:
            raise LookupError("nothing was sent yet that could be edited")
        self._said.update(text=text, edit_date=int(time.time()))
        return await self._do(self.telegram.update(edited_message=dict(self._said)))

    async def press(self, button: str | Button) -> list[str]:
        """Press a button. See `say`.

        Args:
            button: the button, or what it says: that of the newest message is pressed.

        Raises:
            LookupError: there is no such button.
        """
        if isinstance(button, str):
            found = [each for each in self.telegram.buttons(self.chat) if each.text == button]
            if not found:
                raise LookupError(f"there is no button {button!r} among {self.buttons}")
            button = found[0]
        query = self.telegram.press(button) | {"from": self.user}
        return await self._do(self.telegram.update(callback_query=query))

    async def pay(self) -> list[str]:
        """Pay for the newest invoice in this chat, if the bot agrees. See `say`.

        Returns:
            What the bot answers; the reason, if it refuses.

        Raises:
            LookupError: there is no invoice.
        """
        invoice = self.telegram.invoice(self.chat)
        query = {"id": secrets.token_hex(8), "from": self.user, **invoice}
        said = await self._do(self.telegram.update(pre_checkout_query=query))
        answers = [call for call in self.replies if call.method == "answerPreCheckoutQuery"]
        if not answers or answers[0].params["ok"] != "true":
            return [*said, *(call.params["error_message"] for call in answers)]
        charge = {"telegram_payment_charge_id": secrets.token_hex(8), "provider_payment_charge_id": ""}
        return [*said, *await self.send(successful_payment=invoice | charge)]

    async def redeliver(self) -> list[str]:
        """Have Telegram bring the last update once more. See `say`."""
        if self._last is None:
            raise LookupError("nothing was done yet that could come again")
        return await self._do(self._last)

    def _side_of(self, user: Json, chat: Json | None) -> Self:
        return type(self)(self.telegram, user, chat)

    def _message(self, **content: Any) -> Json:
        self._said = self.telegram.message(self.chat, self.user, **content)
        return self._said

    def _membership(self, by: Json, user: Json, before: str, after: str) -> Json:
        return {
            "chat": self.chat,
            "from": by,
            "date": int(time.time()),
            "old_chat_member": {"user": user, "status": before},
            "new_chat_member": {"user": user, "status": after},
        }

    async def _do(self, *updates: Json) -> list[str]:
        calls: list[Reply] = []
        self.replies = calls
        for update in updates:
            self._last = update
            await self.telegram.deliver(update, calls)
        here = (call for call in calls if self.telegram.chat_of(call) == self.chat["id"])
        return [text for call in here if (text := self.telegram.text_of(call)) is not None]
