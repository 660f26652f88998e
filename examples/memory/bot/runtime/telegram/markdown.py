"""Markdown of models, as Telegram shows it: a text with entities, or the blocks of a rich message.

The parser is markdown-it's, for CommonMark with GitHub's tables and strikethrough. Besides, `||text||` is a
spoiler, and formulas stay as they are written. Other than in CommonMark, HTML and definitions of links are
plain text, and a line of dashes makes no heading of the line above it: models do not mean that.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import structlog
from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_block.table import escapedSplit
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.tree import SyntaxTreeNode as Node
from wcwidth import width

Entity = dict[str, Any]
"""Telegram's MessageEntity; `offset` and `length` are in UTF-16 units."""

NESTING = 10_000
"""Beyond its own limit the parser would drop what it reads. Beyond Python's, the source is shown."""

ORDER = ("blockquote", "text_link", "bold", "italic", "underline", "strikethrough", "spoiler", "pre", "code")
"""What stands around what, where both begin at once."""

STYLES = {"strong": "bold", "em": "italic", "s": "strikethrough", "spoiler": "spoiler"}
"""Kinds of entities, by the parser's names."""

BULLETS = ("•", "◦", "▪")
RULE = "———"
BOX = re.compile(r"\[([ xX])\](?:\s+|$)")
TAB = 4
"""Columns of a tab in code, of which Telegram would leave one space."""

VERBATIM = re.compile(
    r"\$\$.+?\$\$ | \\\[.+?\\\] | \\\(.+?\\\)"
    r"| \$(?![\s$])(?:(?!\*\*)[^$\n])*[\\^_{*](?:(?!\*\*)[^$\n])*(?<!\s)\$(?!\d)"  # but not of two prices
    r"| __[a-z][a-z0-9]*(?:_[a-z0-9]+)*__(?!\w)"
    r"| (?<=[A-Za-z0-9])\*(?=[A-Za-z0-9]) | (?<=[0-9])\*\*(?=[0-9])",
    re.DOTALL | re.VERBOSE,
)
"""What has no markup in it, though it looks like that: formulas, `2*3*4`, and names such as `__init__`."""

FORMULAS = {"$$": "$$", r"\[": r"\]", r"\begin{": r"\end{"}
"""What a formula with lines of its own begins with, and what is in its last line."""

LINK = re.compile(
    r"https?://[\w-]+(?:\.[\w-]+)+(?::[1-9]\d{0,3})?(?:[/?#]\S*)?|tg://(?!user|emoji|time)[\w-]+(?:[/?]\S*)?",
    re.IGNORECASE,
)
"""The addresses that are made links. For what is none to Telegram it refuses the message, and what
`tg://user` links to may be unknown to it."""

WIDE = 40
"""Columns that a phone shows of a table before it breaks its lines."""

RICH_CHARACTERS, RICH_BLOCKS, RICH_DEPTH, RICH_COLUMNS = 32_768, 500, 8, 20
"""Most of each in a rich message: https://core.telegram.org/bots/api#rich-message-limits. Of its 16 levels
half are left to what is marked in a line."""

log = structlog.get_logger()

_Mark = tuple[str, str, int]
"""A kind of entity, its address or language, and a number that keeps neighbours of one kind apart."""

_Run = tuple[str, tuple[_Mark, ...]]
"""A part of a text, and the marks that it has."""


def render(source: str) -> tuple[str, list[Entity]]:
    """Markdown as a text with entities, however long. It raises nothing, and loses no word.

    Returns:
        The text, and its entities as Telegram wants them: nested or apart, nothing in code, and code in
        nothing but a quote. Where nothing would be seen, or it is nested too deep, the source without any.
    """
    try:
        writer = _Writer()
        writer.blocks(_tree(source))
        text, entities = writer.finished()
    except Exception as error:  # no text may be lost for its markup, and Python bounds how deep it nests
        log.warning("markdown not understood, sent as it is", reason=type(error).__name__)
        return source.strip(), []
    return (text, entities) if text.strip() else (source.strip(), [])


