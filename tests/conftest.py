"""Fixtures: a snapshot of the template as a git repository, and projects rendered from it."""

import compileall
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jinja2
import pytest
from copier import run_copy
from copier._main import Worker
from filelock import FileLock

from support import ASKED, ROOT, Answers, choices, commit_all, copy_template, label, pack

Render = Callable[..., Path]
Project = Callable[[Answers], Path]

SECOND_TRY = "second try"
"""The property of a test of which a part passed only when it was run again."""

SECOND_TRIES = 1
"""How many tests may need one before the run fails."""

PROCESSOR = "processor time"
"""The property of a test that says how many seconds of a processor it took, with the processes it started."""

SLOWEST = 10


def pytest_xdist_auto_num_workers() -> int:
    """How many processes test at once: half of their time many wait for servers, or for time to pass."""
    return (os.cpu_count() or 1) + 3


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much of what takes long is wanted."""
    parser.addoption(
        "--full",
        action="store_true",
        help="also what is proven rarely: every switch, every version, oldest dependencies, long torture",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Say what the marks mean."""
    config.addinivalue_line("markers", "slow(seconds): about how long it takes; the slowest begin first")
    config.addinivalue_line("markers", "rarely: proven with --full only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is proven rarely; begin with what takes longest, for nobody to be left with it."""
    if not config.getoption("full"):
        rarely = [item for item in items if item.get_closest_marker("rarely")]
        config.hook.pytest_deselected(items=rarely)
        items[:] = [item for item in items if item not in rarely]

    def seconds(item: pytest.Item) -> float:
        mark = item.get_closest_marker("slow")
        return float(mark.args[0]) if mark else 0.0

    items.sort(key=seconds, reverse=True)


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


@pytest.fixture(scope="session", autouse=True)
def quick_copier() -> Iterator[None]:
    """Spare Copier what it does anew for every file of every copy, and three times in every update."""
    compile_ = jinja2.Environment.compile
    known: dict[object, object] = {}

    def compile_once(self: jinja2.Environment, source: object, *arguments: object, **named: object) -> object:
        if arguments or named or not isinstance(source, str):  # a file, whose name belongs to its code
            return compile_(self, source, *arguments, **named)  # type: ignore[call-overload]
        kind = type(self), self.undefined  # a sandbox compiles calls in another way
        key = (source, *kind, self.trim_blocks, self.lstrip_blocks, self.keep_trailing_newline)
        if key not in known:
            known[key] = compile_(self, source)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jinja2.Environment, "compile", compile_once)
        # Asks git, where it takes no executable bits from files, as on Windows. Nobody's does here.
        patch.setattr(Worker, "_sync_git_index_executable_bit", lambda *_: None, raising=False)
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def template(shared: Path) -> Path:
    """What projects are rendered from, committed or not, as a clean git repository tagged v0.0.1."""
    snapshot = shared / "template" / "tg-state-template"
    with FileLock(shared / "template.lock"):
        if not (snapshot / ".git").exists():
            copy_template(snapshot)
            commit_all(snapshot, "Snapshot", tag="v0.0.1")
            pack(snapshot)
    return snapshot


@pytest.fixture(scope="session")
def questionnaire(shared: Path) -> Path:
    """A template that asks the same questions and renders nothing but their answers, quickly."""
    folder = shared / "questionnaire"
    with FileLock(shared / "questionnaire.lock"):
        if not folder.exists():
            fresh = folder.with_suffix(".fresh")
            (fresh / "template").mkdir(parents=True)
            for name in ("copier.yml", "checks.jinja", "template/{{_copier_conf.answers_file}}.jinja"):
                shutil.copy(ROOT / name, fresh / name)
            fresh.rename(folder)
    return folder


@pytest.fixture(scope="session")
def render(template: Path, shared: Path) -> Render:
    """Render a project, without trust, and return its folder, which is shared: look, but do not touch.

    Fails for an answer that is no question, no choice, or not asked beside the others: Copier itself ignores
    those without a word.
    """

    def _render(**answers: str) -> Path:
        for question, answer in answers.items():
            assert question in ASKED, f"{question} is no question; these are: {ASKED}"
            offered = choices(question)
            assert not offered or answer in offered, f"{answer} is none of {offered}"
        folder = shared / "rendered" / label(answers)
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                fresh = folder.with_suffix(".fresh")
                worker = run_copy(
                    str(template),
                    fresh,
                    data=answers,
                    defaults=True,
                    quiet=True,
                    unsafe=False,
                    vcs_ref="HEAD",
                )
                recorded = worker.answers.combined
                assert answers.items() <= recorded.items(), "an answer was not asked for"
                fresh.rename(folder)
        return folder

    return _render


