"""An agent that a shop's system tells, by HTTP, when a parcel has arrived."""

from datetime import timedelta
from hmac import compare_digest
from typing import Any

from aiohttp import web
from pydantic import Field, SecretStr

from bot.agent_adapter import Environment, TelegramAgentAdapter, job, load, person


class ParcelSettings(Environment):
    """Where the shop calls, and what it has to know."""

    parcel_port: int = Field(8090, description="Port on which the shop tells of parcels.")
    parcel_secret: SecretStr = Field(description="What the shop sends as its Bearer token.")


class Agent(TelegramAgentAdapter):
    """Tells people of their parcels."""

    async def connect(self) -> None:
        """Listen to the shop."""
        await super().connect()
        self.settings = load(ParcelSettings)
        app = web.Application()
        app.router.add_post("/parcels/{user_id}", self.arrived)
        self.server = web.AppRunner(app)
        await self.server.setup()
        await web.TCPSite(self.server, "127.0.0.1", self.settings.parcel_port).start()

    async def close(self) -> None:
        """Listen no longer."""
        await self.server.cleanup()
        await super().close()

    async def arrived(self, request: web.Request) -> web.Response:
        """Answer 200 only when it is kept: should the bot be killed now, the person is told all the same."""
        expected = f"Bearer {self.settings.parcel_secret.get_secret_value()}"
        given = request.headers.get("Authorization", "")
        if not compare_digest(given.encode(errors="replace"), expected.encode()):
            return web.Response(status=401)
        number = str((await request.json())["number"])
        record = person(int(request.match_info["user_id"]))
        await self.later(record, timedelta(0), self.tell, number=number)
        return web.Response()

    @job
    async def tell(self, number: str) -> str | None:
        """Tell of a parcel, once, though the shop calls twice."""
        parcels: list[str] = self.turn.state.setdefault("parcels", [])
        if number in parcels:
            return None
        parcels.append(number)
        return f"Parcel {number} is here."

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        """List them."""
        return ", ".join(state.get("parcels", [])) or "Nothing yet."