def rich_blocks(source: str) -> list[dict[str, Any]] | None:
    """Markdown as the blocks of a rich message; `None` where entities do as well, or it has too much in it.

    They lose something of tables: what is marked in a cell, and all order where a phone is too narrow.
    """
    if "|" not in source or len(source) > RICH_CHARACTERS:
        return None
    try:
        tree = _tree(source)
        if any(_loses(table) for table in tree.walk() if table.type == "table"):
            return _Blocks().of(tree)
    except Exception as error:
        log.info("no rich message of this markdown", reason=type(error).__name__)
    return None


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": NESTING})
    parser.enable(["table", "strikethrough"]).disable(["lheading", "reference"])
    parser.inline.add_terminator_char("|")
    parser.inline.ruler.before("escape", "verbatim", _verbatim)
    parser.inline.ruler.before("emphasis", "spoiler", _spoiler)
    parser.block.ruler.before("fence", "formula", _formula, {"alt": ["paragraph", "blockquote", "list"]})
    return parser


def _tree(source: str) -> Node:
    lines = re.sub(r"\r\n?", "\n", source)
    lines = re.sub(r"[\x00-\x08\x0b-\x1f]", " ", lines)
    tokens = _parser().parse(lines)
    _keep_all_cells(tokens, lines.split("\n"))
    return Node(tokens)


def _keep_all_cells(tokens: Sequence[Token], lines: Sequence[str]) -> None:
    """Put what a row has more than its table's head into its last cell: the parser leaves it out."""
    line, cells = "", list[Token]()
    for token in tokens:
        if token.type == "tr_open" and token.map:
            line, cells = lines[token.map[0]].lstrip(" \t>").rstrip(), []
        elif token.type == "inline":
            cells.append(token)
        elif token.type == "tr_close":
            written = escapedSplit(line.removeprefix("|"))
            more = [text.strip() for text in written[len(cells) :] if text.strip()]
            if more and cells:
                more_text = Token("text", "", 0, content=" | " + " | ".join(more))
                cells[-1].children = [*(cells[-1].children or []), more_text]


def _verbatim(state: StateInline, silent: bool) -> bool:
    found = VERBATIM.match(state.src, state.pos, state.posMax)
    if found is None or (found[0][0] == "_" and state.src[state.pos - 1 : state.pos].isalnum()):
        return False
    if not silent:
        state.append_pending(found[0])
    state.pos = found.end()
    return True


def _spoiler(state: StateInline, silent: bool) -> bool:
    """A rule for `||text||`, which leaves `a || b` and `f(a||b)` alone."""
    begin, most = state.pos, state.posMax
    is_inside_word = begin > 0 and re.match(r"[A-Za-z0-9_)\]|]", state.src[begin - 1])
    if is_inside_word or not state.src.startswith("||", begin):
        return False
    end = state.src.find("||", begin + 2, most)
    inside = state.src[begin + 2 : end]
    if end < 0 or not inside or inside != inside.strip():
        return False
    if not silent:
        state.push("spoiler_open", "", 1)
        state.pos, state.posMax = begin + 2, end
        state.md.inline.tokenize(state)
        state.push("spoiler_close", "", -1)
        state.posMax = most
    state.pos = end + 2
    return True


def _formula(state: StateBlock, begin: int, end: int, silent: bool) -> bool:
    """A rule for formulas with lines of their own, in which a minus begins no list."""
    first = state.src[state.bMarks[begin] + state.tShift[begin] : state.eMarks[begin]]
    opening = next((each for each in FORMULAS if first.startswith(each)), None)
    if opening is None or state.is_code_block(begin) or FORMULAS[opening] in first[len(opening) :]:
        return False
    for line in range(begin + 1, end):
        if state.sCount[line] < state.blkIndent and not state.isEmpty(line):
            return False
        if FORMULAS[opening] in state.src[state.bMarks[line] : state.eMarks[line]]:
            break
    else:
        return False
    if not silent:
        token = state.push("formula", "", 0)
        token.content = state.getLines(begin, line + 1, state.blkIndent, False).strip("\n")
        token.map = [begin, line + 1]
        state.line = line + 1
    return True


@dataclass(slots=True)
class _Level:
    """A list's item, or a quote in a quote: what its first line begins with, and what all others do."""

    first: str
    rest: str