@pytest.fixture(scope="session")
def compiled(render: Render, shared: Path) -> Render:
    """Render a bot whose modules are compiled, as are the kit's: each run of them would do it anew."""

    def _compiled(**answers: str) -> Path:
        folder = shared / "compiled" / label(answers)
        folder.parent.mkdir(exist_ok=True)
        with FileLock(shared / "compiled.lock"):
            if not folder.exists():
                fresh = folder.with_suffix(".fresh")
                shutil.copytree(render(**answers), fresh)
                compileall.compile_dir(fresh / "bot", quiet=1)
                compileall.compile_dir(ROOT / "suite", quiet=1)
                fresh.rename(folder)
        return folder

    return _compiled


@pytest.fixture
def project(render: Render, tmp_path: Path) -> Callable[[Answers], Path]:
    """Render a project of the test's own, as a git repository with everything committed."""

    def _project(answers: Answers) -> Path:
        folder = tmp_path / "project"
        shutil.copytree(render(**answers), folder)
        commit_all(folder, "Rendered")
        return folder

    return _project


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Note how much of a processor a test takes: two of them make a run no shorter than half of the sum."""
    before = processor_seconds()
    try:
        return (yield)
    finally:
        item.user_properties.append((PROCESSOR, processor_seconds() - before))


def processor_seconds() -> float:
    """Seconds of a processor that this process and those it waited for have taken."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


class Report:
    """What this run has to say in the end."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        """Gather it."""
        outcomes = ("passed", "failed")
        self.tests = [each for outcome in outcomes for each in terminal.getreports(outcome)]

    def said(self, name: str) -> list[tuple[str, str]]:
        """What tests have recorded under this name, and which."""
        return [
            (test.nodeid, value)
            for test in self.tests
            for property_name, value in test.user_properties
            if property_name == name and test.when == "call"
        ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what the kit said of each bot, the tables of torture, what ran where, and the slowest tests."""
    report = Report(terminalreporter)
    titles = {"kit": "the kit, on rendered bots", "torture": "torture", SECOND_TRY: "needed a second try"}
    for name, title in titles.items():
        if said := report.said(name):
            terminalreporter.section(title)
            for nodeid, value in said:
                terminalreporter.write_line(f"{nodeid}: {value}")
    calls = [test for test in report.tests if test.when == "call"]
    by_file: dict[str, list[pytest.TestReport]] = {}
    for test in calls:
        by_file.setdefault(test.nodeid.partition("::")[0], []).append(test)
    if len(by_file) > 1:
        terminalreporter.section("where the time went: seconds, of a processor, tests")
        table = [(sum(test.duration for test in tests), tests, file) for file, tests in by_file.items()]
        for seconds, tests, file in sorted(table, reverse=True, key=lambda row: row[0]):
            terminalreporter.write_line(f"{seconds:6.0f} {taken(tests):6.0f} {len(tests):5}  {file}")
        terminalreporter.write_line(f"{'':6} {taken(calls):6.0f} {len(calls):5}  in all")
        terminalreporter.section(f"the {SLOWEST} slowest tests: seconds, of a processor")
        for test in sorted(calls, key=lambda test: -test.duration)[:SLOWEST]:
            terminalreporter.write_line(f"{test.duration:6.0f} {taken([test]):6.0f}  {test.nodeid}")


def taken(tests: list[pytest.TestReport]) -> float:
    """Seconds of a processor that tests took."""
    properties = [each for test in tests for each in test.user_properties]
    return sum(value for name, value in properties if name == PROCESSOR and isinstance(value, float))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in which more tests than one needed a second try: then it was no accident."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal and not hasattr(session.config, "workerinput"):
        again = Report(terminal).said(SECOND_TRY)
        if len(again) > SECOND_TRIES and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
