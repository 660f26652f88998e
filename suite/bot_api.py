"""The Bot API's rules on what a bot may send: each call is read and checked as Telegram does it."""

import html
import itertools
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from aiohttp import web

Json = dict[str, Any]


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ACTIONS = words(
    """typing upload_photo record_video upload_video record_voice upload_voice upload_document
    choose_sticker find_location record_video_note upload_video_note"""
)
BUTTON_ACTIONS = words(
    """url callback_data web_app login_url switch_inline_query switch_inline_query_current_chat
    switch_inline_query_chosen_chat copy_text callback_game pay"""
)
HTML_TAGS = dict(
    pair.split(":")
    for pair in words(
        """b:bold strong:bold i:italic em:italic u:underline ins:underline s:strikethrough
        strike:strikethrough del:strikethrough span:spoiler tg-spoiler:spoiler code:code pre:pre
        a:text_link tg-emoji:custom_emoji blockquote:blockquote"""
    )
)


class ApiError(Exception):
    """An answer that is not ``ok``. `retry_after` is in whole seconds, for 429."""

    def __init__(self, status: int, description: str, retry_after: int | None = None) -> None:
        super().__init__(description)
        self.status, self.description, self.retry_after = status, description, retry_after

    def response(self) -> web.Response:
        body: Json = {"ok": False, "error_code": self.status, "description": self.description}
        if self.retry_after is None:
            return web.json_response(body, status=self.status)
        body["parameters"] = {"retry_after": self.retry_after}
        headers = {"Retry-After": str(self.retry_after)}
        return web.json_response(body, status=self.status, headers=headers)


class BadGatewayError(ApiError):
    """What a proxy answers for a server that is away: HTML, not JSON."""

    def response(self) -> web.Response:
        page = f"<html><h1>{self.status} {self.description}</h1></html>"
        return web.Response(status=self.status, text=page, content_type="text/html")


def bad_request(description: str) -> ApiError:
    return ApiError(400, f"Bad Request: {description}")


@dataclass(eq=False)
class Call:
    """One request as it arrived. `status` is 0 while it is not answered; `at` is monotonic."""

    method: str
    params: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)  # file name -> content
    status: int = 0
    cut: bool = False  # done, but the connection was closed instead of an answer
    at: float = field(default_factory=time.monotonic)
    uploads: dict[str, str] = field(default_factory=dict)  # form field -> file name


async def read_call(request: web.Request, call: Call) -> None:
    """Parameters from the query string and the body: form, multipart or JSON."""
    values: dict[str, Any] = dict(request.query)
    try:
        if request.content_type == "application/json":
            values |= json.loads(await request.read() or b"{}")
        else:
            values |= await request.post()
        for name, value in values.items():
            if isinstance(value, web.FileField):
                call.files[value.filename] = value.file.read()
                call.uploads[name] = value.filename
            elif value is not None:
                call.params[name] = value if isinstance(value, str) else json.dumps(value)
    except (ValueError, TypeError):
        raise bad_request("the body must be a form or a JSON object, in UTF-8") from None


def integer(
    params: dict[str, str],
    name: str,
    default: int,
    low: int = -(2**31),
    high: int = 2**31,
) -> int:
    value = params.get(name) or str(default)
    if not re.fullmatch(r"-?\d{1,11}", value) or not low <= int(value) <= high:
        raise bad_request(f"{name} is not an integer from {low} to {high}")
    return int(value)


def is_true(value: str) -> bool:
    return value.lower() in {"true", "yes", "1"}


def json_list(params: dict[str, str], name: str) -> list[Any]:
    try:
        value = json.loads(params.get(name, ""))
    except ValueError:
        value = None
    if not isinstance(value, list):
        raise bad_request(f"can't parse {name} JSON array")
    return value


def command_scope(params: dict[str, str]) -> tuple[str, str]:
    """What `commands` are kept under: ("default" or "chat:7" or ..., language code)."""
    try:
        scope = json.loads(params.get("scope") or '{"type": "default"}')
        name = ":".join([scope.pop("type"), *(str(scope[key]) for key in sorted(scope))])
    except (ValueError, TypeError, LookupError, AttributeError):
        raise bad_request("can't parse BotCommandScope") from None
    return name, params.get("language_code", "")


def check_webhook_url(url: str, allow_http: bool) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise bad_request("invalid webhook URL specified") from None
    if not parts.hostname or parts.scheme not in ("http", "https"):
        raise bad_request("invalid webhook URL specified")
    if allow_http:
        return
    if parts.scheme == "http":
        raise bad_request("bad webhook: An HTTPS URL must be provided for webhook")
    if port not in (80, 88, 443, 8443):
        raise bad_request("bad webhook: Webhook can be set up only on ports 80, 88, 443 or 8443")


