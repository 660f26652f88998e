"""The packing list of `docs/examples`: all members of a group write to one record, and the bot is killed."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bot.runtime.chosen import ENGINE
from suite.bot_api import FakeTelegram
from suite.torture.driver import WEBHOOK_TIMEOUT, Setup, short_setups
from suite.torture.link import Link
from suite.torture.processes import Replica, balancer, running

GROUP = -700
MEMBERS, ROUNDS, OWN = 5, 3, 3


def expected(packed: list[tuple[int, str]]) -> tuple[list[str], list[str]]:
    """What the bot has to answer to who packed what, in this order and once each; and the list, sorted."""
    things: dict[str, str] = {}
    replies = []
    for member, thing in packed:
        if thing in things:
            replies.append(f"{things[thing]} packs {thing} already.")
        else:
            things[thing] = f"User {member}"
            replies.append(f"User {member} packs {thing}. That makes {len(things)}.")
    return list(dict.fromkeys(replies)), sorted(f"{thing}: {who}" for thing, who in things.items())


def write(telegram: FakeTelegram, number: int) -> list[tuple[int, str]]:
    """All members write at once: what each packs alone, and what all of them want to pack."""
    packed = [
        (member, thing)
        for item in range(OWN)
        for member in range(1, MEMBERS + 1)
        for thing in (f"{number}-{member}-{item}", f"{number}-tent-{item}")
    ]
    for member, thing in packed:
        telegram.message(f"/pack {thing}", user_id=member, chat_id=GROUP)
    return packed


async def trouble(
    telegram: FakeTelegram, replicas: list[Replica], links: list[Link], number: int, *, kill: bool
) -> None:
    """Lost answers, updates that come again, cut connections, and a kill in the midst of it all."""
    telegram.drop_answer("sendMessage")  # once: after a few, the reply is given up
    telegram.fail("sendMessage", status=429, retry_after=1, times=2)
    for update_id in list(telegram.updates)[-20:]:
        telegram.repeat(update_id)
    done, said = len(telegram.acknowledged), len(telegram.texts(GROUP))
    await telegram.wait_for(lambda: len(telegram.acknowledged) > done + number, 120)
    await telegram.wait_for(lambda: len(telegram.texts(GROUP)) > said + 1, 120)
    for link in links:
        link.cut()
    if kill:
        await replicas[number % len(replicas)].kill()


SETUPS = [
    pytest.param(
        setup,
        id=f"{setup.name}, packing list",
        marks=[] if ENGINE in ("sqlite", "postgres") else pytest.mark.rarely,
    )
    for setup in short_setups()
]
"""Of the engines a file and a server; the short torture has shared groups on each."""


@pytest.mark.clause("torture.balances")
@pytest.mark.parametrize("setup", SETUPS)
async def test_each_thing_is_packed_once(setup: Setup, tmp_path: Path) -> None:
    telegram = FakeTelegram(webhook_timeout=WEBHOOK_TIMEOUT, max_delay=0.3, max_retry_after=0.3)
    async with AsyncExitStack() as stack:
        backend = setup.backend(tmp_path)
        stack.push_async_callback(backend.close)
        await backend.open()
        await stack.enter_async_context(telegram)
        links = [await stack.enter_async_context(Link(server.address)) for server in backend.servers]
        settings = {
            "BOT_TOKEN": telegram.token,
            "TELEGRAM_API_URL": telegram.url,
            "SHUTDOWN_TIMEOUT": "5",
            **backend.settings(links),
        }
        if setup.mode == "webhook":
            settings["WEBHOOK_URL"] = "https://bot.example/hook"

        def replica(number: int) -> Replica:
            command = [setup.python, "-m", "suite.packing_bot", "run"]
            return Replica(number, command, tmp_path, settings)

        replicas = await stack.enter_async_context(running(setup.replicas, replica))
        telegram.webhook_address = await stack.enter_async_context(balancer(replicas))
        packed: list[tuple[int, str]] = []
        for number in range(ROUNDS):
            packed += write(telegram, number)
            await trouble(telegram, replicas, links, number, kill=backend.survives_exit)
        await telegram.settled(120)
        telegram.message("/list", user_id=1, chat_id=GROUP)
        await telegram.settled(120)
        await telegram.wait_for(lambda: telegram.texts(GROUP)[-1].count("\n") > 1, 120)
        await asyncio.gather(*(each.stop() for each in replicas))
        assert [text for each in replicas for text in each.surprises] == []
    # A reply may come again. What is said twice in a row, as all want the tent, counts once on both sides.
    *replies, packing_list = dict.fromkeys(telegram.texts(GROUP))
    assert (replies, sorted(packing_list.splitlines())) == expected(packed)
