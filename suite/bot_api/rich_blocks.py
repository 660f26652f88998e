"""Blocks of rich messages: checked as they come in, and turned into what stands in a Message.

The limits are those of Telegram's documentation ("Rich message limits").
"""

import json
import re
from typing import TYPE_CHECKING, Any

from suite.bot_api.call import Call, Json, missing, of_type, only, words
from suite.bot_api.errors import bad_request

if TYPE_CHECKING:
    from suite.bot_api.files import Files

MAX_CHARACTERS, MAX_BLOCKS, MAX_DEPTH, MAX_MEDIA, MAX_COLUMNS = 32_768, 500, 16, 50, 20

MEDIA = words("animation audio document photo video voice_note")
FIELDS = {
    "paragraph": "text:rich",
    "heading": "text:rich size:heading",
    "pre": "text:rich language:str?",
    "footer": "text:rich",
    "divider": "",
    "mathematical_expression": "expression:formula",
    "anchor": "name:str",
    "list": "items:items",
    "blockquote": "blocks:blocks credit:rich?",
    "expandable_blockquote": "text:rich credit:rich?",
    "pullquote": "text:rich credit:rich?",
    "collage": "blocks:blocks caption:caption?",
    "slideshow": "blocks:blocks caption:caption?",
    "table": "cells:cells is_bordered:bool? is_striped:bool? is_compact:bool? caption:rich?",
    "details": "summary:rich blocks:blocks is_open:bool?",
    "map": "location:location zoom:zoom? width:side? height:side? caption:caption?",
    "buttons": "buttons:buttons align:align?",
    "thinking": "text:rich",
    **{kind: f"{kind}:media caption:caption?" for kind in MEDIA},
}
"""The fields of each type of block, and how each is read; `?` marks those that may be missing."""

TEXTS = dict.fromkeys(
    words("bold italic underline strikethrough spoiler subscript superscript marked code"), "text:rich"
) | {
    "url": "text:rich url:str",
    "date_time": "text:rich unix_time:int date_time_format:str",
    "text_mention": "text:rich user:user",
    "custom_emoji": "custom_emoji_id:str alternative_text:formula",
    "mathematical_expression": "expression:formula",
    "email_address": "text:rich email_address:str",
    "phone_number": "text:rich phone_number:str",
    "bank_card_number": "text:rich bank_card_number:str",
    "mention": "text:rich username:str",
    "hashtag": "text:rich hashtag:str",
    "cashtag": "text:rich cashtag:str",
    "bot_command": "text:rich bot_command:str",
    "anchor": "name:str",
    "anchor_link": "text:rich anchor_name:str",
    "reference": "text:rich name:str",
    "reference_link": "text:rich reference_name:str",
    "button": "button:button",
}
BUTTON_ACTIONS = words(
    """url callback_data web_app login_url switch_inline_query switch_inline_query_current_chat
    switch_inline_query_chosen_chat copy_text disabled"""
)
ITEM = "blocks:blocks has_checkbox:bool? is_checked:bool? value:int? type:label?"
CELL = "text:rich? align:align valign:valign is_header:bool? colspan:span? rowspan:span?"
CAPTION = "text:rich credit:rich?"
PLAIN = {"str": str, "int": int, "bool": bool, "user": dict, "location": dict}


