"""An agent that keeps one packing list for each group, to which all of its members write."""

from typing import Any

from bot.agent_adapter import Place, RecordId, TelegramAgentAdapter, chat


class Agent(TelegramAgentAdapter):
    """Notes who packs what: `/pack tent`, `/list`."""

    def record_of(self, place: Place) -> RecordId | None:
        """One record for each group; in private, each person's own."""
        return chat(place.group) if place.group else super().record_of(place)

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        """Change the list and answer."""
        user = self.turn.user
        name = user.first_name if user else "Somebody"
        things: dict[str, str] = state.setdefault("things", {})
        match message.split(maxsplit=1):
            case ["/pack", thing] if thing in things:
                return f"{things[thing]} packs {thing} already."
            case ["/pack", thing]:
                things[thing] = name
                return f"{name} packs {thing}. That makes {len(things)}."
            case ["/list"]:
                return "\n".join(f"{thing}: {who}" for thing, who in things.items()) or "Nothing yet."
        return "/pack THING says that you take it along; /list shows who takes what."