def utf16_length(text: str) -> int:
    """Telegram's measure of text: UTF-16 units, so 2 for most emoji."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def formatted(params: dict[str, str], name: Literal["text", "caption"], limit: int) -> Json:
    """The text as people see it, with its entities; at most `limit` UTF-16 units."""
    key = "entities" if name == "text" else "caption_entities"
    mode = params.get("parse_mode", "").lower()
    if mode not in ("", "none", "html", "markdown", "markdownv2"):
        raise bad_request("unsupported parse_mode")
    text = re.sub(r"[\x00-\x08\x0b-\x1f]", " ", params.get(name, ""))
    entities = json_list(params, key) if key in params else []
    if mode == "html":
        text, entities = parse_html(text)
    if name == "text" and not text.strip():
        raise bad_request("message text is empty")
    cut = utf16_length(text) - utf16_length(text.lstrip())
    text = text.strip()
    if utf16_length(text) > limit:
        raise bad_request("message is too long" if name == "text" else "message caption is too long")
    try:
        entities = [entity | {"offset": max(0, entity["offset"] - cut)} for entity in entities]
    except (TypeError, KeyError):
        raise bad_request("can't parse MessageEntity") from None
    return {name: text} | ({key: entities} if entities else {})


def parse_html(source: str) -> tuple[str, list[Json]]:
    """Plain text and entities of Telegram's HTML; 400 for what Telegram would not parse."""
    text = ""
    entities: list[Json] = []
    opened: list[tuple[str, Json]] = []
    for part in re.split(r"(<[^<>]*>)", source):
        if "<" not in part:
            known = r"&(lt|gt|amp|quot|#\d+|#x[0-9a-fA-F]+);"
            text += re.sub(known, lambda match: html.unescape(match[0]), part)
            continue
        tag = re.fullmatch(r"<(/?)([a-zA-Z][\w-]*)(\s[^<>]*)?>", part)
        name = tag[2].lower() if tag else ""
        if tag is None or name not in HTML_TAGS:
            raise bad_request(f'can\'t parse entities: Unsupported start tag "{name}"')
        if not tag[1]:
            entity: Json = {"type": HTML_TAGS[name], "offset": utf16_length(text)}
            if value := re.search(r"(?:href|emoji-id)\s*=\s*[\"']?([^\"'\s]+)", tag[3] or ""):
                entity["url" if name == "a" else "custom_emoji_id"] = html.unescape(value[1])
            opened.append((name, entity))
        elif not opened or opened[-1][0] != name:
            raise bad_request(f"can't parse entities: Unmatched end tag </{name}>")
        else:
            entity = opened.pop()[1]
            entity["length"] = utf16_length(text) - entity["offset"]
            if entity["length"] and (name not in ("a", "tg-emoji") or len(entity) == 4):
                entities.append(entity)
    if opened:
        tail = f'end tag corresponding to start tag "{opened[-1][0]}"'
        raise bad_request(f"can't parse entities: Can't find {tail}")
    return text, sorted(entities, key=lambda entity: int(entity["offset"]))


def shown_markup(params: dict[str, str]) -> Json | None:
    """Only inline keyboards come back as part of the message."""
    markup = markup_of(params)
    return markup if markup and markup.get("inline_keyboard") else None


def markup_of(params: dict[str, str]) -> Json | None:
    if "reply_markup" not in params:
        return None
    try:
        markup = json.loads(params["reply_markup"])
    except ValueError:
        raise bad_request("can't parse reply keyboard markup JSON object") from None
    kinds = {"inline_keyboard", "keyboard", "remove_keyboard", "force_reply"}
    if not isinstance(markup, dict) or len(kinds & markup.keys()) != 1:
        raise bad_request("object expected as reply markup")
    inline = "inline_keyboard" in markup
    rows = markup.get("inline_keyboard", markup.get("keyboard", []))
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise bad_request("a keyboard must be an Array of Arrays")
    for button in itertools.chain.from_iterable(rows):
        if inline or not isinstance(button, str):
            _check_button(button, inline)
    return markup


def _check_button(button: Any, inline: bool) -> None:
    text = button.get("text") if isinstance(button, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise bad_request('can\'t parse keyboard button: Field "text" must be a non-empty String')
    if inline and len(BUTTON_ACTIONS & button.keys()) != 1:
        raise bad_request("can't parse inline keyboard button: Text buttons are unallowed")
    data = button.get("callback_data", "-")
    if inline and not (isinstance(data, str) and 1 <= len(data.encode()) <= 64):
        raise bad_request("BUTTON_DATA_INVALID")
