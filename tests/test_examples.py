"""The examples show what is rendered now."""

from pathlib import Path

import examples


def test_examples_are_not_stale(tmp_path: Path) -> None:
    """A project of each backend, as the template renders it."""
    examples.render(tmp_path)
    assert len(list(tmp_path.iterdir())) > 1
    assert examples.stale(tmp_path) == [], "run: uv run python tests/examples.py"
