"""The HTML of rich messages, as blocks.

Known are the tags for text, lists, quotations, tables, details, formulas and media. Telegram has a few more
(maps, buttons, figures, references): they are refused here, like those that it does not have.
"""

from html.parser import HTMLParser
from typing import Any

from suite.bot_api.call import Json, words
from suite.bot_api.errors import bad_request

INLINE = {
    "b": "bold", "strong": "bold", "i": "italic", "em": "italic", "u": "underline", "ins": "underline",
    "s": "strikethrough", "strike": "strikethrough", "del": "strikethrough", "code": "code", "mark": "marked",
    "sub": "subscript", "sup": "superscript", "tg-spoiler": "spoiler", "a": "url",
}  # fmt: skip
HEADINGS = {f"h{size}": size for size in range(1, 7)}
TEXT_BLOCKS = {
    "p": "paragraph",
    "pre": "pre",
    "footer": "footer",
    "aside": "pullquote",
    "tg-thinking": "thinking",
}
HOLDERS = {
    "blockquote": "blockquote",
    "details": "details",
    "tg-collage": "collage",
    "tg-slideshow": "slideshow",
}
MEDIA = {"img": "photo", "video": "video", "audio": "audio", "tg-document": "document"}
VOID = words("hr br img")
PARTS = words("ul ol li table tr td th caption summary cite tg-math tg-math-block video audio tg-document")
TAGS = VOID | PARTS | INLINE.keys() | HEADINGS.keys() | TEXT_BLOCKS.keys() | HOLDERS.keys()


class Node:
    """An element: its tag, its attributes, and what is in it."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self.attributes = tag, attributes
        self.content: list[Node | str] = []

    def first(self, tag: str) -> "Node | None":
        """The first element in it of that tag."""
        return next((each for each in self.content if isinstance(each, Node) and each.tag == tag), None)

    def all(self, *tags: str) -> "list[Node]":
        return [each for each in self.content if isinstance(each, Node) and each.tag in tags]

    def rest(self, *tags: str) -> "list[Node | str]":
        """What is in it but for elements of those tags."""
        return [each for each in self.content if isinstance(each, str) or each.tag not in tags]


def blocks_of(source: str, media: dict[str, Json]) -> list[Json]:
    """The blocks that the HTML stands for.

    Args:
        source: the HTML.
        media: an InputMedia for each id that `tg://` links may name.

    Raises:
        ApiError: 400, for what Telegram would not parse.
    """
    return _blocks(_Tree(source).root.content, media)


class _Tree(HTMLParser):
    """Every tag is closed where it was opened."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self._open = [self.root]
        self.feed(source)
        self.close()
        if len(self._open) > 1:
            tail = f'end tag corresponding to start tag "{self._open[-1].tag}"'
            raise bad_request(f"can't parse entities: Can't find {tail}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            raise bad_request(f'can\'t parse entities: Unsupported start tag "{tag}"')
        node = Node(tag, {name: value or "" for name, value in attrs})
        self._open[-1].content.append(node)
        if tag not in VOID:
            self._open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if len(self._open) == 1 or self._open[-1].tag != tag:
            raise bad_request(f"can't parse entities: Unmatched end tag </{tag}>")
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].content.append(data)


def _blocks(content: "list[Node | str]", media: dict[str, Json]) -> list[Json]:
    """Blocks, with a paragraph around what stands loose between them."""
    blocks: list[Json] = []
    loose: list[Node | str] = []

    def gather() -> None:
        if any(isinstance(part, Node) or part.strip() for part in loose):
            blocks.append({"type": "paragraph", "text": _rich(loose)})
        loose.clear()

    for part in content:
        if isinstance(part, str) or part.tag in INLINE or part.tag in ("br", "tg-math"):
            loose.append(part)
        else:
            gather()
            blocks.append(_block(part, media))
    gather()
    return blocks


def _block(node: Node, media: dict[str, Json]) -> Json:
    tag = node.tag
    if tag in HEADINGS:
        return {"type": "heading", "text": _rich(node.content), "size": HEADINGS[tag]}
    if tag in TEXT_BLOCKS:
        return {"type": TEXT_BLOCKS[tag], "text": _rich(node.rest("cite")), **_credit(node)}
    if tag in HOLDERS:
        summary = node.first("summary")
        named = {"summary": _rich(summary.content)} if tag == "details" and summary else {}
        opened = {"is_open": True} if "open" in node.attributes else {}
        own = _blocks(node.rest("summary", "cite"), media)
        return {"type": HOLDERS[tag], "blocks": own, **named, **opened, **_credit(node)}
    if tag in ("ul", "ol"):
        numbers = [{"value": number} if tag == "ol" else {} for number in range(1, len(node.content) + 1)]
        items = [
            {"blocks": _blocks(item.content, media), **number}
            for item, number in zip(node.all("li"), numbers, strict=False)
        ]
        return {"type": "list", "items": items}
    if tag == "table":
        caption = node.first("caption")
        named = {"caption": _rich(caption.content)} if caption else {}
        return {"type": "table", "cells": [_cells(row) for row in node.all("tr")], **named}
    if tag in MEDIA:
        return _media(MEDIA[tag], node.attributes.get("src", ""), media)
    if tag == "tg-math-block":
        return {"type": "mathematical_expression", "expression": _plain(node)}
    if tag == "hr":
        return {"type": "divider"}
    raise bad_request(f"can't parse entities: the tag <{tag}> stands in a wrong place")


def _cells(row: Node) -> list[Json]:
    return [
        {
            "text": _rich(cell.content),
            "align": cell.attributes.get("align", "left"),
            "valign": cell.attributes.get("valign", "top"),
            **({"is_header": True} if cell.tag == "th" else {}),
        }
        for cell in row.all("td", "th")
    ]


def _credit(node: Node) -> Json:
    cite = node.first("cite")
    return {"credit": _rich(cite.content)} if cite else {}


def _media(kind: str, source: str, media: dict[str, Json]) -> Json:
    name = source.partition("?id=")[2] if source.startswith("tg://") else ""
    if name and name not in media:
        raise bad_request(f"can't find media with identifier {name!r}")
    found = media[name] if name else {"type": kind, "media": source}
    return {"type": found["type"], found["type"]: found}


def _rich(content: "list[Node | str]") -> Any:
    """A RichText."""
    parts = [part if isinstance(part, str) else _inline(part) for part in content]
    return parts[0] if len(parts) == 1 else parts


def _inline(node: Node) -> Any:
    if node.tag == "br":
        return "\n"
    if node.tag == "tg-math":
        return {"type": "mathematical_expression", "expression": _plain(node)}
    if node.tag not in INLINE:
        raise bad_request(f"can't parse entities: the tag <{node.tag}> stands in a wrong place")
    address = {"url": node.attributes.get("href", "")} if node.tag == "a" else {}
    return {"type": INLINE[node.tag], "text": _rich(node.content), **address}


def _plain(node: Node) -> str:
    return "".join(part for part in node.content if isinstance(part, str))
