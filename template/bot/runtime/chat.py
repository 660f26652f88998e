"""`bot chat`: the same bot in the terminal, without a token or a network."""

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
from aiogram import Bot
from aiogram.client.session.base import BaseSession
from aiogram.methods import TelegramMethod
from aiogram.types import Message, Update
from prompt_toolkit import PromptSession, print_formatted_text
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.patch_stdout import patch_stdout

from bot.runtime.app import open_app
from bot.runtime.config import Settings
from bot.runtime.state.codec import clean
from bot.runtime.telegram.calls import Reply, StoredCall, prepare
from bot.runtime.telegram.processor import NotAcknowledged, Processor

if TYPE_CHECKING:
    from aiogram.methods.base import TelegramType

CONSOLE_TOKEN = "1:console"

Show = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Button:
    """A button under the last message that had any."""

    text: str
    data: str
    message: dict[str, Any]


@dataclass(slots=True)
class _Screen:
    """What the bot has shown: the terminal's side of the Bot API."""

    show: Show
    chat: dict[str, Any]
    buttons: list[_Button] = field(default_factory=list)
    message_ids: Any = field(default_factory=lambda: itertools.count(1))

    def apply(self, reply: Reply) -> dict[str, Any]:
        """Show a call's effect.

        Returns:
            The message it made, as Telegram would answer.
        """
        params = reply.params
        message = self.message(params.get("text", ""))
        match reply.method:
            case "sendMessage" | "editMessageText":
                self.show(params["text"])
            case "sendDocument":
                self.show(params.get("caption", ""))
                for name, content in reply.files.values():
                    self.show(f"[{name}]\n{content.decode(errors='replace')}")
            case "answerCallbackQuery":
                if "text" in params:
                    self.show(params["text"])
            case "sendChatAction" | "setMyCommands":
                pass
            case method:
                self.show(f"[{method}]")
        if "reply_markup" in params:
            self._offer(orjson.loads(params["reply_markup"]), message)
        return message

    def message(self, text: str) -> dict[str, Any]:
        """A message in this chat, with an id of its own."""
        return {
            "message_id": next(self.message_ids),
            "date": int(time.time()),
            "chat": self.chat,
            "text": text,
        }

    def _offer(self, markup: dict[str, Any], message: dict[str, Any]) -> None:
        self.buttons = []
        for button in itertools.chain.from_iterable(markup.get("inline_keyboard", [])):
            if "callback_data" in button:
                self.buttons.append(_Button(button["text"], button["callback_data"], message))
                self.show(f"  {len(self.buttons)}) {button['text']}")
            elif "url" in button:
                self.show(f"  {button['text']}: {button['url']}")
        if self.buttons:
            self.show("(type a number to press a button)")


class _ConsoleSession(BaseSession):
    """Sends the bot's calls to the screen."""

    def __init__(self, screen: _Screen) -> None:
        super().__init__()
        self._screen = screen

    async def make_request(
        self, bot: Bot, method: "TelegramMethod[TelegramType]", timeout: int | None = None
    ) -> Any:
        if isinstance(method, StoredCall):
            return self._screen.apply(method.reply)
        message: dict[str, Any] = {}
        for reply in await prepare(bot, method):
            message = self._screen.apply(reply)
        if method.__returning__ is Message:
            return Message.model_validate(message, context={"bot": bot})
        return True

    async def stream_content(
        self,
        url: str,
        headers: dict[str, Any] | None = None,
        timeout: int = 30,
        chunk_size: int = 65536,
        raise_for_status: bool = True,
    ) -> AsyncGenerator[bytes, None]:
        raise NotImplementedError("there are no files to download in the terminal")
        yield b""

    async def close(self) -> None:
        """Do nothing: there is no connection."""


class _Person:
    """Writes and presses buttons in Telegram's stead."""

    def __init__(self, user_id: int, screen: _Screen, bot: Bot, processor: Processor) -> None:
        self._user = {"id": user_id, "is_bot": False, "first_name": "You"}
        self._screen = screen
        self._bot = bot
        self._processor = processor
        # Telegram's ids have 32 bits, so microseconds never meet one that a store has seen.
        self._update_ids = itertools.count(time.time_ns() // 1000)

    async def enter(self, line: str) -> None:
        """Send a line as a message, or press the button whose number it is."""
        line = clean(line)
        buttons = self._screen.buttons
        if line.isdecimal() and 1 <= int(line) <= len(buttons):
            button = buttons[int(line) - 1]
            self._screen.buttons = []
            await self._send(
                callback_query={
                    "id": str(next(self._update_ids)),
                    "from": self._user,
                    "chat_instance": "console",
                    "message": button.message,
                    "data": button.data,
                }
            )
        else:
            await self._send(message=self._screen.message(line) | {"from": self._user})

    async def _send(self, **event: Any) -> None:
        raw = {"update_id": next(self._update_ids), **event}
        update = Update.model_validate(raw, context={"bot": self._bot})
        try:
            await self._processor.process(update)
        except NotAcknowledged as error:
            self._screen.show(f"(not answered: {error}; try again)")


async def chat(settings: Settings, user_id: int) -> None:
    """Talk to the bot until the input ends.

    Args:
        settings: the settings; the token and everything about Telegram are ignored.
        user_id: the Telegram id to be.

    Raises:
        OperatorError: the store cannot be opened.
    """
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    screen = _Screen(
        show=_show_coloured if is_terminal else _show_plain,
        chat={"id": user_id, "type": "private", "first_name": "You"},
    )
    session = _ConsoleSession(screen)
    async with open_app(settings, session=session, token=CONSOLE_TOKEN) as app:
        person = _Person(user_id, screen, app.bot, app.processor)
        if is_terminal:
            print("Write to your bot. /help lists its commands, Ctrl-D leaves.")
            if not app.store.survives_exit:
                print("The memory store forgets everything when you leave.")
        async for line in _typed_lines() if is_terminal else _piped_lines():
            if line.strip():
                await person.enter(line)
        await app.drain()


async def _typed_lines() -> AsyncIterator[str]:
    prompt: PromptSession[str] = PromptSession()
    with patch_stdout():
        while True:
            try:
                yield await prompt.prompt_async("you> ")
            except (EOFError, KeyboardInterrupt):
                return


async def _piped_lines() -> AsyncIterator[str]:
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line.rstrip("\r\n")


def _show_coloured(text: str) -> None:
    print_formatted_text(FormattedText([("ansicyan", text)]))


def _show_plain(text: str) -> None:
    print(text, flush=True)
