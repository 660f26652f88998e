"""Calls to the Bot API: replies as they are stored, and calls made while something else runs.

A stored call is the very parameters of the HTTP request, so what is sent after a crash is what would have
been sent before it. The bytes of its files are kept beside it; a path or an address is kept as it is, and
read when the call is sent.
"""

import asyncio
import io
import math
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import orjson
import structlog
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import PRODUCTION, TelegramAPIServer
from aiogram.exceptions import (
    ClientDecodeError,
    TelegramAPIError,
    TelegramBadRequest,
    TelegramNetworkError,
    TelegramRetryAfter,
    TelegramServerError,
)
from aiogram.methods import Response, TelegramMethod
from aiogram.types import BufferedInputFile, FSInputFile, InputFile, Update, URLInputFile
from aiohttp import BytesPayload, ClientError, ClientResponseError, FormData
from aiohttp_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError

from bot.runtime.config import Settings
from bot.runtime.errors import AttachmentError, AttachmentTooLarge, ReplyTooLarge
from bot.runtime.state.codec import clean
from bot.runtime.state.record import Limits
from bot.runtime.state.store import new_file_id

if TYPE_CHECKING:
    from aiogram.methods.base import TelegramType

TEXT_LIMIT, CAPTION_LIMIT, QUERY_LIMIT, QUESTION_LIMIT = 4096, 1024, 200, 300
"""Longest text of a message, caption of a file, answer to a pressed button, and question of a poll, in UTF-16
units: https://core.telegram.org/bots/api#sendmessage"""

PLACE = {
    *("chat_id", "message_thread_id", "direct_messages_topic_id", "business_connection_id"),
    *("ephemeral_message_parameters", "receiver_user_id", "callback_query_id"),
}
"""The parameters that say where a message goes, and who sees it."""

FOLLOWS = PLACE | {
    *("disable_notification", "protect_content", "allow_paid_broadcast"),
    *("link_preview_options", "disable_web_page_preview"),
}
"""The parameters of a call that hold for the rest of its text, too."""

NESTED = {"media", "options", "reply_parameters", "result", "results"}
"""The parameters in which there may be further texts, as JSON."""

MAY_PASS = (408, 425, 429)
"""HTTP's statuses of refusals that do not last."""
OK, NOT_FOUND = 200, 404
READ_SECONDS = 60.0
"""How long reading the files of an update's replies may take, and later each with an address or a path."""

UPLOAD_BYTES = Limits().file_bytes
"""Most bytes that Telegram takes: https://core.telegram.org/bots/api#sending-files"""

log = structlog.get_logger()

MARKDOWN = "markdown of a model"
"""The parse mode of a text that is rendered when it is sent. Telegram knows nothing of it."""

FORMATS = ("plain", "markdown")
"""What `Agent.format` may be."""

ENTITIES = 100
"""How many entities of a message Telegram shows. It drops others without a word:
https://github.com/tdlib/td/blob/master/td/telegram/MessageEntity.cpp"""

MARKUP = ("parse_mode", "entities")
"""How the names of the fields end that say what is bold, a link and so on."""
MARKED = {"text": "entities", "message_text": "entities", "caption": "caption_entities"}
"""The fields with texts, and those that say what is marked in them."""
PLAIN_ONLY = {"text", "parse_mode", "link_preview_options", "disable_web_page_preview"}
"""The parameters of a text that a rich message does not have."""

_Text = tuple[str, list[dict[str, Any]]]
"""A text and its entities."""

KeptFiles = Callable[[str], Awaitable[bytes | None]]
"""Reads a file that is kept beside a record, by its id."""


async def kept_nowhere(_: str) -> None:
    """Read no file: this reply waits in no record."""


class FileGone(Exception):
    """The file of a reply cannot be read.

    Attributes:
        was_kept: whether it was kept with the reply: then it was sent.
    """

    def __init__(self, reason: str, *, was_kept: bool = False) -> None:
        """Make an error; neither a path nor an address belongs into `reason`."""
        super().__init__(reason)
        self.was_kept = was_kept


