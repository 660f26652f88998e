"""An agent that reminds people, and writes to them every morning."""

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from bot.agent_adapter import TelegramAgentAdapter, job


class Agent(TelegramAgentAdapter):
    """Takes `zone Europe/Vienna`, `2030-05-01 09:00 passport`, `digest`, `list` and `cancel ID`."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        """Note what is to be done later, in the same turn as all else."""
        zone = ZoneInfo(state.get("zone", "UTC"))
        match message.split(maxsplit=2):
            case ["zone", name]:
                state["zone"] = ZoneInfo(name).key
                return f"It is {datetime.now(ZoneInfo(name)):%H:%M} where you are."
            case ["digest"]:
                tomorrow = datetime.now(zone) + timedelta(days=1)
                at_eight = tomorrow.replace(hour=8, minute=0, second=0, microsecond=0)
                state["digest"] = self.turn.every(timedelta(days=1), self.digest, at_eight)
                return "Every morning at eight, then."
            case ["list"]:
                return "\n".join(f"{each.id} {each.when.astimezone(zone)}" for each in self.turn.jobs)
            case ["cancel", job_id]:
                return "Cancelled." if self.turn.cancel(job_id) else "There is no such thing."
            case [day, time, text]:
                when = datetime.fromisoformat(f"{day} {time}").replace(tzinfo=zone)
                self.turn.later(when, self.remind, text=text)
                return f"I will remind you at {when:%H:%M on %d %B}."
        return "When, and of what?"

    @job
    async def remind(self, text: str) -> str:
        """Remind somebody, in the chat where they asked for it."""
        return f"You wanted to think of this: {text}"

    @job(retries=3, expires=timedelta(hours=4))
    async def digest(self) -> str:
        """Sum up: later today, if the news cannot be had just now, but not in the evening."""
        mornings: int = self.turn.state.get("mornings", 0) + 1
        self.turn.state["mornings"] = mornings
        return f"Good morning, day {mornings}. {await self.news()}"

    async def news(self) -> str:
        """Stands for a call to somebody else, which may fail."""
        return "Nothing has happened."