@dataclass(slots=True)
class _Writer:
    """Writes a text with marks.

    Attributes:
        runs: what is written.
        levels: what is around what comes next.
        quote: the mark of the quote around it; Telegram knows no quote in a quote.
        ended: after which line of the source that ended which was written last.
        breaks: how many lines end before what comes next.
        is_new: whether a line begins with it.
        marked: how many marks were numbered.
    """

    runs: list[_Run] = field(default_factory=list)
    levels: list[_Level] = field(default_factory=list)
    quote: tuple[_Mark, ...] = ()
    ended: int = 0
    breaks: int = 0
    is_new: bool = True
    marked: int = 0

    def finished(self) -> tuple[str, list[Entity]]:
        """The text, without space at its end, and its entities."""
        while self.runs and not self.runs[-1][0].strip():
            self.runs.pop()
        if self.runs:
            text, marks = self.runs.pop()
            self.runs.append((text.rstrip(), marks))
        return "".join(text for text, _ in self.runs), _entities(self.runs)

    def blocks(self, node: Node) -> None:
        """Write the blocks in another one."""
        for block in node.children:
            match block.type:
                case "paragraph" | "heading":
                    self._begin(block)
                    bold = (("bold", "", 0),) if block.type == "heading" else ()
                    self.inline(
                        block.children[0], (*bold, ("underline", "", 0)) if block.tag == "h1" else bold
                    )
                    self._end(block)
                case "fence" | "code_block":
                    self._code(block)
                case "table":
                    self._begin_apart(block)
                    self._put("\n".join(_lines_of(block)), self._new_mark("pre"))
                    self._end(block)
                case "hr":
                    self._begin(block)
                    self._write(RULE)
                    self._end(block)
                case "formula":
                    self._begin(block)
                    self._write_lines(block.content)
                    self._end(block)
                case "bullet_list" | "ordered_list":
                    self._list(block)
                case "blockquote":
                    self._quote(block)
                case _:
                    raise ValueError(block.type)

    def inline(self, node: Node, marks: tuple[_Mark, ...] = ()) -> None:
        """Write what stands in a line."""
        for part in node.children:
            match part.type:
                case "text":
                    self._write_lines(part.content, marks)
                case "softbreak" | "hardbreak":
                    self._write_lines("\n", marks)
                case "code_inline":
                    is_link = any(kind == "text_link" for kind, _, _ in marks)
                    self._write(part.content, marks if is_link else (self._new_mark("code"),))
                case "link":
                    self._link(part, str(part.attrs.get("href", "")), marks)
                case "image":
                    self._link(part, str(part.attrs.get("src", "")), marks)
                case kind if kind in STYLES:
                    mark = (STYLES[kind], "", 0)
                    self.inline(part, marks if mark in marks else (*marks, mark))
                case kind:
                    raise ValueError(kind)

    def _link(self, node: Node, address: str, marks: tuple[_Mark, ...]) -> None:
        """Write a link, or a picture as one; the address in brackets where Telegram would take none."""
        shown, _ = _written(node)
        readable = _parser().normalizeLinkText(address)
        if not shown.strip():
            self._write(readable, marks)
        elif LINK.fullmatch(address) and not any(kind == "text_link" for kind, _, _ in marks):
            own = () if shown in (address, readable) else (self._new_mark("text_link", address),)
            self.inline(node, (*marks, *own))
        else:
            self.inline(node, marks)
            if shown not in (address, readable, readable.removeprefix("mailto:")) and address:
                self._write(f" ({readable})", marks)

    def _list(self, node: Node) -> None:
        number = int(node.attrs.get("start", 1))
        for item in node.children:
            ordered = node.type == "ordered_list"
            bullet = BULLETS[len(self.levels) % len(BULLETS)]
            bullet = f"{number}{item.markup} " if ordered else f"{bullet} "
            number += 1
            if (box := _box_of(item)) is not None:
                bullet = f"{bullet if ordered else ''}{'☑' if box else '☐'} "
            level = _Level(bullet, "  ")
            self.levels.append(level)
            self.blocks(item)
            if level.first is bullet:  # there is nothing in it
                self._begin(item)
                self._write("")
                self._end(item)
            self.levels.pop()

    def _quote(self, node: Node) -> None:
        if self.quote:
            self.levels.append(_Level("> ", "> "))
            self.blocks(node)
            self.levels.pop()
        else:
            self.quote = (self._new_mark("blockquote"),)
            self.blocks(node)
            self.quote = ()

    def _code(self, node: Node) -> None:
        content = node.content.removesuffix("\n").expandtabs(TAB)
        language, _, comment = node.info.strip().partition(" ")
        if not content.strip():  # the beginning of something
            self._begin(node)
            self._write_lines(f"{node.markup}{node.info}")
        else:
            if comment.strip():
                self._begin(node)
                self._write(comment.strip())
            self._begin_apart(node)
            self._put(content, self._new_mark("pre", language))
        self._end(node)

    def _begin(self, node: Node) -> None:
        """Begin a line for a block, with an empty one before it if there is one in the source."""
        begin, _ = node.map or (self.ended, 0)
        self.breaks = (2 if begin > self.ended else 1) if self.runs else 0
        self.is_new = True

    def _begin_apart(self, node: Node) -> None:
        """Begin a line that neither an indent nor a bullet stands in."""
        begins_with_bullet = any(level.first != level.rest for level in self.levels)
        if begins_with_bullet:
            self._begin(node)
            self._write("")
        begin, _ = node.map or (self.ended, 0)
        is_apart = begin > self.ended and not begins_with_bullet
        self._put("\n" * (0 if not self.runs else 2 if is_apart else 1))
        self.is_new = False

    def _end(self, node: Node) -> None:
        self.ended = (node.map or (0, self.ended))[1]

    def _write_lines(self, text: str, marks: tuple[_Mark, ...] = ()) -> None:
        first, *others = text.replace("\t", " ").split("\n")
        self._write(first, marks)
        for line in others:
            self._put("\n" + "".join(level.rest for level in self.levels), *marks)
            self._write(line, marks)

    def _write(self, text: str, marks: tuple[_Mark, ...] = ()) -> None:
        """Write something in a line, after what the line begins with."""
        if self.is_new:
            self.is_new = False
            self._put("\n" * self.breaks)
            for level in self.levels:
                self._put(level.first)
                level.first = level.rest
        self._put(text, *marks)

    def _put(self, text: str, *marks: _Mark) -> None:
        quote = self.quote
        if text.strip("\n") == "" and not (self.runs and set(quote) <= set(self.runs[-1][1])):
            quote = ()  # the end of the line before the quote
        if text:
            self.runs.append((text, (*quote, *marks)))

    def _new_mark(self, kind: str, argument: str = "") -> _Mark:
        self.marked += 1
        return kind, argument, self.marked


