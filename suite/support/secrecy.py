"""A bot's life with everything that may go wrong in it, for tests that look for secrets in what it writes."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import aiohttp

from suite.bot_api import FakeTelegram
from suite.support.command_line import run
from suite.support.process import BotProcess
from suite.support.runtime import Mode

TOKEN = "42:AAE-secret-part_of_a_token"
WEBHOOK_SECRET = "secret-of-the-webhook"


async def everything_written(
    folder: Path,
    mode: Mode,
    *,
    break_store: Callable[[], object],
    mend_store: Callable[[], object],
    broken: dict[str, str],
    **settings: str,
) -> str:
    """All that a bot and its command line write, and what `/metrics` shows, at the most talkative level.

    Args:
        folder: an empty folder.
        mode: how updates come.
        break_store: takes the store away.
        mend_store: brings it back.
        broken: settings with which the store cannot be used at all.
        settings: the engine's.
    """
    settings |= {
        "LOG_LEVEL": "DEBUG",
        "LOG_FORMAT": "json" if mode == "webhook" else "console",
        "WEBHOOK_SECRET": WEBHOOK_SECRET,
        "PYTHONWARNINGS": "always",
        "SHUTDOWN_TIMEOUT": "2",
    }
    if mode == "webhook":
        settings["WEBHOOK_URL"] = "https://bot.example/hook"
    async with FakeTelegram(token=TOKEN, max_retry_after=0.1, max_delay=0.3) as telegram:
        telegram.fail("setMyCommands", status=500)
        telegram.fail("setWebhook" if mode == "webhook" else "getUpdates", status=429)
        async with (
            BotProcess(folder / "running", telegram, **settings) as bot,
            aiohttp.ClientSession() as http,
        ):
            telegram.webhook_address = bot.url
            await bot.ready()
            for text in ("hi", "raise", "leak", "spoil", "hoard 1000000", "/export"):
                telegram.message(text, user_id=1)
            telegram.callback("forget:2:1", user_id=2)
            telegram.push({"message": {"chat": {"id": 5}, "nonsense": True}})
            await telegram.settled(180)
            telegram.fail("sendMessage", status=500, times=2)
            telegram.bad_gateway("sendMessage")
            telegram.drop_answer("sendMessage")
            telegram.fail("getUpdates", status=409, times=1)
            telegram.bad_gateway("getUpdates")
            telegram.drop_answer("getUpdates")
            telegram.message("hi", user_id=1)
            await telegram.settled(180)
            assert "updates are retried" not in bot.written
            await asyncio.to_thread(break_store)
            telegram.message("hi", user_id=1)
            await telegram.wait_for(lambda: "updates are retried" in bot.written)
            await http.get(f"{bot.url}/readyz")
            await asyncio.to_thread(mend_store)
            await telegram.settled(180)
            await telegram.stop()
            await asyncio.sleep(1)
            await telegram.start()
            wrong = {"X-Telegram-Bot-Api-Secret-Token": WEBHOOK_SECRET[:-1]}
            await http.post(f"{bot.url}/hook", data=b"{}", headers=wrong)
            async with http.get(f"{bot.url}/metrics") as response:
                metrics = await response.text()
            telegram.message("sleep 30", user_id=1)
            await asyncio.sleep(1)
            assert await bot.stop() == 0
        told = {"BOT_TOKEN": TOKEN, "TELEGRAM_API_URL": telegram.url, **settings}
        refused, failed, *others = await asyncio.gather(
            asyncio.to_thread(run, folder, "run", **told | {"BOT_TOKEN": f"{TOKEN}X", "PORT": "0"}),
            asyncio.to_thread(run, folder, "run", **told | broken | {"PORT": "0"}),
            asyncio.to_thread(run, folder, "doctor", **told),
            asyncio.to_thread(run, folder, "doctor", **told | broken),
        )
    assert refused.returncode == 1
    assert "check BOT_TOKEN" in refused.stderr
    assert failed.returncode == 1
    commands = [done.stdout + done.stderr for done in (refused, failed, *others)]
    written = "\n".join([bot.written, metrics, *commands])
    for proof in (
        "the agent raised",
        "the environment is",
        "updates are retried",
        "bot_updates_total",
        "debug",
    ):
        assert proof in written, "this is where it is looked for"
    assert ("without the right secret" in written) == (mode == "webhook")
    return written


def expect_secret(written: str, *secrets: str) -> None:
    """None of these was written."""
    for secret in (TOKEN, TOKEN.partition(":")[2], WEBHOOK_SECRET, *secrets):
        lines = [line for line in written.splitlines() if secret in line]
        assert not lines, f"{secret} in {lines[:3]}"