@dataclass(frozen=True, slots=True)
class Reply:
    """One call to the Bot API, ready to be sent or stored.

    Attributes:
        method: its name, such as `sendMessage`.
        params: its parameters as form fields.
        files: per attached name, the file's name and content, where that is in this process.
        sources: per attached name, the file's `name`, and where it is: `kept` beside the record by this id,
            or at this `path` or `url`.
        rest: the parameters of `PLACE` for what is too long for it, as far as it has none of its own.
        anew: whether it is to be sent as a message, if that is gone which it edits.
    """

    method: str
    params: Mapping[str, str]
    files: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rest: Mapping[str, str] = field(default_factory=dict)
    anew: bool = False

    def to_json(self) -> dict[str, Any]:
        """The reply as a JSON object."""
        value: dict[str, Any] = {"method": self.method, "params": dict(self.params)}
        if self.sources:
            value["files"] = {key: dict(source) for key, source in self.sources.items()}
        if self.rest:
            value["rest"] = dict(self.rest)
        if self.anew:
            value["anew"] = True
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            value["method"],
            value["params"],
            sources=value.get("files", {}),
            rest=value.get("rest", {}),
            anew=value.get("anew", False),
        )

    def kept_files(self) -> dict[str, bytes | None]:
        """The files that are to be kept beside the record: content by id; `None` where it is not here."""
        return {
            source["kept"]: self.files[key][1] if key in self.files else None
            for key, source in self.sources.items()
            if "kept" in source
        }


PROXY_FAILED = (ProxyError, ProxyConnectionError, ProxyTimeoutError)
"""What is raised when a proxy cannot connect; nothing was sent then."""

MAY_COME = (
    *(TelegramNetworkError, TelegramServerError, ClientDecodeError),  # the last: a proxy's page of HTML
    *(ClientError, TimeoutError, *PROXY_FAILED),
)
"""What is raised when a download fails that may succeed a moment later."""
DOWNLOAD_PAUSE = 0.5
"""Seconds before another attempt."""

_ANSWER = Response[Any]
"""Held here, because pydantic forgets a parametrised model that nobody holds, and builds it anew."""


class StoredCall(TelegramMethod[Any]):
    """A `Reply` in the form in which aiogram sends calls."""

    __returning__ = Any
    reply: Reply

    @property
    def __api_method__(self) -> str:  # type: ignore[override]
        return self.reply.method


class _Body(FormData):
    """The parameters of a call without files, as most are: JSON takes a tenth of the time of a form."""

    def __init__(self, params: Mapping[str, str]) -> None:
        self._params = params

    def __call__(self) -> BytesPayload:
        return BytesPayload(orjson.dumps(self._params), content_type="application/json")


class _Answer(NamedTuple):
    """The answer to a stored call, of which nothing is read: aiogram's own is a model."""

    result: Any


SHOWN = "shown:"
"""How the counter begins that keeps which message shows the answer to an update."""

NOTHING_YET = "…"
"""Shown of an answer until there is something to show."""


class Frame(StoredCall):
    """A call that shows what an answer is so far."""


