"""What bots depend on: the newest releases are admitted, and the oldest ones that are admitted do.

The newest is what every other test runs: a project is rendered without a lock file.
"""

import importlib.util
import shutil
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import jinja2
import pytest

from conftest import Render
from support import ROOT, Answers, combinations, engine, label, must, run, uv, with_model


@pytest.fixture(scope="module")
def dependencies() -> ModuleType:
    """What the weekly workflow runs."""
    spec = importlib.util.spec_from_file_location("dependencies", ROOT / ".ci/dependencies.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the projects: `--full` tries each list of dependencies."""
    if "answers" in metafunc.fixturenames:
        full = metafunc.config.getoption("full")
        metafunc.parametrize("answers", with_each_dependency() if full else [], ids=label)


def with_each_dependency() -> list[dict[str, str]]:
    """The first combination of answers with each list of dependencies, and every provider."""
    template = jinja2.Template((ROOT / "template/pyproject.toml.jinja").read_text("utf-8"))
    found: dict[str, dict[str, str]] = {}
    for answers in [*combinations(), *with_model()]:
        rendered = template.render({"agent": "echo"} | answers, engine=engine(answers))
        parsed = tomllib.loads(rendered)
        depends = (parsed["project"]["dependencies"], parsed["dependency-groups"])
        found.setdefault(str((answers.get("cloud_provider"), depends)), answers)
    return list(found.values())


def test_the_oldest_releases_do(render: Render, tmp_path: Path, answers: Answers) -> None:
    """Ranges begin where the bot works: tested with the first release in each."""
    project = tmp_path / "project"
    shutil.copytree(render(**answers), project)
    uv(project, "sync", "--quiet", "--resolution=lowest-direct")
    uv(project, "run", "--no-sync", "pytest", "-q", timeout=900)
    uv(project, "run", "--no-sync", "bot", "doctor")


def test_ranges_are_widened_and_nothing_else(dependencies: ModuleType) -> None:
    """A range that ends at or below the newest release ends after it, as finely as before."""
    text = """
        "kept>=1.2,<2",
        "open>=1",
        "major[extra,more]>=8.1,<9",
        "min_or>=0.6,<0.7; sys_platform != 'win32'", # why
        {% if engine == "x" %}
    """
    newest = {"kept": "1.99.0", "major": "11.0.3", "min-or": "0.7"}
    assert dependencies.names(text) == set(newest)
    assert dependencies.widened(text, newest) == text.replace("<9", "<12").replace("<0.7", "<0.8")


def test_every_range_with_an_end_is_seen(dependencies: ModuleType) -> None:
    """No way to write one escapes the workflow."""
    for path in dependencies.FILES:
        lines = [line for line in path.read_text("utf-8").splitlines() if ",<" in line]
        assert lines
        for line in lines:
            assert dependencies.RANGE.search(line), line


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("vendor.github-workflows", ".github/workflows/*.yml"),
        ("vendor.github-workflows", "template/.github/workflows/*.yml"),
        ("vendor.dependabot", ".github/dependabot.yml"),
    ],
)
def test_workflows_are_valid(schema: str, pattern: str) -> None:
    """By GitHub's schemas; what a workflow runs of this repository is there."""
    files = sorted(ROOT.glob(pattern))
    assert files
    done = run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in (".ci/dependencies.py", "tests/examples.py"):
        assert path in (ROOT / ".github/workflows/dependencies.yml").read_text("utf-8")
        assert must("git", "ls-files", "--cached", "--others", "--exclude-standard", path, cwd=ROOT)
