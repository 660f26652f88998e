"""Keyboards: read and checked as Telegram does it."""

import itertools
import json
from typing import Any

from suite.bot_api.call import Json, words
from suite.bot_api.errors import bad_request

BUTTON_ACTIONS = words(
    """url callback_data web_app login_url switch_inline_query switch_inline_query_current_chat
    switch_inline_query_chosen_chat copy_text callback_game pay"""
)


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