class Session(AiohttpSession):
    """aiogram's HTTP session, which also sends stored calls as they are, and uses a proxy if one is set.

    Attributes:
        takes_rich: whether the server is not known to be older than rich messages.
    """

    takes_rich = True

    @classmethod
    def of(cls, settings: Settings, **options: Any) -> Self:
        """Make one that reaches the Bot API as the settings and the usual variables say.

        Args:
            settings: where it is, and by which proxy.
            options: aiogram's own, such as `timeout` in seconds.

        Raises:
            OperatorError: a variable names a proxy that is none.
        """
        session = cls(api=TelegramAPIServer.from_base(settings.telegram_api_url), **options)
        if not {"SSL_CERT_FILE", "SSL_CERT_DIR"}.isdisjoint(os.environ):
            session._connector_init["ssl"].set_default_verify_paths()  # which reads them
        if proxy := settings.proxy:
            usual = session._connector_init
            session.proxy = proxy.replace("socks5h://", "socks5://")  # names are always resolved over there
            session._connector_init = usual | session._connector_init
        return session

    async def make_request(
        self, bot: Bot, method: "TelegramMethod[TelegramType]", timeout: int | None = None
    ) -> "TelegramType":
        """Send a call. That a proxy fails is as if the network did."""
        try:
            return await super().make_request(bot, method, timeout)
        except PROXY_FAILED as error:
            raise TelegramNetworkError(method, f"the proxy fails ({type(error).__name__})") from error

    def build_form_data(self, bot: Bot, method: "TelegramMethod[TelegramType]") -> FormData:
        """The form of a call."""
        if not isinstance(method, StoredCall):
            return super().build_form_data(bot, method)
        if not method.reply.files:
            return _Body(dict(method.reply.params))
        form = FormData(quote_fields=False)
        for key, value in method.reply.params.items():
            form.add_field(key, value)
        for key, (name, content) in method.reply.files.items():
            form.add_field(key, io.BytesIO(content), filename=name)  # which is not sent in one go
        return form

    def check_response(
        self, bot: Bot, method: "TelegramMethod[TelegramType]", status_code: int, content: str
    ) -> "Response[TelegramType]":
        """The answer to a call. One to a stored call that Telegram did not write counts by its status."""
        if status_code == OK and isinstance(method, StoredCall):
            with suppress(orjson.JSONDecodeError, TypeError, KeyError):
                answer = orjson.loads(content)
                if answer["ok"] is True:
                    return cast("Response[TelegramType]", _Answer(answer["result"]))
        try:
            return super().check_response(bot, method, status_code, content)
        except (TelegramAPIError, ClientDecodeError, TypeError) as error:
            if status_code < 400 or not isinstance(method, StoredCall):
                raise
            if status_code in MAY_PASS and not isinstance(error, TelegramRetryAfter):
                raise TelegramNetworkError(method, f"HTTP {status_code}") from error
            if isinstance(error, TelegramAPIError):
                raise
        page = orjson.dumps({"ok": False, "description": f"HTTP {status_code}"}).decode()
        return super().check_response(bot, method, status_code, page)

    async def close(self) -> None:
        """Close the connections. aiogram would wait for TLS here, which aiohttp does by itself."""
        if self._session is not None:
            await self._session.close()


def build_models(bot: Bot) -> None:
    """Have aiogram's models built that reading a message and answering it take."""
    chat, user = {"id": 1, "type": "private"}, {"id": 1, "is_bot": False, "first_name": ""}
    said = {"message_id": 1, "date": 1, "chat": chat, "from": user, "text": ""}
    update = Update.model_validate({"update_id": 0, "message": said}, context={"bot": bot})
    if update.message:
        update.message.answer("").model_dump(warnings=False, exclude_none=True)
    StoredCall(reply=Reply("", {}))


