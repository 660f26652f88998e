"""A bot whose agent declares the shape of its state: `python -m suite.travelling_bot state check`."""

import sys
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, field_validator

from bot.agent_adapter import TelegramAgentAdapter, job
from bot.runtime.cli import main
from suite.owner import replace_owner

if TYPE_CHECKING:
    from bot.runtime.app import Owner


class Stop(BaseModel):
    """A part of a journey."""

    town: str
    nights: int = 1


class Trip(BaseModel):
    """The shape of today."""

    city: str = ""
    currency: Literal["NOK", "EUR"]
    begins: date | None = None
    stops: list[Stop] = []
    tags: set[str] = Field(default=set(), alias="labels")

    @field_validator("city")
    @classmethod
    def _is_short(cls, city: str) -> str:
        if len(city) > 20:
            raise ValueError(f"{city} is too long")
        return city


class Travelling(TelegramAgentAdapter):
    """Changes the trip as it is told."""

    state_type = Trip
    state_version = 3
    kept = frozenset({"currency"})

    def new_state(self) -> Trip:
        return Trip(currency="NOK")

    def upgrade(self, raw: dict[str, Any], version: int) -> dict[str, Any]:
        if version < 2:
            raw["city"] = raw.pop("town")
        if version < 3:
            raw["currency"] = "EUR" if raw["city"] in ("Rome", "Paris") else "NOK"
            raw.get("stops", [{}])[0]["nights"] = 2
        return raw

    async def agent_logic(self, message: str, state: Trip) -> str:
        match message.split():
            case ["go", city]:
                state.city = city
            case ["stop", town]:
                state.stops.append(Stop(town=town))
            case ["begin", day]:
                state.begins = date.fromisoformat(day)
            case ["tag", *tags]:
                state.tags.update(tags)
            case ["pay", currency]:
                state.currency = currency  # type: ignore[assignment]  # whatever it is
            case ["spoil"]:
                state.stops[0].nights = "many secrets"  # type: ignore[assignment]
            case ["key", key]:
                self.turn.state[key] = "secret"
            case ["clear"]:
                await self.clear_user_state(self.turn.user_id)
            case ["count"]:
                state.tags.add(f"{len(state.tags)}")
                return f"{len(state.tags)}"
        return f"{state.city or 'nowhere'} {state.currency} {len(state.stops)}"

    @job
    async def pack(self) -> None:
        self.turn.typed.tags.add("packed")


def travelling_owner() -> "Owner":
    """An owner who wrote no more than that agent."""
    from bot.runtime.app import Owner

    return Owner(agent=Travelling)


if __name__ == "__main__":
    sys.argv[0] = "bot"
    replace_owner(travelling_owner)
    main()
