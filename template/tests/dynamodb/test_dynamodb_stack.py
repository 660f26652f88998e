"""`infra/dynamodb.yaml`: its table is the one that `bot migrate` makes, and its limits fit together."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from bot.config import Settings
from bot.state.dynamodb_item import EXPIRES
from tests.contract.harness import Harness
from tests.dynamodb.server import make_client, make_table
from tests.e2e.process import BotProcess
from tests.fake_telegram import FakeTelegram

STACK = Path(__file__).parents[2] / "infra" / "dynamodb.yaml"


def described(name: str) -> Any:
    """The properties of a resource; what CloudFormation's own tags stand for is left as it is written."""

    class Loader(yaml.SafeLoader):
        """Reads `!Ref X` as "X"."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: node.value)
    return yaml.load(STACK.read_text("utf-8"), Loader)["Resources"][name]["Properties"]


async def test_its_table_needs_no_migration(url: str, fresh: str) -> None:
    table = described("Table")
    client = make_client(url, fresh)
    await client.open()
    same = ("BillingMode", "AttributeDefinitions", "KeySchema", "DeletionProtectionEnabled")
    await client.call("create_table", **{name: table[name] for name in same})
    expiry = table["TimeToLiveSpecification"]
    assert expiry["AttributeName"] == EXPIRES
    await client.call("update_time_to_live", TimeToLiveSpecification=expiry)
    recovery = table["PointInTimeRecoverySpecification"]
    await client.call("update_continuous_backups", PointInTimeRecoverySpecification=recovery)
    await client.close()
    assert await make_table(url, fresh) == f"table {fresh}: nothing to do"


def test_the_agent_ends_before_the_api_gives_up() -> None:
    variables = described("Function")["Environment"]["Variables"]
    limit = described("Integration")["TimeoutInMillis"] / 1000
    assert float(variables["AGENT_TIMEOUT"]) + 5 <= limit <= described("Function")["Timeout"]
    assert Settings.model_fields.keys() >= {
        name.lower() for name in variables if not name.startswith(("AWS_LWA_", "DYNAMODB_"))
    }


async def test_what_is_frozen_once_it_is_ready_has_told_telegram_everything(
    tmp_path: Path, harness: Harness
) -> None:
    """Lambda freezes a process that has nothing to answer; its adapter asks here whether it may begin."""
    path = described("Function")["Environment"]["Variables"]["AWS_LWA_READINESS_CHECK_PATH"]
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