async def prepare(
    bot: Bot,
    method: TelegramMethod[Any],
    *,
    update_id: int = 0,
    file_bytes: int = UPLOAD_BYTES,
    place: Mapping[str, str] | None = None,
    person: str = "",
) -> Reply:
    """Turn a method into a reply. `split_reply` makes several calls of it where its text is too long for one.

    Args:
        bot: whose defaults (such as its parse mode) fill what the method leaves open.
        method: un-awaited, as handlers return them.
        update_id: the update that it is a reply to.
        file_bytes: most bytes of a file that is kept with the reply.
        place: where that update came from, as parameters of `PLACE`.
        person: who wrote or pressed a button, by id; empty for nobody.

    Raises:
        ReplyTooLarge: a file has more.
        TimeoutError: reading the files takes too long.
    """
    files: dict[str, InputFile] = {}
    params: dict[str, str] = {}
    for key, value in method.model_dump(warnings=False, exclude_none=True).items():
        prepared = bot.session.prepare_value(value, bot=bot, files=files)
        if prepared:
            params[key] = clean(prepared)
    contents: dict[str, tuple[str, bytes]] = {}
    sources: dict[str, Mapping[str, Any]] = {}
    async with asyncio.timeout(READ_SECONDS) if files else nullcontext():
        for key, file in files.items():
            name = _file_name(file.filename or key)
            if type(file) is URLInputFile:
                headers = {name: str(value) for name, value in file.headers.items()}
                sources[key] = {"name": name, "url": file.url, "headers": headers}
            elif type(file) is FSInputFile:
                path = Path.cwd() / file.path
                _check_size((await asyncio.to_thread(path.stat)).st_size, max(file_bytes, UPLOAD_BYTES))
                sources[key] = {"name": name, "path": str(path)}
            else:
                content = await _content(bot, file, file_bytes)
                contents[key] = name, content
                sources[key] = {"name": name, "kept": new_file_id(update_id, content)}
    rest = _place_of_rest(method.__api_method__, params, place or {}, person)
    return Reply(method.__api_method__, params, contents, sources, rest)


async def with_files(bot: Bot, reply: Reply, kept: KeptFiles = kept_nowhere) -> Reply:
    """The reply with the contents of all its files.

    Raises:
        FileGone: one cannot be read.
    """
    if not reply.sources:
        return reply
    files = dict(reply.files)
    for key, source in reply.sources.items():
        if key not in files:
            files[key] = source["name"], await _read(bot, source, kept)
    return replace(reply, files=files)


def options_of(format: str) -> dict[str, Any]:
    """What a message with a text of an agent has, besides the text, in one of `FORMATS`."""
    return {"parse_mode": MARKDOWN} if format == "markdown" else {}


def rendered(reply: Reply) -> Reply:
    """The reply with texts and entities where it has Markdown of a model; itself, if it has none."""
    holders = (value for key, value in reply.params.items() if key in NESTED | {"parse_mode"})
    if not any(MARKDOWN in value for value in holders):
        return reply
    params = _rendered(reply.params)
    for key in params.keys() & NESTED:
        params[key] = orjson.dumps(_rendered(orjson.loads(params[key]))).decode()
    entities = {
        key: orjson.dumps(params[key]).decode()
        for key in params
        if key.endswith("entities") and not isinstance(params[key], str)
    }
    return replace(reply, params=params | entities)


def as_rich(bot: Bot, reply: Reply) -> Reply | None:
    """The Markdown of a reply as a rich message; `None` where that is nothing more, or none can be sent."""
    if (
        not getattr(bot.session, "takes_rich", False)
        or reply.method != "sendMessage"
        or reply.params.get("parse_mode") != MARKDOWN
    ):
        return None
    from bot.runtime.telegram.markdown import rich_blocks

    if (blocks := rich_blocks(reply.params["text"])) is None:
        return None
    params = {key: value for key, value in reply.params.items() if key not in PLAIN_ONLY}
    message = orjson.dumps({"blocks": blocks}).decode()
    return replace(reply, method="sendRichMessage", params={**params, "rich_message": message})


