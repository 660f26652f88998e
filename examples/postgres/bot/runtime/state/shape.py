"""The shape of a state that an agent has declared: from what is kept to a model of its own, and back.

What goes wrong is told by the names of fields. What people said is in none of these errors.
"""

import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, RootModel, ValidationError
from pydantic_core import PydanticSerializationError

from bot.runtime.errors import OperatorError, StateCorrupt, StateValueError
from bot.runtime.state.codec import dumps

VERSION = "_version"
"""The key of the state that says which version of the agent's shape it has. No field's name begins so."""

MOST_FIELDS = 5
"""How many fields an error names."""


class Shape:
    """What the state of an agent looks like.

    Attributes:
        model: the agent's `state_type`.
        version: the agent's `state_version`.
    """

    def __init__(
        self,
        model: type[BaseModel],
        version: int,
        upgrade: Callable[[dict[str, Any], int], dict[str, Any]],
        new: Callable[[], Any],
    ) -> None:
        """Make it.

        Args:
            model: a pydantic model.
            version: what is kept of it is noted with this.
            upgrade: makes of what was kept with an older version, and which that was, what this one has.
            new: makes the state of somebody new.
        """
        self.model, self.version, self._upgrade, self._new = model, version, upgrade, new

    def check(self) -> None:
        """Refuse what cannot work, before anybody's state is touched.

        Raises:
            OperatorError: the text says what to do.
        """
        model, version = self.model, self.version
        is_model = isinstance(model, type) and issubclass(model, BaseModel)
        if not is_model or issubclass(model, RootModel):
            raise OperatorError(
                "Agent.state_type has to be a pydantic model with fields, derived from BaseModel"
            )
        if type(version) is not int or version < 1:
            raise OperatorError("Agent.state_version has to be a whole number from 1 on: count your changes")
        try:
            self.fitting(self.write(self.fresh()))
        except Exception as error:
            told = self._told(error) if isinstance(error, ValidationError) else str(error)
            raise OperatorError(
                f"somebody new has no state yet, and Agent.new_state gives no {model.__name__} ({told}): "
                "give every field a default, or override new_state"
            ) from None

    def fresh(self) -> Any:
        """The state of somebody new."""
        return self._new()

    def read(self, kept: Mapping[str, Any], record: str) -> Any:
        """The model of a state that is kept.

        Args:
            kept: the state; it stays as it is.
            record: whose it is.

        Raises:
            StateCorrupt: it does not fit.
        """
        if not kept:
            return self.fresh()
        raw = dict(kept)
        version = raw.pop(VERSION, 0)
        if type(version) is not int or version > self.version:
            raise StateCorrupt(
                f"its state is of a newer version than {self.version} of {self.model.__name__}", record
            )
        if version < self.version:
            raw = self._upgraded(orjson.loads(orjson.dumps(raw)), version, record)
        try:
            return self._validated(orjson.dumps(raw))
        except (ValidationError, orjson.JSONEncodeError) as error:
            told = self._told(error) if isinstance(error, ValidationError) else "upgrade gave what is no JSON"
            name = self.model.__name__
            raise StateCorrupt(f"its state of version {version} is no {name}: {told}", record) from None

    def write(self, state: Any) -> dict[str, Any]:
        """What is to be kept of a model.

        Raises:
            StateValueError: it is none of this shape, or JSON has no way to say it.
        """
        if not isinstance(state, self.model):
            raise StateValueError("state", f"is a {type(state).__name__}, not a {self.model.__name__}")
        try:
            value: dict[str, Any] = state.model_dump(
                mode="json", by_alias=False, round_trip=True, warnings=False
            )
        except (PydanticSerializationError, ValueError, TypeError):
            raise StateValueError("state", "holds what JSON cannot express") from None
        return value

    def fitting(self, value: Mapping[str, Any]) -> Any:
        """The model of what is to be kept.

        Raises:
            StateValueError: it does not fit.
        """
        for key in value.keys() - {VERSION}:
            if key not in self.model.model_fields and self.model.model_config.get("extra") != "allow":
                raise StateValueError(f"state[{key!r}]", f"is no field of {self.model.__name__}")
        raw = dumps({key: each for key, each in value.items() if key != VERSION}, "state")
        try:
            return self._validated(raw)
        except ValidationError as error:
            raise StateValueError("state", f"is no {self.model.__name__}: {self._told(error)}") from None

    def _validated(self, json: bytes) -> Any:
        return self.model.model_validate_json(json, by_alias=False, by_name=True)

    def _upgraded(self, raw: dict[str, Any], version: int, record: str) -> dict[str, Any]:
        try:
            upgraded = self._upgrade(raw, version)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}, line {last.lineno}"
            told = f"upgrade failed from version {version} on ({type(error).__name__} in {where})"
            raise StateCorrupt(told, record) from None
        if not isinstance(upgraded, dict):
            raise StateCorrupt(f"upgrade returned {type(upgraded).__name__}, not a dict", record)
        return upgraded

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(_names(self.model))

    def _told(self, error: ValidationError) -> str:
        """Which fields do not fit, and in which way. What stands there may be what people wrote."""
        told = [
            f"{self._place(each['loc'])} {each['type']}".strip()
            for each in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        more = f" and {len(told) - MOST_FIELDS} more" if len(told) > MOST_FIELDS else ""
        return ", ".join(told[:MOST_FIELDS]) + more

    def _place(self, steps: tuple[int | str, ...]) -> str:
        return ".".join(str(each) if type(each) is int or each in self._names else "…" for each in steps)


def _names(model: type[BaseModel]) -> Iterator[str]:
    """The names of all fields of a model, and of those within it."""
    yield from model.model_fields
    for by_alias in (False, True):
        try:
            schema = model.model_json_schema(by_alias=by_alias)
        except Exception:  # one that has no schema: what lies deeper is not named then
            return
        for part in (schema, *schema.get("$defs", {}).values()):
            yield from part.get("properties", ())
