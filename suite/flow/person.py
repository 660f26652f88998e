"""Somebody who goes through the flow."""

import json
from typing import Any

from suite.bot_api import FakeTelegram, Sent

NAME = "1/3. What is your name?"
YEAR = "2/3. Hello, {}! In which year were you born?"
STYLE = "3/3. How shall I answer you?"
SUMMARY = "You are {}, born in {}, and want to be answered {}. Is that right?"


class Person:
    """A user in one chat and, in a forum, one topic."""

    def __init__(
        self, telegram: FakeTelegram, user_id: int, chat_id: int | None = None, topic: int | None = None
    ) -> None:
        self.telegram = telegram
        self.user_id = user_id
        self.chat_id = user_id if chat_id is None else chat_id
        self.topic = topic

    def says(self, text: str | None, **fields: Any) -> int:
        """Write, and wait for nothing."""
        if self.topic:
            fields |= {"message_thread_id": self.topic, "is_topic_message": True}
        return self.telegram.message(text, user_id=self.user_id, chat_id=self.chat_id, **fields)

    def presses(self, text: str, *, sent: Sent | None = None) -> int:
        """Press the button that says so, of what was sent last with such a button, or of `sent`."""
        for each in reversed([sent] if sent else self._shown()):
            rows = json.loads(each.params.get("reply_markup", "{}")).get("inline_keyboard", [])
            for button in (button for row in rows for button in row):
                if button["text"] == text:
                    data = button["callback_data"]
                    return self.telegram.callback(data, user_id=self.user_id, message=each)
        raise AssertionError(f"there is no button {text!r}")

    async def does(self, *texts: str) -> None:
        """Say these one after another, `[Button]` pressing a button, and see all through."""
        for text in texts:
            if text.startswith("["):
                self.presses(text.strip("[]"))
            else:
                self.says(text)
            await self.telegram.settled()

    def sees(self) -> list[str]:
        """Every text that was shown in this chat and topic, edits included."""
        return [sent.text for sent in self._shown()]

    def alerts(self) -> list[str]:
        """Every text that a pressed button brought up."""
        answers = (sent for sent in self.telegram.sent if sent.method == "answerCallbackQuery")
        return [sent.text for sent in answers if sent.text]

    def last(self) -> Sent:
        """What was shown last."""
        return self._shown()[-1]

    def _shown(self) -> list[Sent]:
        return [sent for sent in self.telegram.sent if self._is_here(sent)]

    def _is_here(self, sent: Sent) -> bool:
        message = self.telegram.messages[sent.chat_id, sent.message_id]
        is_text = sent.method in ("sendMessage", "editMessageText")
        return is_text and (sent.chat_id, message.get("message_thread_id")) == (self.chat_id, self.topic)