def split_reply(reply: Reply) -> list[Reply]:
    """The calls that a reply takes: more than one when a text in it is longer than Telegram takes there.

    What fits stays where it is, and the rest follows in messages. What is no message (the answer to a pressed
    button, the question of a poll) is cut there, and a message has the whole. A quote stays with the first
    part and buttons go with the last. Markdown of a model is rendered first; a text with another parse mode
    is left whole: it is counted after parsing.
    """
    whole, reply = reply, rendered(reply)
    own = FOLLOWS if reply.method != "answerCallbackQuery" else set[str]()
    shared = {key: value for key, value in reply.params.items() if key in own} | dict(reply.rest)
    has_place = "chat_id" in shared
    cut = partial(_cut, most=None if reply is whole else ENTITIES) if has_place else _shorten
    first, before, after = dict(reply.params), list[_Text](), list[_Text]()
    if reply.method == "answerCallbackQuery":
        after = _shorten(first, "text", QUERY_LIMIT)
    elif reply.method == "sendPoll":
        before = _shorten(first, "question", QUESTION_LIMIT)
    elif reply.method in ("sendMessage", "editMessageText"):
        after = cut(first, "text", TEXT_LIMIT)
    elif "caption" in first and not reply.method.endswith("Story"):
        after = cut(first, "caption", CAPTION_LIMIT)
    for name in {"media", "result", "results"} & first.keys():
        value = orjson.loads(first[name])
        for item in value if isinstance(value, list) else [value]:
            rest = cut(item, "caption", CAPTION_LIMIT)
            rest += _shorten(item.get("input_message_content") or {}, "message_text", TEXT_LIMIT)
            after += rest
            if rest:
                first[name] = orjson.dumps(value).decode()
    if not (before or after):
        return [reply]
    if not has_place:
        log.warning("a text is too long and was cut: there is no chat for the rest", method=reply.method)
        return [replace(reply, params=first)]
    messages = [Reply("sendMessage", {**shared, **_as_params(text)}) for text in (before or after)]
    if before:
        return [*messages, replace(reply, params=first)]
    if buttons := first.pop("reply_markup", None):
        messages[-1] = replace(messages[-1], params={**messages[-1].params, "reply_markup": buttons})
    return [replace(reply, params=first), *messages]


def without_markup(reply: Reply) -> Reply | None:
    """The reply with its texts as they were written, links as addresses; `None` if that is what it is."""
    params = _plain(reply.params)
    for key in params.keys() & NESTED:
        value = orjson.loads(params[key])
        if (plain := _plain(value)) != value:
            params[key] = orjson.dumps(plain).decode()
    return None if params == reply.params else replace(reply, params=params)


def instead_of_edit(reply: Reply) -> Reply | None:
    """A message with what an edit was to show; `None` if that is no text, or there is no chat."""
    params = {
        key: value for key, value in reply.params.items() if key in FOLLOWS | {"reply_markup", "parse_mode"}
    }
    name = "text" if "text" in reply.params else "caption"
    if not reply.method.startswith("edit") or not reply.params.get(name) or "chat_id" not in params:
        return None
    mark = "entities" if name == "text" else "caption_entities"
    entities = {"entities": reply.params[mark]} if mark in reply.params else {}
    return Reply("sendMessage", {**params, **reply.rest, "text": reply.params[name], **entities})


def split_text(
    text: str,
    limit: int = TEXT_LIMIT,
    first: int = 0,
    entities: Sequence[Mapping[str, Any]] = (),
    most: int | None = None,
) -> Iterator[tuple[int, str]]:
    """Split a text between paragraphs, else at line breaks, else at spaces, else anywhere between characters.

    Code is left whole where that can be, and is otherwise cut between its lines.

    Args:
        text: any text.
        limit: longest piece, in UTF-16 units.
        first: that of the first piece, if it is another one.
        entities: what is marked in it.
        most: how many of them a piece may have; any number if it is not given.

    Yields:
        Each piece that has something to show, after the place in the text where it begins, in UTF-16 units.
    """
    place = _Places(text)
    spans = sorted(
        (place.of(each["offset"]), place.of(each["offset"] + each["length"]), each["type"])
        for each in entities
    )
    codes = [(begin, over) for begin, over, kind in spans if kind == "pre"]
    start = 0
    while start < len(text):
        end = _fitting(text, start, first or limit)
        if most is not None:
            begins = [begin for begin, over, _ in spans if over > start and begin < end]
            end = begins[most] if len(begins) > most and begins[most] > start else end
        if end < len(text):
            end = _place_to_cut(text, start, end, codes)
        piece, following = text[start:end], end
        if any(begin < end < over for begin, over in codes):
            following += text.startswith("\n", end)
        else:
            until = min((begin for begin, _ in codes if begin >= end), default=len(text))
            while following < until and text[following] in " \n":
                following += 1
        if piece.strip():
            yield place.units(start), piece
            first = 0
        start = following


