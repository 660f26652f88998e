"""The code here is formatted, linted and strictly typed; the template's, with all its engines together."""

import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import tomli_w

from conftest import Render
from suite.__main__ import put_examples
from support import CONFIG, ROOT, TYPES, combinations, engine, run

FOLDERS = ("bot", "tests")

OWN = [
    ["ruff", "format", "--check", "--diff", "."],
    ["ruff", "check", "."],
    ["mypy"],
]


def store_of(project: Path) -> tuple[str, str]:
    """Module and class of the store that a rendered project uses."""
    text = (project / "bot/runtime/chosen.py").read_text("utf-8")
    (store,) = (line.split('"')[1] for line in text.splitlines() if line.startswith("STORE = "))
    module, _, name = store.partition(":")
    return module, name


@pytest.fixture
def whole(render: Render, tmp_path: Path) -> Path:
    """The template's Python with every engine and provider, and the kit, as one project."""
    folder = tmp_path / "whole"
    for name in FOLDERS:
        shutil.copytree(ROOT / "template" / name, folder / name, ignore=shutil.ignore_patterns("*.jinja"))
    shutil.copytree(ROOT / "suite", folder / "suite", ignore=shutil.ignore_patterns("__pycache__"))
    put_examples(folder)
    for place, name in (("bot", "agent"), ("tests", "test_agent")):  # the one with a model beside the other
        code = (
            (ROOT / f"llm/{name}.py").read_text("utf-8").replace("from bot.agent ", "from bot.model_agent ")
        )
        (folder / place / f"{name.replace('agent', 'model_agent')}.py").write_text(code, "utf-8")
    rendered = render(backend="hybrid")
    shutil.copy(rendered / "bot/runtime/chosen.py", folder / "bot/runtime/chosen.py")
    settings = tomllib.loads((rendered / "pyproject.toml").read_text("utf-8"))
    for answers in combinations():
        other = tomllib.loads((render(**answers) / "pyproject.toml").read_text("utf-8"))
        settings["tool"]["mypy"]["overrides"] += other["tool"]["mypy"].get("overrides", [])
    settings["tool"]["mypy"]["files"] = ["bot", "tests", "suite", "stores.py"]
    settings["tool"]["mypy"].pop("exclude", None)
    (folder / "pyproject.toml").write_text(tomli_w.dumps(settings), "utf-8")
    return folder


@pytest.mark.slow(90)
@pytest.mark.xdist_group("types")
def test_the_template_is_strictly_typed(whole: Path, render: Render) -> None:
    """Whatever is chosen: every store that a project may use is one that turns and operators can use."""
    stores = sorted({store_of(render(**answers)) for answers in combinations()})
    assert len(stores) > len({engine(answers) for answers in combinations()})
    lines = ["from bot.runtime.state.store import OperatorStore"]
    lines += [f"from {module} import {name}" for module, name in stores]
    lines += [f"def use_{name}(store: {name}) -> OperatorStore:\n    return store" for _, name in stores]
    (whole / "stores.py").write_text("\n".join(lines) + "\n", "utf-8")
    done = run(sys.executable, "-m", "mypy", "--cache-dir", TYPES, cwd=whole, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_kit_is_formatted_and_linted(whole: Path) -> None:
    """By the settings of rendered projects, among whose files it runs."""
    for command in (["format", "--check", "--diff"], ["check"]):
        ignoring = (
            ["--config", 'lint.per-file-ignores = {"suite/**" = ["D", "S"]}'] if command == ["check"] else []
        )
        done = run(sys.executable, "-m", "ruff", *command, *ignoring, "suite", cwd=whole)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow(40)
@pytest.mark.parametrize("command", OWN, ids=lambda command: " ".join(command[:2]))
def test_own_code_is_clean(command: list[str]) -> None:
    """What tests, documents and measures the template."""
    done = run(sys.executable, "-m", *command, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_versions_of_the_configuration() -> None:
    """The template asks for no newer Copier than its tests run."""
    minimum = tuple(map(int, CONFIG["_min_copier_version"].split(".")))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["dependencies"] == [f"copier>={'.'.join(map(str, minimum[:2]))}.1,<{minimum[0] + 1}"]
