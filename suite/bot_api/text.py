"""Texts with entities: parsed, measured and checked as Telegram does it."""

import html
import re
from typing import Any, Literal

from suite.bot_api.call import Json, json_list, words
from suite.bot_api.entities import checked, counted
from suite.bot_api.errors import bad_request

HTML_TAGS = dict(
    pair.split(":")
    for pair in words(
        """b:bold strong:bold i:italic em:italic u:underline ins:underline s:strikethrough
        strike:strikethrough del:strikethrough span:spoiler tg-spoiler:spoiler code:code pre:pre
        a:text_link tg-emoji:custom_emoji blockquote:blockquote"""
    )
)


def utf16_length(text: str) -> int:
    """Telegram's measure of text: UTF-16 units, so 2 for most emoji."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def formatted(
    params: dict[str, str],
    name: Literal["text", "caption"],
    limit: int,
    *,
    may_be_empty: bool = False,
    too_long: str = "",
) -> Json:
    """The text as people see it, with its entities; at most `limit` UTF-16 units. A caption may be empty.

    What is too long is refused in `too_long`, where that is not how it is refused when it is sent.
    """
    key = "entities" if name == "text" else "caption_entities"
    given = json_list(params, key) if key in params else []
    text, entities = shown(params.get(name, ""), params.get("parse_mode", ""), given)
    if name == "text" and not text and not may_be_empty:
        raise bad_request("message text is empty")
    if utf16_length(text) > limit:
        usual = "message is too long" if name == "text" else "message caption is too long"
        raise bad_request(too_long or usual)
    return {name: text} | ({key: entities} if entities else {})


def shown(source: str, parse_mode: str, entities: list[Any]) -> tuple[str, list[Json]]:
    """A text as people see it, without space around it, and its entities, of which Telegram drops some.

    HTML is parsed; Markdown is not: it is left as it is.
    """
    mode = parse_mode.lower()
    if mode not in ("", "none", "html", "markdown", "markdownv2"):
        raise bad_request("unsupported parse_mode")
    text = re.sub(r"[\x00-\x09\x0b-\x1f]", " ", source)
    if mode == "html":
        text, entities = parse_html(text)
    elif mode in ("", "none"):
        entities = checked(entities, text)
    first = min((entity["offset"] for entity in entities), default=len(text))
    begin = min(len(text) - len(text.lstrip(" \n")), first)  # there are no pairs in white space
    end = utf16_length(text.rstrip(" \n")) if text.strip() else begin
    shown = [
        entity | {"offset": entity["offset"] - begin, "length": min(entity["length"], end - entity["offset"])}
        for entity in entities
        if entity["offset"] < end
    ]
    return text[begin:].rstrip(" \n") if text.strip() else "", counted(shown)


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