async def download(bot: Bot, file_id: str, *, size: int | None, most: int, seconds: float) -> bytes:
    """The content of a file that somebody sent. What fails on the way is tried again in that time.

    Args:
        bot: who was sent it.
        file_id: Telegram's id of it.
        size: its bytes, if Telegram said how many.
        most: bytes it may have.
        seconds: that it may take.

    Raises:
        AttachmentTooLarge: it has more bytes, or more than Telegram hands out.
        AttachmentError: it is gone, cannot be read, or did not come in time.
    """
    _check_attachment(size or 0, most)
    reason = "Telegram is slow"
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    return await _download(bot, file_id, most, math.ceil(seconds))
                except TelegramRetryAfter as error:
                    await asyncio.sleep(error.retry_after)
                except MAY_COME as error:
                    if isinstance(error, ClientResponseError) and error.status == NOT_FOUND:
                        raise AttachmentError("Telegram no longer has the file") from None
                    reason = type(error).__name__
                    await asyncio.sleep(DOWNLOAD_PAUSE)
    except TelegramBadRequest as error:
        if "too big" in error.message:
            raise AttachmentTooLarge("Telegram hands out no file as large as this one") from error
        raise AttachmentError("Telegram does not have the file") from error
    except TelegramAPIError as error:
        raise AttachmentError("Telegram does not hand out the file") from error
    except TimeoutError:
        raise AttachmentError(f"the file did not come within {seconds:g} s ({reason})") from None


async def _download(bot: Bot, file_id: str, most: int, seconds: int) -> bytes:
    file = await bot.get_file(file_id, request_timeout=seconds)
    path, api = file.file_path or "", bot.session.api
    _check_attachment(file.file_size or 0, most)
    if api.base != PRODUCTION.base and Path(path).is_absolute():
        # A server of one's own, in local mode, has put it there.
        return await asyncio.to_thread(_read_local, Path(path), most)
    content = bytearray()
    async with aclosing(bot.session.stream_content(api.file_url(bot.token, path), timeout=seconds)) as parts:
        async for part in parts:
            content += part
            _check_attachment(len(content), most)
    return bytes(content)


