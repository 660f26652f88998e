"""Telegram inside this process: people, chats and files, and the Bot API as far as bots use it.

`bot chat` brings it to the terminal, and `bot.runtime.testing` into tests; people act by a `LocalChat`.
"""

import itertools
import mimetypes
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import orjson
from aiogram import Bot
from aiogram.client.session.base import BaseSession

from bot.runtime.telegram.calls import Frame, Reply, StoredCall, prepare, split_reply, with_files
from bot.runtime.telegram.jobs import JobRunner
from bot.runtime.telegram.processor import Processor

if TYPE_CHECKING:
    from aiogram.methods import TelegramMethod
    from aiogram.methods.base import TelegramType

Json = dict[str, Any]

TOKEN = "1000000:local"

DOWNLOAD_LIMIT = 20 * 1024 * 1024
"""Most bytes of a file that a bot may download: https://core.telegram.org/bots/api#getfile"""

MEDIA: dict[str, Json] = {
    "animation": {"width": 1, "height": 1, "duration": 1},
    "audio": {"duration": 1},
    "document": {},
    "live_photo": {"width": 1, "height": 1, "duration": 1},
    "photo": {"width": 1, "height": 1},
    "sticker": {"type": "regular", "width": 1, "height": 1, "is_animated": False, "is_video": False},
    "video": {"width": 1, "height": 1, "duration": 1},
    "video_note": {"length": 1, "duration": 1},
    "voice": {"duration": 1},
}
"""What Telegram says of each kind of file, besides its id and size."""

NAMELESS = ("photo", "sticker", "video_note", "voice")
"""Kinds of files of which Telegram tells no name."""

SHOWS_NOTHING = {"sendChatAction", "sendMessageDraft", "sendRichMessageDraft"}
"""Methods that send no message, whatever their names say."""

_calls: ContextVar[tuple[list[Reply], list[Reply]]] = ContextVar("calls")
"""Where the calls are noted that are made on account of the update under way, and, apart, its frames."""


class Refused(Exception):
    """The Bot API refuses a call."""

    def __init__(self, code: int, description: str) -> None:
        """Refuse it.

        Args:
            code: as of HTTP, such as 400.
            description: as Telegram words it, such as `Bad Request: chat not found`.
        """
        super().__init__(description)
        self.code = code


@dataclass(frozen=True, slots=True)
class Button:
    """A button under a message, which calls the bot back."""

    text: str
    data: str
    message: Json


