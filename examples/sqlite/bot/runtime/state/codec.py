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
    _check(value, where, depth=0)
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


def _check(value: Any, where: str, depth: int) -> None:
    kind = type(value)
    if value is None or kind is bool:
        return
    if kind is str:
        if not is_storable(value):
            raise StateValueError(where, "holds a NUL or a lone surrogate")
    elif kind is int:
        if value not in _INT_RANGE:
            raise StateValueError(where, "is an integer beyond 64 bits; keep it as a str")
    elif kind is float:
        if not math.isfinite(value):
            raise StateValueError(where, "is NaN or infinite, which JSON cannot express")
    elif kind is list or kind is dict:
        if depth == MAX_DEPTH:
            raise StateValueError(where, f"is nested more than {MAX_DEPTH} levels deep")
        if kind is list:
            for index, item in enumerate(value):
                _check(item, f"{where}[{index}]", depth + 1)
        else:
            for key, item in value.items():
                if type(key) is not str or not is_storable(key):
                    raise StateValueError(where, "has a key that is not plain text")
                _check(item, f"{where}[{key!r}]", depth + 1)
    else:
        raise StateValueError(where, f"is a {kind.__name__}, which JSON cannot give back")
