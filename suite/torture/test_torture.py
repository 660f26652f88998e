"""The torture suite in its short form; `uv run python -m suite.torture` is the long one."""

from pathlib import Path

import pytest

from suite.torture.driver import Setup, short_setups, torture
from suite.torture.plan import short

pytestmark = pytest.mark.clause("torture.balances")


@pytest.mark.parametrize("setup", short_setups(), ids=lambda setup: setup.name)
async def test_nothing_is_lost_doubled_or_out_of_order(setup: Setup, tmp_path: Path) -> None:
    outcome = await torture(setup, seed=1, folder=tmp_path, plan=short)
    assert outcome.problems == []
    assert outcome.balance.is_clean, outcome.balance
    assert outcome.balance.sent > 30
