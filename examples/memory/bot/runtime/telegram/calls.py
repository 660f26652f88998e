"""Calls to the Bot API: replies as they are stored, and calls made while something else runs.

A stored call is the very parameters of the HTTP request, so what is sent after a crash is what would have
been sent before it.
"""

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import orjson
import structlog
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.exceptions import (
    ClientDecodeError,
    TelegramAPIError,
    TelegramNetworkError,
    TelegramRetryAfter,
)
from aiogram.methods import Response, TelegramMethod
from aiogram.types import InputFile
from aiohttp import FormData

from bot.runtime.state.codec import clean

if TYPE_CHECKING:
    from aiogram.methods.base import TelegramType

TEXT_LIMIT = 4096
"""Longest text of one message, in UTF-16 units: https://core.telegram.org/bots/api#sendmessage"""

MAY_PASS = (408, 425, 429)
"""HTTP's statuses of refusals that do not last."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reply:
    """One call to the Bot API, ready to be sent or stored.

    Attributes:
        method: its name, such as `sendMessage`.
        params: its parameters as form fields.
        files: per attached name, the file's name and content.
    """

    method: str
    params: Mapping[str, str]
    files: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The reply as a JSON object."""
        value: dict[str, Any] = {"method": self.method, "params": dict(self.params)}
        if self.files:
            value["files"] = {
                key: [name, base64.b64encode(content).decode()] for key, (name, content) in self.files.items()
            }
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        files = {
            key: (name, base64.b64decode(content)) for key, (name, content) in value.get("files", {}).items()
        }
        return cls(value["method"], value["params"], files)


_ANSWER = Response[Any]
"""Held here, because pydantic forgets a parametrised model that nobody holds, and builds it anew."""


class StoredCall(TelegramMethod[Any]):
    """A `Reply` in the form in which aiogram sends calls."""

    __returning__ = Any
    reply: Reply

    @property
    def __api_method__(self) -> str:  # type: ignore[override]
        return self.reply.method


class Session(AiohttpSession):
    """aiogram's HTTP session, which also sends stored calls as they are."""

    def build_form_data(self, bot: Bot, method: "TelegramMethod[TelegramType]") -> FormData:
        """The form of a call."""
        if not isinstance(method, StoredCall):
            return super().build_form_data(bot, method)
        form = FormData(quote_fields=False)
        for key, value in method.reply.params.items():
            form.add_field(key, value)
        for key, (name, content) in method.reply.files.items():
            form.add_field(key, content, filename=name)
        return form

    def check_response(
        self, bot: Bot, method: "TelegramMethod[TelegramType]", status_code: int, content: str
    ) -> "Response[TelegramType]":
        """The answer to a call. One to a stored call that Telegram did not write counts by its status."""
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


async def prepare(bot: Bot, method: TelegramMethod[Any]) -> list[Reply]:
    """Turn a method into replies: several when its text is longer than Telegram takes.

    Args:
        bot: whose defaults (such as its parse mode) fill what the method leaves open.
        method: un-awaited, as handlers return them.
    """
    files: dict[str, InputFile] = {}
    params: dict[str, str] = {}
    for key, value in method.model_dump(warnings=False).items():
        prepared = bot.session.prepare_value(value, bot=bot, files=files)
        if prepared:
            params[key] = clean(prepared)
    contents = {
        key: (_file_name(file.filename or key), b"".join([chunk async for chunk in file.read(bot)]))
        for key, file in files.items()
    }
    return list(split_reply(Reply(method.__api_method__, params, contents)))


def split_reply(reply: Reply) -> Iterator[Reply]:
    """The reply, or its parts when it is a plain text beyond the limit.

    A quote stays with the first part and buttons with the last. Text with a parse mode is left whole: it is
    counted after parsing.
    """
    text = reply.params.get("text", "")
    is_splittable = reply.method == "sendMessage" and "parse_mode" not in reply.params
    if not is_splittable or _utf16_length(text) <= TEXT_LIMIT:
        yield reply
        return
    entities = orjson.loads(reply.params.get("entities", "[]"))
    pieces = list(split_text(text))
    for number, (offset, piece) in enumerate(pieces):
        params = {**reply.params, "text": piece}
        if number > 0:
            params.pop("reply_parameters", None)
        if number < len(pieces) - 1:
            params.pop("reply_markup", None)
        if entities:
            inside = _entities_within(entities, offset, offset + _utf16_length(piece))
            params["entities"] = orjson.dumps(list(inside)).decode()
        yield replace(reply, params=params)


def split_text(text: str, limit: int = TEXT_LIMIT) -> Iterator[tuple[int, str]]:
    """Split a text at line breaks, else at spaces, else anywhere between characters.

    Args:
        text: any text.
        limit: longest piece, in UTF-16 units.

    Yields:
        Each piece that has something to show, after the place in the text where it begins, in UTF-16 units.
    """
    offset = 0
    while text:
        end = _fitting(text, limit)
        if end < len(text):
            cuts = (text.rfind(separator, end // 2, end + 1) for separator in ("\n", " "))
            end = next((cut for cut in cuts if cut > 0), end)
        piece, rest = text[:end], text[end:].lstrip(" \n")
        if piece.strip():
            yield offset, piece
        offset += _utf16_length(text) - _utf16_length(rest)
        text = rest


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


def _entities_within(entities: list[dict[str, Any]], start: int, end: int) -> Iterator[dict[str, Any]]:
    """The entities of a piece that stands from `start` to `end`, in UTF-16 units, counted from its start."""
    for entity in entities:
        first = max(entity["offset"], start)
        last = min(entity["offset"] + entity["length"], end)
        if first < last:
            yield {**entity, "offset": first - start, "length": last - first}


def _fitting(text: str, limit: int) -> int:
    """How many of the first characters fit into `limit` UTF-16 units."""
    units = 0
    for index, char in enumerate(text):
        units += 2 if char > "\uffff" else 1
        if units > limit:
            return index
    return len(text)


def _file_name(name: str) -> str:
    """The name of a file, as it can stand in a request."""
    return re.sub(r"[\x00-\x1f\x7f]", "_", clean(name))


def _utf16_length(text: str) -> int:
    """Length in UTF-16 units, as Telegram counts."""
    return len(text) + sum(char > "\uffff" for char in text)


async def _ignoring_refusals(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except TelegramAPIError as error:
        log.debug("side work refused", reason=error)
