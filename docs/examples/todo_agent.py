"""An agent that keeps a list for each user, in `state`."""

from typing import Any

from bot.agent_adapter import TelegramAgentAdapter


class Agent(TelegramAgentAdapter):
    """Puts on the list what is written, and strikes out what is written as `done NUMBER`."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        """Change the list and answer."""
        todo: list[str] = state.setdefault("todo", [])
        match message.split(maxsplit=1):
            case ["done", number] if number.isdecimal() and 0 < int(number) <= len(todo):
                return f"Done: {todo.pop(int(number) - 1)}"
            case ["list"]:
                return "\n".join(f"{number}. {item}" for number, item in enumerate(todo, 1)) or "Nothing."
        todo.append(message)
        return f"{len(todo)}. {message}"