class LocalTelegram:
    """Everything Telegram knows.

    Attributes:
        session: aiogram's way here, for the bot to use.
        me: the bot.
        answers: results by method, for those that are not known here, such as `getChatMember`, and in place
            of what is usual for the others; a `Refused` is raised.
        watch: is shown each call, and the message that it made or changed.
        watch_frame: is shown each frame of an answer that grows.
    """

    def __init__(self) -> None:
        """Know nobody, and no bot to bring updates to."""
        self.session = _LocalSession(self)
        self.me: Json = {
            "id": int(TOKEN.partition(":")[0]),
            "is_bot": True,
            "first_name": "Bot",
            "username": "local_bot",
        }
        self.answers: dict[str, Any] = {}
        self.watch: Callable[[Reply, Json | None], None] = lambda call, message: None
        self.watch_frame: Callable[[Reply], None] = lambda call: None
        self._bot: Bot | None = None
        self._processor: Processor | None = None
        self._jobs: JobRunner | None = None
        self._people: dict[str, Json] = {}
        self._chats: dict[int, Json] = {}
        self._messages: dict[tuple[int, int], Json] = {}
        self._files: dict[str, bytes] = {}
        self._queries: dict[str, int] = {}
        self._texts: dict[int, list[str]] = {}
        self._payloads: dict[int, str] = {}
        self._message_ids = itertools.count(1)
        # Telegram's ids have 32 bits, so microseconds never meet one that a store has seen.
        self._update_ids = itertools.count(time.time_ns() // 1000)

    def bring_to(self, bot: Bot, processor: Processor, jobs: JobRunner) -> None:
        """Bring updates to this bot from now on, and have what it keeps for later handled at once."""
        self._bot, self._processor, self._jobs = bot, processor, jobs

    def person(self, name: str, user_id: int | None = None, **fields: Any) -> Json:
        """Somebody with a Telegram account; the same name is the same person.

        Args:
            name: first name.
            user_id: Telegram's id; the next that is free when it is not given.
            fields: more of Telegram's `User`, such as `language_code`.
        """
        if name not in self._people:
            taken = {person["id"] for person in self._people.values()}
            free = next(number for number in itertools.count(1) if number not in taken)
            self._people[name] = {"id": user_id or free, "is_bot": False, "first_name": name}
        self._people[name].update(fields)
        return self._people[name]

    def private_chat(self, user: Json) -> Json:
        """The chat of a person with the bot."""
        chat = {"id": user["id"], "type": "private", "first_name": user["first_name"]}
        return self._chats.setdefault(user["id"], chat)

    def group(self, title: str) -> Json:
        """Open a group."""
        chat_id = -1_001_000_000_000 - len(self._chats)
        return self._chats.setdefault(chat_id, {"id": chat_id, "type": "supergroup", "title": title})

    def message(self, chat: Json, sender: Json, **content: Any) -> Json:
        """Put a message into a chat."""
        number = next(self._message_ids)
        message = {"message_id": number, "date": int(time.time()), "chat": chat, "from": sender, **content}
        self._messages[chat["id"], number] = message
        return message

    def media(self, kind: str, content: bytes, name: str | None = None) -> Json:
        """Keep a file, and describe it as Telegram does in a message.

        Args:
            kind: one of `MEDIA`.
            content: its bytes.
            name: its name, where that is known.
        """
        if kind in NAMELESS:
            name = None
        file_id = f"{kind}-{len(self._files) + 1}"
        self._files[file_id] = content
        media = {"file_id": file_id, "file_unique_id": file_id, "file_size": len(content), **MEDIA[kind]}
        if name:
            media["file_name"] = name
            media["mime_type"] = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return {kind: [media] if kind == "photo" else media}

    def content_of(self, file_id: str) -> bytes:
        """The bytes of a file."""
        return self._files[file_id]

    def buttons(self, chat: Json) -> list[Button]:
        """The buttons in a chat, those of the newest message first."""
        messages = [message for (chat_id, _), message in self._messages.items() if chat_id == chat["id"]]
        return [
            Button(button["text"], button["callback_data"], message)
            for message in reversed(messages)
            for row in message.get("reply_markup", {}).get("inline_keyboard", [])
            for button in row
            if "callback_data" in button
        ]

    def invoice(self, chat: Json) -> Json:
        """What somebody would pay for in a chat, as the queries and messages about it say.

        Raises:
            LookupError: there is no invoice.
        """
        for (chat_id, number), message in reversed(self._messages.items()):
            if chat_id == chat["id"] and (invoice := message.get("invoice")):
                amount = {name: invoice[name] for name in ("currency", "total_amount")}
                return {**amount, "invoice_payload": self._payloads[number]}
        raise LookupError("there is no invoice in this chat")

    def texts(self, chat: Json) -> list[str]:
        """What the bot has shown in a chat, the oldest first."""
        return self._texts.setdefault(chat["id"], [])

    def press(self, button: Button) -> Json:
        """The content of the query that a pressed button causes, but for who it was."""
        query_id = str(next(self._update_ids))
        chat_id = button.message["chat"]["id"]
        self._queries[query_id] = chat_id
        return {
            "id": query_id,
            "chat_instance": str(chat_id),
            "message": button.message,
            "data": button.data,
        }

    def update(self, **event: Any) -> Json:
        """An update with an id of its own, which stays as it is whatever becomes of the messages in it."""
        raw: Json = orjson.loads(orjson.dumps({"update_id": next(self._update_ids), **event}))
        return raw

    async def deliver(self, raw: Json, calls: list[Reply], frames: list[Reply] | None = None) -> None:
        """Bring an update to the bot.

        Args:
            raw: the update, as `update` makes it.
            calls: where to note the calls that the bot makes on account of it, in background work, too.
            frames: where to note those that show an answer while it grows.

        Raises:
            NotAcknowledged: the bot did not deal with it, and Telegram would bring it again.
        """
        if self._bot is None or self._processor is None:
            raise RuntimeError("no bot runs")
        token = _calls.set((calls, [] if frames is None else frames))
        try:
            await self._processor.process_raw(raw)
            is_answer = raw.get("callback_query", {}).get("data", "").startswith("ask:")
            if self._jobs and (self._processor.defers or is_answer):
                await self._jobs.run_once()
        finally:
            _calls.reset(token)

    def call(self, call: Reply, *, is_frame: bool = False) -> Any:
        """Do what a call of the bot says.

        Args:
            call: the call.
            is_frame: whether it shows an answer while it grows.

        Returns:
            Its result, as JSON.

        Raises:
            Refused: Telegram would refuse it.
        """
        result = self._result(call)
        if noted := _calls.get(None):
            noted[is_frame].append(call)
        if is_frame:
            self.watch_frame(call)
            return result
        message = result if isinstance(result, dict) and "message_id" in result else None
        if (text := self.text_of(call)) is not None and (chat_id := self.chat_of(call)) is not None:
            self._texts.setdefault(chat_id, []).append(text)
        self.watch(call, message)
        return result

    def chat_of(self, call: Reply) -> int | None:
        """The id of the chat in which a call shows something."""
        if query := call.params.get("callback_query_id"):
            return self._queries.get(query)
        chat_id = call.params.get("chat_id", "")
        return int(chat_id) if re.fullmatch(r"-?\d+", chat_id) else None

    def text_of(self, call: Reply) -> str | None:
        """What a call shows, in words: a text, a caption, an alert, or its kind, such as `[photo]`."""
        shown = call.params.get("text") or call.params.get("caption")
        if shown or not call.method.startswith("send") or call.method in SHOWS_NOTHING:
            return shown
        return f"[{_kind_of(call)}]"

    def _result(self, call: Reply) -> Any:
        if call.method in self.answers:
            answer = self.answers[call.method]
            if isinstance(answer, Refused):
                raise answer
            return answer
        match call.method:
            case "getMe":
                return self.me
            case "getFile":
                return self._file(call.params["file_id"])
            case "editMessageText" | "editMessageCaption" | "editMessageReplyMarkup" | "editMessageMedia":
                return self._edit(call)
            case "deleteMessage":
                message = self._own_message(call, "delete")
                del self._messages[message["chat"]["id"], message["message_id"]]
                return True
            case "sendMediaGroup":
                return [self._send(call) for _ in orjson.loads(call.params["media"])]
            case "copyMessage":
                return {"message_id": self._send(call)["message_id"]}
            case "forwardMessage":
                return self._send(call)
            case name if name.startswith("send") and name not in SHOWS_NOTHING:
                return self._send(call)
            case name if name.startswith("get"):
                raise NotImplementedError(f"what {name} returns has to be put into `answers` first")
            case _:
                return True

    def _send(self, call: Reply) -> Json:
        if call.method == "sendMessage" and not call.params.get("text", "").strip():
            raise Refused(400, "Bad Request: message text is empty")
        chat_id = self.chat_of(call)
        if chat_id is None:
            raise Refused(400, "Bad Request: chat not found")
        kind = "private" if chat_id > 0 else "supergroup"
        chat = self._chats.setdefault(chat_id, {"id": chat_id, "type": kind})
        message = self.message(chat, self.me, **self._content(call))
        if call.method == "sendInvoice":
            self._payloads[message["message_id"]] = call.params["payload"]
        return message

    def _edit(self, call: Reply) -> Json | bool:
        if "inline_message_id" in call.params:
            return True
        message = self._own_message(call, "edit")
        before = dict(message)
        message.pop("reply_markup", None)
        message.update(self._content(call))
        if message == before:
            raise Refused(400, "Bad Request: message is not modified")
        message["edit_date"] = int(time.time())
        return message

    def _own_message(self, call: Reply, purpose: str) -> Json:
        place = self.chat_of(call) or 0, int(call.params["message_id"])
        message = self._messages.get(place)
        if message is None:
            raise Refused(400, f"Bad Request: message to {purpose} not found")
        return message

    def _content(self, call: Reply) -> Json:
        """What a message of the bot says and shows."""
        params = call.params
        content: Json = {name: params[name] for name in ("text", "caption") if name in params}
        if (thread := params.get("message_thread_id")) is not None:
            content |= {"message_thread_id": int(thread), "is_topic_message": True}
        markup = orjson.loads(params.get("reply_markup", "{}"))
        if "inline_keyboard" in markup:
            content["reply_markup"] = markup
        kind = _kind_of(call)
        if kind == "invoice":
            total = sum(price["amount"] for price in orjson.loads(params["prices"]))
            texts = {name: params[name] for name in ("title", "description", "currency")}
            content["invoice"] = {**texts, "start_parameter": "", "total_amount": total}
        if kind in MEDIA and kind in params:
            attached = call.files.get(params[kind].removeprefix("attach://"))
            name, data = attached or (None, self._files.get(params[kind], b""))
            content |= self.media(kind, data, name)
        return content

    def _file(self, file_id: str) -> Json:
        if file_id not in self._files:
            raise Refused(400, "Bad Request: invalid file_id")
        size = len(self._files[file_id])
        if size > DOWNLOAD_LIMIT:
            raise Refused(400, "Bad Request: file is too big")
        return {
            "file_id": file_id,
            "file_unique_id": file_id,
            "file_size": size,
            "file_path": f"files/{file_id}",
        }


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
        self._frames: list[Reply] = []
        self._said: Json | None = None
        self._last: Json | None = None

    @property
    def texts(self) -> list[str]:
        """Everything the bot has shown in this chat: texts, captions, edits and alerts, the oldest first."""
        return list(self.telegram.texts(self.chat))

    @property
    def frames(self) -> list[str]:
        """What was shown here meanwhile, of answers to what the person did last, each time they grew."""
        here = (call for call in self._frames if self.telegram.chat_of(call) == self.chat["id"])
        return [call.params["text"] for call in here]

    async def stop(self) -> None:
        """Stop what the bot is saying: by Telegram's button, where one is shown, and by `/stop` otherwise."""
        drafts = [call.params["draft_id"] for call in self._frames if call.method == "sendMessageDraft"]
        if drafts:
            stopped = {"chat": self.chat, "draft_id": int(drafts[-1])}
            update = self.telegram.update(stopped_message_generation=stopped)
        else:
            message = self.telegram.message(self.chat, self.user, text=f"/stop{self.bot}")
            update = self.telegram.update(message=message)
        await self.telegram.deliver(update, [])

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
        frames: list[Reply] = []
        self.replies, self._frames = calls, frames
        for update in updates:
            self._last = update
            await self.telegram.deliver(update, calls, frames)
        here = (call for call in calls if self.telegram.chat_of(call) == self.chat["id"])
        return [text for call in here if (text := self.telegram.text_of(call)) is not None]


class _LocalSession(BaseSession):
    """Takes the bot's calls to a `LocalTelegram`, and its answers back as aiogram expects them.

    Attributes:
        shows_at_once: nobody minds how often something is shown here.
    """

    shows_at_once = True

    def __init__(self, telegram: LocalTelegram) -> None:
        super().__init__()
        self._telegram = telegram

    async def make_request(
        self, bot: Bot, method: "TelegramMethod[TelegramType]", timeout: int | None = None
    ) -> Any:
        status, answer = 200, {}
        try:
            call = method.reply if isinstance(method, StoredCall) else await _prepare_one(bot, method)
            answer = {"ok": True, "result": self._telegram.call(call, is_frame=isinstance(method, Frame))}
        except Refused as error:
            status = error.code
            answer = {"ok": False, "error_code": error.code, "description": str(error)}
        return self.check_response(bot, method, status, orjson.dumps(answer).decode()).result

    async def stream_content(
        self,
        url: str,
        headers: Json | None = None,
        timeout: int = 30,
        chunk_size: int = 65536,
        raise_for_status: bool = True,
    ) -> AsyncGenerator[bytes, None]:
        content = self._telegram.content_of(url.rpartition("/")[2])
        for start in range(0, len(content), chunk_size):
            yield content[start : start + chunk_size]

    async def close(self) -> None:
        """Do nothing: there is no connection."""


async def _prepare_one(bot: Bot, method: "TelegramMethod[Any]") -> Reply:
    """The call of an awaited method. Only what goes through the outbox is split where it is too long."""
    call = await prepare(bot, method)
    if len(split_reply(call)) > 1:
        raise Refused(400, "Bad Request: message is too long")
    return await with_files(bot, call)


def _kind_of(call: Reply) -> str:
    """The kind of message that a call sends: `sendVideoNote` sends a `video_note`."""
    return re.sub(r"(?<=.)[A-Z]", r"_\g<0>", call.method.removeprefix("send")).lower()
