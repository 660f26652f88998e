"""The torture suite in its short form; `uv run python -m tests.torture` is the long one."""

from pathlib import Path

import pytest

from tests.torture.driver import Setup, setups, short, torture

MODES = {setup.mode: setup for setup in setups()}
"""Each with as many processes as can share the work."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("setup", MODES.values(), ids=MODES.keys())
async def test_nothing_is_lost_doubled_or_out_of_order(setup: Setup, tmp_path: Path) -> None:
    outcome = await torture(setup, seed=1, folder=tmp_path, plan=short)
    assert outcome.problems == []
    assert outcome.balance.is_clean, outcome.balance
    assert outcome.balance.sent > 100
