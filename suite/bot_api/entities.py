"""Entities that a bot sends, checked by Telegram's rules.

The rules are those of https://core.telegram.org/bots/api#formatting-options; what is refused in which words,
which addresses are links, and that code may stand in a quote, is from the source of Telegram's own server
(tdlib/td, td/telegram/MessageEntity.cpp and LinkManager.cpp). Where entities overlap or are nested against
the rules, that server mends them silently, and something else is shown than was sent: here they are refused.
"""

import re
from typing import Any

from suite.bot_api.call import Json, integer, of_type, words
from suite.bot_api.errors import bad_request

SHOWN = 100
"""How many entities of a message are shown; the rest is dropped without a word."""

STYLES = words("bold italic underline strikethrough spoiler")
QUOTES = words("blockquote expandable_blockquote")
CODE = words("pre code")
OWN = STYLES | QUOTES | CODE | words("text_link text_mention custom_emoji date_time")
"""What bots say. Telegram finds the other kinds itself, and passes over what is said of them."""

FOUND = words("mention hashtag cashtag bot_command url email phone_number bank_card_number")
WHERE = "MessageEntity"


def checked(entities: list[Any], text: str) -> list[Json]:
    """The entities of a text that are taken, as they come back.

    Raises:
        ApiError: 400, in Telegram's words.
    """
    taken = [_read(entity) for entity in entities]
    taken = [entity for entity in taken if entity["length"] and entity["type"] in OWN]
    taken.sort(key=lambda entity: (entity["offset"], -entity["length"]))
    boundaries = _boundaries(text)
    for entity in taken:
        begin, end = entity["offset"], entity["offset"] + entity["length"]
        if begin >= boundaries[-1]:
            raise bad_request(f"entity begins after the end of the text at UTF-16 offset {begin}")
        if end > boundaries[-1]:
            raise bad_request(f"entity beginning at UTF-16 offset {begin} ends after the end of the text")
        if begin not in boundaries:
            raise bad_request("entity begins in a middle of a UTF-16 symbol")
        if end not in boundaries:
            raise bad_request(
                f"entity beginning at UTF-16 offset {begin} ends in a middle of a UTF-16 symbol"
            )
    _check_nesting(taken)
    return taken


def counted(entities: list[Json]) -> list[Json]:
    """What is shown of so many: styles are dropped before anything else."""
    emoji = [entity for entity in entities if entity["type"] == "custom_emoji"]
    first = [entity for entity in entities if entity["type"] not in STYLES | {"custom_emoji"}]
    shown = (first + [entity for entity in entities if entity["type"] in STYLES])[:SHOWN]
    return [entity for entity in entities if entity in shown or entity in emoji]


def _read(entity: Any) -> Json:
    if not isinstance(entity, dict):
        raise bad_request("can't parse MessageEntity: expected an Object")
    kind = of_type(entity, "type", str, WHERE)
    if kind not in OWN | FOUND:
        raise bad_request("can't parse MessageEntity: unsupported type specified")
    for name in ("offset", "length"):
        number = of_type(entity, name, int, WHERE)
        if not 0 <= number <= 1_000_000:
            raise bad_request(f"receive an entity with incorrect {name} {number}")
    if kind == "text_link":
        check_link(of_type(entity, "url", str, WHERE))
    if kind == "custom_emoji":
        integer(entity, "custom_emoji_id", 0, 1, 2**63)
    if kind == "pre":
        of_type(entity, "language", str, WHERE, default="")
    return entity


def check_link(url: str) -> None:
    """Whether an address can be a link, as Telegram parses it."""
    name = r"[A-Za-z0-9_.-]+" if url.lower().startswith("tonsite:") else r"[A-Za-z0-9_-]+"
    special = re.match(r"(tg|ton|tonsite):(//)?", url, re.IGNORECASE)
    rest = url[special.end() :] if special else url
    if mentioned := re.fullmatch(r"user\?id=(\d+)", rest) if special else None:
        raise bad_request(f"user {mentioned[1]} not found")  # unless the bot has met them
    if scheme := re.match(r"([^:/?#@\[\]]*)://", rest):
        if scheme[1].lower() not in ("http", "https"):
            raise bad_request("entity Unsupported URL protocol")
        rest = rest[scheme.end() :]
    where = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, _, host = where.rpartition("@")
    if port := re.search(r":([^\]:]*)$", host):
        host = host[: port.start()]
        if not (port[1].isascii() and port[1].isdecimal() and 0 < int(port[1]) < 65_536):
            raise bad_request("entity Wrong port number specified in the URL")
    if host in ("", "."):
        raise bad_request("entity URL host is empty")
    allowed = r"(?:[A-Za-z0-9._!$,~*'();&+=-]|[^\x00-\x7f]|%[0-9A-Fa-f]{2})*"
    if not re.fullmatch(allowed, host) or not re.fullmatch(allowed, user.replace(":", "")):
        raise bad_request("entity Disallowed character in URL host")
    if special and (scheme or user or port or not re.fullmatch(name, host)):
        raise bad_request("entity Wrong tg URL")
    if not special and "." not in host:
        raise bad_request("entity Wrong HTTP URL")


def _boundaries(text: str) -> "_Boundaries":
    found = [0]
    for char in text:
        found.append(found[-1] + (2 if char > "\uffff" else 1))
    return _Boundaries(found)


class _Boundaries(list[int]):
    """Where characters begin and the text ends, in UTF-16 units."""

    def __init__(self, found: list[int]) -> None:
        super().__init__(found)
        self._set = frozenset(found)

    def __contains__(self, place: object) -> bool:
        return place in self._set


def _check_nesting(entities: list[Json]) -> None:
    """That of two entities with common characters one is in the other, and may be."""
    around: list[Json] = []
    for entity in entities:
        begin, kind = entity["offset"], entity["type"]
        while around and around[-1]["offset"] + around[-1]["length"] <= begin:
            around.pop()
        for outer in around:
            if begin + entity["length"] > outer["offset"] + outer["length"]:
                raise bad_request(f"can't parse entities: {kind} overlaps {outer['type']} at {begin}")
            pair = (outer["type"], kind)
            # Of two that begin and end together either is the inner one.
            both_ways = (begin, entity["length"]) == (outer["offset"], outer["length"])
            if not (_may_contain(*pair) or (both_ways and _may_contain(*reversed(pair)))):
                raise bad_request(f"can't parse entities: {pair[0]} can't contain {kind} at {begin}")
        around.append(entity)


def _may_contain(outer: str, inner: str) -> bool:
    if outer in CODE:
        return False
    if inner in CODE:
        return outer in QUOTES
    if inner in QUOTES:
        return outer in STYLES
    return outer in STYLES | QUOTES or (inner in STYLES and inner != outer)