def _read_local(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise AttachmentError(
            f"the Bot API server put the file where this process cannot read it ({type(error).__name__}): "
            "let the bot see the server's folder, by the same path"
        ) from None
    _check_attachment(len(content), most)
    return content


def _check_attachment(size: int, most: int) -> None:
    if size > most:
        raise AttachmentTooLarge(f"the file has more bytes than ATTACHMENT_BYTES={most}")


@contextmanager
def run_alongside(delay: float, work: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """Run `work` alongside the block once it has lasted for `delay` seconds; cancel it when the block ends.

    What Telegram says to it is ignored.
    """
    tasks: list[asyncio.Task[None]] = []
    timer = asyncio.get_running_loop().call_later(
        delay, lambda: tasks.append(asyncio.create_task(_ignoring_refusals(work)))
    )
    try:
        yield
    finally:
        timer.cancel()
        for task in tasks:
            task.cancel()


async def _content(bot: Bot, file: InputFile, most: int) -> bytes:
    """What a file holds that only its object can read."""
    if type(file) is BufferedInputFile:
        content = bytes(file.data)  # no copy, where that is what it is
        size = len(content)
    else:
        chunks, size = [], 0
        async for chunk in file.read(bot):
            chunks.append(chunk)
            size += len(chunk)
            if size > most:
                break
        content = b"".join(chunks)
    _check_size(size, most)
    return content


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise ReplyTooLarge(f"a file of a reply has more bytes than {most}, see REPLY_FILE_BYTES")


async def _read(bot: Bot, source: Mapping[str, Any], kept: KeptFiles) -> bytes:
    """What the file of a stored call holds."""
    if "kept" in source:
        content = await kept(source["kept"])
        if content is None:
            raise FileGone("it was sent before, or is older than a day", was_kept=True)
        return content
    try:
        async with asyncio.timeout(READ_SECONDS):
            if "path" in source:
                return await asyncio.to_thread(Path(source["path"]).read_bytes)
            file = URLInputFile(source["url"], source["headers"], timeout=int(READ_SECONDS))
            return await _content(bot, file, UPLOAD_BYTES)
    except Exception as error:  # whatever the session raises
        raise FileGone(f"it cannot be read ({type(error).__name__})") from error


def _place_of_rest(
    method: str, params: Mapping[str, str], place: Mapping[str, str], person: str
) -> Mapping[str, str]:
    """Where what is too long for a call goes that does not say it itself."""
    chat = place.get("chat_id", "")
    if method == "answerCallbackQuery":
        # In a group nobody else sees it: so the rest is not for the group, either.
        is_longer = utf16_length(params.get("text", "")) > QUERY_LIMIT
        return {} if not (is_longer and person) else place if chat == person else {"chat_id": person}
    is_here = method.startswith("edit") and chat == params.get("chat_id")
    return place if is_here and place.keys() > {"chat_id"} else {}


def _cut(holder: dict[str, Any], name: str, limit: int, most: int | None = None) -> list[_Text]:
    """Cut a text of a call, or of an object in it, to what fits, and return the rest of it.

    Args:
        holder: the call's parameters, or the object.
        name: the text's field.
        limit: UTF-16 units that fit.
        most: entities that fit; any number if it is not given, as for what an owner marked.
    """
    text, mark = holder.get(name) or "", "entities" if name.endswith("text") else f"{name}_entities"
    if holder.get("parse_mode"):
        return []
    given = holder.get(mark) or []
    marked = orjson.loads(given) if isinstance(given, str) else given
    if utf16_length(text) <= limit and len(marked) <= (most or len(marked)):
        return []
    pieces = list(split_text(text, first=limit, entities=marked, most=most))
    entities = _entities_of(pieces, marked)
    (_, holder[name]), *rest = pieces or [(0, "")]
    if entities and entities[0]:
        holder[mark] = orjson.dumps(entities[0]).decode() if isinstance(given, str) else entities[0]
    else:
        holder.pop(mark, None)
    return [(piece, marked) for (_, piece), marked in zip(rest, entities[1:], strict=True)]


def _shorten(holder: dict[str, Any], name: str, limit: int) -> list[_Text]:
    """Cut a text that nothing can follow, which is then seen at its end, and return the whole of it."""
    whole = holder.get(name) or ""
    if any(key.endswith("parse_mode") for key in holder) or utf16_length(whole) <= limit:
        return []
    _cut(holder, name, limit - 1)
    holder[name] += "…"
    return [(piece, []) for _, piece in split_text(whole)]


def _as_params(text: _Text) -> dict[str, str]:
    """The parameters of a message with a text."""
    entities = {"entities": orjson.dumps(text[1]).decode()} if text[1] else {}
    return {"text": text[0], **entities}


def _plain(value: Any) -> Any:
    """A value of JSON without markup, at whatever depth."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    plain = {key: _plain(item) for key, item in value.items() if not key.endswith(MARKUP)}
    for name, mark in MARKED.items():
        if (entities := value.get(mark)) and name in plain:
            marked = orjson.loads(entities) if isinstance(entities, str) else entities
            plain[name] = _with_addresses(plain[name], marked)
    return plain


def _with_addresses(text: str, entities: list[dict[str, Any]]) -> str:
    """A text with the address of each link after it."""
    place = _Places(text)
    links = [each for each in entities if each.get("url") and each["url"] not in text]
    for each in sorted(links, key=lambda each: int(each["offset"]), reverse=True):
        end = place.of(each["offset"] + each["length"])
        text = f"{text[:end]} ({each['url']}){text[end:]}"
    return text


def _rendered(value: Any) -> Any:
    """A value of JSON with its Markdown rendered, at whatever depth."""
    if isinstance(value, list):
        return [_rendered(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    made = {key: _rendered(item) for key, item in value.items()}
    if made.get("parse_mode") == MARKDOWN:
        from bot.runtime.telegram.markdown import render

        del made["parse_mode"]
        for name in MARKED.keys() & made.keys():
            made[name], entities = render(made[name])
            if entities:
                made[MARKED[name]] = entities
    return made


def _entities_of(pieces: list[tuple[int, str]], entities: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Of each piece of a text, the entities in it, counted from its start."""
    starts = [start for start, _ in pieces]
    ends = [start + utf16_length(piece) for start, piece in pieces]
    found: list[list[dict[str, Any]]] = [[] for _ in pieces]
    for entity in entities:
        begin, end = entity["offset"], entity["offset"] + entity["length"]
        for number in range(max(bisect_right(starts, begin) - 1, 0), len(pieces)):
            if starts[number] >= end:
                break
            first, last = max(begin, starts[number]), min(end, ends[number])
            if first < last:
                found[number].append({**entity, "offset": first - starts[number], "length": last - first})
    return found


def _fitting(text: str, start: int, limit: int) -> int:
    """Where the longest piece ends that begins at `start` and fits into `limit` UTF-16 units."""
    units = 0
    for index in range(start, min(start + limit, len(text))):
        units += 2 if text[index] > "\uffff" else 1
        if units > limit:
            return index
    return min(start + limit, len(text))


def _place_to_cut(text: str, start: int, end: int, codes: Sequence[tuple[int, int]]) -> int:
    """Where to end a piece of a text that begins at `start` and may go up to `end`."""
    middle = (start + end) // 2

    def last(separator: str, begin: int, until: int) -> int:
        """The last separator there that is in no code; -1 if there is none."""
        while (cut := text.rfind(separator, begin, until)) > start:
            if not (code := next((each for each in codes if each[0] <= cut < each[1]), None)):
                return cut
            until = code[0]
        return -1

    if code := next((each for each in codes if each[0] < end < each[1]), None):
        if code[0] > middle:
            end = code[0]
        elif (cut := text.rfind("\n", max(start + 1, code[0]), end + 1)) > start:
            return cut
    for separator in ("\n\n", "\n", " "):
        if (cut := last(separator, middle, end + 1)) > start:
            return cut
    from wcwidth import grapheme_boundary_before  # here, because it is rare

    boundary = grapheme_boundary_before(text[start : end + 1], end + 1 - start)
    return start + boundary if boundary else end


def _file_name(name: str) -> str:
    """The name of a file, as it can stand in a request."""
    return re.sub(r"[\x00-\x1f\x7f]", "_", clean(name))


class _Places:
    """Places in a text, in UTF-16 units and in characters of Python."""

    def __init__(self, text: str) -> None:
        self._pairs = [index for index, char in enumerate(text) if char > "\uffff"]
        self._pair_units = [index + number for number, index in enumerate(self._pairs)]

    def of(self, units: int) -> int:
        """The index of the character that begins after so many units."""
        return units - bisect_left(self._pair_units, units)

    def units(self, index: int) -> int:
        """How many units are before a character."""
        return index + bisect_left(self._pairs, index)


def utf16_length(text: str) -> int:
    """Length in UTF-16 units, as Telegram counts."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


async def _ignoring_refusals(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except TelegramAPIError as error:
        log.debug("side work refused", reason=error)
