"""Fixtures: a snapshot of the template as a git repository, and projects rendered from it."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_copie.plugin import Copie

from support import ASKED, Answers, choices, commit_all, copy_working_tree, label, uv

Render = Callable[..., Path]
Project = Callable[[Answers], Path]
Workshop = Callable[[Answers], Path]


def pytest_xdist_auto_num_workers() -> int:
    """How many processes test at once: the rendered suites wait more than they work."""
    return 2 * (os.cpu_count() or 1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much of what takes long is wanted."""
    parser.addoption(
        "--full",
        action="store_true",
        help="every switch; of every engine: the oldest dependencies, all tests, long torture",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process is left alone with it in the end."""
    items.sort(key=lambda item: item.path.name not in {"test_torture.py", "test_servers.py"})


@pytest.fixture(scope="session", autouse=True)
def settled_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Git and Copier read no settings of whoever runs the tests (and may trust the template)."""
    home = tmp_path_factory.mktemp("settings")
    gitconfig = home / "gitconfig"
    gitconfig.write_text(
        "[user]\nname = Tester\nemail = tester@example.invalid\n[init]\ndefaultBranch = main\n"
        "[core]\nautocrlf = false\n[safe]\ndirectory = *\n"
    )
    settings = home / "copier.yml"
    settings.write_text("{}\n")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "VIRTUAL_ENV"):
            patch.delenv(name, raising=False)
        patch.setenv("GIT_CONFIG_GLOBAL", str(gitconfig))
        patch.setenv("COPIER_SETTINGS_PATH", str(settings))
        # Run by root, PostgreSQL is started as another user, who has to get at its files below this run's
        # folder. A pytest that begins closes the folder that all of them share, unless it is given another.
        with tempfile.TemporaryDirectory(prefix="nested-") as folder:
            patch.setenv("PYTEST_DEBUG_TEMPROOT", folder)
            yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working tree, committed or not, as a clean git repository tagged v0.0.1."""
    snapshot = tmp_path_factory.mktemp("template") / "tg-state-template"
    copy_working_tree(snapshot)
    commit_all(snapshot, "Snapshot", tag="v0.0.1")
    return snapshot


@pytest.fixture(scope="session")
def render(template: Path, copie_session: Copie) -> Render:
    """Render a project and return its folder, which is shared: look, but do not touch.

    Fails for an answer that is no question, no choice, or not asked beside the others:
    pytest-copie itself ignores those without a word.
    """
    rendered: dict[tuple[tuple[str, str], ...], Path] = {}

    def _render(**answers: str) -> Path:
        for question, answer in answers.items():
            assert question in ASKED, f"{question} is no question; these are: {ASKED}"
            offered = choices(question)
            assert not offered or answer in offered, f"{answer} is none of {offered}"
        key = tuple(sorted(answers.items()))
        if key not in rendered:
            result = copie_session.copy(extra_answers=dict(answers), template_dir=template)
            if result.exception is not None:
                raise result.exception
            assert result.project_dir is not None
            assert answers.items() <= result.answers.items(), "an answer was not asked for"
            rendered[key] = result.project_dir
        return rendered[key]

    return _render


@pytest.fixture(scope="session")
def workshop(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A project of each combination, in git, with the environment of its own pyproject.toml."""
    ready: dict[str, Path] = {}

    def _workshop(answers: Answers) -> Path:
        name = label(answers)
        if name not in ready:
            folder = tmp_path_factory.mktemp("workshop") / name
            shutil.copytree(render(**answers), folder)
            commit_all(folder, "Rendered")
            uv(folder, "sync", "--quiet")
            ready[name] = folder
        return ready[name]

    return _workshop


@pytest.fixture
def project(render: Render, tmp_path: Path) -> Callable[[Answers], Path]:
    """Render a project of the test's own, as a git repository with everything committed."""

    def _project(answers: Answers) -> Path:
        folder = tmp_path / "project"
        shutil.copytree(render(**answers), folder)
        commit_all(folder, "Rendered")
        return folder

    return _project


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what the rendered projects' own test suites said, and the tables of their torture."""
    titles = {"rendered suite": "test suites of the rendered projects", "torture": "torture"}
    for name, title in titles.items():
        said = [
            (report.nodeid, value)
            for outcome in ("passed", "failed")
            for report in terminalreporter.getreports(outcome)
            for property_name, value in report.user_properties
            if property_name == name
        ]
        if said:
            terminalreporter.section(title)
            for nodeid, value in said:
                terminalreporter.write_line(f"{nodeid}:\n{value}")
