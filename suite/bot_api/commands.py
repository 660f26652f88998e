"""The bot's menu of commands, by scope and language."""

import json
import re
from typing import TYPE_CHECKING

from suite.bot_api.call import Call, Json, json_list
from suite.bot_api.errors import bad_request

if TYPE_CHECKING:
    from suite.bot_api.server import ApiServer


class Commands(dict[tuple[str, str], list[Json]]):
    """What is set, by ("default" or "chat:7" or ..., language code)."""

    def __init__(self, telegram: "ApiServer") -> None:
        super().__init__()
        scope = "scope language_code "
        telegram.method("setMyCommands", scope + "commands")(self._set)
        telegram.method("getMyCommands", scope)(self._get)
        telegram.method("deleteMyCommands", scope)(self._delete)

    async def _set(self, call: Call) -> bool:
        commands = json_list(call.params, "commands")
        if len(commands) > 100:
            raise bad_request("BOT_COMMANDS_TOO_MUCH")
        for command in commands:
            if not isinstance(command, dict) or not {"command", "description"} <= command.keys():
                raise bad_request("can't parse BotCommand")
            if not re.fullmatch(r"[a-z0-9_]{1,32}", str(command["command"])):
                raise bad_request("BOT_COMMAND_INVALID")
            if not 1 <= len(str(command["description"])) <= 256:
                raise bad_request("BOT_COMMAND_DESCRIPTION_INVALID")
        self[command_scope(call.params)] = commands
        return True

    async def _get(self, call: Call) -> list[Json]:
        return self.get(command_scope(call.params), [])

    async def _delete(self, call: Call) -> bool:
        self.pop(command_scope(call.params), None)
        return True


def command_scope(params: dict[str, str]) -> tuple[str, str]:
    """What commands are kept under."""
    try:
        scope = json.loads(params.get("scope") or '{"type": "default"}')
        name = ":".join([scope.pop("type"), *(str(scope[key]) for key in sorted(scope))])
    except (ValueError, TypeError, LookupError, AttributeError):
        raise bad_request("can't parse BotCommandScope") from None
    return name, params.get("language_code", "")
