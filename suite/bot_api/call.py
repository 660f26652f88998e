"""One request to the Bot API: what it asks for, and how its parameters are read."""

import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from suite.bot_api.errors import ApiError, bad_request

Json = dict[str, Any]


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


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

    @property
    def attached(self) -> set[str]:
        """The form fields that a parameter refers to as ``attach://field``, at whatever depth."""
        named = {name for value in self.params.values() for name in re.findall(r"attach://([\w-]+)", value)}
        return named & self.uploads.keys()


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
                with value.file:
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
    if not re.fullmatch(r"-?\d{1,19}", value) or not low <= int(value) <= high:
        raise bad_request(f"{name} is not an integer from {low} to {high}")
    return int(value)


def is_true(value: str) -> bool:
    return value.lower() in {"true", "yes", "1"}


def required(params: dict[str, str], name: str) -> str:
    """The parameter, which must be there and not be empty."""
    if not params.get(name):
        raise bad_request(f'parameter "{name}" is required')
    return params[name]


def json_list(params: dict[str, str], name: str) -> list[Any]:
    try:
        value = json.loads(params.get(name, ""))
    except ValueError:
        value = None
    if not isinstance(value, list):
        raise bad_request(f"can't parse {name} JSON array")
    return value


def json_object(params: dict[str, str], name: str, kind: str) -> Json:
    """The parameter as the object it must be; `kind` is the name of its type in Telegram's messages."""
    try:
        value = json.loads(required(params, name))
    except ValueError:
        raise bad_request(f"can't parse {kind} JSON object") from None
    if not isinstance(value, dict):
        raise bad_request(f"can't parse {kind}: expected an Object")
    return value


def missing(name: str, where: str) -> ApiError:
    """What to raise where an object of a type lacks a field."""
    return bad_request(f"can't parse {where}: Can't find field \"{name}\"")


def of_type(value: Json, name: str, kind: type | tuple[type, ...], where: str, default: Any = None) -> Any:
    """A field of an object.

    Args:
        value: the object.
        name: the field's name.
        kind: what it must be; `int` takes no boolean.
        where: the object's type in Telegram's messages.
        default: what stands for a field that is not there; None: it has to be.

    Raises:
        ApiError: 400, in Telegram's words.
    """
    found = value.get(name, default)
    if found is None:
        raise missing(name, where)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(found, kind) or (isinstance(found, bool) and bool not in kinds):
        named = {int: "Number", str: "String", bool: "Boolean", list: "Array", dict: "Object"}[kinds[0]]
        raise bad_request(f'can\'t parse {where}: Field "{name}" must be of type {named}')
    return found


def only(value: Json, fields: frozenset[str], where: str) -> None:
    """No field but these. Telegram ignores others; a test should hear of its typing error."""
    if unknown := value.keys() - fields:
        raise bad_request(f"{where} has no field {min(unknown)!r}")
