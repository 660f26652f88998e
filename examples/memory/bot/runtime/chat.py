"""`bot chat`: the same bot in the terminal, without a token or a network."""

import asyncio
import itertools
import mimetypes
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import orjson
from prompt_toolkit import PromptSession, print_formatted_text
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.patch_stdout import patch_stdout

from bot.runtime.app import open_app
from bot.runtime.config import Settings
from bot.runtime.state.codec import clean
from bot.runtime.state.record import waiting_for
from bot.runtime.telegram.agent import TelegramAgentAdapter, streams
from bot.runtime.telegram.calls import NOTHING_YET, Reply, run_alongside, without_markup
from bot.runtime.telegram.local import TOKEN, Button, Json, LocalChat, LocalTelegram
from bot.runtime.telegram.processor import NotAcknowledged

FILE = re.compile(r"""/file\s+(?:"([^"]+)"|'([^']+)'|(\S+))\s*(.*)""", re.DOTALL)
"""The line that sends a file: its path, in quotes if it has spaces, and perhaps a caption."""

SHOWN_AS = {"image": "photo", "audio": "audio", "video": "video"}
"""As what people's apps send a file, by the first part of its media type."""

HIDDEN = ("sendChatAction", "setMyCommands")
"""Calls that show nothing in a terminal."""


class _Screen:
    """Shows what the bot does, and knows what a number stands for."""

    def __init__(self, show: Callable[[str], None], write: Callable[[str], None] | None = None) -> None:
        self.show = show
        self._write = write
        self._written = ""
        """What of the answer that grows is written already."""
        self.buttons: list[Button] = []
        """Those of the last message that had any."""
        self._calls = 0
        """How many calls of the bot were shown."""

    def watch_frame(self, call: Reply) -> None:
        """Write what an answer has become longer by."""
        text = call.params["text"]
        if self._write and text != NOTHING_YET and text.startswith(self._written):
            self._write(text.removeprefix(self._written))
            self._written = text

    def watch(self, call: Reply, message: Json | None) -> None:
        """Show a call of the bot."""
        self._calls += call.method not in HIDDEN
        match call.method:
            case "sendMessage" | "editMessageText":
                plain = without_markup(call) or call  # a terminal shows no link's address
                text = plain.params["text"]
                goes_on = text.startswith(self._written)
                self.show(text.removeprefix(self._written) if goes_on else f"\n{text}")
                self._written = ""
            case "sendDocument":
                self.show(call.params.get("caption", ""))
                for name, content in call.files.values():
                    self.show(f"[{name}]\n{content.decode(errors='replace')}")
            case "answerCallbackQuery":
                if "text" in call.params:
                    self.show(call.params["text"])
            case method if method in HIDDEN:
                pass
            case method if not method.startswith("get"):
                self.show(" ".join([f"[{method}]", *filter(None, [call.params.get("caption")])]))
        if "reply_markup" in call.params:
            self._offer(orjson.loads(call.params["reply_markup"]), message or {})

    def _offer(self, markup: Json, message: Json) -> None:
        self.buttons = []
        for button in itertools.chain.from_iterable(markup.get("inline_keyboard", [])):
            if "callback_data" in button:
                self.buttons.append(Button(button["text"], button["callback_data"], message))
                self.show(f"  {len(self.buttons)}) {button['text']}")
            elif "url" in button:
                self.show(f"  {button['text']}: {button['url']}")
        if self.buttons:
            self.show("(type a number to press a button)")

    async def enter(self, line: str, person: LocalChat) -> None:
        """Send a line as a message, or the file that it names, or press the button whose number it is."""
        line, calls = clean(line), self._calls
        try:
            if line.isdecimal() and 1 <= int(line) <= len(self.buttons):
                button = self.buttons[int(line) - 1]
                self.buttons = []
                await person.press(button)
                return
            if file := FILE.match(line):
                await _send_file(person, file[1] or file[2] or file[3], file[4] or None)
            else:
                await person.say(line)
            if calls == self._calls:
                self.show("(no reply)")
        except OSError as error:
            self.show(f"(not sent: {error.filename} cannot be read, {error.strerror})")
        except NotAcknowledged as error:
            self.show(f"(not answered: {error}; try again)")


async def _send_file(person: LocalChat, name: str, caption: str | None) -> None:
    """Send a file as people's apps do.

    Raises:
        OSError: it cannot be read.
    """
    path = Path(name)
    content = await asyncio.to_thread(lambda: path.expanduser().read_bytes())
    media_type = mimetypes.guess_type(path.name)[0] or ""
    kind = SHOWN_AS.get(media_type.partition("/")[0], "document")
    if media_type in ("image/gif", "audio/ogg"):
        kind = "animation" if media_type == "image/gif" else "voice"
    await person.send_media(kind, content, name=path.name, caption=caption)


async def chat(settings: Settings, user_id: int) -> None:
    """Talk to the bot until the input ends.

    Args:
        settings: the settings; the token and everything about Telegram are ignored.
        user_id: the Telegram id to be.

    Raises:
        OperatorError: the store cannot be opened.
    """
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    screen = _Screen(_show_coloured, _write_coloured) if is_terminal else _Screen(_show_plain)
    telegram = LocalTelegram()
    telegram.watch, telegram.watch_frame = screen.watch, screen.watch_frame
    person = LocalChat(telegram, telegram.person("You", user_id))
    opening = open_app(
        settings,
        session=telegram.session,
        token=TOKEN,
        is_ours=lambda record: record in (str(user_id), waiting_for(str(user_id))),
    )
    async with opening as app:
        telegram.bring_to(app.bot, app.processor, app.jobs)
        if app.agent.format != "plain":
            telegram.watch_frame = lambda call: None  # rendered, an answer does not go on as it began
        if is_terminal:
            print("Write to your bot. /help lists its commands, /file PATH sends a file, Ctrl-D leaves.")
            if streams(type(app.agent)):
                print("Ctrl-C stops an answer.")
            if not app.store.survives_exit:
                print("The memory store forgets everything when you leave.")
        with run_alongside(0, app.jobs.run):
            async for line in _typed_lines() if is_terminal else _piped_lines():
                if line.strip():
                    with _stoppable(app.agent, person) if is_terminal else nullcontext():
                        await screen.enter(line, person)
        await app.drain()


@contextmanager
def _stoppable(agent: TelegramAgentAdapter, person: LocalChat) -> Iterator[None]:
    """Have Ctrl-C stop an answer that grows; where there is none, it ends the program as ever."""
    loop, main, before = asyncio.get_running_loop(), asyncio.current_task(), signal.getsignal(signal.SIGINT)
    stopping: set[asyncio.Task[None]] = set()

    def interrupt() -> None:
        if agent.streams and agent.streams.is_busy:
            stopping.add(asyncio.ensure_future(person.stop()))
        elif main:
            main.cancel()

    try:
        loop.add_signal_handler(signal.SIGINT, interrupt)
    except NotImplementedError:  # on Windows
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)


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


def _write_coloured(text: str) -> None:
    print_formatted_text(FormattedText([("ansicyan", text)]), end="", flush=True)


def _show_plain(text: str) -> None:
    print(text, flush=True)