class Blocks:
    """Reads the blocks of one message. `text` is what people read, a line for each piece."""

    def __init__(self, files: "Files", call: Call, *, is_draft: bool) -> None:
        self._files, self._call, self._is_draft = files, call, is_draft
        self._depth = self._blocks = self._media = 0
        self.text: list[str] = []

    def read(self, blocks: Any) -> list[Json]:
        """All blocks of a message.

        Raises:
            ApiError: 400, where Telegram would not take them.
        """
        read = self._read_blocks(blocks, "blocks", "InputRichMessage")
        if not read:
            raise bad_request("rich message is empty")
        if sum(map(len, self.text)) > MAX_CHARACTERS:
            raise bad_request("rich message is too long")
        if self._blocks > MAX_BLOCKS:
            raise bad_request("rich message has too many blocks")
        if self._media > MAX_MEDIA:
            raise bad_request("rich message has too many media")
        return read

    def _object(self, value: Any, fields: str, where: str) -> Json:
        """An object of which each field is read as `fields` say."""
        if not isinstance(value, dict):
            raise bad_request(f"can't parse {where}: expected an Object")
        readers = dict(field.split(":") for field in fields.split())
        only(value, frozenset({"type", *readers}), where)
        return {
            name: self._field(value, name, kind.removesuffix("?"), where)
            for name, kind in readers.items()
            if name in value or not kind.endswith("?")
        }

    def _field(self, value: Json, name: str, kind: str, where: str) -> Any:
        if kind in PLAIN:
            return of_type(value, name, PLAIN[kind], where)
        if value.get(name) is None:
            raise missing(name, where)
        return getattr(self, f"_read_{kind}")(value[name], name, where)

    def _deeper(self) -> "_Level":
        return _Level(self)

    def _read_blocks(self, value: Any, name: str, where: str) -> list[Json]:
        if not isinstance(value, list):
            raise bad_request(f'can\'t parse {where}: Field "blocks" must be of type Array')
        with self._deeper():
            return [self._block(block) for block in value]

    def _block(self, block: Any) -> Json:
        self._blocks += 1
        kind = block.get("type") if isinstance(block, dict) else None
        if kind not in FIELDS or (kind == "thinking" and not self._is_draft):
            raise bad_request(f"can't parse InputRichBlock: type {json.dumps(kind)} is unsupported")
        read = self._object(block, FIELDS[kind], "InputRichBlock")
        if kind == "map":
            read = {"zoom": 15, "width": 600, "height": 300, **read}
            width, height = read["width"], read["height"]
            if width + height > 10_000 or max(width, height) > 20 * min(width, height):
                raise bad_request("can't parse InputRichBlock: wrong map dimensions specified")
        return {"type": kind, **read}

    def _read_rich(self, value: Any, name: str, where: str) -> Any:
        if isinstance(value, str):
            self.text.append(value)
            return value
        with self._deeper():
            if isinstance(value, list):
                return [self._read_rich(part, name, where) for part in value]
            kind = value.get("type") if isinstance(value, dict) else None
            if kind not in TEXTS:
                raise bad_request(f"can't parse RichText: type {json.dumps(kind)} is unsupported")
            return {"type": kind, **self._object(value, TEXTS[kind], "RichText")}

    def _read_formula(self, value: Any, name: str, where: str) -> str:
        """Counts as text, as alternative texts of emoji do."""
        text: str = of_type({name: value}, name, str, where)
        self.text.append(text)
        return text

    def _read_items(self, value: Any, name: str, where: str) -> list[Json]:
        items = [
            self._object(item, ITEM, "InputRichBlockListItem")
            for item in of_type({name: value}, name, list, where)
        ]
        self._blocks += len(items)
        for item in items:
            label = item.pop("type", None)
            item["label"] = f"{item.get('value', 1)}." if label or "value" in item else "•"
        return items

    def _read_cells(self, value: Any, name: str, where: str) -> list[list[Json]]:
        rows = of_type({name: value}, name, list, where)
        self._blocks += len(rows)
        if not all(isinstance(row, list) for row in rows):
            raise bad_request(f'can\'t parse {where}: Field "cells" must be an Array of Arrays')
        read = [[self._object(cell, CELL, "RichBlockTableCell") for cell in row] for row in rows]
        if any(sum(cell.get("colspan", 1) for cell in row) > MAX_COLUMNS for row in read):
            raise bad_request("rich message has a table with too many columns")
        return read

    def _read_caption(self, value: Any, name: str, where: str) -> Json:
        return self._object(value, CAPTION, "RichBlockCaption")

    def _read_media(self, value: Any, name: str, where: str) -> Any:
        self._media += 1
        kind = value.get("type") if isinstance(value, dict) else None
        given = value.get("media") if isinstance(value, dict) else None
        if kind not in MEDIA or not isinstance(given, str):
            raise bad_request("can't parse InputMedia: media not found")
        if self._is_draft and re.match(r"attach://|https?://", given):
            raise bad_request("can't upload files in a message draft")
        stored = "voice" if kind == "voice_note" else kind
        file = self._files.sent(self._call, stored, given)
        return [file] if kind == "photo" else file

    def _read_buttons(self, value: Any, name: str, where: str) -> list[Json]:
        buttons = of_type({name: value}, name, list, where)
        if not 1 <= len(buttons) <= 8:
            raise bad_request(f"can't parse {where}: there must be 1-8 buttons in a row")
        return [self._read_button(button, name, where) for button in buttons]

    def _read_button(self, value: Any, name: str, where: str) -> Json:
        if not isinstance(value, dict):
            raise bad_request("can't parse RichMessageButton: expected an Object")
        only(value, BUTTON_ACTIONS | {"text", "style"}, "RichMessageButton")
        self._field(value, "text", "rich", "RichMessageButton")
        if len(BUTTON_ACTIONS & value.keys()) != 1:
            raise bad_request("can't parse RichMessageButton: exactly one action must be specified")
        data = value.get("callback_data", "-")
        if not (isinstance(data, str) and 1 <= len(data.encode()) <= 64):
            raise bad_request("BUTTON_DATA_INVALID")
        style = value.get("style", "primary")
        if style not in ("danger", "success", "primary", "link"):
            raise bad_request("can't parse RichMessageButton: wrong style specified")
        if style == "link" and "callback_data" not in value:
            raise bad_request("can't parse RichMessageButton: only callback buttons may look like links")
        return value

    def _read_heading(self, value: Any, name: str, where: str) -> int:
        return _number(name, value, 1, 6, where)

    def _read_zoom(self, value: Any, name: str, where: str) -> int:
        return _number(name, value, 0, 24, where)

    def _read_side(self, value: Any, name: str, where: str) -> int:
        return _number(name, value, 0, 10_000, where)

    def _read_span(self, value: Any, name: str, where: str) -> int:
        return _number(name, value, 1, 2**31, where)

    def _read_align(self, value: Any, name: str, where: str) -> str:
        return _one_of(name, value, ("left", "center", "right"), where)

    def _read_valign(self, value: Any, name: str, where: str) -> str:
        return _one_of(name, value, ("top", "middle", "bottom"), where)

    def _read_label(self, value: Any, name: str, where: str) -> str:
        return _one_of(name, value, ("a", "A", "i", "I", "1"), where)


class _Level:
    """One level of nesting."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks

    def __enter__(self) -> None:
        self._blocks._depth += 1
        if self._blocks._depth > MAX_DEPTH:
            raise bad_request("rich message is nested too deep")

    def __exit__(self, *_: object) -> None:
        self._blocks._depth -= 1


def _number(name: str, value: Any, low: int, high: int, where: str) -> int:
    number: int = of_type({name: value}, name, int, where)
    if not low <= number <= high:
        raise bad_request(f"can't parse {where}: {name} must be from {low} to {high}")
    return number


def _one_of(name: str, value: Any, known: tuple[str, ...], where: str) -> str:
    if value not in known:
        raise bad_request(f"can't parse {where}: wrong {name} specified")
    return str(value)
