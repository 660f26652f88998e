"""The torture suite in its short form, always with the same faults; `python -m tests.torture` has all."""

from pathlib import Path

import pytest

from tests.torture.driver import Setup, always, setups, torture

PLAN = always(
    "bot: kill -9", "duplicates", "answers lost", "bot: SIGTERM", "bot: kill -9", "connections cut",
    "bot: kill -9", "restarted", "bot: kill -9", "thinks longer than Telegram waits", "kill -9",
    "bot: frozen",
)  # fmt: skip


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "setup", {setup.mode: setup for setup in setups()}.values(), ids=lambda setup: setup.name
)
async def test_nothing_is_lost_doubled_or_out_of_order(setup: Setup, tmp_path: Path) -> None:
    outcome = await torture(setup, seed=1, folder=tmp_path, plan=PLAN)
    assert outcome.problems == []
    assert outcome.balance.is_clean, outcome.balance
    assert outcome.balance.sent > 100
