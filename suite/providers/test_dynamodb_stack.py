"""`infra/dynamodb.yaml`: its limits fit together, its role permits enough, and Lambda may freeze the bot."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from bot.runtime.config import Settings
from bot.runtime.engines.dynamodb.connection import DynamodbSettings
from bot.runtime.engines.dynamodb.item import AT_ONCE
from bot.runtime.engines.dynamodb.store import DynamodbStore
from bot.runtime.engines.dynamodb.table import INDEX
from suite.agents import CountingAgent
from suite.bot_api import FakeTelegram
from suite.contract.harness import Harness
from suite.engines.dynamodb.throttle import Throttle
from suite.support.process import BotProcess
from suite.support.runtime import Runtime

STACK = Path(__file__).parents[2] / "infra" / "dynamodb.yaml"

START_AND_REPLY_SECONDS = 5.0
"""What a cold start and Telegram's answer to the reply are given."""


def described(name: str) -> Any:
    """The properties of a resource; what CloudFormation's own tags stand for is left as it is written."""

    class Loader(yaml.SafeLoader):
        """Reads `!Ref X` as "X"."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: node.value)
    return yaml.load(STACK.read_text("utf-8"), Loader)["Resources"][name]["Properties"]


def variables() -> dict[str, str]:
    """The settings of the function."""
    found: dict[str, str] = described("Function")["Environment"]["Variables"]
    return found


def test_an_update_is_done_before_the_api_gives_up() -> None:
    """Loaded, handled and committed, each as late as may be, with time left to start and to reply."""
    own = variables()
    limit = described("Integration")["TimeoutInMillis"] / 1000
    takes = 2 * float(own["DYNAMODB_TIMEOUT"]) + float(own["AGENT_TIMEOUT"])
    assert takes + START_AND_REPLY_SECONDS <= limit <= described("Function")["Timeout"]


def test_its_settings_are_settings() -> None:
    known = Settings.model_fields.keys() | DynamodbSettings.model_fields.keys()
    assert known >= {name.lower() for name in variables() if not name.startswith("AWS_LWA_")}


class Scribe(CountingAgent):
    """Writes down more at once than one `UpdateItem` takes."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        state.update(dict.fromkeys(map(str, range(AT_ONCE + 1)), message))
        return await super().agent_logic(message, state)


async def test_its_role_may_do_what_a_bot_does_and_no_more(
    proxied: DynamodbStore, throttle: Throttle
) -> None:
    await proxied.close()
    throttle.reset()
    async with FakeTelegram() as telegram, Runtime(telegram, proxied, "webhook", Scribe) as bot:
        for text in ("hi", "/reset", "/export", "/forget"):
            telegram.message(text, user_id=1)
        await telegram.settled()
        telegram.press(telegram.sent[-1], 0, 0, user_id=1)
        await telegram.settled()
        assert (await bot.record(1)).is_empty
        await proxied.due(0, 1)
    permitted = [
        action.removeprefix("dynamodb:")
        for policy in described("Role")["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
        for action in statement["Action"]
        if action.startswith("dynamodb:")
    ]
    assert sorted(throttle.seen) == sorted(permitted)


def test_it_may_ask_the_index_that_migrate_makes() -> None:
    (statement,) = (
        statement
        for policy in described("Role")["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Action"] == ["dynamodb:Query"]
    )
    assert statement["Resource"].endswith(f"table/${{TableName}}/index/{INDEX}")


async def test_what_is_frozen_once_it_is_ready_has_told_telegram_everything(
    tmp_path: Path, harness: Harness
) -> None:
    """Lambda freezes a process that has nothing to answer; its adapter asks here whether it may begin."""
    path = variables()["AWS_LWA_READINESS_CHECK_PATH"]
    async with FakeTelegram() as telegram, aiohttp.ClientSession() as http:
        for method in ("setWebhook", "setMyCommands"):
            telegram.delay(method, 0.3)
        async with BotProcess(tmp_path, telegram, WEBHOOK_URL="https://bot.example/telegram") as bot:
            while True:
                async with http.get(bot.url + path) as response:
                    if response.status < 500:  # the adapter's own rule
                        break
                await asyncio.sleep(0.01)
            bot.process.send_signal(signal.SIGSTOP)
            assert telegram.webhook
            assert len(telegram.commands) == 2
