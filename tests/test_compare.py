"""`./do compare`: the page shows the committed results, bots can be run, and mistakes are told in a line."""

import json
import sys
from pathlib import Path

import pytest

from support import ROOT, clean_env, run

sys.path.append(str(ROOT / "benchmarks" / "compare"))

import comparing
import contestants
import report

COMMAND = (sys.executable, "benchmarks/compare")


def test_the_pages_are_those_of_the_results() -> None:
    """Between their markers stands what `./do compare` makes of results.json and of the bots' sources."""
    results = json.loads(report.RESULTS.read_text("utf-8"))
    for path, text in report.pages(results).items():
        assert path.read_text("utf-8") == text, "run: ./do compare --write"


def test_every_bot_was_run() -> None:
    """In each way in which it can get its updates; ours lost nothing."""
    results = json.loads(report.RESULTS.read_text("utf-8"))
    assert list(results) == [
        report.key(mode, each.name)
        for mode in report.WAYS
        for each in contestants.CONTESTANTS
        if mode in each.modes
    ]
    for name, result in results.items():
        sent, *faults = result["counts"]
        assert sent >= 1_200 * result["about"]["minutes"], name
        assert len(result["references"]) == 2, name
        if ": ours/" in name:
            assert not any(faults), name


def test_lines_are_counted_as_the_page_says() -> None:
    """Neither blank lines nor comments, nor what only the comparison asks for."""
    source = '''"""Says
what it is."""

import this


# audit
def export():
    return 1


# end of audit
def count():
    """Count."""
    add(export)  # audit
    return 1  # a comment
'''
    assert contestants.lines_of(source) == 3


@pytest.mark.parametrize(
    ("name", "path", "said"),
    [
        ("nobody", None, "nobody is called nobody"),
        ("grammy", "/nowhere", "Node.js 20 or newer and npm are needed"),
        ("aiogram", "/nowhere", "uv is needed"),
    ],
)
def test_what_is_wrong_is_told(
    name: str,
    path: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In one line, and before anything is run."""
    monkeypatch.setattr(contestants, "CACHE", tmp_path)
    if path:
        monkeypatch.setenv("PATH", path)
    assert comparing.main(["--only", name]) == 2
    error = capsys.readouterr().err
    assert error.startswith("compare: ")
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.rarely
@pytest.mark.slow(150)
def test_bots_are_run(tmp_path: Path) -> None:
    """Two of them for ten seconds: everything is there to be compared, and a table comes of it."""
    env = clean_env(COMPARE_CACHE=str(tmp_path))
    names = ("--only", "aiogram/defaults", "--only", "python-telegram-bot/defaults")
    done = run(*COMMAND, *names, "--minutes", "0.17", "--mode", "polling", cwd=ROOT, env=env, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert list(results) == ["polling: aiogram/defaults", "polling: python-telegram-bot/defaults"]
    for result in results.values():
        sent, lost, *_ = result["counts"]
        assert sent >= 200
        assert lost > 0, "memory survives no kill: was there one?"
        assert result["felt"]["bot: kill -9"] >= 1
        assert result["per_second"] > 0
    assert "| aiogram, by default | " in done.stdout