def _entities(runs: Sequence[_Run]) -> list[Entity]:
    """The entities of a text: as few as there can be without any that overlap."""
    found: list[Entity] = []
    opened: list[tuple[_Mark, Entity]] = []
    place = 0
    for text, marks in runs:
        kept = 0
        while kept < len(opened) and opened[kept][0] in marks:
            kept += 1
        del opened[kept:]
        length = len(text.encode("utf-16-le", "surrogatepass")) // 2
        around = {mark for mark, _ in opened}
        for mark in sorted(set(marks) - around, key=lambda each: ORDER.index(each[0])):
            kind, argument, _ = mark
            entity: Entity = {"type": kind, "offset": place, "length": 0}
            if argument:
                entity["url" if kind == "text_link" else "language"] = argument
            found.append(entity)
            opened.append((mark, entity))
        for _, entity in opened:
            entity["length"] += length
        place += length
    return found


def _box_of(item: Node) -> bool | None:
    """Whether the box that a list's item begins with is ticked, which is removed; `None` if there is none."""
    first = item.children[0] if item.children else None
    parts = first.children[0].children if first and first.type == "paragraph" else []
    if parts and parts[0].type == "text" and (box := BOX.match(parts[0].content)) and parts[0].token:
        parts[0].token.content = parts[0].content[box.end() :]
        return box[1] != " "
    return None


def _written(node: Node) -> tuple[str, bool]:
    """What stands in a line, as text with the addresses of links, and whether anything but code is marked."""
    writer = _Writer()
    writer.inline(node)
    text, link = "", ""
    kinds: set[str] = set()
    for part, marks in [*writer.runs, ("", ())]:
        address = next((argument for kind, argument, _ in marks if kind == "text_link"), "")
        if link and address != link:
            text += f" ({_parser().normalizeLinkText(link)})"
        text, link = text + part, address
        kinds |= {kind for kind, _, _ in marks}
    return text, bool(kinds - {"code"})


