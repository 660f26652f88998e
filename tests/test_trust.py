"""Nobody has to trust the template: copy and update work with Copier's safety on."""

import shutil
from pathlib import Path

import pytest
from copier import run_copy
from copier.errors import UnsafeTemplateError

from support import CONFIG, commit_all

TAINTING = ["_tasks", "_migrations", "_jinja_extensions"]


def test_no_key_that_demands_trust() -> None:
    """One release with any of these would make every later update from it demand --trust."""
    assert not set(TAINTING) & set(CONFIG)


def test_a_template_that_demands_it_is_refused(template: Path, tmp_path: Path) -> None:
    """So test_update.py and test_switch.py, which copy and update without trust, would notice one."""
    source = tmp_path / "source"
    shutil.copytree(template, source)
    with (source / "copier.yml").open("a") as config:
        config.write("_tasks: [echo]\n")
    commit_all(source, "Tainted", tag="v0.0.2")
    with pytest.raises(UnsafeTemplateError):
        run_copy(str(source), tmp_path / "out", defaults=True, quiet=True, unsafe=False)
    assert not (tmp_path / "out").exists()
