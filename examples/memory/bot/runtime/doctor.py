"""`bot doctor`: what keeps the bot from running, and what puts records at risk."""

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.parse import urlsplit

from bot.runtime.config import TELEGRAM, WEBHOOK_PORTS, Settings, kinds_of_settings, load
from bot.runtime.engines import create_store
from bot.runtime.errors import OperatorError, StateError
from bot.runtime.state.store import Finding, OperatorStore

LONGEST_AHEAD = 100 * 365 * 86_400.0
MOST_DUE = 1_000
"""Seconds ahead for which to look at what is to be done, and how many records to count."""

LATE_SECONDS = 300
"""Seconds after which what is due should have been done."""

FRAMEWORKS = "bot.runtime.frameworks."
"""Where settings are that are read by what the owner wrote."""

PATIENCE = 3.0
"""Seconds after which whoever asked is told what is waited for."""


async def diagnose(settings: Settings, import_fails: str) -> AsyncIterator[Finding]:
    """Look at everything the bot needs, and tell what is found at once. Asks Telegram if there is a token.

    Args:
        settings: the bot's.
        import_fails: why what the owner wrote cannot be imported; empty when it can.
    """
    problems = _diagnose_own(import_fails)
    try:
        store = create_store(settings)
    except OperatorError as error:
        problems.append(Finding("error", str(error)))
    for finding in problems or [Finding("ok", "the settings can be used"), *_warnings()]:
        yield finding
    yield _diagnose_webhook(settings)
    if not problems:
        for finding in await _diagnose_store(store):
            yield finding
    if settings.bot_token is None:
        yield Finding("error", "BOT_TOKEN is not set: get one from @BotFather; `bot chat` works without")
    else:
        for finding in await _diagnose_telegram(settings):
            yield finding


def _warnings() -> list[Finding]:
    """What settings that can be used say of themselves."""
    return [Finding("warning", warning) for kind in kinds_of_settings() for warning in load(kind).warnings()]


def _diagnose_own(import_fails: str) -> list[Finding]:
    """What is wrong with settings of the owner's, or with what reads them."""
    findings = []
    for kind in kinds_of_settings():
        if not kind.__module__.startswith("bot.runtime.") or kind.__module__.startswith(FRAMEWORKS):
            try:
                load(kind)
            except OperatorError as error:
                findings.append(Finding("error", str(error)))
    if import_fails and not findings:
        findings.append(
            Finding("error", f"bot/agent.py fails, run `python -m bot.agent` to see where: {import_fails}")
        )
    return findings


def _diagnose_webhook(settings: Settings) -> Finding:
    if settings.webhook_url is None:
        return Finding("ok", "updates come by long polling (WEBHOOK_URL is not set)")
    url = urlsplit(settings.webhook_url)
    if (url.port or 443) not in WEBHOOK_PORTS and settings.telegram_api_url == TELEGRAM:
        ports = ", ".join(map(str, WEBHOOK_PORTS))
        return Finding("error", f"WEBHOOK_URL names a port that Telegram does not use ({ports})")
    return Finding("ok", f"updates come by webhook, under the path {settings.webhook_path}")


async def _diagnose_store(store: OperatorStore) -> list[Finding]:
    tell = partial(print, f"waiting for the {store.name} store to answer ...", file=sys.stderr)
    waiting = asyncio.get_running_loop().call_later(PATIENCE, tell)
    try:
        await store.connect()
        await store.ping()
        findings = [Finding("ok", f"the {store.name} store answers"), *await store.diagnose()]
        return findings + await _diagnose_due(store)
    except (StateError, OperatorError) as error:
        return [Finding("error", f"the {store.name} store cannot be used: {error}")]
    finally:
        waiting.cancel()
        await store.close()


async def _diagnose_due(store: OperatorStore) -> list[Finding]:
    """What waits to be done."""
    now, due, _ = await store.due(LONGEST_AHEAD, MOST_DUE)
    if not due:
        return []
    many = f"{MOST_DUE} records or more have" if len(due) == MOST_DUE else f"{len(due)} records have"
    late = (now - due[0][1]) / 1_000_000
    if late > LATE_SECONDS:
        told = f"{many} something to do later, one for {timedelta(seconds=round(late))}: is the bot running?"
        return [Finding("warning", f"{told} `bot jobs list` shows what")]
    first = datetime.fromtimestamp(due[0][1] / 1_000_000, UTC).isoformat(timespec="seconds")
    return [Finding("ok", f"{many} something to do later, the first at {first}")]


async def _diagnose_telegram(settings: Settings) -> list[Finding]:
    from bot.runtime.telegram.fast_import import import_aiogram

    import_aiogram()
    from aiogram import Bot
    from aiogram.exceptions import AiogramError, TelegramNotFound, TelegramUnauthorizedError

    from bot.runtime.telegram.calls import Session
    from bot.runtime.telegram.receiver import is_same_address

    async with Bot(settings.token, session=Session.of(settings, timeout=10)) as bot:
        try:
            me = await bot.get_me()
            webhook = await bot.get_webhook_info()
        except (TelegramUnauthorizedError, TelegramNotFound):
            return [Finding("error", "Telegram does not know this bot: check BOT_TOKEN")]
        except AiogramError as error:
            reason = getattr(error, "message", type(error).__name__)
            return [
                Finding(
                    "error", f"Telegram does not answer, check TELEGRAM_API_URL and TELEGRAM_PROXY: {reason}"
                )
            ]
    findings = [Finding("ok", f"Telegram knows this bot as @{me.username}")]
    if webhook.url and not is_same_address(webhook.url, settings.webhook_url or ""):
        findings.append(
            Finding("warning", "another webhook is set; `bot run` replaces it, keeping its updates")
        )
    elif settings.webhook_url and not webhook.url:
        findings.append(
            Finding("warning", "no webhook is set, so nothing is delivered; `bot run` sets it when it starts")
        )
    if webhook.pending_update_count:
        findings.append(Finding("ok", f"{webhook.pending_update_count} updates are waiting"))
    if webhook.last_error_message:
        findings.append(Finding("warning", f"the last delivery failed: {webhook.last_error_message}"))
    return findings
