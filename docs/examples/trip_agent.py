"""An agent whose state has a shape, and has had another one."""

from typing import Any, Literal

from pydantic import BaseModel

from bot.agent_adapter import TelegramAgentAdapter


class Trip(BaseModel):
    """What the bot knows of somebody's trip."""

    city: str = ""
    currency: Literal["EUR", "NOK"]
    packed: list[str] = []


class Agent(TelegramAgentAdapter):
    """Helps to pack."""

    state_type = Trip
    state_version = 2
    kept = frozenset({"currency"})

    def new_state(self) -> Trip:
        """Somebody new: a field without a default has to come from somewhere."""
        return Trip(currency="EUR")

    def upgrade(self, raw: dict[str, Any], version: int) -> dict[str, Any]:
        """Take over version 1, in which `city` was `town`, and nobody was asked for a currency."""
        if version < 2:
            raw["city"] = raw.pop("town", "")
            raw["currency"] = "NOK" if raw["city"] == "Oslo" else "EUR"
        return raw

    async def agent_logic(self, message: str, state: Trip) -> str:
        """Change the trip, and say what it is now."""
        match message.split():
            case ["go", city]:
                state.city = city
            case ["pack", thing]:
                state.packed.append(thing)
        return f"{state.city or 'Somewhere'}, paying in {state.currency}: {', '.join(state.packed)}"
