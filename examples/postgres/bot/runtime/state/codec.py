"""JSON as the bot keeps it: what is stored comes back equal and of the same type, or is refused."""

import math
from typing import Any

import orjson

from bot.runtime.errors import StateValueError

MAX_DEPTH = 100  # orjson refuses to write 255 levels and to read 1025; no owner needs either
_INT_RANGE = range(-(2**63), 2**64)  # what orjson reads back as an integer


def dumps(value: Any, where: str) -> bytes:
    """Serialise `value`.

    Args:
        value: `None`, `bool`, `int` of 64 bits, finite `float`, `str`, or `list` and `dict` of these;
            keys are `str`. No other types and no subclasses: they would come back as something else.
        where: how errors call it, such as `state['cart']`.

    Raises:
        StateValueError: something in it would not come back as it is.
    """
    if fault := _fault(value, 0):
        raise StateValueError(where + fault[0], fault[1])
    # A copy: what orjson returns holds on to its whole buffer, KBs behind a few bytes.
    return bytes(memoryview(orjson.dumps(value)))


def loads(data: bytes | str) -> Any:
    """Read what `dumps` wrote.

    Raises:
        ValueError: it is not JSON.
    """
    return orjson.loads(data)


def is_storable(text: str) -> bool:
    """Whether every engine can hold the text: PostgreSQL takes no NUL, UTF-8 no lone surrogate."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return "\0" not in text


def clean(text: str) -> str:
    """The text with NULs and lone surrogates replaced by U+FFFD."""
    if is_storable(text):
        return text
    return "".join("\ufffd" if char == "\0" or "\ud800" <= char <= "\udfff" else char for char in text)


def _fault(value: Any, depth: int) -> tuple[str, str] | None:
    """Where in a value something would not come back as it is, and why, if there is such a thing."""
    kind = type(value)
    if kind is str:
        return None if is_storable(value) else ("", "holds a NUL or a lone surrogate")
    if value is None or kind is bool:
        return None
    if kind is int:
        return None if value in _INT_RANGE else ("", "is an integer beyond 64 bits; keep it as a str")
    if kind is float:
        return None if math.isfinite(value) else ("", "is NaN or infinite, which JSON cannot express")
    if kind is not list and kind is not dict:
        return "", f"is a {kind.__name__}, which JSON cannot give back"
    if depth == MAX_DEPTH:
        return "", f"is nested more than {MAX_DEPTH} levels deep"
    for key, item in enumerate(value) if kind is list else value.items():
        if kind is dict and (type(key) is not str or not is_storable(key)):
            return "", "has a key that is not plain text"
        if type(item) is str and item.isascii() and "\0" not in item:  # spares most a call
            continue
        if fault := _fault(item, depth + 1):
            return f"[{key!r}]{fault[0]}", fault[1]
    return None