def _rows_of(table: Node) -> list[list[Node]]:
    return [row.children for part in table.children for row in part.children]


def _align_of(cell: Node) -> str:
    return str(cell.attrs.get("style", "")).removeprefix("text-align:") or "left"


def _lines_of(table: Node) -> list[str]:
    """The lines of a table whose columns are aligned."""
    rows = [[_written(cell.children[0])[0].strip() for cell in row] for row in _rows_of(table)]
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    aligns = [_align_of(cell) for cell in _rows_of(table)[0]]
    lines = []
    for row in rows:
        cells = []
        for text, most, align in zip(row, widths, aligns, strict=True):
            space = most - width(text)
            before = space if align == "right" else space // 2 if align == "center" else 0
            cells.append(f"{' ' * before}{text}{' ' * (space - before)}")
        lines.append(" | ".join(cells).rstrip())
    lines.insert(1, "-+-".join("-" * max(most, 1) for most in widths))
    return lines


def _loses(table: Node) -> bool:
    """Whether a table is more than an aligned text shows."""
    cells = [cell.children[0] for row in _rows_of(table) for cell in row]
    return max(map(width, _lines_of(table))) > WIDE or any(_written(cell)[1] for cell in cells)


class _Blocks:
    """Makes the blocks of a rich message."""

    def __init__(self) -> None:
        self._blocks = self._depth = 0

    def of(self, node: Node) -> list[dict[str, Any]]:
        """The blocks in another one.

        Raises:
            ValueError: there are more than Telegram takes, or deeper ones.
        """
        self._depth += 1
        made = [self._block(block) for block in node.children]
        self._depth -= 1
        self._blocks += len(made)
        if self._blocks > RICH_BLOCKS or self._depth > RICH_DEPTH:
            raise ValueError("too much for a rich message")
        return made

    def _block(self, node: Node) -> dict[str, Any]:
        match node.type:
            case "paragraph":
                return {"type": "paragraph", "text": self._text(node.children[0])}
            case "heading":
                return {"type": "heading", "text": self._text(node.children[0]), "size": int(node.tag[1:])}
            case "fence" | "code_block":
                language, _, comment = node.info.strip().partition(" ")
                code = "\n".join(filter(None, [comment.strip(), node.content.removesuffix("\n")]))
                return {"type": "pre", "text": code, **({"language": language} if language else {})}
            case "hr":
                return {"type": "divider"}
            case "formula":
                return {"type": "paragraph", "text": node.content}
            case "blockquote":
                return {"type": "blockquote", "blocks": self.of(node)}
            case "bullet_list" | "ordered_list":
                return {"type": "list", "items": self._items(node)}
            case "table":
                return self._table(node)
            case kind:
                raise ValueError(kind)

    def _items(self, node: Node) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        number = int(node.attrs.get("start", 1))
        for item in node.children:
            box = _box_of(item)
            made: dict[str, Any] = {} if box is None else {"has_checkbox": True, "is_checked": box}
            if node.type == "ordered_list":
                made |= {"value": number + len(items), "type": "1"}
            items.append({"blocks": self.of(item), **made})
        self._blocks += len(items)
        return items

    def _table(self, node: Node) -> dict[str, Any]:
        rows = _rows_of(node)
        self._blocks += len(rows)
        if len(rows[0]) > RICH_COLUMNS:
            raise ValueError("too many columns for a rich message")
        cells = [
            [
                {
                    "align": _align_of(cell),
                    "valign": "middle",
                    **({"text": text} if (text := self._text(cell.children[0])) else {}),
                    **({"is_header": True} if cell.type == "th" else {}),
                }
                for cell in row
            ]
            for row in rows
        ]
        return {"type": "table", "cells": cells, "is_bordered": True}

    def _text(self, node: Node) -> list[Any]:
        """What stands in a line, as Telegram's RichText."""
        writer = _Writer()
        writer.inline(node)
        made: list[Any] = []
        for text, marks in writer.runs:
            part: Any = text
            for kind, argument, _ in reversed(marks):
                part = {"type": kind, "text": part}
                if kind == "text_link":
                    part |= {"type": "url", "url": argument}
            made.append(part)
        return made
